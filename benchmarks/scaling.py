"""What methods cost for each weight and each operation: the slopes of docs/scaling.md.

    python benchmarks/scaling.py [--small=256] [--large=768] [--rounds=5]

Weights: on a dense network of two widths, the bytes that a method adds to the state of
the compiled step and keeps in the memory of the host; the bytes that the step reads and
writes more, by XLA's own count; and the processor time of an update. A slope is the
difference of both widths over the difference of their weights.

Operations: processor time to analyze a ResNet and to build it anew, at two depths.

Runs on JAX, whose steps name all of their state. Then the slopes are multiplied with
the sizes of three large networks. On a network of many weights, times of updates are
bound by the memory of the host, and are what sorting and projecting take there.
"""

import os
import statistics
import time

os.environ["KERAS_BACKEND"] = "jax"

import jax
import keras
import numpy as np
from absl import app, flags
from keras import layers

import tfcompress as tfc

FLAGS = flags.FLAGS
flags.DEFINE_integer("small", 256, "Width of the smaller network.", lower_bound=8)
flags.DEFINE_integer("large", 768, "Width of the larger network.", lower_bound=16)
flags.DEFINE_integer("rounds", 5, "Measurements of a time.", lower_bound=1)

# Weights and operations (layers as Keras counts them): VGG-16 and ResNet-50 of
# keras.applications, and an encoder of 12 blocks of width 768 with 30,000 words.
NETWORKS = {
    "ResNet-50, ImageNet": (25_636_712, 177),
    "VGG-16, ImageNet": (138_357_544, 23),
    "transformer, 12 × 768": (12 * 12 * 768**2 + 30_000 * 768, 150),
}


def network(width, wrap=None):
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((width,))
    x = layers.Dense(width, use_bias=False, activation="relu", name="h")(x)
    model = keras.Model(inputs, layers.Dense(8, use_bias=False, name="last")(x))
    return model if wrap is None else tfc.structure.wrap(model, {"h": wrap})


def with_zeros(width):
    model = network(width)
    kernel = model.get_layer("h").kernel
    kept = np.random.default_rng(0).random(kernel.shape) < 0.5
    kernel.assign(keras.ops.convert_to_numpy(kernel) * kept)
    return model


def on_multipliers(layer):
    return tfc.layers.DrumMultiply(layer, 2, 6)


RISING = tfc.schedules.Linear(0.1, 0.9, begin=0, end=50)
CASES = {
    "FilterPruning": (
        network,
        lambda: tfc.callbacks.FilterPruning(RISING, layers=["h"]),
    ),
    "MagnitudePruning": (
        network,
        lambda: tfc.callbacks.MagnitudePruning(RISING, unit="epoch", layers=["h"]),
    ),
    "HoldWeights": (
        with_zeros,
        lambda: tfc.callbacks.HoldWeights("zeros", layers=["h"]),
    ),
    "ADMM": (
        network,
        lambda: tfc.callbacks.ADMM(
            tfc.constraints.Cardinality(fraction=0.1), layers=["h"]
        ),
    ),
    "DynamicSurgery": (
        lambda width: network(width, tfc.layers.MaskedKernel),
        lambda: tfc.callbacks.DynamicSurgery({"h": 0.5}, begin=0),
    ),
    "IncrementalApproximation": (
        lambda width: network(width, on_multipliers),
        lambda: tfc.callbacks.IncrementalApproximation(64),
    ),
    "ActivationDensity": (
        network,
        lambda: tfc.callbacks.ActivationDensity(stop=False),
    ),
}


def compiled(model):
    model.compile(keras.optimizers.SGD(1e-3, momentum=0.9), "mse")
    model.optimizer.build(model.trainable_variables)
    return model


def state_of(model):
    """What the compiled step takes and returns, in Keras' order."""
    return tuple(
        [variable.value for variable in variables]
        for variables in (
            model.trainable_variables,
            [*model.non_trainable_variables],
            model.optimizer.variables,
            model.metrics_variables,
        )
    )


