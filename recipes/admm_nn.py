"""ADMM-NN: pruning and quantizing LeNet-5 (or another network) with ADMM.

Follows Ren et al., "ADMM-NN: an algorithm-hardware co-design framework of DNNs
using alternating direction methods of multipliers" (ASPLOS 2019), Tables 1 and 5:

    python recipes/admm_nn.py                                   # digits, two minutes
    python recipes/admm_nn.py --preset=mnist --data_dir=DIR     # the paper's LeNet-5
    python recipes/admm_nn.py --preset=mnist --plain            # as the paper trains it
    python recipes/admm_nn.py --preset=mnist --search           # section 5
    python recipes/admm_nn.py --preset=cifar10-resnet20 --data_dir=DIR

A dense network is trained first. It then teaches its own compressed versions: the
loss mixes labels with the dense network's softened outputs. With --plain there is no
teacher, no dropout and no augmentation. Phases of ADMM and masked retraining prune
the network further and further, dead channels are removed on the way, and the last
phase quantizes. Numbers of weights per layer were chosen on the validation split;
the test split is looked at once, when a row is done. The name of a row is the factor
that its phases prune by at least; the table has what came out.

--search also finds a fraction for each convolution such that hardware gets fast and
the validation accuracy does not fall by more than --drop, and prunes to these.

The same command resumes a run that was interrupted; further --seeds add to the results
in --out: results.json, a .keras and a packed .tfcz file for each row, report.html.
"""

import dataclasses
import functools
import itertools
import os
from collections.abc import Mapping, Sequence
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from _experiment import (
    Experiment,
    Job,
    by_name,
    first_of_each,
    load_model,
    mean,
    percent,
    table,
)
from _settings import FLAGS, chosen, common, define_flags, flags, launch, setting
from _training import Progress, fit
from keras import ops

import tfcompress as tfc


@dataclasses.dataclass(frozen=True)
class Round:
    """A pruning phase: what to keep, and for how many epochs to train.

    Attributes:
        keep: weights to keep, by layer; or a fraction of all kernel weights, which
            hidden layers share alike: the first and the last, small and crucial,
            keep theirs.
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
        rows: pruning phases that lead to each row of the table, by its name.
        bits: width of a level code by layer; an int for all pruned layers.
        quantise: epochs of ADMM toward the levels, and of retraining after it.
    """

    rows: Mapping[str, Sequence[Round]]
    bits: Mapping[str, int] | int
    quantise: tuple[int, int]
    dataset: str = setting('"digits" or the name of a TFDS set.')
    model: str = setting("Network.", choices=["lenet5", "resnet20", "vgg16"])
    dense_epochs: int = setting("Epochs of the dense network.", least=1)
    batch_size: int = setting("Images in a batch.", least=1)
    dropout: float = setting(
        "Rate before dense layers, while the dense network trains.",
        0.0,
        least=0,
        most=0.9,
    )
    shift: int = setting(
        "Augmentation of the dense network, pixels to every side.", 0, least=0
    )
    plain: bool = setting("Labels only: no teacher, no dropout, no shifts.", False)
    drop: float = setting(
        "Loss of validation accuracy that --search allows.", 0.005, least=0, most=1
    )
    search_epochs: int = setting("Of ADMM, and of retraining, in a trial.", 3, least=1)


def lenet(conv1: int, conv2: int, fc1: int, classifier: int) -> dict[str, int]:
    return {"conv1": conv1, "conv2": conv2, "fc1": fc1, "classifier": classifier}


PRESETS = {
    "quick": Settings(
        dataset="digits",
        model="lenet5",
        rows={
            "pruned 20x": [
                Round(lenet(400, 8000, 14000, 2500), 3, 2),
                Round(lenet(250, 1900, 3000, 900), 4, 8),
            ],
            "pruned 40x": [Round(lenet(200, 1150, 1300, 550), 4, 8)],
        },
        bits=3,
        quantise=(5, 2),
        dense_epochs=15,
        dropout=0.3,
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
            # As many as the best published, progressive ADMM, removes from LeNet-5.
            "pruned 246x": [Round(lenet(140, 520, 825, 265), 5, 10)],
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
        shift=4,
        batch_size=128,
    ),
}

define_flags(PRESETS, "out/admm_nn")
flags.DEFINE_bool("search", False, "Whether to search a plan for hardware, too.")
flags.DEFINE_integer("verbose", 0, "As for `fit`.", 0, 2)

# Settings of the method, the same for all networks.
TEMPERATURE = 2.0
TAUGHT = 0.9
DENSE_RATE, ADMM_RATE, RETRAIN_RATE = 2e-3, 1e-3, 3e-3
STUDENT_SHIFT = 1


