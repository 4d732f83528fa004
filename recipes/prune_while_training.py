"""Pruning filters while training, against its alternatives.

Trains one network in the ways that Roy et al., "Pruning filters while training
for efficiently optimizing deep learning networks" (2020), compare:

    dense                 without pruning
    pwt-l1                a few filters every epoch, smallest L1 norm first
    pwt-mean-activation   the same by mean activation
    pwt-random            the same at random
    pwt-l1-modN           every N epochs, for each N of --mod
    prtN                  N epochs, then pruned at once, then retrained (--prt)

    python recipes/prune_while_training.py                      # digits, two minutes
    python recipes/prune_while_training.py --preset=paper --width=0.25 --limit=20000
    python recipes/prune_while_training.py --rates=conv4:0.8+conv5:0.8
    python recipes/prune_while_training.py --rates=0.6 --ranking=global --floor=0.2
    python recipes/prune_while_training.py --shrink_every=auto

The figures of the paper, at its size. Runs of one data set share a folder:

    R="python recipes/prune_while_training.py --preset=paper --prt=30,40,55,65"
    $R --variants=dense --variants=pwt-l1 --variants=prt        # Figures 1 and 2
    $R --rates=0.72,0.76,0.8,0.84,0.88,0.92 --variants=dense \\
        --variants=pwt-l1                                       # Figure 3
    $R --variants=pwt-l1 --variants=pwt-l1-mod                  # Figure 4
    $R --variants=pwt-mean-activation                           # Figure 5
    $R --variants=pwt-random --rates=0.8 --floor=0
    $R --variants=pwt-random --rates=0.4 --floor=0
    python recipes/prune_while_training.py --preset=cifar100 --rates=0.5,0.8 \\
        --variants=dense --variants=pwt-l1 --out=out/cifar100   # Figure 6
    python recipes/prune_while_training.py --preset=imagenet \\
        --variants=dense --variants=pwt-l1 --variants=prt \\
        --out=out/imagenet                                      # Figure 7

Of the n of PRT-n the text names 55 only, and of the rates of Figure 3 only 72, 80 and
92 %; the others above are examples.

A rate is a number, or targets of single layers: "conv4:0.8+conv5:0.8" prunes 80 % of
the layers whose names begin with conv4 or conv5 and leaves the others alone. If the
rate is a number, --ranking divides it among the layers. With "layer" every layer loses
that share. Otherwise it is the share of all filters that are removed, and each layer
keeps --floor. Filters of all layers compete by raw scores ("network", the paper's
Algorithm 1) or by relative ones ("global"), layers lose equally many ("even", Algorithm
2), or filters are drawn ("random", Algorithm 3). "paper" takes the algorithm of each
variant.

Pruned networks get really smaller while they train, so that their epochs get
cheaper. The same command resumes a run that was interrupted; further --seeds, --rates,
--variants and --ranking add to the results in --out.

Results in --out: report.html and report.json with the curves of the paper's
Figures 1 to 7, results.json with every run, and the trained models.
"""

import dataclasses
import functools
import os
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
from _experiment import (
    Experiment,
    Job,
    by_name,
    first_of_each,
    learning_curves,
    mean,
    percent,
    table,
)
from _settings import FLAGS, chosen, common, define_flags, flags, launch, setting
from _streams import Stream
from _training import fit

