"""ADMM-NN: pruning and quantising LeNet-5 (or another network) with ADMM.

Follows Ren et al., "ADMM-NN: an algorithm-hardware co-design framework of DNNs
using alternating direction methods of multipliers" (ASPLOS 2019), Tables 1 and 5:

    python recipes/admm_nn.py                                   # digits, a minute
    python recipes/admm_nn.py --preset=mnist --data_dir=DIR     # the paper's LeNet-5
    python recipes/admm_nn.py --preset=cifar10-resnet20 --data_dir=DIR

A dense network is trained first. It then teaches its own compressed versions:
the loss mixes labels with the dense network's softened outputs. Phases of ADMM
and masked retraining prune it further and further, dead channels are removed on
the way, and the last phase quantises. Numbers of weights per layer were chosen on
the validation split; the test split is looked at once, when everything is done.

An interrupted run goes on where it was when the same command is given again.
Results in --out: results.json, a .keras file for each row, and the packed .tfcz.
"""

import dataclasses
import itertools
import json
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from absl import app, flags
from keras import ops

import tfcompress as tfc
from tfcompress._files import check_writable, write_atomic


@dataclasses.dataclass(frozen=True)
class Round:
    """A pruning phase: what to keep, and for how many epochs to train.

    Attributes:
        keep: weights to keep, by layer; a fraction for all hidden layers.
        admm: epochs with the ADMM penalty.
        retrain: epochs of masked retraining.
    """

    keep: Mapping[str, int] | float
    admm: int
    retrain: int


@dataclasses.dataclass(frozen=True)
class Settings:
    """One experiment.

    Attributes:
        dataset: "digits" or the name of a TFDS set.
        model: network of `tfcompress.zoo`.
        rows: pruning phases that lead to each row of the table, by its name.
        bits: width of a level code by layer; an int for all pruned layers.
        quantise: epochs of ADMM towards the levels, and of retraining after it.
        dense_epochs: epochs of the dense network.
        dropout: rate before dense layers, while the dense network trains.
        shift: augmentation of the dense network, in pixels to every side.
        batch_size: images in a batch.
    """

    dataset: str
    model: str
    rows: Mapping[str, Sequence[Round]]
    bits: Mapping[str, int] | int
    quantise: tuple[int, int]
    dense_epochs: int
    dropout: float
    shift: int
    batch_size: int


def lenet(conv1: int, conv2: int, fc1: int, classifier: int) -> dict[str, int]:
    return {"conv1": conv1, "conv2": conv2, "fc1": fc1, "classifier": classifier}


PRESETS = {
    "quick": Settings(
        dataset="digits",
        model="lenet5",
        rows={
            "pruned 20x": [Round(0.2, 3, 3), Round(0.05, 4, 8)],
            "pruned 40x": [Round(0.024, 4, 8)],
        },
        bits=3,
        quantise=(5, 2),
        dense_epochs=15,
        dropout=0.3,
        shift=0,
        batch_size=32,
    ),
    "mnist": Settings(
        dataset="mnist",
        model="lenet5",
        rows={
            "pruned 85x": [
                Round(lenet(300, 3500, 14500, 1700), 3, 1),
                Round(lenet(240, 1800, 5400, 900), 4, 2),
                Round(lenet(210, 1150, 3000, 600), 5, 10),
            ],
            "pruned 167x": [
                Round(lenet(190, 850, 1950, 480), 4, 2),
                Round(lenet(170, 660, 1330, 390), 5, 12),
            ],
            "pruned 220x": [Round(lenet(150, 560, 945, 300), 5, 10)],
        },
        bits={"conv1": 3, "conv2": 3, "fc1": 2, "classifier": 2},
        quantise=(5, 2),
        dense_epochs=12,
        dropout=0.4,
        shift=2,
        batch_size=256,
    ),
    "cifar10-resnet20": Settings(
        dataset="cifar10",
        model="resnet20",
        rows={
            "pruned 5x": [Round(0.4, 10, 10), Round(0.2, 15, 30)],
            "pruned 10x": [Round(0.1, 15, 30)],
        },
        bits=4,
        quantise=(10, 5),
        dense_epochs=120,
        dropout=0.0,
        shift=4,
        batch_size=128,
    ),
    "cifar10-vgg16": Settings(
        dataset="cifar10",
        model="vgg16",
        rows={
            "pruned 20x": [Round(0.2, 10, 10), Round(0.05, 15, 30)],
            "pruned 50x": [Round(0.02, 15, 30)],
        },
        bits=4,
        quantise=(10, 5),
        dense_epochs=120,
        dropout=0.0,
        shift=4,
        batch_size=128,
    ),
}