def main():
    settings, options = chosen(PRESETS), common()
    data = tfc.data.load(
        settings.dataset, data_dir=options["data_dir"], validation=1 / 12
    )
    for seed in options["seeds"]:
        last = seed == options["seeds"][-1]
        run(
            settings,
            data,
            seed,
            options["out"],
            search=FLAGS.search,
            verbose=FLAGS.verbose,
            report=options["report"] and last,
        )


def run(settings, data, seed, out, *, search=False, verbose=0, report=False):
    """Trains the rows of a seed that are not there; reports on all that are."""
    jobs = plan(settings, build(settings, data), seed, search)
    with Experiment(out, settings) as experiment:

        @functools.cache
        def taught():
            dense = load_model(experiment.path(jobs[0]))
            return lessons(settings, data, dense)

        def work(job):
            if job.name == "dense":
                model = train_dense(settings, data, experiment, job)
            elif job.name == "search":
                return searched(settings, data, experiment, job, taught), {}
            else:
                model = compressed(settings, data, experiment, job, taught, verbose)
            return record_of(settings, data, experiment, job, model), {".keras": model}

        experiment.run(jobs, work)
        return summarize(experiment, settings, data, report)


# Jobs --------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row(Job):
    """A row: phases of ADMM on the model of another row (`source`, its key)."""

    source: str | None = None
    phases: tuple[tfc.training.AdmmPhase, ...] | None = None


def plan(settings, model, seed, search) -> list[Row]:
    """The rows of one seed, each after the one it starts from."""
    dense = Row(name="dense", seed=seed, epochs=settings.dense_epochs)
    jobs = [dense]

    def add(name, source, phases):
        epochs = sum(phase.admm_epochs + phase.retrain_epochs for phase in phases)
        options = {"source": source.key, "phases": tuple(phases), "epochs": epochs}
        jobs.append(Row(name=name, seed=seed, **options))

    for name, rounds in settings.rows.items():
        add(name, jobs[-1], [phase(round_, model) for round_ in rounds])
    add("joint", jobs[-1], [quantization(settings, model)])
    if search:
        trial = 2 * settings.search_epochs
        jobs.append(Row(name="search", seed=seed, source=dense.key, epochs=10 * trial))
        jobs.append(
            Row(name="for hardware", seed=seed, source=dense.key, epochs=2 * trial)
        )
    return jobs


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

    # A shift is a window in the padded image, and `which` its number, row by row. With
    # shift = 1 there are 9: 0 is the window at the top left, 4 the image as it is. The
    # teacher's answers to each of the 9 are stacked in this order by `lessons`, so that
    # a sample and its target are found with the same number.
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


def train_dense(settings, data, experiment, job) -> keras.Model:
    """The dense network, trained with dropout and shifts, returned without."""
    model = trained = build(settings, data)
    if settings.dropout and not settings.plain:
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
    shift = 0 if settings.plain else settings.shift
    labels = data.train.labels[None]
    training = batches(data.train.images, labels, shift, settings.batch_size, job.seed)
    fit(experiment, job, trained, training)
    model.set_weights(trained.get_weights())
    return model


def compile_student(settings, data, model, seed, taught) -> Any:
    """Compiles a model that is to be compressed; returns its batches."""
    if settings.plain:
        loss, metrics = "sparse_categorical_crossentropy", ["accuracy"]
        size, targets = 0, data.train.labels[None]
    else:
        loss, metrics = Distillation(), [accuracy]
        size, targets = taught()
    model.compile(keras.optimizers.Adam(ADMM_RATE), loss=loss, metrics=metrics)
    return batches(data.train.images, targets, size, settings.batch_size, seed)


def compressed(settings, data, experiment, job, taught, verbose) -> keras.Model:
    model = load_model(experiment.path(job.source))
    phases = job.phases
    if phases is None:  # for hardware: as the search has found
        found = next(
            record
            for record in experiment.records()
            if record["name"] == "search" and record["seed"] == job.seed
        )
        phases = [hardware_phase(found["fractions"], 2 * settings.search_epochs)]
    result = tfc.training.admm_compress(
        model,
        phases,
        compile_student(settings, data, model, job.seed, taught),
        shrink=True,
        callbacks=[Progress()],
        backup_dir=experiment.backup(job),
        keep_backup=True,  # the experiment deletes it when the result is complete
        shuffle=False,
        verbose=verbose,
    )
    print(result, flush=True)
    return result.model