def traffic(model, width):
    """Bytes that a training step reads and writes, by XLA's count."""
    data = (np.zeros((1, width), "float32"), np.zeros((1, 8), "float32"))
    step = jax.jit(model.train_step, donate_argnums=0)
    cost = step.lower(state_of(model), data).compile().cost_analysis()
    return float((cost[0] if isinstance(cost, list) else cost)["bytes accessed"])


def nbytes(tree):
    return sum(np.asarray(leaf).nbytes for leaf in keras.tree.flatten(tree))


def cpu_seconds(function):
    times = []
    for round_ in range(FLAGS.rounds):
        start = time.process_time()
        function(round_)
        times.append(time.process_time() - start)
    return statistics.median(times)


def measure(make, method, width):
    """Weights; bytes of state, of the host, of a step; and seconds of an update."""
    plain = compiled(network(width))
    model, method = compiled(make(width)), method()
    method.set_model(model)
    method.set_params({"epochs": 100, "steps": 1})
    method.on_train_begin()
    method.on_epoch_begin(0)
    found = [
        nbytes(state_of(model)) - nbytes(state_of(plain)),
        sum(
            leaf.nbytes
            for leaf in keras.tree.flatten(method.get_state())
            if isinstance(leaf, np.ndarray)
        ),
        traffic(model, width) - traffic(plain, width),
    ]

    def update(round_):
        # An update of weights has come in between.
        model.optimizer.iterations.assign_add(1)
        method.on_epoch_begin(1 + round_)
        method.on_train_batch_begin(0)
        method.on_train_batch_end(0)
        method.on_epoch_end(1 + round_, {"loss": 0.0})

    found.append(cpu_seconds(update))
    method._release()
    return width**2, found  # the weights of the layer that the method works on


def slopes():
    """State, host and traffic in bytes, and nanoseconds, a weight; by method."""
    result = {}
    for name, (make, method) in CASES.items():
        (few, small), (many, large) = (
            measure(make, method, width) for width in (FLAGS.small, FLAGS.large)
        )
        result[name] = [
            (b - a) / (many - few) for a, b in zip(small, large, strict=True)
        ]
        result[name][3] *= 1e9
    return result


def depth():
    """Milliseconds of analysis and rebuild for each operation more."""
    times = []
    for make in (tfc.zoo.resnet20, tfc.zoo.resnet56):
        model = make(width=0.25)
        groups = tfc.structure.channel_groups(model)
        name = next(group.name for group in groups if group.prunable)
        analysis = cpu_seconds(lambda _, m=model: tfc.structure.channel_groups(m))
        rebuild = cpu_seconds(
            lambda _, m=model, n=name: tfc.structure.remove_channels(m, {n: [0]})
        )
        times.append((len(model.layers), analysis, rebuild))
    (few, *shallow), (many, *deep) = times
    return [1e3 * (b - a) / (many - few) for a, b in zip(shallow, deep, strict=True)]


def main(_):
    found = slopes()
    print("| method | step's state, B | host, B | traffic of a step, B | update, ns |")
    print("|---|---|---|---|---|")
    for name, values in found.items():
        state, host, moved, update = (max(0.0, value) for value in values)
        print(f"| `{name}` | {state:.2f} | {host:.2f} | {moved:.1f} | {update:.1f} |")
    analysis, rebuild = depth()
    print(f"\nanalysis {analysis:.2f} ms, rebuild {rebuild:.2f} ms an operation\n")
    print("| network | weights | masks | ADMM | update of ADMM | analysis | rebuild |")
    print("|---|---|---|---|---|---|---|")
    for name, (weights, operations) in NETWORKS.items():
        mask = found["MagnitudePruning"][0] * weights / 1e9
        admm = sum(found["ADMM"][:2]) * weights / 1e9
        update = found["ADMM"][3] * weights / 1e9
        print(
            f"| {name} | {weights / 1e6:.0f} M | {mask:.2f} GB | {admm:.2f} GB "
            f"| {update:.0f} s | {analysis * operations / 1e3:.2f} s "
            f"| {rebuild * operations / 1e3:.1f} s |"
        )


if __name__ == "__main__":
    app.run(main)
