"""What measuring the density of activations costs.

    python benchmarks/activation_density.py
    python benchmarks/activation_density.py --model=resnet20 --width=1 --clock=cpu

An epoch with `ActivationDensity`, at its defaults, against an epoch without, on a
network of the zoo and random images. Two training runs, each in its own thread, take
turns epoch by epoch, so that a machine whose speed drifts is fair to both. The first
epochs, which trace and compile, do not count.
"""

import json
import statistics
import threading
import time

import _backend  # noqa: F401  # before Keras

# isort: split
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
flags.DEFINE_integer("pairs", 15, "Pairs of epochs.", lower_bound=1)


class Turn(keras.callbacks.Callback):
    """Begins an epoch when the other training has ended one."""

    def __init__(self, mine, other):
        super().__init__()
        self.mine, self.other = mine, other
        self.seconds = []

    def on_epoch_begin(self, epoch, logs=None):
        """Waits for its turn."""
        self.mine.acquire()
        self.start = CLOCKS[FLAGS.clock]()


class Done(keras.callbacks.Callback):
    """Stands last, so that what all callbacks do at an epoch's end counts."""

    def __init__(self, turn):
        super().__init__()
        self.turn = turn

    def on_epoch_end(self, epoch, logs=None):
        """Looks at the clock and passes the turn on."""
        self.turn.seconds.append(CLOCKS[FLAGS.clock]() - self.turn.start)
        self.turn.other.release()


def main(_):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(FLAGS.images, 32, 32, 3)).astype("float32")
    y = rng.integers(0, 10, FLAGS.images)
    first, second = threading.Semaphore(1), threading.Semaphore(0)
    turns = Turn(first, second), Turn(second, first)
    density = tfc.callbacks.ActivationDensity(stop=False)
    threads = [
        threading.Thread(target=train, args=(x, y, turn, callbacks))
        for turn, callbacks in zip(turns, ([], [density]), strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    plain, measured = (turn.seconds[1:] for turn in turns)
    ratios = [m / p for p, m in zip(plain, measured, strict=True)]
    result = {
        "model": FLAGS.model,
        "clock": FLAGS.clock,
        "seconds without": round(statistics.median(plain), 3),
        "seconds with": round(statistics.median(measured), 3),
        "median ratio": round(statistics.median(ratios), 4),
        "lowest": round(min(ratios), 4),
        "highest": round(max(ratios), 4),
    }
    print(json.dumps(result))


def train(x, y, turn, callbacks):
    """One training, an epoch a turn."""
    model = getattr(tfc.zoo, FLAGS.model)(width=FLAGS.width)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(
        x,
        y,
        batch_size=FLAGS.batch_size,
        epochs=FLAGS.pairs + 1,
        callbacks=[turn, *callbacks, Done(turn)],
        verbose=0,
    )


if __name__ == "__main__":
    app.run(main)