import tfcompress as tfc


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a comparison is about; runs with the same settings are comparable."""

    dataset: str = setting('"digits" or the name of a TFDS set.')
    model: str = setting("Network.", choices=["lenet5", "vgg16", "vgg19"])
    epochs: int = setting("Epochs of every run.", least=2)
    prt: tuple[int, ...] = setting(
        "Epochs after which prtN prunes; without them 55 in 80 of all.", ()
    )
    mod: tuple[int, ...] = setting("Epochs between prunings of pwt-l1-modN.", (2,))
    ramp: float = setting(
        "Fraction of the epochs in which the pruning rate grows.", 1.0, least=0, most=1
    )
    shrink_every: int | Literal["auto"] = setting(
        'Epochs between two removals; "auto" removes when measured times say that it '
        "pays.",
        4,
        choices=["auto"],
        least=1,
    )
    width: float = setting("Factor on the number of filters.", 1.0, least=0)
    limit: int | None = setting("Number of training images.", None, least=1)
    stream: int | None = setting(
        "Side of images that are read while they are used; without it the set is "
        "read into memory.",
        None,
        least=32,
    )
    batch_size: int = setting("Images in a batch.", 64, least=1)
    learning_rate: float = setting(
        "Initial rate of Adam, which decays along a cosine to 0.", 1e-3, least=0
    )
    augment: str | None = setting(
        "Augmentation.", "standard", choices=["none", "shift", "standard"]
    )
    convolutions_only: bool = setting("Whether dense layers are left alone.", True)


PRESETS = {
    "quick": Settings(
        dataset="digits",
        model="lenet5",
        epochs=30,
        ramp=0.7,
        shrink_every=5,
        batch_size=32,
        learning_rate=2e-3,
        augment="shift",
        convolutions_only=False,
    ),
    "paper": Settings(dataset="cifar10", model="vgg16", epochs=80, mod=(2, 3, 4)),
    "cifar100": Settings(dataset="cifar100", model="vgg16", epochs=100, prt=(70,)),
    # Figure 7; the dense layers of `tfcompress.zoo.vgg16` are those for small images.
    "imagenet": Settings(
        dataset="imagenet2012", model="vgg16", epochs=100, prt=(70,), stream=224
    ),
}
VARIANTS = ("dense", "pwt-l1", "prt", "pwt-mean-activation", "pwt-random", "pwt-l1-mod")
# LeNet-5 on digits has fewer filters to spare than the paper's network.
RATES = {"quick": ["0.6"], "imagenet": ["0.7"]}
RANKINGS = ("paper", "layer", "global", "network", "even", "random")
# Algorithms 2 and 3 of the paper; all other variants are Algorithm 1.
ALGORITHMS = {"pwt-mean-activation": "even", "pwt-random": "random"}

define_flags(PRESETS, "out/prune_while_training")
flags.DEFINE_multi_enum("variants", VARIANTS, VARIANTS, "What to train.")
flags.DEFINE_list(
    "rates",
    None,
    "Pruning rates; the first is for all variants. NAME:RATE+NAME:RATE+… for rates of "
    "the layers whose names begin so. [preset: quick 0.6, imagenet 0.7, others 0.8]",
)
flags.DEFINE_enum(
    "ranking",
    None,
    RANKINGS,
    "Which filters compete. [preset: quick layer, others paper]",
)
flags.DEFINE_float(
    "floor",
    0.1,
    "Fraction that every layer keeps when layers compete; 0 for a single filter.",
    0.0,
    1.0,
)


def main():
    run(
        chosen(PRESETS),
        variants=FLAGS.variants,
        rates=FLAGS.rates or RATES.get(FLAGS.preset, ["0.8"]),
        ranking=FLAGS.ranking or ("layer" if FLAGS.preset == "quick" else "paper"),
        floor=FLAGS.floor,
        **common(),
    )


def run(
    settings,
    *,
    variants,
    rates,
    seeds,
    out,
    ranking="layer",
    floor=0.1,
    data_dir=None,
    report=True,
):
    """Trains what is not trained yet, and reports on all that is."""
    jobs = [
        job
        for seed in seeds
        for job in plan(settings, variants, rates, seed, ranking, floor)
    ]
    with Experiment(out, settings) as experiment:
        data = open_data(settings, data_dir)
        model = network(settings, data)
        for job in jobs:
            pruning(job, settings, model)  # refuses unknown layers before any work
        work = functools.partial(train, settings, data, experiment)
        experiment.run(jobs, work)
        return summarize(experiment, settings, data, report)


def open_data(settings, data_dir):
    if settings.stream:
        if settings.limit:
            raise ValueError(
                "Invalid value for argument `limit`. Expected none for a set that is "
                f"read while it is used. Received: limit={settings.limit}"
            )
        return Stream(settings.dataset, data_dir, settings.stream)
    return tfc.data.load(
        settings.dataset, data_dir=data_dir, seed=0, limit=settings.limit
    )


# Variants ----------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class PruningJob(Job):
    """A variant at a rate: of all layers, of all filters, or by layers' names."""

    variant: str = "dense"
    rate: float | dict[str, float] = 0.0
    schedule: Callable[[float], tfc.schedules.Schedule] | None = None
    criterion: Any = "l1"
    ranking: str = "layer"
    floor: float = 0.1


def plan(
    settings, variants, rates, seed, ranking="layer", floor=0.1
) -> Iterator[PruningJob]:
    """The runs of one seed: all variants at the first rate, PWT-L1 at all."""
    # The last of `ramp` epochs trains at the full rate.
    end = max(1, round(settings.ramp * settings.epochs) - 1)
    growing = functools.partial(tfc.schedules.Linear, 0.0, begin=0, end=end)
    ways = {
        ("pwt-l1", ""): (growing, "l1"),
        ("pwt-mean-activation", ""): (growing, "mean_activation"),
        ("pwt-random", ""): (growing, tfc.criteria.Random(seed)),
    }
    for n in settings.prt or (round(55 / 80 * settings.epochs),):
        if not 0 < n < settings.epochs:
            raise ValueError(
                "Invalid value for argument `prt`. Expected epochs between 0 and the "
                f"last, {settings.epochs}. Received: prt={settings.prt}"
            )
        ways["prt", n] = (functools.partial(tfc.schedules.OneShot, at=n), "l1")
    for n in settings.mod:
        ways["pwt-l1-mod", n] = (functools.partial(growing, every=n), "l1")
    common = {"seed": seed, "epochs": settings.epochs}
    for index, text in enumerate(rates):
        rate = parsed(text)
        if ranking != "layer" and isinstance(rate, dict):
            raise ValueError(
                "Invalid value for argument `rates`. Expected numbers for a ranking "
                f"that finds the layers' rates itself. Received: {text!r}"
            )
        if "dense" in variants and index == 0:
            yield PruningJob(name="dense", **common)
        for (variant, n), (schedule, criterion) in ways.items():
            own = ALGORITHMS.get(variant, "network") if ranking == "paper" else ranking
            where = "" if own == "layer" else f" {own} floor {floor:g}"
            if variant in variants and (index == 0 or variant == "pwt-l1"):
                yield PruningJob(
                    name=f"{variant}{n} {shown(rate)}{where}",
                    variant=variant,
                    rate=rate,
                    schedule=schedule,
                    criterion=criterion,
                    ranking=own,
                    floor=floor,
                    **common,
                )


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


