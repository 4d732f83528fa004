"""Filters, single weights and bits: each alone, and together, on one frontier.

Trains a dense network, and from it one network for each way of making it smaller:

    filters R             a share R of the filters pruned while training (Roy et al.)
    weights F             a fraction F of the weights kept, by ADMM (Ren et al.)
    bits B                weights on levels of B bits, by ADMM
    filters R + bits B    one after the other, filters before weights before bits,
    ...                   so that what a step has removed stays removed

    python recipes/combine.py                                 # digits, a few minutes
    python recipes/combine.py --preset=mnist --seeds=0,1,2
    python recipes/combine.py --rates=0.25,0.5 --keep=0.2 --bits=3,4

Each step trains for --epochs epochs, so that a combination of two trains twice as
long as a single method; "dense" with as many epochs more is in the table for that.
A run that is interrupted goes on when the same command is given again.

Results in --out: results.json, report.html with the frontiers, the models. The table
says for every network by which other one it is dominated: at least as accurate, and
smaller in the packed file and in the modeled energy.
"""

import dataclasses
import tempfile
from pathlib import Path

import keras
from _experiment import (
    Experiment,
    Job,
    by_name,
    first_of_each,
    load_model,
    mean,
    percent,
    plot,
    table,
)
from _settings import chosen, common, define_flags, launch, setting
from _training import fit

import tfcompress as tfc


@dataclasses.dataclass(frozen=True)
class Settings:
    """One experiment."""

    dataset: str = setting('"digits", "folder:PATH" or a TFDS name.')
    model: str = setting("Network.", choices=["lenet5", "resnet8", "resnet20"])
    epochs: int = setting("Epochs of each step.", least=2)
    batch_size: int = setting("Images in a batch.", least=1)
    augment: str = setting("Of the images.", choices=["shift", "standard"])
    rates: tuple[float, ...] = setting("Shares of filters to prune.")
    keep: tuple[float, ...] = setting("Fractions of the weights to keep.")
    bits: tuple[int, ...] = setting("Widths of the levels.")
    learning_rate: float = setting("Of Adam.", 2e-3, least=0)


PRESETS = {
    "quick": Settings(
        dataset="digits",
        model="lenet5",
        epochs=12,
        batch_size=32,
        augment="shift",
        rates=(0.4, 0.7),
        keep=(0.2, 0.05),
        bits=(4, 2),
    ),
    "mnist": Settings(
        dataset="mnist",
        model="lenet5",
        epochs=8,
        batch_size=128,
        augment="shift",
        rates=(0.5, 0.75),
        keep=(0.1, 0.03),
        bits=(4, 3),
    ),
    "cifar10": Settings(
        dataset="cifar10",
        model="resnet8",
        epochs=40,
        batch_size=128,
        augment="standard",
        rates=(0.25, 0.5),
        keep=(0.4, 0.2),
        bits=(5, 4),
    ),
}
HARDWARE = "horowitz_45nm"

define_flags(PRESETS, "out/combine")


def main():
    options = common()
    run(chosen(PRESETS), **options)


def run(settings, *, seeds, out, data_dir, report):
    """Trains what is not there yet; returns the rows of the table."""
    jobs = plan(settings, seeds)
    data = tfc.data.load(settings.dataset, data_dir=data_dir)
    with Experiment(out, settings) as experiment:

        def work(job):
            model = step(settings, data, experiment, job)
            return measured(data, model), {".keras": model}

        experiment.run(jobs, work)
        return summarize(experiment, data, report)


# Jobs ----------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step(Job):
    """One more method on the model of another job.

    Attributes:
        source: the key of that job; `None` for the dense network.
        method: "dense", "filters", "weights" or "bits".
        amount: the rate, the fraction that is kept, or the width.
    """

    source: str | None = None
    method: str = "dense"
    amount: float = 0.0


def plan(settings, seeds) -> list[Step]:
    """Every method alone, then filters with each other one, then all three."""
    jobs: list[Step] = []
    for seed in seeds:

        def add(source, method, amount, seed=seed):
            own = f"{method} {amount:g}" if amount else "dense, trained on"
            after = source is None or source.method == "dense"
            name = own if after else f"{source.name} + {own}"
            job = Step(
                name=name,
                seed=seed,
                epochs=settings.epochs,
                source=source.key,
                method=method,
                amount=amount,
            )
            jobs.append(job)
            return job

        dense = Step(name="dense", seed=seed, epochs=settings.epochs)
        jobs.append(dense)
        add(dense, "dense", 0.0)
        for keep in settings.keep:
            sparse = add(dense, "weights", keep)
            for width in settings.bits:
                add(sparse, "bits", width)
        for width in settings.bits:
            add(dense, "bits", width)
        for rate in settings.rates:
            narrow = add(dense, "filters", rate)
            for width in settings.bits:
                add(narrow, "bits", width)
            for keep in settings.keep:
                both = add(narrow, "weights", keep)
                add(both, "bits", settings.bits[0])
    return jobs


