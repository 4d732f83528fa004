"""What gates cost while training, and what closed ones save.

    python benchmarks/gating.py --part=overhead
    python benchmarks/gating.py --part=latency

overhead    an epoch of a gated network, with its penalties, against an epoch of
            the same network without gates
latency     time of the TFLite file of a network after `finalize`, for several
            numbers of closed layer gates, beside its MACs; the columns say which
            fraction of the network with all gates open they are

On a ResNet for 32×32 images. Training runs take turns, so that a machine whose speed
drifts is fair to both; the first epoch of each, which traces and compiles, does
not count. So do the timings of files, which run on one thread.
"""

import json
import statistics
import tempfile
import time
from pathlib import Path

import _backend  # noqa: F401  # before Keras

# isort: split
import keras
import numpy as np
from absl import app, flags

import tfcompress as tfc

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}

FLAGS = flags.FLAGS
flags.DEFINE_enum("part", "overhead", ["overhead", "latency"], "See above.")
flags.DEFINE_enum(
    "clock", "wall", sorted(CLOCKS), "cpu: processor time, where others use the machine"
)
flags.DEFINE_enum("gates", "layer", ["layer", "channel"], "What gates close.")
flags.DEFINE_enum("position", "after", tfc.gates.POSITIONS, "Of channel gates.")
flags.DEFINE_enum("model", "resnet20", ["resnet20", "resnet56", "resnet110"], "")
flags.DEFINE_float("width", 0.5, "Factor on the number of filters.")
flags.DEFINE_integer("images", 3840, "Images in an epoch.", lower_bound=64)
flags.DEFINE_integer("batch_size", 128, "Images in a batch.", lower_bound=1)
flags.DEFINE_integer("epochs", 4, "Epochs of a training run.", lower_bound=2)
flags.DEFINE_integer("pairs", 5, "Pairs of training runs.", lower_bound=1)
flags.DEFINE_integer("rounds", 5, "Timings of each file.", lower_bound=1)


def main(_):
    {"overhead": overhead, "latency": latency}[FLAGS.part]()


def network():
    return getattr(tfc.zoo, FLAGS.model)(width=FLAGS.width)


def gated():
    if FLAGS.gates == "layer":
        return tfc.gates.add_layer_gates(network())
    return tfc.gates.add_channel_gates(network(), FLAGS.position)


def overhead():
    rng = np.random.default_rng(0)
    data = (
        rng.normal(size=(FLAGS.images, 32, 32, 3)).astype("float32"),
        rng.integers(0, 10, FLAGS.images),
    )
    ratios = []
    for pair in range(FLAGS.pairs):
        # In turns, and in turns first.
        order = (network, gated) if pair % 2 == 0 else (gated, network)
        seconds = {make: epoch(make(), data) for make in order}
        ratios.append(seconds[gated] / seconds[network])
        print(
            f"pair {pair + 1}: {seconds[network]:.2f} s and {seconds[gated]:.2f} s, "
            f"ratio {ratios[-1]:.3f}",
            flush=True,
        )
    result = {
        "part": "overhead",
        "gates": FLAGS.gates,
        "clock": FLAGS.clock,
        "median ratio": round(statistics.median(ratios), 4),
        "lowest": round(min(ratios), 4),
        "highest": round(max(ratios), 4),
    }
    print(json.dumps(result))


def epoch(model, data):
    """Median seconds of the epochs after the first."""
    model.compile(keras.optimizers.SGD(0.1, 0.9), "sparse_categorical_crossentropy")
    clock = Clock()
    callbacks = [clock]
    if tfc.gates.gates_of(model):
        callbacks.append(tfc.callbacks.GatePenalty(1.0, 0.5))
    model.fit(
        *data,
        batch_size=FLAGS.batch_size,
        epochs=FLAGS.epochs,
        callbacks=callbacks,
        verbose=0,
    )
    return statistics.median(np.diff(clock.ends))


class Clock(keras.callbacks.Callback):
    """Notes when epochs end; from end to end all callbacks are counted."""

    def __init__(self):
        super().__init__()
        self.ends = []

    def on_epoch_end(self, epoch, logs=None):
        """Reads the clock."""
        self.ends.append(CLOCKS[FLAGS.clock]())


def latency():
    model = gated()
    names = list(tfc.gates.gates_of(model))
    counts = sorted({round(len(names) * share) for share in (0, 0.25, 0.5, 0.75, 1)})
    order = np.random.default_rng(0).permutation(len(names))
    with tempfile.TemporaryDirectory() as folder:
        files, macs = {}, {}
        for count in counts:
            small = closed(model, {names[i] for i in order[:count]})
            macs[count] = tfc.cost.count(small).macs
            files[count] = Path(folder) / f"{count}.tflite"
            tfc.export.to_tflite(small, files[count])
        times = {count: [] for count in counts}
        for _ in range(FLAGS.rounds):
            for count, file in files.items():
                times[count].append(tfc.export.benchmark(file).median)
    print("| closed | MACs | MACs, fraction | latency, ms | latency, fraction |")
    print("|---|---|---|---|---|")
    whole = statistics.median(times[0])
    for count in counts:
        time_ = statistics.median(times[count])
        print(
            f"| {count} of {len(names)} | {macs[count]:,} "
            f"| {macs[count] / macs[0]:.3f} | {time_:.3f} | {time_ / whole:.3f} |"
        )


def closed(model, names):
    """The model after these gates are closed: whole, or half of their channels."""
    ratios = {}
    for name, gate in tfc.gates.gates_of(model).items():
        size = gate.opening.size
        everything = np.ones(size)
        half = np.arange(size) % 2 if size > 1 else np.zeros(1)
        ratios[name] = half.astype("float64") if name in names else everything
    return tfc.gates.resolve(model, tfc.gates.Openings(ratios, samples=1))


if __name__ == "__main__":
    app.run(main)