_PRESET = flags.DEFINE_enum("preset", "quick", list(PRESETS), "What to run.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of prepared TFDS data.")
_OUT = flags.DEFINE_string("out", "results/admm_nn", "Folder for the results.")
_SEEDS = flags.DEFINE_list("seeds", ["0"], "One run for each of these seeds.")
_VERBOSE = flags.DEFINE_integer("verbose", 2, "As for `fit`.")

# Settings of the method, the same for all networks.
TEMPERATURE = 2.0
TAUGHT = 0.9
DENSE_RATE, ADMM_RATE, RETRAIN_RATE = 2e-3, 1e-3, 3e-3
STUDENT_SHIFT = 1


@keras.saving.register_keras_serializable(package="admm_nn")
class Distillation(keras.losses.Loss):
    """Cross-entropy with labels and with a teacher's softened probabilities.

    Targets are (batch, 2, classes): the teacher's probabilities and the label as
    a one-hot vector. Hinton et al., "Distilling the knowledge in a neural network"
    (2015).
    """

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """The loss of each sample."""
        logs = ops.log(ops.clip(y_pred, 1e-7, 1.0))
        hard = -ops.sum(y_true[:, 1] * logs, axis=-1)
        teacher = ops.softmax(ops.log(ops.clip(y_true[:, 0], 1e-7, 1.0)) / TEMPERATURE)
        soft = -ops.sum(teacher * ops.log_softmax(logs / TEMPERATURE), axis=-1)
        return (1 - TAUGHT) * hard + TAUGHT * TEMPERATURE**2 * soft


@keras.saving.register_keras_serializable(package="admm_nn")
def accuracy(y_true: Any, y_pred: Any) -> Any:
    """Fraction of samples whose label is the most probable class."""
    same = ops.argmax(y_true[:, 1], axis=-1) == ops.argmax(y_pred, axis=-1)
    return ops.cast(same, "float32")


def shifted(images: np.ndarray, down: int, right: int) -> np.ndarray:
    """Images moved by whole pixels, the border filled with zeros."""
    room = [(0, 0), (abs(down),) * 2, (abs(right),) * 2, (0, 0)]
    height, width = images.shape[1:3]
    top, left = abs(down) - down, abs(right) - right
    return np.pad(images, room)[:, top : top + height, left : left + width]


