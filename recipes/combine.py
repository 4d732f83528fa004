"""Five papers' methods on one network: each alone, and together, on one frontier.

Trains a dense network, and from it one network for every way through three steps,
each of which may be left out:

    narrower   filters R   a share R of the filters pruned while training (Roy et al.)
               density N   N rounds of sizing by activation density (Foldy-Porto et al.)
               gates L     residual branches closed by gates, with a penalty of L (Zhi
                           et al.; networks with residual branches only)
    fewer      weights F   a fraction F of the weights kept, by ADMM (Ren et al.)
               surgery C   dynamic network surgery with the factor C, in all layers but
                           the first and the last (the cross-stack paper, whose
                           aggressive mode has 0.8: about three quarters of the weights)
    simpler    bits B      weights on levels of B bits, by ADMM (Ren et al.)
               drum K      approximate multipliers that see K bits of a weight and 5 of
                           an activation (the cross-stack paper)

The order is such that what a step has removed stays removed: weights that are zero when
a later step begins are zero after it.

    python recipes/combine.py                                 # digits, a few minutes
    python recipes/combine.py --preset=mnist --seeds=0,1,2
    python recipes/combine.py --preset=cifar10
    python recipes/combine.py --rates=0.25,0.5 --keep=0.2 --bits=3,4 --density= --drum=

Each step trains for --epochs epochs, so that a combination of two trains twice as
long as a single method. For comparison, the table has "dense, trained on", which trains
as many epochs more. The same command resumes a run that was interrupted.

Results in --out: results.json, report.html with the frontiers, the models. The table
lists, for every network, another one that dominates it: one that is at least as
accurate on the validation images, and smaller in the packed file and in the modeled
energy. The energy is that
of an accelerator with DRUM multipliers of adjustable width, which does not switch a
multiplier for a weight that is zero. Flash is the figure of Vela for the int8 file on
an Ethos-U55; networks with approximate multipliers have no such file.
"""

import dataclasses
import importlib.util
import math
import tempfile
import warnings
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
    density: tuple[int, ...] = setting("Rounds of sizing by density.")
    gates: tuple[float, ...] = setting("Penalties on open gates.")
    keep: tuple[float, ...] = setting("Fractions of the weights to keep.")
    surgery: tuple[float, ...] = setting("Factors of surgery; larger prune more.")
    bits: tuple[int, ...] = setting("Widths of the levels.")
    drum: tuple[int, ...] = setting("Bits of a weight that a multiplier sees.")
    learning_rate: float = setting("Of Adam.", 2e-3, least=0)
    limit: int | None = setting("Number of training images.", None, least=1)


PRESETS = {
    "quick": Settings(
        dataset="digits",
        model="lenet5",
        epochs=12,
        batch_size=32,
        augment="shift",
        rates=(0.5,),
        density=(1,),
        gates=(),
        keep=(0.2,),
        surgery=(),
        bits=(4,),
        drum=(1,),
    ),
    "mnist": Settings(
        dataset="mnist",
        model="lenet5",
        epochs=4,
        batch_size=128,
        augment="shift",
        rates=(0.5,),
        density=(1,),
        gates=(),
        keep=(0.1, 0.03),
        surgery=(0.8,),
        bits=(3,),
        drum=(1,),
    ),
    "cifar10": Settings(
        dataset="cifar10",
        model="resnet8",
        epochs=30,
        batch_size=128,
        augment="standard",
        rates=(0.3,),
        density=(1,),
        gates=(0.5,),
        keep=(0.3,),
        surgery=(0.8,),
        bits=(4,),
        drum=(1,),
    ),
}
HARDWARE = "cross_stack_65nm"
DEVICE = "ethos-u55-128"
ACTIVATION_BITS = 5
STEPS = {
    "dense": "dense",
    "filters": "narrower",
    "density": "narrower",
    "gates": "narrower",
    "weights": "fewer",
    "surgery": "fewer",
    "bits": "simpler",
    "drum": "simpler",
}

define_flags(PRESETS, "out/combine")


def main():
    options = common()
    run(chosen(PRESETS), **options)


def run(settings, *, seeds, out, data_dir, report):
    """Trains what is not there yet; returns the rows of the table."""
    jobs = plan(settings, seeds)
    data = tfc.data.load(settings.dataset, data_dir=data_dir, limit=settings.limit)
    with Experiment(out, settings) as experiment:

        def work(job):
            model = step(settings, data, experiment, job)
            return measured(data, model), {".keras": model}

        experiment.run(jobs, work)
        return summarize(experiment, settings, data, report)


# Jobs ----------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step(Job):
    """One more method on the model of another job.

    Attributes:
        source: the key of that job; `None` for the dense network.
        method: "dense", or one of the methods.
        amount: the rate, the rounds, the penalty, the fraction, the factor or the
            width.
    """

    source: str | None = None
    method: str = "dense"
    amount: float = 0.0


