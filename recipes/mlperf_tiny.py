"""MLPerf Tiny: a task's reference network, compressed to half of its int8 file.

Trains the reference network of one of the four tasks of MLPerf Tiny (Banbury et al.
2021), compresses it by `tfc.compress` to a share of its own int8 file, and compares
both with what the benchmark's closed division asks for.

    preset                 network             data                         asked for
    image_classification   ResNet-8            cifar10 (TFDS)               85 %
    keyword_spotting       DS-CNN              speech_commands (TFDS)       90 %
    visual_wake_words      MobileNetV1, 0.25   folder:PATH of images,       80 %
                                               a folder for each class
    anomaly_detection      autoencoder         folder:PATH of sounds, or    AUC 0.85
                                               npz:FILE of windows
    quick                  ResNet-8            digits                       –

    python recipes/mlperf_tiny.py                                  # about a minute
    python recipes/mlperf_tiny.py --preset=image_classification --data_dir=DIR
    python recipes/mlperf_tiny.py --preset=keyword_spotting --size=0.5,0.25
    python recipes/mlperf_tiny.py --preset=visual_wake_words --dataset=folder:vww
    python recipes/mlperf_tiny.py --preset=anomaly_detection --dataset=folder:ToyCar

Sounds of words become 49 frames of ten cepstral coefficients (`tfc.data.mfcc`). Sounds
of machines (`PATH/train/*.wav`, normal ones only, and `PATH/test/normal_*.wav` and
`anomaly_*.wav`) become windows of five frames of 128 bands. The score of a clip is the
mean squared error of what the autoencoder makes of its windows; the AUC is the mean of
those of the machines (`id_01`, …) if the names tell them. An .npz file of windows has
`x_train` (clips, windows, 640), `x_test`, `y_test` (clips,), which is 1 for an anomaly,
and perhaps `machine_test` (clips,).

Everything is chosen on validation data; test data are used once, at the end. The same
command resumes a run that was interrupted.

Results in --out: results.json, report.html, for each network a .keras file and the int8
.tflite file, and in …/compress what `tfc.compress` writes.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
    with_rename,
)
from _settings import chosen, common, define_flags, launch, setting
from _sounds import Machines, machines, speech
from _training import fit

import tfcompress as tfc

TASKS = (
    "image_classification",
    "keyword_spotting",
    "visual_wake_words",
    "anomaly_detection",
    "digits",
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """One experiment."""

    task: str = setting("What the network does.", choices=TASKS)
    dataset: str = setting("A TFDS name, folder:PATH, npz:FILE or digits.")
    epochs: int = setting("Epochs of the reference network.", least=1)
    batch_size: int = setting("Samples in a batch.", least=1)
    learning_rate: float = setting(
        "Initial rate of Adam, which decays along a cosine to 0.", least=0
    )
    compress_epochs: int = setting("Epochs of each method of compression.", least=1)
    augment: str | None = setting(
        "Of images.", None, choices=["none", "shift", "standard"]
    )
    size: tuple[float, ...] = setting(
        "Shares of the reference network's int8 file that may be left.", (0.5,)
    )
    max_drop: float = setting(
        "How much worse the file may be than the reference network, on validation "
        "data: a difference of accuracies, or a relative growth of the error.",
        0.01,
        least=0,
    )
    limit: int | None = setting(
        "Number of training samples, or clips of machines.", None, least=1
    )


PRESETS = {
    "quick": Settings(
        task="digits",
        dataset="digits",
        epochs=10,
        batch_size=64,
        learning_rate=3e-3,
        augment="shift",
        max_drop=0.02,
        compress_epochs=6,
    ),
    "image_classification": Settings(
        task="image_classification",
        dataset="cifar10",
        epochs=30,
        batch_size=128,
        learning_rate=3e-3,
        augment="standard",
        compress_epochs=24,
    ),
    "keyword_spotting": Settings(
        task="keyword_spotting",
        dataset="speech_commands",
        epochs=36,
        batch_size=100,
        learning_rate=5e-4,
        compress_epochs=24,
    ),
    "visual_wake_words": Settings(
        task="visual_wake_words",
        dataset="folder:vww_coco2014_96",
        epochs=50,
        batch_size=32,
        learning_rate=1e-3,
        augment="standard",
        compress_epochs=24,
    ),
    "anomaly_detection": Settings(
        task="anomaly_detection",
        dataset="folder:ToyCar",
        epochs=100,
        batch_size=512,
        learning_rate=1e-3,
        max_drop=0.05,
        compress_epochs=50,
    ),
}
ACCELERATOR, MICROCONTROLLER = "ethos-u55-128", "microcontroller"
# Samples whose answers are held in memory at once.
AT_ONCE = 4096

define_flags(PRESETS, "out/mlperf_tiny")


def main():
    options = common()
    run(chosen(PRESETS), **options)


def run(settings, *, seeds, out, data_dir, report):
    """Trains what is not there yet; returns the rows of the table."""
    if not settings.size or not all(0 < share < 1 for share in settings.size):
        raise ValueError(
            "Invalid value for argument `size`. Expected shares between 0 and 1. "
            f"Received: size={settings.size}"
        )
    jobs = plan(settings, seeds)
    subject = open_subject(settings, data_dir)
    print(subject.data, flush=True)
    with Experiment(out, settings) as experiment:

        def work(job):
            make = reference if job.source is None else compressed
            return make(settings, subject, experiment, job)

        experiment.run(jobs, work)
        return summarize(experiment, settings, subject, report)


# Tasks -----------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Task:
    """What MLPerf Tiny says about a task.

    Attributes:
        network: makes the reference network for given data.
        classes: how many there are; 0 where the network restores its input.
        quality: the quality that the closed division asks for; `None` where the data
            are not the benchmark's.
        bytes: the size of the reference's int8 file.
    """

    network: Callable[[tfc.data.Dataset], keras.Model]
    classes: int
    quality: float | None = None
    bytes: int | None = None

    @property
    def metric(self) -> str:
        """What quality is measured by."""
        return "accuracy" if self.classes else "AUC"


def classifier(make: Callable[..., keras.Model]) -> Callable[..., keras.Model]:
    return lambda data: make(input_shape=data.input_shape, classes=data.classes)


# Qualities: MLPerf Tiny's rules. Files: those of the reference code,
# github.com/mlcommons/tiny, benchmark/training/…/trained_models.
BENCHMARK = {
    "image_classification": Task(classifier(tfc.zoo.resnet8), 10, 0.85, 98_496),
    "keyword_spotting": Task(classifier(tfc.zoo.ds_cnn), 12, 0.90, 53_936),
    "visual_wake_words": Task(classifier(tfc.zoo.mobilenet_v1), 2, 0.80, 333_288),
    "anomaly_detection": Task(
        lambda data: tfc.zoo.autoencoder(features=data.input_shape[0]),
        0,
        0.85,
        276_976,
    ),
    "digits": Task(classifier(tfc.zoo.resnet8), 10),
}


@dataclasses.dataclass(frozen=True)
class Subject:
    """A task and its data."""

    task: Task
    data: tfc.data.Dataset
    machines: Machines | None = None

    def quality(self, answer: Callable[[np.ndarray], np.ndarray]) -> float:
        """The task's metric on the test data.

        Args:
            answer: what a network or a file makes of inputs.
        """
        test, scores = self.data.test, []
        for start in range(0, len(test), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            outputs = answer(test.images[part])
            if self.machines is None:
                scores.append(outputs.argmax(-1) == test.labels[part])
            else:
                scores.append(np.mean((outputs - test.labels[part]) ** 2, axis=-1))
        values = np.concatenate(scores)
        return (
            float(values.mean())
            if self.machines is None
            else auc(values, self.machines)
        )


def auc(errors: np.ndarray, sounds: Machines) -> float:
    """Area under the ROC curve of the clips, the mean over the machines.

    Args:
        errors: mean squared error of each window.
        sounds: which clip a window is from, and which clips are anomalies.
    """
    from sklearn.metrics import roc_auc_score

    scores = np.bincount(sounds.clip, errors) / np.bincount(sounds.clip)
    return float(
        np.mean(
            [
                roc_auc_score(sounds.anomaly[own], scores[own])
                for own in (sounds.machine == m for m in np.unique(sounds.machine))
            ]
        )
    )


def open_subject(settings, data_dir) -> Subject:
    """The data of a task, in the form that its network takes."""
    task, name = BENCHMARK[settings.task], settings.dataset
    sounds = None
    from_file = name.startswith("npz:")
    if settings.task == "anomaly_detection":
        sounds = machines(name, settings.limit)
        data = sounds.data
    elif settings.task == "keyword_spotting" and not from_file:
        data = speech(name, data_dir, settings.limit)
    else:
        side = (96, 96) if settings.task == "visual_wake_words" else None
        data = tfc.data.load(
            name,
            data_dir=data_dir,
            limit=settings.limit,
            image_size=None if from_file else side,
        )
    if data.classes != task.classes:
        raise ValueError(
            "Invalid value for argument `dataset`. Expected the "
            f"{task.classes} classes of {settings.task}. Received: dataset={name!r} "
            f"with {data.classes}"
        )
    return Subject(task, data, sounds)


# Jobs ----------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network(Job):
    """One network.

    Attributes:
        source: the key of the network that it is compressed from; `None` for the
            reference network.
        share: of that one's int8 file, how much may be left.
    """

    source: str | None = None
    share: float = 1.0


def plan(settings, seeds) -> list[Network]:
    """The reference network, then what is made of it, for each seed."""
    jobs = []
    for seed in seeds:
        whole = Network(name="reference", seed=seed, epochs=settings.epochs)
        jobs.append(whole)
        jobs += [
            Network(
                name=f"size {share:g}",
                seed=seed,
                epochs=settings.compress_epochs,
                source=whole.key,
                share=share,
            )
            for share in dict.fromkeys(settings.size)
        ]
    return jobs


def reference(settings, subject, experiment, job):
    """Trains the reference network, and writes its int8 file."""
    data = subject.data
    batches = training_batches(settings, data, job)
    model = subject.task.network(data)
    rate = keras.optimizers.schedules.CosineDecay(
        settings.learning_rate, job.epochs * len(batches)
    )
    compile_for(subject.task, model, rate)
    validation = data.pipeline("validation", batch_size=512)
    model, history = fit(experiment, job, model, batches, validation_data=validation)
    file = experiment.path(job, ".tflite")
    tfc.export.to_tflite(
        model,
        file,
        quantization="int8",
        calibration=data.train.images,
        tolerance=1e9,  # the test says what rounding costs
    )
    return {"history": history, **figures(model, file)}, {".keras": model}


def compressed(settings, subject, experiment, job):
    """Compresses the reference network to a share of its int8 file."""
    data = subject.data
    model = load_model(experiment.path(job.source))
    compile_for(subject.task, model, settings.learning_rate)
    whole = experiment.path(job.source, ".tflite").stat().st_size
    result = tfc.compress(
        model,
        training_batches(settings, data, job),
        (data.validation.images, data.validation.labels),
        budget=tfc.Budget(size=int(job.share * whole)),
        max_drop=settings.max_drop,
        epochs=settings.compress_epochs,
        batch_size=settings.batch_size,
        out=experiment.folder / job.key / "compress",
        seed=job.seed,
    )
    file = experiment.path(job, ".tflite")
    content = result.files["file"].read_bytes()
    with_rename(file, lambda temporary: temporary.write_bytes(content))
    record = {
        "statement": result.statement,
        "format": result.kind,
        "settings": dict(result.best.settings),
        **figures(result.model, file),
    }
    return record, {".keras": result.model}


def training_batches(settings, data, job):
    """Shuffled and, if wanted, augmented batches."""
    return data.pipeline(
        "train",
        batch_size=settings.batch_size,
        augment=settings.augment,
        seed=job.seed,
    )


def compile_for(task, model, rate):
    """Compiles for the task; the autoencoder is judged by its loss."""
    model.compile(
        # Keras would number the names of optimizers; `tfc.compress` tells by what a
        # model is compiled with whether it resumes the same run.
        keras.optimizers.Adam(rate, name="adam"),
        "sparse_categorical_crossentropy" if task.classes else "mse",
        metrics=["accuracy"] if task.classes else None,
    )


def figures(model: keras.Model, file: Path) -> dict[str, Any]:
    """Work and size, and flash and memory where the targets' tools are installed."""
    counted = tfc.cost.count(model)
    found: dict[str, Any] = {
        "macs": counted.macs,
        "parameters": counted.parameters,
        "bytes": file.stat().st_size,
    }
    for target in (ACCELERATOR, MICROCONTROLLER):
        try:
            told = tfc.export.target(file, target)
        except ImportError as error:
            print(f"  without figures: {error}", flush=True)
            found[target] = None
        else:
            found[target] = {"flash": told.flash, "ram": told.ram}
    return found


