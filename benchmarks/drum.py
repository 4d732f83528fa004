"""What training on DRUM multipliers costs beside training with exact products.

    python benchmarks/drum.py [--clock=wall] [--rounds=15] [--naive] [--backend=jax]

A training step (forward, gradients, SGD) of one layer, exact and approximate, C++
and TensorFlow operations, interleaved; the median of the ratios to the exact step.
`--clock=cpu` counts processor time, which other load on the machine does not
change. On JAX there is one form of DRUM. `--naive` (on TensorFlow) adds an emulation
that truncates the operands of every single product, on a small layer, for contrast.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext

import _backend  # noqa: F401  # before Keras

# isort: split
import keras
import numpy as np
from absl import app, flags
from keras import layers

import tfcompress as tfc

FLAGS = flags.FLAGS
flags.DEFINE_enum("clock", "wall", ["wall", "cpu"], "Wall-clock or processor time.")
flags.DEFINE_integer("rounds", 15, "Interleaved measurements.", lower_bound=1)
flags.DEFINE_bool("naive", False, "Also a per-product emulation.")
flags.DEFINE_enum("gradient", "exact", ["exact", "approximate"], "Of DrumMultiply.")

# Layer and shape of its input, with the batch.
CASES = {
    "conv 3x3, 64 -> 64, 32x32": (lambda: layers.Conv2D(64, 3), (32, 32, 32, 64)),
    "conv 3x3, 128 -> 128, 16x16": (lambda: layers.Conv2D(128, 3), (32, 16, 16, 128)),
    "dense 4096 -> 4096, batch 256": (lambda: layers.Dense(4096), (256, 4096)),
}


def drum(layer: keras.Layer) -> keras.Layer:
    return tfc.layers.DrumMultiply(layer, 1, 5, gradient=FLAGS.gradient)


def step(layer: keras.Layer, shape: tuple[int, ...], scope: object) -> Callable:
    """A compiled training step on random data, already traced."""
    if not layer.built:
        layer.build(shape)
    if keras.backend.backend() == "jax":
        return step_on_jax(layer, shape)
    import tensorflow as tf

    optimizer = keras.optimizers.SGD(1e-3)
    optimizer.build(layer.trainable_variables)
    x = tf.random.normal(shape, seed=0)

    @tf.function(jit_compile=False)
    def train() -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_mean(tf.square(layer(x)))
        # Of the inputs, too, which layers further down need.
        variables = [v.value for v in layer.trainable_variables]
        of_x, *of_weights = tape.gradient(loss, [x, *variables])
        optimizer.apply(of_weights, layer.trainable_variables)
        return loss + tf.reduce_sum(of_x[0])

    with scope:
        train()
    return train


def step_on_jax(layer: keras.Layer, shape: tuple[int, ...]) -> Callable:
    import jax
    import jax.numpy as jnp

    x = jax.random.normal(jax.random.key(0), shape)
    trained, rest = (
        [variable.value for variable in variables]
        for variables in (layer.trainable_variables, layer.non_trainable_variables)
    )

    def loss(weights, x):
        return jnp.mean(jnp.square(layer.stateless_call(weights, rest, x)[0]))

    @jax.jit
    def train(weights):
        # Of the inputs, too, which layers further down need.
        value, (of_weights, of_x) = jax.value_and_grad(loss, (0, 1))(weights, x)
        moved = [w - 1e-3 * g for w, g in zip(weights, of_weights, strict=True)]
        return value + jnp.sum(of_x[0]), moved

    run = train.lower(trained).compile()
    return lambda: jax.block_until_ready(run(trained))[0]


def timed(run: Callable) -> float:
    clock = time.perf_counter if FLAGS.clock == "wall" else time.process_time
    start = clock()
    float(run())
    return clock() - start


def compare(name: str, make: Callable, shape: tuple[int, ...]) -> None:
    steps = {"exact": step(make(), shape, nullcontext())}
    if tfc.ops.implementation() == "c++":
        steps["c++"] = step(drum(make()), shape, nullcontext())
    backend = keras.backend.backend()
    steps[backend] = step(drum(make()), shape, tfc.ops.portable())
    times: dict[str, list[float]] = {kind: [] for kind in steps}
    for _ in range(FLAGS.rounds):
        for kind, run in steps.items():
            times[kind].append(timed(run))
    exact = times.pop("exact")
    print(f"{name}: exact {1e3 * statistics.median(exact):.1f} ms", end="")
    for kind, taken in times.items():
        ratios = [a / b for a, b in zip(taken, exact, strict=True)]
        print(f", {kind} x{statistics.median(ratios):.3f}", end="")
    print(flush=True)


def naive() -> None:
    """Every product by itself: (batch, inputs, units) operands in memory."""
    import tensorflow as tf

    x, w = tf.random.normal((64, 256), seed=0), tf.random.normal((256, 256), seed=1)

    @tf.function(jit_compile=False)
    def each() -> tf.Tensor:
        shape = (64, 256, 256)
        a = tf.broadcast_to(x[:, :, None], shape)
        b = tf.broadcast_to(w[None], shape)
        return tf.reduce_sum(tfc.ops.drum_multiply(a, b, (5, 5)), 1)

    @tf.function(jit_compile=False)
    def once() -> tf.Tensor:
        return tfc.ops.drum_truncate(x, 5) @ tfc.ops.drum_truncate(w, 5)

    np.testing.assert_allclose(each(), once(), atol=1e-3)
    ratios = [
        timed(lambda: tf.reduce_sum(each())) / timed(lambda: tf.reduce_sum(once()))
        for _ in range(FLAGS.rounds)
    ]
    print(f"one by one, 64x256x256 products: x{statistics.median(ratios):.0f}")


def main(_: list[str]) -> None:
    print(f"Implementation: {tfc.ops.implementation()}; clock: {FLAGS.clock}")
    for name, (make, shape) in CASES.items():
        compare(name, make, shape)
    if FLAGS.naive:
        naive()


if __name__ == "__main__":
    app.run(main)