def step(settings, data, experiment, job) -> keras.Model:
    """The model of a job."""
    batches = data.pipeline(
        "train",
        batch_size=settings.batch_size,
        augment=settings.augment,
        seed=job.seed,
    )
    if job.source is None:
        model = getattr(tfc.zoo, settings.model)(
            input_shape=data.input_shape, classes=data.classes
        )
    else:
        model = load_model(experiment.path(job.source))
    compiled(settings, model, job, len(batches))
    if job.method == "dense":
        return fit(experiment, job, model, batches)[0]
    if job.method == "filters":
        end = max(1, job.epochs // 2)
        schedule = tfc.schedules.Linear(0.0, job.amount, begin=0, end=end)
        pruning = tfc.callbacks.FilterPruning(schedule)
        model, _ = fit(
            experiment, job, model, batches, callbacks=[pruning], shrink_every=end
        )
        return tfc.finalize(model)
    if job.method == "weights":
        constraint = tfc.constraints.Cardinality(fraction=job.amount)
    else:
        constraint = tfc.constraints.Levels(int(job.amount))
    # Half of the epochs toward the constraint, half within it.
    phase = tfc.training.AdmmPhase(constraint, job.epochs // 2, -(-job.epochs // 2))
    result = tfc.training.admm_compress(
        model,
        [phase],
        batches,
        backup_dir=experiment.backup(job),
        keep_backup=True,
        verbose=0,
    )
    return result.model


def compiled(settings, model, job, steps):
    """Compiles for a step; ADMM sets the learning rate itself, and needs a number."""
    rate = settings.learning_rate
    if job.method in ("dense", "filters"):
        rate = keras.optimizers.schedules.CosineDecay(rate, job.epochs * steps)
    model.compile(
        keras.optimizers.Adam(rate),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )


def measured(data, model) -> dict:
    """Accuracy on the test images, size, work and energy."""
    logs = model.evaluate(
        data.test.images, data.test.labels, verbose=0, return_dict=True
    )
    counted = tfc.cost.count(model)
    energy = tfc.cost.energy(counted, HARDWARE, precision="int8", products="skipped")
    with tempfile.TemporaryDirectory() as folder:
        packed = Path(folder) / "model.tfcz"
        tfc.export.pack(model, packed)
        size = packed.stat().st_size
    return {
        "accuracy": logs["accuracy"],
        "macs": counted.macs,
        "parameters": counted.parameters,
        "nonzero": counted.nonzero,
        "bytes": size,
        "energy": energy.total,
    }


# Results ----------------------------------------------------------------------


def summarize(experiment, data, report):
    """The table of all runs, with what dominates what."""
    runs = by_name(experiment.records())
    rows = [{"name": name, "runs": records} for name, records in runs.items()]
    for row in rows:
        for quantity in ("accuracy", "macs", "bytes", "energy"):
            values = [record[quantity] for record in row["runs"]]
            row[quantity] = sum(values) / len(values)
    for row in rows:
        better = [other for other in rows if dominates(other, row)]
        row["dominated_by"] = max(
            (other["name"] for other in better), key=len, default=None
        )
    rows.sort(key=lambda row: -row["bytes"])
    text = table(
        rows,
        {
            "network": lambda r: r["name"],
            "accuracy, %": lambda r: percent(x["accuracy"] for x in r["runs"]),
            "file, kB": lambda r: mean((x["bytes"] for x in r["runs"]), 1e-3, 1),
            "MACs, k": lambda r: mean((x["macs"] for x in r["runs"]), 1e-3, 0),
            "energy, µJ": lambda r: mean((x["energy"] for x in r["runs"]), 1e6, 3),
            "dominated by": lambda r: r["dominated_by"] or "–",
        },
    )
    print(f"\n{text}\n", flush=True)
    experiment.write_results(
        [{k: v for k, v in row.items() if k != "runs"} for row in rows]
    )
    if report:
        shown = first_of_each(experiment.records())
        experiment.write_report(
            {r["name"]: experiment.model(r) for r in shown if r["name"] in ends(rows)},
            data,
            "Filters, weights and bits, alone and together",
            curves=[
                frontier(rows, "bytes", "packed file, bytes"),
                frontier(rows, "energy", "modeled energy, J"),
            ],
        )
    return rows


def dominates(one, other) -> bool:
    """At least as accurate, and smaller in file and energy."""
    return (
        one["accuracy"] >= other["accuracy"]
        and one["bytes"] < other["bytes"]
        and one["energy"] < other["energy"]
    )


def ends(rows) -> list[str]:
    """The dense network, and the smallest that nothing dominates."""
    free = [row for row in rows if row["dominated_by"] is None]
    return ["dense", free[-1]["name"]]


def frontier(rows, quantity, label):
    """Accuracy against a quantity: single methods, and combinations."""
    series = {"alone": [], "together": []}
    for row in sorted(rows, key=lambda r: r[quantity]):
        kind = "together" if " + " in row["name"] else "alone"
        series[kind].append((row[quantity], row["accuracy"]))
    return plot(
        f"Accuracy against {label.partition(',')[0]}",
        label,
        "test accuracy",
        series,
        "Each point is a network, the mean of its seeds.",
    )


if __name__ == "__main__":
    launch(main)
