"""Gated ResNets: one training run that finds the layers or channels to keep.

Trains a residual network without gates ("dense") and with them, for each weight
of the activation penalty in --lambda_act, as in Zhi et al., "A New Baseline for
GreenAI: Finding the Optimal Sub-Network via Layer and Channel Pruning" (2023).
Each gated network is finalized on its training images: gates are removed, and so are
the branches and channels that they close. Gates that are not polarized are decided at
one half.

The dense network is also pruned without any training, as in the paper's Figure
4: random layers are dropped, or random parameters set to zero, at the figure's
rates and, for layers, at the rates that the gates found.

    python recipes/green_ai_gating.py                            # digits, two minutes
    python recipes/green_ai_gating.py --preset=paper             # Table 2, CIFAR-10
    python recipes/green_ai_gating.py --preset=cifar100          # Table 2, CIFAR-100
    python recipes/green_ai_gating.py --preset=paper --model=resnet56 \\
        --estimator=gumbel --lambda_polar=1 --lambda_act=0,0.25,0.5,0.75,1 \\
        --seeds=0,1,2,3,4                                        # Table 3, Figure 5
    python recipes/green_ai_gating.py --preset=paper \\
        --estimator=ste,gumbel,bernoulli                         # Table 4
    python recipes/green_ai_gating.py --preset=paper --lambda_polar=2  # Table 5, a row
    python recipes/green_ai_gating.py --preset=rising            # Table 5, last row
    python recipes/green_ai_gating.py --preset=paper --gates=channel \\
        --position=before,middle,after --depth=0,1               # Table 6
    python recipes/green_ai_gating.py --warm_start=dense.keras   # gates for it

Lists are swept. The same command resumes a run that was interrupted; other gates,
weights, estimators and seeds add to the results in --out. Another network or data set
needs another folder. The paper does not state λ_polar for Tables 2 and 6, nor the
values of λ_act in Table 3, only their range.

Results in --out: report.html and report.json with the accuracy over the MACs, and
a heat map of each gate's opening ratio over the epochs (Figures 4 to 6),
results.json with every run, and the trained and finalized models.
"""

import dataclasses
import functools
import itertools
import json
import os
import statistics
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from _experiment import (
    Experiment,
    Job,
    first_of_each,
    learning_curves,
    load_model,
    plot,
    read_json,
    table,
    write,
)
from _settings import FLAGS, chosen, common, define_flags, flags, launch, setting
from _training import fit, sgd

import tfcompress as tfc