def batches(
    images: np.ndarray, targets: np.ndarray, shift: int, batch_size: int, seed: int
) -> Any:
    """Shuffled batches of randomly shifted images.

    Args:
        images: (n, height, width, channels).
        targets: (shifts, n, ...): for every shift, rows first; or (1, n, ...) for
            targets that do not depend on it.
        shift: largest shift in pixels.
        batch_size: images in a batch.
        seed: seed of order and shifts.
    """
    import tensorflow as tf

    height, width = images.shape[1:3]
    side = 2 * shift + 1
    padded = tf.constant(np.pad(images, [(0, 0), (shift,) * 2, (shift,) * 2, (0, 0)]))
    given = tf.constant(targets)

    def batch(index: Any) -> Any:
        count = tf.shape(index)[0]
        which = tf.random.uniform([count], 0, side * side, tf.int32, seed=seed)
        rows = (which // side)[:, None] + tf.range(height)
        columns = (which % side)[:, None] + tf.range(width)
        x = tf.gather(padded, index)
        x = tf.gather(x, rows, axis=1, batch_dims=1)
        x = tf.gather(x, columns, axis=2, batch_dims=1)
        kind = which if given.shape[0] > 1 else tf.zeros_like(which)
        return x, tf.gather_nd(given, tf.stack([kind, index], axis=1))

    order = tf.data.Dataset.range(len(images), output_type=tf.int32)
    order = order.shuffle(len(images), seed=seed)
    dataset = order.batch(batch_size, drop_remainder=True).map(
        batch, num_parallel_calls=2, deterministic=True
    )
    return dataset.prefetch(4)


def build(settings: Settings, data: tfc.data.Dataset) -> keras.Model:
    make = getattr(tfc.zoo, settings.model)
    return make(classes=data.classes, input_shape=data.input_shape)


def train_dense(settings: Settings, data: tfc.data.Dataset, seed: int) -> keras.Model:
    model = build(settings, data)
    trained = model
    if settings.dropout:
        # The networks end in a chain, so the layer before is the one listed before.
        before = [
            first.name
            for first, second in itertools.pairwise(model.layers)
            if isinstance(second, keras.layers.Dense)
        ]
        trained = tfc.structure.insert_after(
            model, {name: keras.layers.Dropout(settings.dropout) for name in before}
        )
    steps = len(data.train) // settings.batch_size * settings.dense_epochs
    trained.compile(
        keras.optimizers.Adam(
            keras.optimizers.schedules.CosineDecay(DENSE_RATE, steps)
        ),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    trained.fit(
        batches(
            data.train.images,
            data.train.labels[None],
            settings.shift,
            settings.batch_size,
            seed,
        ),
        epochs=settings.dense_epochs,
        shuffle=False,
        verbose=_VERBOSE.value,
    )
    model.set_weights(trained.get_weights())
    return model


def lessons(settings: Settings, data: tfc.data.Dataset, teacher: keras.Model) -> Any:
    """What the dense network says about every training image in every position."""
    size = min(STUDENT_SHIFT, settings.shift)
    offsets = range(-size, size + 1)
    labels = np.eye(data.classes, dtype="float32")[data.train.labels]
    # A window that lies lower in the padded image shows it moved up.
    said = [
        teacher.predict(shifted(data.train.images, -r, -c), batch_size=1000, verbose=0)
        for r in offsets
        for c in offsets
    ]
    return size, np.stack([np.stack([part, labels], axis=1) for part in said])


def pruned_layers(model: keras.Model) -> list[str]:
    """Layers with kernels but the first and the last, which are small and crucial."""
    names = [layer.name for layer in model.layers if hasattr(layer, "kernel")]
    return names[1:-1]


def phase(round_: Round, model: keras.Model) -> tfc.training.AdmmPhase:
    keep = round_.keep
    if not isinstance(keep, Mapping):
        sizes = {name: model.get_layer(name).kernel for name in pruned_layers(model)}
        keep = {
            name: max(1, round(keep * int(np.prod(kernel.shape))))
            for name, kernel in sizes.items()
        }
    return tfc.training.AdmmPhase(
        {name: tfc.constraints.Cardinality(count=n) for name, n in keep.items()},
        admm_epochs=round_.admm,
        retrain_epochs=round_.retrain,
        rho=rising(3e-4, 2, round_.admm),
        learning_rate=ADMM_RATE,
        retrain_learning_rate=RETRAIN_RATE,
    )


def rising(first: float, factor: float, updates: int) -> tfc.schedules.Schedule:
    """A penalty that grows by a factor at every update."""
    return tfc.schedules.Piecewise({n: first * factor**n for n in range(updates + 1)})


def quantisation(settings: Settings, model: keras.Model) -> tfc.training.AdmmPhase:
    bits = settings.bits
    if not isinstance(bits, Mapping):
        bits = dict.fromkeys(pruned_layers(model), bits)
    admm, retrain = settings.quantise
    return tfc.training.AdmmPhase(
        {name: tfc.constraints.Levels(width) for name, width in bits.items()},
        admm_epochs=admm,
        retrain_epochs=retrain,
        rho=rising(1e-3, 2.5, admm),
        learning_rate=ADMM_RATE,
        retrain_learning_rate=ADMM_RATE,
    )


def correct(model: keras.Model, split: tfc.data.Split) -> float:
    said = model.predict(split.images, batch_size=1000, verbose=0).argmax(axis=1)
    return float((said == split.labels).mean())


def run(settings: Settings, data: tfc.data.Dataset, seed: int, out: Path) -> dict:
    """Trains or loads every row; returns the table."""
    keras.utils.set_random_seed(seed)
    rows: dict[str, Path] = {"dense": out / "dense.keras"}
    spent: dict[str, float] = {}
    if not rows["dense"].exists():
        start = time.perf_counter()
        train_dense(settings, data, seed).save(rows["dense"])
        spent["dense"] = time.perf_counter() - start
    dense = keras.saving.load_model(rows["dense"], compile=False)
    original = build(settings, data)
    plans: dict[str, list[tfc.training.AdmmPhase]] = {
        name: [phase(round_, original) for round_ in rounds]
        for name, rounds in settings.rows.items()
    }
    plans["joint"] = [quantisation(settings, original)]
    training = None
    model = keras.models.clone_model(dense)
    model.set_weights(dense.get_weights())
    for name, plan in plans.items():
        rows[name] = out / f"{name.replace(' ', '-')}.keras"
        if not rows[name].exists():
            start = time.perf_counter()
            if training is None:
                size, targets = lessons(settings, data, dense)
                training = batches(
                    data.train.images, targets, size, settings.batch_size, seed
                )
            model.compile(
                keras.optimizers.Adam(ADMM_RATE),
                loss=Distillation(),
                metrics=[accuracy],
            )
            result = tfc.training.admm_compress(
                model,
                plan,
                training,
                shrink=True,
                backup_dir=out / "backup",
                shuffle=False,
                verbose=_VERBOSE.value,
            )
            print(result, flush=True)
            result.model.save(rows[name])
            spent[name] = time.perf_counter() - start
            print(name, f"validation {correct(result.model, data.validation):.4f}")
        model = keras.saving.load_model(rows[name], compile=False)
    return report(settings, data, rows, out, spent)


def report(
    settings: Settings,
    data: tfc.data.Dataset,
    rows: Mapping[str, Path],
    out: Path,
    spent: Mapping[str, float],
) -> dict:
    weights = kernels(build(settings, data))[1]
    table: dict[str, Any] = {}
    for name, path in rows.items():
        model = keras.saving.load_model(path, compile=False)
        packed = tfc.export.pack(model, path.with_suffix(".tfcz"), vectors="float16")
        # What is measured is what the file holds.
        model = tfc.export.unpack(packed.path)
        table[name] = {
            "validation": correct(model, data.validation),
            "test": correct(model, data.test),
            "nonzero": packed.nonzero,
            "pruning": weights / packed.nonzero,
            "data_bytes": packed.data_bytes,
            "data_compression": packed.data_compression(weights),
            "weight_bytes": packed.weight_bytes,
            "model_compression": packed.model_compression(weights),
            "vector_bytes": packed.vector_bytes,
            "file_bytes": packed.bytes,
            "seconds": spent.get(name),
        }
    print(packed)
    write_atomic(out / "results.json", json.dumps(table, indent=1))
    return table


def kernels(model: keras.Model) -> tuple[int, int]:
    """Non-zero and all kernel weights."""
    values = [x.kernel.numpy() for x in model.layers if hasattr(x, "kernel")]
    return sum(map(np.count_nonzero, values)), sum(v.size for v in values)


def main(argv: Sequence[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    settings = PRESETS[_PRESET.value]
    data = tfc.data.load(settings.dataset, data_dir=_DATA_DIR.value, validation=1 / 12)
    tables = []
    for seed in map(int, _SEEDS.value):
        out = check_writable(
            Path(_OUT.value) / _PRESET.value / f"seed-{seed}" / "results.json",
            argument="out",
        ).parent
        tables.append(run(settings, data, seed, out))
    print_table(tables)


def print_table(tables: Sequence[Mapping[str, Any]]) -> None:
    columns = {
        "test": "{:.2%}",
        "pruning": "{:.1f}×",
        "data_bytes": "{:.0f}",
        "data_compression": "{:.0f}×",
        "weight_bytes": "{:.0f}",
        "model_compression": "{:.0f}×",
        "file_bytes": "{:.0f}",
    }
    print("".join(f"{name:>20}" for name in ["row", *columns]))
    for row in tables[0]:
        cells = [row]
        for column, form in columns.items():
            values = [table[row][column] for table in tables]
            cell = form.format(statistics.mean(values))
            if len(values) > 1:
                cell += " ± " + form.format(statistics.stdev(values)).strip("×")
            cells.append(cell)
        print("".join(f"{cell:>20}" for cell in cells))


if __name__ == "__main__":
    app.run(main)
