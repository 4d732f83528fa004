"""What measuring the density of activations costs.

    python benchmarks/activation_density.py
    python benchmarks/activation_density.py --model=resnet20 --width=1 --clock=cpu

An epoch with `ActivationDensity`, at its defaults, against an epoch without, on a
network of the zoo and random images. Trainings take turns, so that a machine whose
speed drifts is fair to both; of each, the first epoch, which traces and compiles,
does not count.
"""

import json
import os
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from absl import app, flags

import tfcompress as tfc

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}

FLAGS = flags.FLAGS
flags.DEFINE_enum("model", "vgg19", ["vgg19", "resnet18", "resnet20"], "Network.")
flags.DEFINE_enum(
    "clock", "wall", sorted(CLOCKS), "cpu: processor time, where others use the machine"
)
flags.DEFINE_float("width", 0.25, "Factor on the number of filters.")
flags.DEFINE_integer("images", 1280, "Images in an epoch.", lower_bound=64)
flags.DEFINE_integer("batch_size", 64, "Images in a batch.", lower_bound=1)
flags.DEFINE_integer("epochs", 6, "Epochs of a training.", lower_bound=2)
flags.DEFINE_integer("pairs", 5, "Pairs of trainings.", lower_bound=1)


class Clock(keras.callbacks.Callback):
    """Notes when epochs end; from end to end all callbacks are counted."""

    def __init__(self):
        super().__init__()
        self.ends = []

    def on_epoch_end(self, epoch, logs=None):
        """Looks at the clock."""
        self.ends.append(CLOCKS[FLAGS.clock]())


def main(_):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(FLAGS.images, 32, 32, 3)).astype("float32")
    y = rng.integers(0, 10, FLAGS.images)
    ratios = []
    for pair in range(FLAGS.pairs):
        # In turns, and in turns first.
        order = (False, True) if pair % 2 == 0 else (True, False)
        seconds = {measured: epoch(x, y, measured) for measured in order}
        ratios.append(seconds[True] / seconds[False])
        print(
            f"pair {pair + 1}: {seconds[False]:.3f} s and {seconds[True]:.3f} s, "
            f"ratio {ratios[-1]:.3f}",
            flush=True,
        )
    result = {
        "model": FLAGS.model,
        "clock": FLAGS.clock,
        "median ratio": round(statistics.median(ratios), 4),
        "lowest": round(min(ratios), 4),
        "highest": round(max(ratios), 4),
    }
    print(json.dumps(result))


def epoch(x, y, measured):
    """Median seconds of an epoch after the first."""
    model = getattr(tfc.zoo, FLAGS.model)(width=FLAGS.width)
    model.compile("adam", "sparse_categorical_crossentropy")
    clock = Clock()
    callbacks = [tfc.callbacks.ActivationDensity(stop=False)] if measured else []
    model.fit(
        x,
        y,
        batch_size=FLAGS.batch_size,
        epochs=FLAGS.epochs,
        callbacks=[*callbacks, clock],
        verbose=0,
    )
    return statistics.median(np.diff(clock.ends))


if __name__ == "__main__":
    app.run(main)