def hardware_phase(fractions, epochs) -> tfc.training.AdmmPhase:
    return tfc.training.AdmmPhase(
        {
            name: tfc.constraints.Cardinality(fraction=fraction)
            for name, fraction in fractions.items()
            if fraction < 1
        },
        admm_epochs=epochs,
        retrain_epochs=epochs,
        rho=rising(3e-4, 2, epochs),
        retrain_learning_rate=RETRAIN_RATE,
    )


def searched(settings, data, experiment, job, taught) -> dict[str, Any]:
    """Section 5: fractions for which hardware gets fast."""
    dense = load_model(experiment.path(job.source))
    least = correct(dense, data.validation) - settings.drop

    def evaluate(fractions):
        keras.utils.set_random_seed(job.seed)
        model = load_model(experiment.path(job.source))
        training = compile_student(settings, data, model, job.seed, taught)
        phases = [hardware_phase(fractions, settings.search_epochs)]
        result = tfc.training.admm_compress(
            model, phases, training, shuffle=False, verbose=0
        )
        reached = correct(result.model, data.validation)
        print(f"  {reached:.4f} of {least:.4f} at {fractions}", flush=True)
        return reached

    found = tfc.training.search_fractions(
        dense,
        evaluate,
        least=least,
        log_path=experiment.backup(job) / "trials.json",
    )
    print(f"\n{found}", flush=True)
    return {
        "fractions": found.fractions,
        "speedups": {layer.name: layer.speedup for layer in found.layers},
        "speedup": found.speedup,
        "accuracy": found.accuracy,
        "least": found.least,
        "trials": found.trials,
    }


def lessons(settings: Settings, data: tfc.data.Dataset, teacher: keras.Model) -> Any:
    """The dense network's outputs for every training image in every position."""
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
    """Layers with kernels, without the first and last, which are small and crucial."""
    names = [layer.name for layer in model.layers if hasattr(layer, "kernel")]
    return names[1:-1]


def phase(round_: Round, model: keras.Model) -> tfc.training.AdmmPhase:
    keep = round_.keep
    if not isinstance(keep, Mapping):
        sizes = {
            x.name: int(np.prod(x.kernel.shape))
            for x in model.layers
            if hasattr(x, "kernel")
        }
        # `keep` is a fraction of all kernels. The first and the last are kept whole, so
        # the hidden ones have to be pruned further than that.
        hidden = sum(sizes[name] for name in pruned_layers(model))
        every = sum(sizes.values())
        share = (keep * every - (every - hidden)) / hidden
        if share <= 0:
            raise ValueError(f"The first and last layer are more than {keep:.1%}.")
        keep = {n: max(1, int(share * sizes[n])) for n in pruned_layers(model)}
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


def quantization(settings: Settings, model: keras.Model) -> tfc.training.AdmmPhase:
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


def record_of(settings, data, experiment, job, model) -> dict[str, Any]:
    """What the packed file of a model holds."""
    weights = kernel_weights(build(settings, data))
    packed = tfc.export.pack(model, experiment.path(job, ".tfcz"), vectors="float16")
    model = tfc.export.unpack(packed.path)
    record = {
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
    }
    print(f"validation {record['validation']:.2%}, test {record['test']:.2%}\n{packed}")
    return record


def kernel_weights(model: keras.Model) -> int:
    return sum(
        int(np.prod(x.kernel.shape)) for x in model.layers if hasattr(x, "kernel")
    )


def summarize(experiment, settings, data, report):
    names = ["dense", *settings.rows, "joint", "search", "for hardware"]
    records = experiment.records()
    records.sort(key=lambda r: (names.index(r["name"]), r["seed"]))
    experiment.write_results(records)
    rows = [record for record in records if record["name"] != "search"]

    def column(what, digits=0, unit=""):
        return lambda runs: mean((r[what] for r in runs), digits=digits) + unit

    print(
        "\n"
        + table(
            by_name(rows).values(),
            {
                "row": lambda runs: runs[0]["name"],
                "seeds": len,
                "test accuracy, %": lambda runs: percent(r["test"] for r in runs),
                "pruning": column("pruning", 1, "×"),
                "data, B": column("data_bytes"),
                "data compression": column("data_compression", 0, "×"),
                "with indices, B": column("weight_bytes"),
                "compression": column("model_compression", 0, "×"),
                "whole file, B": column("file_bytes"),
                "seconds": column("seconds"),
            },
        ),
        flush=True,
    )
    if report:
        experiment.write_report(
            {r["name"]: experiment.model(r) for r in first_of_each(rows)},
            data,
            f"{settings.model} on {settings.dataset}: ADMM-NN",
            products="skipped",  # what the paper's hardware does with zeros
            calibration=data.train.images,
        )
    return records


if __name__ == "__main__":
    launch(main)
