"""What ADMM costs, and what it gains over magnitude pruning.

    python benchmarks/admm.py --part=epoch --pairs=200
    python benchmarks/admm.py --part=projection
    python benchmarks/admm.py --part=tfmot --data_dir=DIR --tfmot_python=PYTHON

epoch       training with the ADMM callback against training without, on LeNet-5
projection  138 M weights (VGG-16 for ImageNet) pruned, against one np.partition
tfmot       the same dense LeNet-5 pruned with ADMM and with magnitude pruning of
            the TensorFlow Model Optimization Toolkit (`PolynomialDecay`), to the
            same --ratio: same MNIST images, same sparsity in every layer, same
            number of epochs, batches and learning rates. The toolkit runs on
            legacy Keras, so in a process of its own (it needs the extra
            tfcompress[tfmot]).
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import _backend  # noqa: F401  # before Keras

# isort: split
import keras
import numpy as np
from absl import app, flags

import tfcompress as tfc

_PART = flags.DEFINE_enum(
    "part", "epoch", ["epoch", "projection", "tfmot"], "See above."
)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of prepared TFDS data.")
_TFMOT_PYTHON = flags.DEFINE_string(
    "tfmot_python", sys.executable, "Python that has the toolkit and tf_keras."
)
_PAIRS = flags.DEFINE_integer("pairs", 9, "Pairs of steps or runs to compare.")
_RATIO = flags.DEFINE_enum("ratio", "86", ["86", "220"], "Pruning ratio in `tfmot`.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of `tfmot`.")

_BATCH = 256
_DENSE_EPOCHS = 4
_PRUNE_RATE, _RETRAIN_RATE = 1e-3, 2e-3
# Weights kept by each phase of ADMM, its epochs, and those of its retraining. The
# toolkit prunes gradually until the last retraining begins.
_BEGINNING = (
    ({"conv1": 300, "conv2": 3500, "fc1": 14500, "classifier": 1700}, 2, 0),
    ({"conv1": 240, "conv2": 1800, "fc1": 5400, "classifier": 900}, 2, 1),
)
_PHASES = {
    "86": (
        *_BEGINNING,
        ({"conv1": 210, "conv2": 1150, "fc1": 3040, "classifier": 600}, 3, 4),
    ),
    "220": (
        *_BEGINNING,
        ({"conv1": 190, "conv2": 850, "fc1": 1950, "classifier": 480}, 2, 1),
        ({"conv1": 150, "conv2": 560, "fc1": 945, "classifier": 300}, 3, 5),
    ),
}


def epoch() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(128, 28, 28, 1)).astype("float32")
    y = rng.integers(0, 10, len(x))
    models = []
    for _ in range(2):
        model = tfc.zoo.lenet5()
        model.compile("adam", loss="sparse_categorical_crossentropy")
        models.append(model)
    admm = tfc.callbacks.ADMM(tfc.constraints.Cardinality(fraction=0.05))
    admm.set_model(models[1])
    admm.on_train_begin()
    admm.on_epoch_begin(0)
    for model in models:
        model.train_on_batch(x, y)

    def seconds(model: keras.Model) -> float:
        start = time.perf_counter()
        model.train_on_batch(x, y)
        return time.perf_counter() - start

    # Steps take turns, and go first in turns, so that whatever else the machine
    # does hits both alike.
    plain, penalized = [], []
    for pair in range(_PAIRS.value):
        for which in ((0, 1), (1, 0))[pair % 2]:
            (plain, penalized)[which].append(seconds(models[which]))
    start = time.perf_counter()
    admm.on_epoch_end(0, {})
    update = time.perf_counter() - start
    ratio = statistics.median(b / a for a, b in zip(plain, penalized, strict=True))
    steps = 60_000 / len(x)
    whole = ratio + update / (statistics.median(plain) * steps)
    print(
        f"step {1e3 * statistics.median(plain):.1f} ms, ADMM step / plain step "
        f"{ratio:.3f} (median of {len(plain)} pairs), update {1e3 * update:.0f} ms; "
        f"ADMM epoch / plain epoch on 60 000 images {whole:.3f}"
    )


def projection() -> None:
    rng = np.random.default_rng(0)
    weights = rng.standard_normal(138_357_544, dtype=np.float32)
    out = np.empty_like(weights)
    for fraction in (0.05, 0.5):
        constraint = tfc.constraints.Cardinality(fraction=fraction)
        kept = constraint.kept(weights.size)
        ratios = []
        for _ in range(_PAIRS.value):
            start = time.perf_counter()
            np.partition(weights, weights.size - kept)
            middle = time.perf_counter()
            constraint.project_into(weights, out)
            end = time.perf_counter()
            ratios.append((end - middle) / (middle - start))
        assert np.count_nonzero(out) == kept
        print(
            f"{weights.size / 1e6:.0f} M weights, {fraction:.0%} kept: "
            f"{end - middle:.2f} s, {statistics.median(ratios):.2f}× the time of one "
            f"numpy.partition (median of {_PAIRS.value})"
        )


def tfmot() -> None:
    keras.utils.set_random_seed(_SEED.value)
    data = tfc.data.load("mnist", data_dir=_DATA_DIR.value, validation=1 / 12)
    train, test = data.train, data.test
    dense = tfc.zoo.lenet5()
    steps = -(-len(train) // _BATCH)
    decay = keras.optimizers.schedules.CosineDecay(2e-3, steps * _DENSE_EPOCHS)
    arguments = {"batch_size": _BATCH, "verbose": 0}
    dense.compile(
        keras.optimizers.Adam(decay),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    dense.fit(train.images, train.labels, epochs=_DENSE_EPOCHS, **arguments)
    accuracy = dense.evaluate(test.images, test.labels, **arguments)[1]
    print(f"dense: test accuracy {accuracy:.2%}", flush=True)
    model = keras.models.clone_model(dense)
    model.set_weights(dense.get_weights())
    model.compile(
        keras.optimizers.Adam(_PRUNE_RATE),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    plan = [
        tfc.training.AdmmPhase(
            {n: tfc.constraints.Cardinality(count=k) for n, k in keep.items()},
            admm,
            retrain,
            rho=tfc.schedules.Piecewise({n: 1e-4 * 2**n for n in range(admm + 1)}),
            retrain_learning_rate=_RETRAIN_RATE,
        )
        for keep, admm, retrain in _PHASES[_RATIO.value]
    ]
    result = tfc.training.admm_compress(
        model, plan, train.images, train.labels, **arguments
    )
    ours = result.model.evaluate(test.images, test.labels, **arguments)[1]
    print(f"ADMM: {ours:.2%} with {result.nonzero} weights", flush=True)
    print(f"toolkit: {_toolkit(dense, train, test)}", flush=True)


def _toolkit(dense: keras.Model, train: Any, test: Any) -> str:
    """Test accuracy of the toolkit's pruning, or why there is none."""
    phases = _PHASES[_RATIO.value]
    with tempfile.TemporaryDirectory() as folder:
        arrays = {f"weight{i}": value for i, value in enumerate(dense.get_weights())}
        np.savez(
            Path(folder) / "input.npz",
            train_x=train.images,
            train_y=train.labels,
            test_x=test.images,
            test_y=test.labels,
            **arrays,
        )
        settings = {
            "keep": phases[-1][0],
            "batch": _BATCH,
            "prune_epochs": sum(a + r for _, a, r in phases) - phases[-1][2],
            "retrain_epochs": phases[-1][2],
            "prune_rate": _PRUNE_RATE,
            "retrain_rate": _RETRAIN_RATE,
            "seed": _SEED.value,
        }
        script = Path(__file__).with_name("_tfmot_lenet5.py")
        done = subprocess.run(
            [_TFMOT_PYTHON.value, script, folder, json.dumps(settings)],
            capture_output=True,
            text=True,
            check=False,
        )
        lines = (done.stdout if done.returncode == 0 else done.stderr).splitlines()
        if done.returncode == 0:
            result = json.loads(lines[-1])
            return f"{result['accuracy']:.2%} with {result['nonzero']} weights"
        return f"skipped: {lines[-1] if lines else done.returncode}"


def main(argv: Sequence[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    {"epoch": epoch, "projection": projection, "tfmot": tfmot}[_PART.value]()


if __name__ == "__main__":
    app.run(main)