NETWORKS = ["resnet20", "resnet32", "resnet44", "resnet56", "resnet110", "resnet18"]


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a comparison is about; runs with the same settings are comparable."""

    dataset: str = setting('"digits" or the name of a TFDS set.')
    model: str = setting("Network.", choices=NETWORKS)
    epochs: int = setting("Epochs of every run.", least=1)
    decay_at: tuple[int, ...] = setting("Epochs at which the rate falls to a tenth.")
    batch_size: int = setting("Images in a batch.", least=1)
    width: float = setting("Factor on the number of filters.", 1.0, least=0)
    limit: int | None = setting("Number of training images.", None, least=1)
    learning_rate: float = setting("Initial rate of SGD.", 0.1, least=0)
    momentum: float = setting("Of SGD.", 0.9, least=0, most=0.999)
    weight_decay: float = setting("Of SGD, inside momentum.", 5e-4, least=0)
    open_bias: float = setting(
        "Bias that gates begin with: above 0 most are open at first.", 0.0
    )
    warm_start: str | None = setting(
        "A trained .keras file that gated runs start from.", None
    )
    random_rates: tuple[float, ...] = setting(
        "Rates of random pruning, Figure 4; those that gates find are added.",
        (0.2, 0.3, 0.5, 0.6, 0.8),
    )
    draws: int = setting("Of random pruning at a rate, averaged.", 3, least=1)
    augment: str | None = setting(
        "Augmentation.", "standard", choices=["none", "shift", "standard"]
    )


_PAPER = Settings(
    dataset="cifar10",
    model="resnet110",
    epochs=350,
    decay_at=(60, 120, 160),
    batch_size=256,
)
PRESETS = {
    "quick": Settings(
        dataset="digits",
        model="resnet20",
        width=0.5,
        epochs=16,
        decay_at=(9, 13),
        batch_size=64,
        open_bias=1.0,
        random_rates=(0.3,),
        draws=2,
        augment="shift",
    ),
    "paper": _PAPER,
    "rising": _PAPER,
    "cifar100": dataclasses.replace(
        _PAPER, dataset="cifar100", batch_size=64, decay_at=(125, 190, 250)
    ),
}
# λ_polar and λ_act of each preset. The tables of the paper have no λ_act.
PENALTIES = {
    "quick": ("3", ["0.5"]),
    "paper": ("3", ["0"]),
    "rising": ("0:0,125:2,190:3", ["0"]),
    "cifar100": ("3", ["0"]),
}
ESTIMATORS = ("ste", "gumbel", "bernoulli")

define_flags(PRESETS, "out/green_ai_gating")
flags.DEFINE_enum(
    "gates", "layer", ["layer", "channel", "none"], "What gates close; none: no gates."
)
flags.DEFINE_list("position", ["after"], "Where channel gates are (Figure 3).")
flags.DEFINE_list("depth", ["1"], "Hidden layers of channel gates.")
flags.DEFINE_list("estimator", ["ste"], f"Gating heads: {', '.join(ESTIMATORS)}.")
flags.DEFINE_string(
    "lambda_polar",
    None,
    "Weight of the polarization penalty; EPOCH:WEIGHT,EPOCH:WEIGHT,… for one that "
    "changes, such as the paper's 0:0,125:2,190:3. [default: by preset]",
)
flags.DEFINE_list(
    "lambda_act", None, "Weights of the activation penalty. [default: by preset]"
)
flags.DEFINE_bool("dense", True, "Whether the network without gates is trained.")


def main():
    polar, activations = PENALTIES[FLAGS.preset]
    options = common()
    settings = chosen(PRESETS)
    jobs = plan(
        epochs=settings.epochs,
        gates=FLAGS.gates,
        positions=FLAGS.position,
        depths=FLAGS.depth,
        estimators=FLAGS.estimator,
        polar=FLAGS.lambda_polar or polar,
        activations=FLAGS.lambda_act or activations,
        seeds=options.pop("seeds"),
        dense=FLAGS.dense,
    )
    run(settings, jobs, **options)


def run(settings, jobs, *, out, data_dir=None, report=True):
    """Trains what is not trained yet, and reports on all that is."""
    with Experiment(out, settings) as experiment:
        data = tfc.data.load(
            settings.dataset, data_dir=data_dir, seed=0, limit=settings.limit
        )
        sgd(settings, 1)
        model = network(settings, data, warm=True)
        for job in jobs:
            gated(job, settings, model)  # refuses bad values before any work
        experiment.run(jobs, functools.partial(train, settings, data, experiment))
        return summarize(experiment, settings, data, report)


# Training ----------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class GateJob(Job):
    """One network: with gates, or without (`gates` is "none")."""

    family: str = "dense"  # what all runs of a sweep over λ_act have in common
    gates: str = "none"
    position: str = ""
    depth: int = 1
    estimator: str = ""
    polar: str = ""
    activation: float = 0.0


def plan(
    *,
    epochs,
    gates="layer",
    positions=("after",),
    depths=(1,),
    estimators=("ste",),
    polar="3",
    activations=(0.5,),
    seeds=(0,),
    dense=True,
) -> list[GateJob]:
    """The jobs: the dense one first, then the sweep."""
    schedule(polar)  # refuses what is not one
    for argument, values, allowed in (
        ("position", positions, tfc.gates.POSITIONS),
        ("estimator", estimators, ESTIMATORS),
        ("depth", map(str, depths), ("0", "1", "2")),
    ):
        for value in values:
            if value not in allowed:
                raise ValueError(
                    f"Invalid value for argument `{argument}`. Expected some of "
                    f"{', '.join(allowed)}. Received: {value!r}"
                )
    places = list(itertools.product(positions, map(int, depths)))
    if gates != "channel":
        places = [("", 1)] * (gates == "layer")
    jobs = []
    for seed in seeds:
        jobs += [GateJob(name="dense", seed=seed, epochs=epochs)] * dense
        for (position, depth), estimator in itertools.product(places, estimators):
            where = f" {position}{depth}" if position else ""
            family = f"{gates}{where} {estimator} polar {polar}"
            jobs += [
                GateJob(
                    name=f"{family} act {float(activation):g}",
                    family=family,
                    seed=seed,
                    epochs=epochs,
                    gates=gates,
                    position=position,
                    depth=depth,
                    estimator=estimator,
                    polar=polar,
                    activation=float(activation),
                )
                for activation in activations
            ]
    return jobs


def schedule(text):
    """The schedule that a number or EPOCH:WEIGHT,EPOCH:WEIGHT,… stands for."""
    try:
        if ":" not in text:
            return tfc.schedules.Constant(float(text))
        pairs = (piece.split(":") for piece in text.split(","))
        return tfc.schedules.Piecewise({int(e): float(w) for e, w in pairs})
    except ValueError as error:
        raise ValueError(
            "Invalid value for argument `lambda_polar`. Expected a number, or "
            f"EPOCH:WEIGHT,EPOCH:WEIGHT,… Received: {text!r}"
        ) from error


def network(settings, data, warm) -> keras.Model:
    """The network without gates; the file of `warm_start` for runs that begin so."""
    if warm and settings.warm_start:
        return load_model(settings.warm_start)
    return getattr(tfc.zoo, settings.model)(
        width=settings.width, input_shape=data.input_shape, classes=data.classes
    )


def gated(job, settings, model) -> keras.Model:
    """`model` with the gates of a job."""
    options = {
        "estimator": job.estimator,
        "open_bias": settings.open_bias,
        "seed": job.seed,
    }
    if job.gates == "none":
        return model
    if job.gates == "layer":
        return tfc.gates.add_layer_gates(model, **options)
    return tfc.gates.add_channel_gates(model, job.position, job.depth, **options)


def train(settings, data, experiment, job):
    """Trains a network and finalizes it; returns the record and both."""
    with_gates = job.gates != "none"
    model = gated(job, settings, network(settings, data, warm=with_gates))
    penalty = tfc.callbacks.GatePenalty(schedule(job.polar or "0"), job.activation)
    batches = data.pipeline(
        "train",
        batch_size=settings.batch_size,
        augment=settings.augment,
        seed=job.seed,
    )
    model.compile(
        sgd(settings, len(batches)),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    # Nothing is removed while gates are there; the segments are those of the backups.
    model, history = fit(
        experiment,
        job,
        model,
        batches,
        callbacks=[penalty] if with_gates else [],
        shrink_every=max(1, settings.epochs // 10),
        validation_data=data.pipeline("validation", batch_size=512),
    )
    # A dataclass would take the place of what the experiment adds.
    record = {n: v for n, v in dataclasses.asdict(job).items() if n != "epochs"}
    record |= {"history": history, "trained_accuracy": accuracy(model, data)}
    models = {"-trained.keras": model}
    if with_gates:
        record |= {"openings": penalty.openings, **gate_figures(model, data)}
        model = decided(model, data)
    models[".keras"] = model
    record["validation_accuracy"] = accuracy(model, data, "validation")
    record["test_accuracy"] = accuracy(model, data)
    record["macs"] = tfc.cost.count(model).macs
    record["parameters"] = model.count_params()
    print(f"test accuracy {record['test_accuracy']:.2%}, {record['macs']:,} MACs")
    return record, models


def gate_figures(model, data):
    """How the gates of a trained model decide on training and test images."""
    figures = {}
    for split in ("train", "test"):
        openings = tfc.gates.measure(model, getattr(data, split).images)
        print(f"on the {split} images:\n{openings}", flush=True)
        figures[split] = {
            "r_polar": openings.polarization,
            "r_act": openings.activation,
            "undecided": len(openings.undecided),
            "ratios": {name: ratio.tolist() for name, ratio in openings.ratios.items()},
        }
    return figures


def decided(model, data):
    """The model without gates, as they decide on the training images."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        samples = (data.train.images, data.train.labels)
        small = tfc.finalize(model, samples, threshold=0.5)
    for warning in caught:
        if warning.category is UserWarning:
            print(warning.message, flush=True)
    return small


