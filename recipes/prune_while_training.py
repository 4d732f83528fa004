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

    python recipes/prune_while_training.py --rates=conv4:0.8+conv5:0.8
    python recipes/prune_while_training.py --rates=0.6 --ranking=global

A rate is a number, for every layer as in the paper, or targets of single layers:
"conv4:0.8+conv5:0.8" prunes 80 % of the layers whose names begin with conv4 or
conv5 and leaves the others alone. With --ranking=global a number is the share of
all filters, wherever the lowest scores are.

Pruned networks get really smaller while they train, so that their epochs get
cheaper. A run that is interrupted goes on where it was when the same command is
given again; further --seeds, --rates, --variants and --ranking add to what is
there.

Results in --out: report.html and report.json with the curves of the paper's
Figures 1 to 5, results.json with every run, and the trained models.
"""

import dataclasses
import functools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
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
flags.DEFINE_list(
    "rates",
    ["0.8"],
    "Pruning rates; the first is for all variants. NAME:RATE+NAME:RATE+… for rates of "
    "the layers whose names begin so.",
)
flags.DEFINE_enum(
    "ranking",
    "layer",
    ["layer", "global"],
    "Whether every layer is pruned at the rate, or the layers' filters compete.",
)
flags.DEFINE_list("seeds", ["0"], "One training of each variant for each seed.")
flags.DEFINE_string("dataset", None, "Overrides the preset.")
flags.DEFINE_enum("model", None, ["lenet5", "vgg16", "vgg19"], "Overrides the preset.")
flags.DEFINE_float("width", None, "Overrides the preset.", lower_bound=0.0)
flags.DEFINE_integer("limit", None, "Overrides the preset.", lower_bound=1)
flags.DEFINE_integer("epochs", None, "Overrides the preset.", lower_bound=2)
flags.DEFINE_float("ramp", None, "Overrides the preset.", 0.0, 1.0)
flags.DEFINE_integer("shrink_every", None, "Overrides the preset.", lower_bound=1)
flags.DEFINE_integer("batch_size", None, "Overrides the preset.", lower_bound=1)
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
        rates=FLAGS.rates,
        seeds=[int(seed) for seed in FLAGS.seeds],
        out=FLAGS.out,
        ranking=FLAGS.ranking,
        data_dir=FLAGS.data_dir,
    )
    print(f"\n{report}\n\nResults are in {Path(FLAGS.out).resolve()}")


def run(
    settings,
    *,
    variants,
    rates,
    seeds,
    out,
    ranking="layer",
    data_dir=None,
):
    """Trains what is not trained yet, and reports on all that is."""
    jobs = [
        job for seed in seeds for job in plan(settings, variants, rates, seed, ranking)
    ]
    folder = open_folder(out, settings)
    data = tfc.data.load(
        settings.dataset, data_dir=data_dir, seed=0, limit=settings.limit
    )
    model = network(settings, data)
    for job in jobs:
        pruning(job, settings, model)  # refuses unknown layers before anything trains
    for number, job in enumerate(jobs, start=1):
        print(f"\n[{number}/{len(jobs)}] {job.name}, seed {job.seed}", flush=True)
        if (folder / f"{job.key}.json").exists():
            print("is there already")
        else:
            train(job, settings, data, folder)
    return write_report(settings, data, folder)


# Variants ----------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Job:
    """One training: a variant at a rate (0 for dense) with a seed.

    Attributes:
        variant: one of `VARIANTS`.
        rate: the rate of every layer (or of all filters), or rates by the
            beginnings of layers' names.
        seed: of weights, data and the random criterion.
        schedule: how a rate is reached, from the rate.
        criterion: as for `FilterPruning`.
        ranking: as for `FilterPruning`.
    """

    variant: str
    rate: float | dict[str, float]
    seed: int
    schedule: Callable[[float], tfc.schedules.Schedule] | None = None
    criterion: Any = "l1"
    ranking: str = "layer"

    @property
    def name(self) -> str:
        """What the results call it."""
        if not self.rate:
            return self.variant
        rates = self.rate
        if isinstance(rates, dict):
            rates = " ".join(f"{name} {rate:.0%}" for name, rate in rates.items())
        else:
            rates = f"{rates:.0%}"
        return f"{self.variant} {rates}{' global' * (self.ranking == 'global')}"

    @property
    def key(self) -> str:
        """What its files are called."""
        rates = self.rate
        if isinstance(rates, dict):
            rates = "_".join(f"{name}at{rate:g}" for name, rate in rates.items())
        else:
            rates = f"{rates:g}"
        where = "-global" * (self.ranking == "global")
        return f"{self.variant}-{rates}{where}-seed{self.seed}"


def plan(settings, variants, rates, seed, ranking="layer") -> Iterator[Job]:
    """The trainings of one seed: all variants at the first rate, PWT-L1 at all."""
    # The last of `ramp` epochs trains at the full rate.
    end = max(1, round(settings.ramp * settings.epochs) - 1)
    growing = functools.partial(tfc.schedules.Linear, 0.0, begin=0, end=end)
    every_second = functools.partial(growing, every=2)
    abrupt = functools.partial(
        tfc.schedules.OneShot, at=round(PRT_FRACTION * settings.epochs)
    )
    recipes = {
        "pwt-l1": (growing, "l1"),
        "prt": (abrupt, "l1"),
        "pwt-mean-activation": (growing, "mean_activation"),
        "pwt-random": (growing, tfc.criteria.Random(seed)),
        "pwt-l1-mod2": (every_second, "l1"),
    }
    for index, text in enumerate(rates):
        rate = parsed(text)
        if ranking == "global" and isinstance(rate, dict):
            raise ValueError(
                "Invalid value for argument `rates`. Expected numbers for the global "
                f"ranking, which finds the layers' rates itself. Received: {text!r}"
            )
        for variant in variants if index == 0 else {"pwt-l1"}.intersection(variants):
            if variant == "dense":
                yield Job("dense", 0.0, seed)
            else:
                yield Job(variant, rate, seed, *recipes[variant], ranking)


def parsed(text) -> float | dict[str, float]:
    """The rate that a number or NAME:RATE+NAME:RATE+… stands for."""
    try:
        if ":" not in str(text):
            rates = {"": float(text)}
        else:
            pairs = (piece.split(":") for piece in text.split("+"))
            rates = {name: float(rate) for name, rate in pairs}
    except ValueError:
        rates = {}
    if not rates or not all(0 < rate < 1 for rate in rates.values()):
        raise ValueError(
            "Invalid value for argument `rates`. Expected numbers between 0 and 1, or "
            f"NAME:RATE+NAME:RATE+… Received: {text!r}"
        )
    return rates.get("", rates)


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


def train(job, settings, data, folder):
    """Trains one variant and writes its model and its record."""
    keras.utils.set_random_seed(job.seed)
    model = network(settings, data)
    filters = count_filters(model)
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
    )
    callbacks = [Progress(), *pruning(job, settings, model)]
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
        "key": job.key,
        "rate": job.rate,
        "ranking": job.ranking,
        "pruned": 1.0 - count_filters(model) / filters,
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


def network(settings, data):
    return getattr(tfc.zoo, settings.model)(
        width=settings.width, input_shape=data.input_shape, classes=data.classes
    )


def pruning(job, settings, model) -> list[keras.callbacks.Callback]:
    """What prunes in a job: one callback, or none."""
    if job.schedule is None:
        return []
    kinds = (keras.layers.Conv2D,)
    if not settings.convolutions_only:
        kinds += (keras.layers.Dense,)
    names = [layer.name for layer in model.layers if isinstance(layer, kinds)]
    if isinstance(job.rate, dict):
        rates = rates_by_layer(job.rate, names)
        targets = {name: job.schedule(rate) for name, rate in rates.items()}
        return [tfc.callbacks.FilterPruning(targets, job.criterion)]
    return [
        tfc.callbacks.FilterPruning(
            job.schedule(job.rate),
            job.criterion,
            layers=names if settings.convolutions_only else None,
            ranking=job.ranking,
        )
    ]


def rates_by_layer(rates, names) -> dict[str, float]:
    """The rate of each layer that one of the beginnings stands for, the longest."""
    for beginning in rates:
        if not any(name.startswith(beginning) for name in names):
            raise ValueError(
                "Invalid value for argument `rates`. Expected beginnings of the names "
                f"{', '.join(names)}. Received: {beginning!r}"
            )
    result = {}
    for name in names:
        mine = [beginning for beginning in rates if name.startswith(beginning)]
        if mine:
            result[name] = rates[max(mine, key=len)]
    return result


def count_filters(model) -> int:
    """Number of filters of all convolutions."""
    return sum(
        layer.filters
        for layer in model.layers
        if isinstance(layer, keras.layers.Conv2D)
    )


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
    records.sort(
        key=lambda r: (VARIANTS.index(r["variant"]), -r["pruned"], r["name"], r["seed"])
    )
    write_atomic(folder / "results.json", json.dumps(records, indent=1))
    print(f"\n{table(records)}")
    seed = records[0]["seed"]
    first = {r["name"]: r for r in records if r["seed"] == seed}
    models = {
        name: keras.saving.load_model(folder / f"{r['key']}.keras")
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
        "| variant | seeds | test accuracy, % | filters pruned | parameters | MACs "
        "| training MACs | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in names:
        runs = [r for r in records if r["name"] == name]
        accuracy = [100 * r["test_accuracy"] for r in runs]
        mean = f"{statistics.mean(accuracy):.2f}"
        if len(runs) > 1:
            mean += f" ± {statistics.stdev(accuracy):.2f}"
        lines.append(
            f"| {name} | {len(runs)} | {mean} | {runs[0]['pruned']:.1%} "
            f"| {runs[0]['parameters']:,} | {runs[0]['macs']:,} "
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
    pruned = [(r["rate"], r["ranking"]) for r in records.values() if r["rate"]]
    shown_at = max(pruned, key=pruned.count, default=None)
    curves = []
    for title, variants, quantity, number in shown:
        all_rates = number == 3
        series = {
            name: list(enumerate(r["history"][quantity], start=1))
            for name, r in records.items()
            if r["variant"] in variants
            and (all_rates or not r["rate"] or (r["rate"], r["ranking"]) == shown_at)
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