# Results ----------------------------------------------------------------------


def summarize(experiment, settings, subject, report):
    """The test, and the table of all networks; returns a row for each of them."""
    print("\nTesting", flush=True)
    rows = [tested(experiment, subject, record) for record in experiment.records()]
    groups = by_name(rows)
    names = sorted(groups, key=lambda name: -groups[name][0]["bytes"])
    metric = subject.task.metric
    text = table(
        names,
        {
            "network": lambda name: name,
            "int8 file, kB": lambda name: mean(column(groups, name, "bytes"), 1e-3, 1),
            "MACs, M": lambda name: mean(column(groups, name, "macs"), 1e-6, 3),
            "parameters, k": lambda name: mean(
                column(groups, name, "parameters"), 1e-3, 1
            ),
            f"{metric}, float": lambda name: shown(groups, name, "quality", metric),
            f"{metric}, int8": lambda name: shown(
                groups, name, "quality_of_file", metric
            ),
            f"flash / RAM, {ACCELERATOR}, kB": lambda name: memory(
                groups[name], ACCELERATOR
            ),
            f"flash / arena, {MICROCONTROLLER}, kB": lambda name: memory(
                groups[name], MICROCONTROLLER
            ),
        },
    )
    print(f"\n{text}\n", flush=True)
    for name in names:
        print(verdict(groups[name], name, subject.task), flush=True)
    experiment.write_results(rows)
    if report:
        write_report(experiment, settings, subject)
    return rows