def accuracy(model, data, split="test"):
    return float(
        model.evaluate(
            data.pipeline(split, batch_size=512), verbose=0, return_dict=True
        )["accuracy"]
    )


# Random baselines ----------------------------------------------------------------


def baselines(dense, settings, data, records, folder, seed):
    """Accuracy and MACs of the dense network after random pruning."""
    path = folder / f"random-seed{seed}.json"
    known = read_json(path) or {}
    closed = {r["random_layers"] for r in records if r.get("random_layers")}
    wanted = [("layers", rate) for rate in sorted({*settings.random_rates, *closed})]
    wanted += [("parameters", rate) for rate in settings.random_rates]
    for kind, rate in wanted:
        if f"{kind} {rate:g}" in known:
            continue
        figures = []
        for draw in range(settings.draws):
            rng = np.random.default_rng([seed, draw, round(1e4 * rate)])
            make = without_layers if kind == "layers" else without_parameters
            model = make(dense, rate, rng)
            model.compile(metrics=["accuracy"], loss="sparse_categorical_crossentropy")
            figures.append((accuracy(model, data), tfc.cost.count(model).macs))
        known[f"{kind} {rate:g}"] = {
            "kind": kind,
            "rate": rate,
            "accuracy": statistics.mean(a for a, _ in figures),
            "lowest": min(a for a, _ in figures),
            "highest": max(a for a, _ in figures),
            "macs": statistics.mean(m for _, m in figures),
        }
        print(f"random {kind} at {rate:.0%}: {known[f'{kind} {rate:g}']}", flush=True)
        write(path, json.dumps(known, indent=1))
    return list(known.values())