def plan(settings, seeds) -> list[Step]:
    """Every way through the steps, each job after the one it goes on from."""
    steps = (
        {"filters": settings.rates, "density": settings.density} | gated(settings),
        {"weights": settings.keep} | operated_on(settings),
        {"bits": settings.bits, "drum": settings.drum},
    )
    jobs: list[Step] = []
    for seed in seeds:
        dense = Step(name="dense", seed=seed, epochs=settings.epochs)
        jobs += [dense, following(dense, "dense", 0.0)]
        ends = [dense]
        for methods in steps:
            ends += [
                following(source, method, amount)
                for source in ends
                for method, amounts in methods.items()
                for amount in amounts
            ]
        jobs += ends[1:]
    return jobs


def gated(settings) -> dict:
    """The penalties of gates, for networks that have residual branches."""
    if settings.gates and not settings.model.startswith("resnet"):
        raise ValueError(
            "Invalid value for argument `gates`. Expected none for a network without "
            f"residual branches. Received: gates={settings.gates}"
        )
    return {"gates": settings.gates}


def operated_on(settings) -> dict:
    """The factors of surgery, which come late: refused here if they are not numbers."""
    if not all(map(math.isfinite, settings.surgery)):
        raise ValueError(
            "Invalid value for argument `surgery`. Expected finite numbers. "
            f"Received: surgery={settings.surgery}"
        )
    return {"surgery": settings.surgery}


def following(source, method, amount) -> Step:
    """One more step on the network of another job."""
    # An amount may be 0: surgery with that factor prunes what is below the mean.
    own = "dense, trained on" if method == "dense" else f"{method} {amount:g}"
    return Step(
        name=own if source.method == "dense" else f"{source.name} + {own}",
        seed=source.seed,
        epochs=source.epochs,
        source=source.key,
        method=method,
        amount=amount,
    )


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
    make = {
        "narrower": narrower,
        "fewer": operated if job.method == "surgery" else constrained,
        "simpler": approximated if job.method == "drum" else constrained,
        "dense": trained,
    }[STEPS[job.method]]
    return make(settings, data, experiment, job, model, batches)


def trained(settings, data, experiment, job, model, batches):
    """Trains the network as it is."""
    compiled(settings, model, job, len(batches))
    return fit(experiment, job, model, batches)[0]


