"""Pruning filters while training, against its alternatives.

Trains one network in the ways that Roy et al., "Pruning filters while training
for efficiently optimizing deep learning networks" (2020), compare:

    dense                 without pruning
    pwt-l1                a few filters every epoch, smallest L1 norm first
    pwt-mean-activation   the same by mean activation
    pwt-random            the same at random
    pwt-l1-mod2           every second epoch
    prt                   train, prune at once, retrain

    python recipes/prune_while_training.py
    python recipes/prune_while_training.py --preset=paper --width=0.25 --limit=20000

Pruned networks get really smaller while they train, so that their epochs get
cheaper. A run that is interrupted goes on where it was when the same command is
given again; further --seeds, --rates and --variants add to what is there.

Results in --out: report.html and report.json with the curves of the paper's
Figures 1 to 5, results.json with every run, and the trained models.
"""

import dataclasses
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
from absl import app, flags

import tfcompress as tfc
from tfcompress._files import check_writable, write_atomic


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a comparison is about; runs with the same settings are comparable.

    Attributes:
        dataset: "digits" or the name of a TFDS set.
        model: network of `tfcompress.zoo`.
        width: factor on its number of filters.
        limit: number of training images; `None` for all.
        epochs: epochs of every run.
        ramp: fraction of the epochs in which the pruning rate grows.
        shrink_every: epochs between two removals of pruned filters.
        batch_size: images in a batch.
        learning_rate: initial rate of Adam, which decays along a cosine to 0.
        augment: as for `tfcompress.data.Dataset.pipeline`.
        convolutions_only: whether hidden dense layers are left alone, as in the
            paper.
    """

    dataset: str
    model: str
    width: float
    limit: int | None
    epochs: int
    ramp: float
    shrink_every: int
    batch_size: int
    learning_rate: float
    augment: str | None
    convolutions_only: bool


PRESETS = {
    "quick": Settings(
        dataset="digits",
        model="lenet5",
        width=1.0,
        limit=None,
        epochs=30,
        ramp=0.7,
        shrink_every=5,
        batch_size=32,
        learning_rate=2e-3,
        augment="shift",
        convolutions_only=False,
    ),
    "paper": Settings(
        dataset="cifar10",
        model="vgg16",
        width=1.0,
        limit=None,
        epochs=80,
        ramp=1.0,
        shrink_every=4,
        batch_size=64,
        learning_rate=1e-3,
        augment="standard",
        convolutions_only=True,
    ),
}
VARIANTS = (
    "dense",
    "pwt-l1",
    "prt",
    "pwt-mean-activation",
    "pwt-random",
    "pwt-l1-mod2",
)
# The paper prunes after 55 of 80 epochs.
PRT_FRACTION = 55 / 80

FLAGS = flags.FLAGS
flags.DEFINE_enum("preset", "quick", sorted(PRESETS), "Where the settings come from.")
flags.DEFINE_multi_enum("variants", VARIANTS, VARIANTS, "What to train.")
flags.DEFINE_list("rates", ["0.8"], "Pruning rates; the first is for all variants.")
flags.DEFINE_list("seeds", ["0"], "One training of each variant for each seed.")
flags.DEFINE_string("dataset", None, "Overrides the preset.")
flags.DEFINE_enum("model", None, ["lenet5", "vgg16", "vgg19"], "Overrides the preset.")
flags.DEFINE_float("width", None, "Overrides the preset.", lower_bound=0.0)
flags.DEFINE_integer("limit", None, "Overrides the preset.", lower_bound=1)
flags.DEFINE_integer("epochs", None, "Overrides the preset.", lower_bound=2)
flags.DEFINE_float("ramp", None, "Overrides the preset.", 0.0, 1.0)
flags.DEFINE_integer("shrink_every", None, "Overrides the preset.", lower_bound=1)
flags.DEFINE_integer("batch_size", None, "Overrides the preset.", lower_bound=1)
flags.DEFINE_bool(
    "jit_compile",
    None,
    "Whether XLA compiles the training step; Keras decides by default, and does. On a "
    "CPU --nojit_compile may be faster: its convolutions are.",
)
flags.DEFINE_string("out", "out/prune_while_training", "Folder for the results.")
flags.DEFINE_string("data_dir", None, "Folder of prepared TFDS sets.")


def main(_):
    overrides = {
        field.name: FLAGS[field.name].value
        for field in dataclasses.fields(Settings)
        if field.name in FLAGS and FLAGS[field.name].value is not None
    }
    report = run(
        dataclasses.replace(PRESETS[FLAGS.preset], **overrides),
        variants=FLAGS.variants,
        rates=[float(rate) for rate in FLAGS.rates],
        seeds=[int(seed) for seed in FLAGS.seeds],
        out=FLAGS.out,
        data_dir=FLAGS.data_dir,
        jit_compile="auto" if FLAGS.jit_compile is None else FLAGS.jit_compile,
    )
    print(f"\n{report}\n\nResults are in {Path(FLAGS.out).resolve()}")


def run(settings, *, variants, rates, seeds, out, data_dir=None, jit_compile="auto"):
    """Trains what is not trained yet, and reports on all that is."""
    folder = open_folder(out, settings)
    jobs = [job for seed in seeds for job in plan(settings, variants, rates, seed)]
    data = tfc.data.load(
        settings.dataset, data_dir=data_dir, seed=0, limit=settings.limit
    )
    for number, job in enumerate(jobs, start=1):
        print(f"\n[{number}/{len(jobs)}] {job.name}, seed {job.seed}", flush=True)
        if (folder / f"{job.key}.json").exists():
            print("is there already")
        else:
            train(job, settings, data, folder, jit_compile)
    return write_report(settings, data, folder)


# Variants ----------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Job:
    """One training: a variant at a rate (0 for dense) with a seed."""

    variant: str
    rate: float
    seed: int
    schedule: tfc.schedules.Schedule | None = None
    criterion: Any = "l1"

    @property
    def name(self) -> str:
        """What the results call it."""
        return self.variant if not self.rate else f"{self.variant} {self.rate:.0%}"

    @property
    def key(self) -> str:
        """What its files are called."""
        return f"{self.variant}-{self.rate:g}-seed{self.seed}"


def plan(settings, variants, rates, seed) -> Iterator[Job]:
    """The trainings of one seed: all variants at the first rate, PWT-L1 at all."""
    # The last of `ramp` epochs trains at the full rate.
    end = max(1, round(settings.ramp * settings.epochs) - 1)
    retrain_after = round(PRT_FRACTION * settings.epochs)
    for index, rate in enumerate(rates):
        growing = tfc.schedules.Linear(0.0, rate, begin=0, end=end)
        jobs = {
            "dense": Job("dense", 0.0, seed),
            "pwt-l1": Job("pwt-l1", rate, seed, growing),
            "prt": Job(
                "prt", rate, seed, tfc.schedules.OneShot(rate, at=retrain_after)
            ),
            "pwt-mean-activation": Job(
                "pwt-mean-activation", rate, seed, growing, "mean_activation"
            ),
            "pwt-random": Job(
                "pwt-random", rate, seed, growing, tfc.criteria.Random(seed)
            ),
            "pwt-l1-mod2": Job(
                "pwt-l1-mod2", rate, seed, dataclasses.replace(growing, every=2)
            ),
        }
        chosen = variants if index == 0 else [v for v in variants if v == "pwt-l1"]
        yield from (jobs[variant] for variant in chosen)


class Progress(keras.callbacks.Callback):
    """Logs the size of the model that an epoch trained, and the time it took."""

    def on_epoch_begin(self, epoch, logs=None):
        """Starts the clock."""
        self._start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        """Writes into the logs."""
        logs["seconds"] = time.perf_counter() - self._start
        cost = tfc.cost.count(self.model)
        logs["parameters"] = cost.parameters
        logs["training_macs"] = cost.training_macs


def train(job, settings, data, folder, jit_compile="auto"):
    """Trains one variant and writes its model and its record."""
    keras.utils.set_random_seed(job.seed)
    model = getattr(tfc.zoo, settings.model)(
        width=settings.width, input_shape=data.input_shape, classes=data.classes
    )
    batches = data.pipeline(
        "train",
        batch_size=settings.batch_size,
        augment=settings.augment,
        seed=job.seed,
    )
    decay = keras.optimizers.schedules.CosineDecay(
        settings.learning_rate, settings.epochs * len(batches)
    )
    model.compile(
        keras.optimizers.Adam(decay),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile=jit_compile,
    )
    callbacks = [Progress()]
    if job.schedule is not None:
        callbacks.append(pruning(job, settings, model))
    start = time.perf_counter()
    model = tfc.training.fit_shrinking(
        model,
        batches,
        epochs=settings.epochs,
        callbacks=callbacks,
        shrink_every=settings.shrink_every,
        backup_dir=folder / f"{job.key}.backup",
        validation_data=data.pipeline("validation", batch_size=512),
        shuffle=False,  # the pipeline does
        verbose=1 if sys.stdout.isatty() else 2,
    )
    seconds = time.perf_counter() - start
    test = data.pipeline("test", batch_size=512)
    accuracy = model.evaluate(test, verbose=0, return_dict=True)["accuracy"]
    save_model(model, folder / f"{job.key}.keras")
    record = {
        "variant": job.variant,
        "name": job.name,
        "rate": job.rate,
        "seed": job.seed,
        "test_accuracy": accuracy,
        "parameters": model.count_params(),
        "macs": tfc.cost.count(model).macs,
        "training_macs": len(data.train) * sum(model.history.history["training_macs"]),
        # Of this process: less than the whole if the run was interrupted.
        "seconds": seconds,
        "history": model.history.history,
    }
    write_atomic(folder / f"{job.key}.json", json.dumps(record, default=float))
    print(f"test accuracy {accuracy:.2%}, {record['parameters']:,} parameters")


def pruning(job, settings, model):
    layers = None
    if settings.convolutions_only:
        layers = [
            layer.name
            for layer in model.layers
            if isinstance(layer, keras.layers.Conv2D)
        ]
    return tfc.callbacks.FilterPruning(job.schedule, job.criterion, layers=layers)


# Results -----------------------------------------------------------------------


def open_folder(out, settings) -> Path:
    """The folder of the results, which holds runs of the same settings only."""
    path = check_writable(Path(out) / "settings.json", argument="out")
    mine = dataclasses.asdict(settings)
    if path.exists():
        theirs = json.loads(path.read_text())
        if theirs != mine:
            raise ValueError(
                "Invalid value for argument `out`. Expected a folder without runs of "
                f"other settings. Received: out={str(out)!r} with {theirs}"
            )
    else:
        write_atomic(path, json.dumps(mine, indent=2))
    return path.parent


def save_model(model: keras.Model, path: Path) -> None:
    temporary = path.with_name(f".{path.name}")
    model.save(temporary)
    os.replace(temporary, path)


def write_report(settings, data, folder) -> tfc.report.Report:
    records = [json.loads(path.read_text()) for path in folder.glob("*-seed*.json")]
    records.sort(key=lambda r: (VARIANTS.index(r["variant"]), -r["rate"], r["seed"]))
    write_atomic(folder / "results.json", json.dumps(records, indent=1))
    print(f"\n{table(records)}")
    seed = records[0]["seed"]
    first = {r["name"]: r for r in records if r["seed"] == seed}
    models = {
        name: keras.saving.load_model(
            folder / f"{r['variant']}-{r['rate']:g}-seed{seed}.keras"
        )
        for name, r in first.items()
    }
    report = tfc.report.compare(
        models,
        data=(data.test.images, data.test.labels),
        calibration=data.train.images[:500],
        curves=figures(first),
        title=f"{settings.model} on {settings.dataset}: pruning filters while training",
        provenance={**dataclasses.asdict(settings), "seed": seed},
    )
    report.save(folder / "report.json")
    report.save(folder / "report.html")
    return report


def table(records) -> str:
    """Mean and spread over the seeds of each variant."""
    names = list(dict.fromkeys(r["name"] for r in records))
    lines = [
        "| variant | seeds | test accuracy, % | parameters | training MACs | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for name in names:
        runs = [r for r in records if r["name"] == name]
        accuracy = [100 * r["test_accuracy"] for r in runs]
        mean = f"{statistics.mean(accuracy):.2f}"
        if len(runs) > 1:
            mean += f" ± {statistics.stdev(accuracy):.2f}"
        lines.append(
            f"| {name} | {len(runs)} | {mean} | {runs[0]['parameters']:,} "
            f"| {runs[0]['training_macs']:.3g} "
            f"| {statistics.mean(sum(r['history']['seconds']) for r in runs):.0f} |"
        )
    return "\n".join(lines)


def figures(records) -> list[tfc.report.Curves]:
    """The paper's figures, as far as the runs that they compare are there."""
    every = ("dense", "pwt-l1", "prt", "pwt-l1-mod2")
    shown = [
        ("Accuracy while training", ("dense", "pwt-l1", "prt"), "val_accuracy", 1),
        ("Parameters while training", every, "parameters", 2),
        ("Target pruning rates", ("dense", "pwt-l1"), "val_accuracy", 3),
        ("Pruning every second epoch", ("pwt-l1", "pwt-l1-mod2"), "val_accuracy", 4),
        (
            "Criteria",
            ("dense", "pwt-l1", "pwt-mean-activation", "pwt-random"),
            "val_accuracy",
            5,
        ),
    ]
    # All variants are there at this rate; PWT-L1 possibly at others too.
    rate = statistics.mode([r["rate"] for r in records.values() if r["rate"]] or [0.0])
    curves = []
    for title, variants, quantity, number in shown:
        all_rates = number == 3
        series = {
            name: list(enumerate(r["history"][quantity], start=1))
            for name, r in records.items()
            if r["variant"] in variants and (all_rates or r["rate"] in (0.0, rate))
        }
        if len(series) > 1:
            curves.append(
                tfc.report.Curves(
                    title=title,
                    x_label="epoch",
                    y_label=quantity.replace("val_", "validation "),
                    series=series,
                    description=f"As Figure {number} of the paper.",
                )
            )
    return curves


if __name__ == "__main__":
    app.run(main)