def tested(experiment, subject, record) -> dict[str, Any]:
    """A record with the quality of the network and of its file on the test data."""
    model = experiment.model(record)
    file = experiment.path(record["key"], ".tflite")
    return {
        **record,
        "metric": subject.task.metric,
        "quality": subject.quality(lambda x: model.predict(x, verbose=0)),
        "quality_of_file": subject.quality(lambda x: tfc.export.run(file, x)),
    }


def column(groups, name, quantity) -> list[float]:
    """A quantity of all seeds."""
    return [row[quantity] for row in groups[name]]


def shown(groups, name, quantity, metric) -> str:
    """A quality: accuracies as percentages."""
    values = column(groups, name, quantity)
    return f"{percent(values)} %" if metric == "accuracy" else mean(values, digits=3)


def memory(runs, target) -> str:
    """Flash and memory on a target."""
    known = [run[target] for run in runs if run[target]]
    return " / ".join(
        mean((told[part] for told in known if told[part] is not None), 1e-3, 1)
        for part in ("flash", "ram")
    )


def verdict(runs, name, task) -> str:
    """One network against what the benchmark asks for."""
    quality = float(np.mean([run["quality_of_file"] for run in runs]))
    size = float(np.mean([run["bytes"] for run in runs]))
    metric = task.metric
    value = f"{quality:.2%}" if metric == "accuracy" else f"{quality:.3f}"
    text = f"{name}: the int8 file has {size / 1e3:.1f} kB and {metric} {value}"
    if task.quality is None:
        return f"{text}."
    asked = f"{task.quality:.0%}" if metric == "accuracy" else f"{task.quality:.2f}"
    met = "reached" if quality >= task.quality else "NOT reached"
    return (
        f"{text}. MLPerf Tiny asks for {asked}: {met}. The file has "
        f"{size / task.bytes:.0%} of the bytes of its reference's "
        f"({task.bytes / 1e3:.1f} kB)."
    )


def write_report(experiment, settings, subject):
    """Compares the networks of the first seed."""
    data, title = subject.data, f"MLPerf Tiny, {settings.task}: {settings.dataset}"
    if subject.machines is not None:
        # Anomalies are to be restored badly: normal sounds tell how good a network is.
        data = dataclasses.replace(data, test=data.validation)
        title += " (normal sounds held out of training)"
    records = first_of_each(experiment.records())
    records.sort(key=lambda record: record["name"] != "reference")
    experiment.write_report(
        {record["name"]: experiment.model(record) for record in records},
        data,
        title,
        calibration=data.train.images,
        tolerance=settings.max_drop,
    )


if __name__ == "__main__":
    launch(main)