def without_layers(model, rate, rng):
    """A copy of the model without a random share of its residual branches."""
    ungated = tfc.gates.add_layer_gates(model)
    names = list(tfc.gates.gates_of(ungated))
    gone = rng.choice(names, round(rate * len(names)), replace=False)
    ratios = {name: np.array([float(name not in gone)]) for name in names}
    return tfc.gates.resolve(
        ungated, tfc.gates.Openings(ratios, samples=1), verify=False
    )


def without_parameters(model, rate, rng):
    """A copy of the model with a random share of its kernels' weights at zero."""
    copy = tfc.structure.wrap(model, {})
    for variable in copy.trainable_variables:
        if variable.name == "kernel":
            keep = rng.random(variable.shape) >= rate
            variable.assign(variable * keep)
    return copy


# Results -----------------------------------------------------------------------


def summarize(experiment, settings, data, report):
    records = experiment.records()
    records.sort(key=lambda r: (r["gates"] != "none", r["name"], r["seed"]))
    for record in records:
        if record["gates"] == "layer":
            closed = [ratio[0] < 0.5 for ratio in record["train"]["ratios"].values()]
            record["random_layers"] = sum(closed) / len(closed)
    experiment.write_results(records)
    print(f"\n{results_table(records)}", flush=True)
    if not report:
        return None
    first = first_of_each(records)
    models = {r["name"]: experiment.model(r) for r in first}
    random = []
    if "dense" in models:
        seed = first[0]["seed"]
        random = baselines(
            models["dense"], settings, data, first, experiment.folder, seed
        )
    return experiment.write_report(
        models,
        data,
        f"{settings.model} on {settings.dataset}: gates",
        calibration=data.train.images,
        curves=figures(first, random),
        heatmaps=heatmaps(first),
    )


def results_table(records) -> str:
    """All runs, in Markdown."""
    dense = {r["seed"]: r["macs"] for r in records if r["gates"] == "none"}

    def of_dense(r):
        return f"{r['macs'] / dense[r['seed']]:.1%}" if r["seed"] in dense else "–"

    def on_test(show):
        return lambda r: show(r["test"]) if "test" in r else "–"

    return table(
        records,
        {
            "run": lambda r: r["name"],
            "seed": lambda r: r["seed"],
            "with gates, %": lambda r: f"{100 * r['trained_accuracy']:.2f}",
            "finalized, %": lambda r: f"{100 * r['test_accuracy']:.2f}",
            "MACs": lambda r: f"{r['macs']:,}",
            "of dense": of_dense,
            "R_act": on_test(lambda test: f"{test['r_act']:.3f}"),
            "R_polar, test": on_test(lambda test: f"{test['r_polar']:.5f}"),
            "gates not polarized, test": on_test(
                lambda test: f"{test['undecided']} of {len(test['ratios'])}"
            ),
        },
    )


def figures(records, random) -> list[tfc.report.Curves]:
    """Accuracy over MACs and over the pruning rate, and while training."""
    frontier: dict[str, list] = {}
    rates: dict[str, list] = {}
    for r in records:
        frontier.setdefault(r["family"], []).append(
            (r["macs"] / 1e6, r["test_accuracy"])
        )
        rate = 0.0 if r["gates"] == "none" else 1.0 - r["train"]["r_act"]
        rates.setdefault(r["family"], []).append((rate, r["test_accuracy"]))
    for entry in random:
        name = f"random {entry['kind']}"
        rates.setdefault(name, []).append((entry["rate"], entry["accuracy"]))
        if entry["kind"] == "layers":
            point = (entry["macs"] / 1e6, entry["accuracy"])
            frontier.setdefault(name, []).append(point)
    frontier, rates = (
        {name: sorted(points) for name, points in series.items()}
        for series in (frontier, rates)
    )
    closed = "fraction of gates closed, or of parameters at zero"
    note = "Each gated run at one λ_act; random layers are dropped from the dense "
    return [
        plot("Accuracy over MACs", "million MACs", "test accuracy", frontier,
             f"{note} network without training. As Figure 4, right."),
        plot("Accuracy over the pruning rate", closed, "test accuracy", rates,
             "As Figure 4, left."),
        *learning_curves(records, "val_accuracy", "Accuracy while training", ""),
        *learning_curves(records, "r_polar", "Polarization while training", ""),
    ]  # fmt: skip


def heatmaps(records) -> list[tfc.report.Heatmap]:
    """Opening ratio of each gate over the epochs, for each gated run."""
    return [
        tfc.report.Heatmap(
            title=f"Opening ratios: {r['name']}",
            x_label="epoch",
            y_label="gate",
            value_label="fraction open",
            columns=[str(n + 1) for n in range(max(map(len, r["openings"].values())))],
            rows=[gate.removesuffix("_gate") for gate in r["openings"]],
            values=list(r["openings"].values()),
            description="As Figure 6.",
        )
        for r in records
        if r["gates"] != "none"
    ]


if __name__ == "__main__":
    launch(main)
