"""How much time pruning while training takes, and how much it saves.

    python benchmarks/filter_pruning.py --part=overhead
    python benchmarks/filter_pruning.py --part=tfmot
    python benchmarks/filter_pruning.py --part=shrinking

overhead    an epoch with FilterPruning against an epoch without
tfmot       an epoch with TFMOT's prune_low_magnitude against one without, in
            legacy Keras (needs the extra tfcompress[tfmot])
shrinking   a whole training run that prunes to --rate with fit_shrinking against a
            dense training of the same number of epochs

All on a VGG-16 for 32×32 images and random images, which train as fast as real
ones. Training runs take turns, so that a machine whose speed drifts is fair to both;
the first epoch of each, which traces and compiles, counts for `shrinking` only.
"""

import json
import statistics
import sys
import time

import _backend  # noqa: F401  # before Keras

# isort: split
import numpy as np
from absl import app, flags

BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}

FLAGS = flags.FLAGS
flags.DEFINE_enum("part", "overhead", ["overhead", "tfmot", "shrinking"], "See above.")
flags.DEFINE_enum(
    "clock", "wall", sorted(CLOCKS), "cpu: processor time, where others use the machine"
)
flags.DEFINE_float("width", 0.25, "Factor on the number of filters.")
flags.DEFINE_integer("images", 6400, "Images in an epoch.", lower_bound=64)
flags.DEFINE_integer("batch_size", 64, "Images in a batch.", lower_bound=1)
flags.DEFINE_integer("epochs", 4, "Epochs of a training run.", lower_bound=2)
flags.DEFINE_integer("pairs", 5, "Pairs of training runs.", lower_bound=1)
flags.DEFINE_float("rate", 0.8, "Fraction of filters pruned at the end.")
flags.DEFINE_string("shrink_every", "2", "Epochs between two removals, or auto.")


def main(_):
    rng = np.random.default_rng(0)
    data = (
        rng.normal(size=(FLAGS.images, 32, 32, 3)).astype("float32"),
        rng.integers(0, 10, FLAGS.images),
    )
    measure = {"overhead": overhead, "tfmot": tfmot, "shrinking": shrinking}
    baseline, method = measure[FLAGS.part](data)
    ratios = []
    for pair in range(FLAGS.pairs):
        # In turns, and in turns first.
        order = (baseline, method) if pair % 2 == 0 else (method, baseline)
        seconds = {training: training() for training in order}
        ratios.append(seconds[method] / seconds[baseline])
        print(
            f"pair {pair + 1}: {seconds[baseline]:.2f} s and {seconds[method]:.2f} s, "
            f"ratio {ratios[-1]:.3f}",
            flush=True,
        )
    result = {
        "part": FLAGS.part,
        "clock": FLAGS.clock,
        "median ratio": round(statistics.median(ratios), 4),
        "lowest": round(min(ratios), 4),
        "highest": round(max(ratios), 4),
    }
    print(json.dumps(result))


def overhead(data):
    """Median seconds of an epoch without and with FilterPruning."""
    import keras

    import tfcompress as tfc

    def train(pruned):
        model = network(keras)
        callbacks = [clock(keras)]
        if pruned:
            ramp = tfc.schedules.Linear(0.0, FLAGS.rate, begin=0, end=FLAGS.epochs)
            callbacks.append(tfc.callbacks.FilterPruning(ramp))
        return fit(model, data, callbacks)

    return (lambda: train(False)), (lambda: train(True))


def tfmot(data):
    """The same in legacy Keras, with TFMOT's magnitude pruning."""
    try:
        import tensorflow_model_optimization
    except ImportError:
        sys.exit("TFMOT is not installed: pip install tfcompress[tfmot]")
    import tf_keras

    sparsity = tensorflow_model_optimization.sparsity.keras

    def train(pruned):
        model = network(tf_keras, compiled=False)
        callbacks = [clock(tf_keras)]
        if pruned:
            steps = FLAGS.epochs * -(-FLAGS.images // FLAGS.batch_size)
            decay = sparsity.PolynomialDecay(0.0, FLAGS.rate, 0, steps)
            model = sparsity.prune_low_magnitude(model, decay)
            callbacks.append(sparsity.UpdatePruningStep())
        return fit(compiled_with(tf_keras, model), data, callbacks)

    return (lambda: train(False)), (lambda: train(True))


def shrinking(data):
    """Seconds of a whole training run, dense and while the model shrinks."""
    import keras

    import tfcompress as tfc

    every = "auto" if FLAGS.shrink_every == "auto" else int(FLAGS.shrink_every)

    def train(pruned):
        model = network(keras)
        start = CLOCKS[FLAGS.clock]()
        arguments = {"batch_size": FLAGS.batch_size, "verbose": 0}
        if pruned:
            ramp = tfc.schedules.Linear(0.0, FLAGS.rate, begin=0, end=FLAGS.epochs - 1)
            tfc.training.fit_shrinking(
                model,
                *data,
                epochs=FLAGS.epochs,
                callbacks=[tfc.callbacks.FilterPruning(ramp)],
                shrink_every=every,
                **arguments,
            )
        else:
            model.fit(*data, epochs=FLAGS.epochs, **arguments)
        return CLOCKS[FLAGS.clock]() - start

    return (lambda: train(False)), (lambda: train(True))


def network(keras, compiled=True):
    """VGG-16 with batch normalization, in Keras 3 or in legacy Keras."""
    layers = keras.layers
    x = inputs = keras.Input((32, 32, 3))
    for filters, repeats in BLOCKS:
        for _ in range(repeats):
            x = layers.Conv2D(round(filters * FLAGS.width), 3, padding="same")(x)
            x = layers.BatchNormalization()(x)
            x = layers.ReLU()(x)
        x = layers.MaxPooling2D()(x)
    x = layers.Dense(round(512 * FLAGS.width), activation="relu")(layers.Flatten()(x))
    model = keras.Model(inputs, layers.Dense(10, activation="softmax")(x))
    return compiled_with(keras, model) if compiled else model


def compiled_with(keras, model):
    model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
    return model


def fit(model, data, callbacks):
    """Median seconds of the epochs after the first."""
    model.fit(
        *data,
        batch_size=FLAGS.batch_size,
        epochs=FLAGS.epochs,
        callbacks=callbacks,
        verbose=0,
    )
    return statistics.median(np.diff(callbacks[0].ends))


def clock(keras):
    class Clock(keras.callbacks.Callback):
        """Notes when epochs end; from end to end all callbacks are counted."""

        def __init__(self):
            super().__init__()
            self.ends = []

        def on_epoch_end(self, epoch, logs=None):
            self.ends.append(CLOCKS[FLAGS.clock]())

    return Clock()


if __name__ == "__main__":
    app.run(main)