def narrower(settings, data, experiment, job, model, batches):
    """Prunes filters, closes gates, or sizes layers by their density."""
    half = max(1, job.epochs // 2)
    if job.method == "density":
        rest = dataclasses.replace(job, epochs=max(1, job.epochs - half))
        compiled(settings, model, rest, len(batches))
        return tfc.training.resize_by_density(
            model,
            batches,
            epochs=rest.epochs,
            round_epochs=min(half, rest.epochs),
            max_rounds=int(job.amount),
            weights="inherit",
            seed=job.seed,
            backup_dir=experiment.backup(job),
            keep_backup=True,  # the experiment deletes it when the result is there
            shuffle=False,
            verbose=0,
        ).model
    if job.method == "gates":
        model = tfc.gates.add_layer_gates(model, seed=job.seed)
        # The penalties come when the gates have seen what a closed one costs.
        pulls = ({0: 0.0, 1: 2.0}, {0: 0.0, 1: job.amount})
        method = tfc.callbacks.GatePenalty(*map(tfc.schedules.Piecewise, pulls))
    else:
        schedule = tfc.schedules.Linear(0.0, job.amount, begin=0, end=half)
        method = tfc.callbacks.FilterPruning(schedule)
    compiled(settings, model, job, len(batches))
    model, _ = fit(
        experiment, job, model, batches, callbacks=[method], shrink_every=half
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the test says what undecided gates cost
        return tfc.finalize(model, data.train.images, threshold=0.5)


def operated(settings, data, experiment, job, model, batches):
    """Removes single weights by surgery, and splices some of them back."""
    # As in the modes of the paper, the first and the last layer stay as they are.
    first, *_, last = tfc.policy.select_kernels(model)
    model = tfc.layers.wrap_kernels(
        model, tfc.layers.MaskedKernel, exclude=[first, last]
    )
    compiled(settings, model, job, len(batches))
    # In the other half of the epochs the network settles, with masks that stay.
    end = job.epochs // 2 * len(batches)
    method = tfc.callbacks.DynamicSurgery(job.amount, end=end, seed=job.seed)
    model, _ = fit(experiment, job, model, batches, callbacks=[method])
    # From now on the masked weights are zeros, which is how later steps know them.
    return tfc.finalize(model)


def constrained(settings, data, experiment, job, model, batches):
    """Keeps a fraction of the weights, or puts them on levels, by ADMM."""
    if job.method == "weights":
        constraint = tfc.constraints.Cardinality(fraction=job.amount)
    else:
        constraint = tfc.constraints.Levels(int(job.amount))
    # Half of the epochs toward the constraint, half within it.
    phase = tfc.training.AdmmPhase(constraint, job.epochs // 2, -(-job.epochs // 2))
    compiled(settings, model, job, len(batches))
    result = tfc.training.admm_compress(
        model,
        [phase],
        batches,
        backup_dir=experiment.backup(job),
        keep_backup=True,
        verbose=0,
    )
    return result.model


def approximated(settings, data, experiment, job, model, batches):
    """Hands the weights over to approximate multipliers, part by part."""
    model = tfc.layers.wrap_kernels(
        model,
        lambda layer: tfc.layers.DrumMultiply(layer, int(job.amount), ACTIVATION_BITS),
    )
    compiled(settings, model, job, len(batches))
    # The averages of normalizations settle in the last epoch.
    method = tfc.callbacks.IncrementalApproximation(8, epochs=job.epochs - 1)
    model, _ = fit(experiment, job, model, batches, callbacks=[method])
    return tfc.finalize(model)


def compiled(settings, model, job, steps):
    """Compiles for a step; ADMM sets the learning rate itself, and needs a number."""
    rate = settings.learning_rate
    if job.method not in ("weights", "bits"):
        rate = keras.optimizers.schedules.CosineDecay(rate, job.epochs * steps)
    model.compile(
        keras.optimizers.Adam(rate),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )


def measured(data, model) -> dict:
    """Accuracy, size, work, energy and flash."""
    # A copy: a model that is to be saved stays without a compiled loss.
    copy = tfc.structure.wrap(model, {})
    copy.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    logs = {
        split: copy.evaluate(part.images, part.labels, verbose=0, return_dict=True)
        for split in ("validation", "test")
        for part in [getattr(data, split)]
    }
    counted = tfc.cost.count(model)
    energy = tfc.cost.energy(counted, HARDWARE, products="gated")
    with tempfile.TemporaryDirectory() as folder:
        packed = Path(folder) / "model.tfcz"
        tfc.export.pack(model, packed)
        return {
            "validation": logs["validation"]["accuracy"],
            "accuracy": logs["test"]["accuracy"],
            "macs": counted.macs,
            "parameters": counted.parameters,
            "nonzero": counted.nonzero,
            "bytes": packed.stat().st_size,
            "energy": energy.total,
            "flash": flash(data, model, Path(folder) / "model.tflite"),
        }


def flash(data, model, file) -> int | None:
    """Bytes that the int8 file takes on the device; `None` where there is none."""
    if importlib.util.find_spec("ethosu") is None or any(
        isinstance(layer, tfc.layers.DrumMultiply)
        for layer in model._flatten_layers(include_self=False)
    ):
        return None
    tfc.export.to_tflite(
        model,
        file,
        quantization="int8",
        calibration=data.train.images,
        tolerance=1e9,  # how good the int8 file is, is not what is asked here
    )
    return tfc.export.target(file, DEVICE).flash


# Results ----------------------------------------------------------------------


def summarize(experiment, settings, data, report):
    """The table of all runs, with what dominates what."""
    runs = by_name(experiment.records())
    rows = [{"name": name, "runs": records} for name, records in runs.items()]
    for row in rows:
        for quantity in ("validation", "accuracy", "macs", "bytes", "energy", "flash"):
            values = [record[quantity] for record in row["runs"]]
            known = None not in values
            row[quantity] = sum(values) / len(values) if known else None
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
            "validation, %": lambda r: percent(x["validation"] for x in r["runs"]),
            "test, %": lambda r: percent(x["accuracy"] for x in r["runs"]),
            "file, kB": lambda r: mean((x["bytes"] for x in r["runs"]), 1e-3, 1),
            "MACs, k": lambda r: mean((x["macs"] for x in r["runs"]), 1e-3, 0),
            "energy, µJ": lambda r: mean((x["energy"] for x in r["runs"]), 1e6, 1),
            "flash, kB": lambda r: mean(
                (x["flash"] for x in r["runs"] if x["flash"]), 1e-3, 1
            ),
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
            f"{settings.model} on {settings.dataset}: methods alone and together",
            hardware=HARDWARE,
            products="gated",
            curves=[
                frontier(rows, "bytes", "packed file, bytes"),
                frontier(rows, "energy", "modeled energy, J"),
                frontier(rows, "macs", "MACs"),
                frontier([r for r in rows if r["flash"]], "flash", "flash, bytes"),
            ],
        )
    return rows


def dominates(one, other) -> bool:
    """At least as accurate on the validation images, smaller in file and energy."""
    return (
        one["validation"] >= other["validation"]
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