def shown(rate) -> str:
    if isinstance(rate, dict):
        return " ".join(f"{name} {shown(own)}" for name, own in rate.items())
    return f"{100 * rate:g}%"


class Sizes(keras.callbacks.Callback):
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


def train(settings, data, experiment, job):
    """Trains one variant; returns its record and its model."""
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
    model, history = fit(
        experiment,
        job,
        model,
        batches,
        callbacks=[*pruning(job, settings, model), Sizes()],
        shrink_every=settings.shrink_every,
        validation_data=data.pipeline("validation", batch_size=512),
    )
    test = data.pipeline("test", batch_size=512)
    accuracy = model.evaluate(test, verbose=0, return_dict=True)["accuracy"]
    record = {
        "variant": job.variant,
        "rate": job.rate,
        "ranking": job.ranking,
        "pruned": 1.0 - count_filters(model) / filters,
        "filters": [layer.filters for layer in convolutions(model)],
        "test_accuracy": accuracy,
        "parameters": model.count_params(),
        "macs": tfc.cost.count(model).macs,
        "training_macs": len(data.train) * sum(history["training_macs"]),
        "history": history,
    }
    print(f"test accuracy {accuracy:.2%}, {record['parameters']:,} parameters")
    return record, {".keras": model}


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
            floor=job.floor,
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


def convolutions(model) -> list[keras.layers.Conv2D]:
    return [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]


def count_filters(model) -> int:
    return sum(layer.filters for layer in convolutions(model))


# Results -----------------------------------------------------------------------


def summarize(experiment, settings, data, report):
    """Writes the results, prints the table, and reports on the smallest seed."""
    records = experiment.records()
    records.sort(
        key=lambda r: (VARIANTS.index(r["variant"]), -r["pruned"], r["name"], r["seed"])
    )
    experiment.write_results(records)
    print(f"\n{results_table(records)}", flush=True)
    if not report:
        return None
    first = first_of_each(records)
    return experiment.write_report(
        {r["name"]: experiment.model(r) for r in first},
        data,
        f"{settings.model} on {settings.dataset}: pruning filters while training",
        calibration=data.train.images,
        curves=figures(first),
    )


def results_table(records) -> str:
    """Mean and deviation over the seeds of each variant."""
    return table(
        by_name(records).values(),
        {
            "variant": lambda runs: runs[0]["name"],
            "seeds": len,
            "test accuracy, %": lambda runs: percent(r["test_accuracy"] for r in runs),
            "filters pruned, %": lambda runs: percent((r["pruned"] for r in runs), 1),
            "parameters, k": lambda runs: mean(
                (r["parameters"] for r in runs), 1e-3, 1
            ),
            "MACs, M": lambda runs: mean((r["macs"] for r in runs), 1e-6),
            "training MACs, 10^12": lambda runs: mean(
                (r["training_macs"] for r in runs), 1e-12
            ),
            "seconds": lambda runs: mean(
                (sum(r["history"]["seconds"]) for r in runs), digits=0
            ),
        },
    )


def figures(records) -> list[tfc.report.Curves]:
    """The paper's figures, as far as the runs that they compare are there."""
    # All variants are there at this rate; PWT-L1 possibly at others too.
    pruned = [r["rate"] for r in records if r["rate"]]
    shown_at = max(pruned, key=pruned.count, default=None)
    at = [r for r in records if not r["rate"] or r["rate"] == shown_at]
    criteria = ("dense", "pwt-l1", "pwt-mean-activation", "pwt-random")
    curves = []
    for number, title, variants, quantity, runs in (
        ("1", "Accuracy while training", (*criteria[:2], "prt"), "val_accuracy", at),
        ("2", "Parameters while training", VARIANTS, "parameters", at),
        ("3, 6, 7", "Target pruning rates", criteria[:2], "val_accuracy", records),
        ("4", "Delayed pruning", ("pwt-l1", "pwt-l1-mod"), "val_accuracy", at),
        ("5", "Criteria", criteria, "val_accuracy", at),
    ):
        chosen = [r for r in runs if r["variant"] in variants]
        if len(chosen) > 1:
            note = f"As Figure {number} of the paper."
            curves += learning_curves(chosen, quantity, title, note)
    return curves


if __name__ == "__main__":
    launch(main)
