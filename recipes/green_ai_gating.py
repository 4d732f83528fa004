"""Gated ResNets: one training that finds the layers or channels to keep.

Trains a residual network without gates ("dense") and with them, for each weight
of the activation penalty in --lambda_act, as in Zhi et al., "A New Baseline for
GreenAI: Finding the Optimal Sub-Network via Layer and Channel Pruning" (2023).
Each gated network is finalised on its training images: gates vanish, and what
they close goes with them. Gates that are not polarised are decided at one half.

The dense network is also pruned without any training, as in the paper's Figure
4: random layers are dropped, or random parameters set to zero, at the figure's
rates and, for layers, at the rates that the gates found.

    python recipes/green_ai_gating.py
    python recipes/green_ai_gating.py --gates=channel --position=middle
    python recipes/green_ai_gating.py --preset=paper --model=resnet20 --width=0.5 \\
        --limit=20000 --epochs=20 --decay_at=10,15,18 --batch_size=128 \\
        --lambda_polar=3 --lambda_act=0.5,1,2

A run that is interrupted goes on where it was when the same command is given
again; other gates, weights, estimators and seeds add to what is there.

Results in --out: report.html and report.json with the accuracy over the MACs, and
a heat map of each gate's opening ratio over the epochs (Figures 4 to 6),
results.json with every run, and the trained and finalised models.
"""

import dataclasses
import json
import os
import statistics
import sys
import time
import warnings
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
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
        batch_size: images in a batch.
        learning_rate: initial rate of SGD.
        decay_at: epochs at which the rate falls to a tenth.
        momentum: of SGD.
        weight_decay: in the gradient, inside momentum, as in the paper's
            PyTorch. Keras applies it outside of momentum: `train` converts it.
        augment: as for `tfcompress.data.Dataset.pipeline`.
    """

    dataset: str
    model: str
    width: float
    limit: int | None
    epochs: int
    batch_size: int
    learning_rate: float
    decay_at: tuple[int, ...]
    momentum: float
    weight_decay: float
    augment: str | None


PRESETS = {
    "quick": Settings(
        dataset="digits",
        model="resnet20",
        width=0.5,
        limit=None,
        epochs=16,
        batch_size=64,
        learning_rate=0.1,
        decay_at=(9, 13),
        momentum=0.9,
        weight_decay=5e-4,
        augment="shift",
    ),
    "paper": Settings(
        dataset="cifar10",
        model="resnet110",
        width=1.0,
        limit=None,
        epochs=350,
        batch_size=256,
        learning_rate=0.1,
        decay_at=(60, 120, 160),
        momentum=0.9,
        weight_decay=5e-4,
        augment="standard",
    ),
}
# Of Figure 4; the draws of each are averaged.
RANDOM_RATES = (0.2, 0.3, 0.5, 0.6, 0.8)
DRAWS = 3
KINDS = ("dense", "layer", "channel")
NETWORKS = ["resnet20", "resnet32", "resnet44", "resnet56", "resnet110", "resnet18"]

FLAGS = flags.FLAGS
flags.DEFINE_enum("preset", "quick", sorted(PRESETS), "Where the settings come from.")
flags.DEFINE_enum("gates", "layer", ["layer", "channel"], "What gates close.")
flags.DEFINE_enum(
    "position", "after", tfc.gates.POSITIONS, "Where channel gates are (Figure 3)."
)
flags.DEFINE_integer("depth", 1, "Hidden layers of channel gates.", 0, 2)
flags.DEFINE_enum("estimator", "ste", ["ste", "gumbel", "bernoulli"], "Gating head.")
flags.DEFINE_string(
    "lambda_polar",
    "3",
    "Weight of the polarisation penalty; EPOCH:WEIGHT,EPOCH:WEIGHT,… for one that "
    "changes, such as the paper's 0:0,125:2,190:3.",
)
flags.DEFINE_list("lambda_act", ["0.5"], "Weights of the activation penalty.")
flags.DEFINE_bool("dense", True, "Whether the network without gates is trained.")
flags.DEFINE_list("seeds", ["0"], "One training of each network for each seed.")
flags.DEFINE_string("dataset", None, "Overrides the preset.")
flags.DEFINE_enum("model", None, NETWORKS, "Overrides the preset.")
flags.DEFINE_float("width", None, "Overrides the preset.", lower_bound=0.0)
flags.DEFINE_integer("limit", None, "Overrides the preset.", lower_bound=1)
flags.DEFINE_integer("epochs", None, "Overrides the preset.", lower_bound=1)
flags.DEFINE_integer("batch_size", None, "Overrides the preset.", lower_bound=1)
flags.DEFINE_list("decay_at", None, "Overrides the preset.")
flags.DEFINE_string("out", "out/green_ai_gating", "Folder for the results.")
flags.DEFINE_string("data_dir", None, "Folder of prepared TFDS sets.")


def main(_):
    overrides = {
        field.name: FLAGS[field.name].value
        for field in dataclasses.fields(Settings)
        if field.name in FLAGS and FLAGS[field.name].value is not None
    }
    if "decay_at" in overrides:
        overrides["decay_at"] = tuple(map(int, overrides["decay_at"]))
    jobs = plan(
        gates=FLAGS.gates,
        position=FLAGS.position,
        depth=FLAGS.depth,
        estimator=FLAGS.estimator,
        polar=FLAGS.lambda_polar,
        activations=FLAGS.lambda_act,
        seeds=[int(seed) for seed in FLAGS.seeds],
        dense=FLAGS.dense,
    )
    settings = dataclasses.replace(PRESETS[FLAGS.preset], **overrides)
    report = run(
        settings,
        jobs,
        out=FLAGS.out,
        data_dir=FLAGS.data_dir,
    )
    print(f"\n{report}\n\nResults are in {Path(FLAGS.out).resolve()}")


def run(settings, jobs, *, out, data_dir=None):
    """Trains what is not trained yet, and reports on all that is."""
    folder = open_folder(out, settings)
    data = tfc.data.load(
        settings.dataset, data_dir=data_dir, seed=0, limit=settings.limit
    )
    for number, job in enumerate(jobs, start=1):
        print(f"\n[{number}/{len(jobs)}] {job.name}, seed {job.seed}", flush=True)
        if (folder / f"{job.key}.json").exists():
            print("is there already")
        else:
            train(job, settings, data, folder)
    return write_report(settings, data, folder)


# Trainings ---------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Job:
    """One training: with gates, or without (`gates` is "none")."""

    seed: int
    gates: str = "none"
    position: str = ""
    depth: int = 1
    estimator: str = ""
    polar: str = ""
    activation: float = 0.0

    @property
    def name(self) -> str:
        """What the results call it."""
        if self.gates == "none":
            return "dense"
        return f"{self.family} λa={self.activation:g}"

    @property
    def family(self) -> str:
        """What all runs of a sweep over λ_act have in common."""
        # Short, for tables: λp is λ_polar, and λa is λ_act.
        where = f" {self.position}{self.depth}" if self.position else ""
        return f"{self.gates}{where} {self.estimator} λp={self.polar}"

    @property
    def key(self) -> str:
        """What its files are called."""
        if self.gates == "none":
            return f"dense-seed{self.seed}"
        where = f"-{self.position}{self.depth}" if self.position else ""
        polar = self.polar.replace(":", "from").replace(",", "_")
        return (
            f"{self.gates}{where}-{self.estimator}-p{polar}-a{self.activation:g}"
            f"-seed{self.seed}"
        )


def plan(
    *,
    gates="layer",
    position="after",
    depth=1,
    estimator="ste",
    polar="3",
    activations=(0.5,),
    seeds=(0,),
    dense=True,
):
    """The trainings: the dense one first, then the sweep over λ_act."""
    schedule(polar)  # refuses what is not one, before anything trains
    where = {"position": position, "depth": depth} if gates == "channel" else {}
    jobs = []
    for seed in seeds:
        jobs += [Job(seed)] * dense
        jobs += [
            Job(
                seed,
                gates=gates,
                estimator=estimator,
                polar=polar,
                activation=float(activation),
                **where,
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


def gated(job, model):
    """`model` with the gates of a job."""
    if job.gates == "layer":
        return tfc.gates.add_layer_gates(model, estimator=job.estimator, seed=job.seed)
    return tfc.gates.add_channel_gates(
        model, job.position, job.depth, estimator=job.estimator, seed=job.seed
    )


def train(job, settings, data, folder):
    """Trains one network, finalises it, and writes both and the record."""
    keras.utils.set_random_seed(job.seed)
    model = getattr(tfc.zoo, settings.model)(
        width=settings.width, input_shape=data.input_shape, classes=data.classes
    )
    penalty = None
    callbacks = []
    if job.gates != "none":
        model = gated(job, model)
        penalty = tfc.callbacks.GatePenalty(schedule(job.polar), job.activation)
        callbacks.append(penalty)
    batches = data.pipeline(
        "train",
        batch_size=settings.batch_size,
        augment=settings.augment,
        seed=job.seed,
    )
    model.compile(
        optimizer(settings, len(batches)),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    start = time.perf_counter()
    # Nothing is removed while gates are there; this is for the backups.
    model = tfc.training.fit_shrinking(
        model,
        batches,
        epochs=settings.epochs,
        callbacks=callbacks,
        shrink_every=max(1, settings.epochs // 10),
        backup_dir=folder / f"{job.key}.backup",
        validation_data=data.pipeline("validation", batch_size=512),
        shuffle=False,  # the pipeline does
        verbose=1 if sys.stdout.isatty() else 2,
    )
    record = {
        **dataclasses.asdict(job),
        "name": job.name,
        "seconds": time.perf_counter() - start,
        "history": model.history.history,
        "trained_accuracy": accuracy(model, data),
    }
    save_model(model, folder / f"{job.key}-trained.keras")
    if penalty is not None:
        record |= {"epochs": penalty.openings, **gate_figures(model, data)}
        model = decided(model, data)
    save_model(model, folder / f"{job.key}.keras")
    record["test_accuracy"] = accuracy(model, data)
    record["macs"] = tfc.cost.count(model).macs
    record["parameters"] = model.count_params()
    write_atomic(folder / f"{job.key}.json", json.dumps(record, default=float))
    print(f"test accuracy {record['test_accuracy']:.2%}, {record['macs']:,} MACs")


def optimizer(settings, steps):
    """SGD with the rate, the stages and the weight decay of the settings."""
    stages = range(len(settings.decay_at) + 1)
    rate = settings.learning_rate
    if settings.decay_at:
        rate = keras.optimizers.schedules.PiecewiseConstantDecay(
            [epoch * steps for epoch in settings.decay_at],
            [settings.learning_rate * 0.1**stage for stage in stages],
        )
    # In Keras a step subtracts rate · decay · w beside the momentum. Inside it, a
    # constant w would accumulate that 1 / (1 - momentum) times.
    decay = settings.weight_decay / (1.0 - settings.momentum)
    return keras.optimizers.SGD(rate, settings.momentum, weight_decay=decay)


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


def accuracy(model, data):
    return float(
        model.evaluate(
            data.pipeline("test", batch_size=512), verbose=0, return_dict=True
        )["accuracy"]
    )


# Random baselines ----------------------------------------------------------------


def baselines(dense, data, records, folder, seed):
    """Accuracy and MACs of the dense network after random pruning."""
    path = folder / f"random-seed{seed}.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    closed = {r["random_layers"] for r in records if r.get("random_layers")}
    wanted = [("layers", rate) for rate in sorted({*RANDOM_RATES, *closed})]
    wanted += [("parameters", rate) for rate in RANDOM_RATES]
    for kind, rate in wanted:
        if f"{kind} {rate:g}" in known:
            continue
        figures = []
        for draw in range(DRAWS):
            rng = np.random.default_rng([seed, draw, round(1e4 * rate)])
            make = without_layers if kind == "layers" else without_parameters
            model = make(dense, rate, rng)
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
        write_atomic(path, json.dumps(known, indent=1))
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


def open_folder(out, settings) -> Path:
    """The folder of the results, which holds runs of the same settings only."""
    path = check_writable(Path(out) / "settings.json", argument="out")
    mine = json.loads(json.dumps(dataclasses.asdict(settings)))
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
    paths = (p for kind in KINDS for p in sorted(folder.glob(f"{kind}-*seed*.json")))
    records = [json.loads(path.read_text()) for path in paths]
    records.sort(key=lambda r: (r["gates"] != "none", r["name"], r["seed"]))
    for record in records:
        if record["gates"] == "layer":
            decided = [ratio[0] >= 0.5 for ratio in record["train"]["ratios"].values()]
            record["random_layers"] = 1.0 - sum(decided) / len(decided)
    write_atomic(folder / "results.json", json.dumps(records, indent=1))
    print(f"\n{table(records)}")
    seed = records[0]["seed"]
    first = {r["name"]: r for r in records if r["seed"] == seed}
    models = {
        name: keras.saving.load_model(folder / f"{job_of(r).key}.keras")
        for name, r in first.items()
    }
    random = []
    if "dense" in models:
        random = baselines(models["dense"], data, first.values(), folder, seed)
    report = tfc.report.compare(
        models,
        data=(data.test.images, data.test.labels),
        calibration=data.train.images[:500],
        curves=figures(first, random),
        heatmaps=heatmaps(first),
        title=f"{settings.model} on {settings.dataset}: gates",
        provenance={**dataclasses.asdict(settings), "seed": seed},
    )
    report.save(folder / "report.json")
    report.save(folder / "report.html")
    return report


def job_of(record) -> Job:
    fields = (field.name for field in dataclasses.fields(Job))
    return Job(**{name: record[name] for name in fields})


def table(records) -> str:
    """All runs, in Markdown."""
    dense = {r["seed"]: r["macs"] for r in records if r["gates"] == "none"}
    lines = [
        "| run | seed | with gates, % | finalised, % | MACs | of dense "
        "| R_act | R_polar, test | gates not polarised, test |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in records:
        share = f"{r['macs'] / dense[r['seed']]:.1%}" if r["seed"] in dense else "–"
        gates = "– | – | –"
        if r["gates"] != "none":
            test = r["test"]
            gates = f"{test['r_act']:.3f} | {test['r_polar']:.5f} | {test['undecided']}"
            gates += f" of {len(test['ratios'])}"
        lines.append(
            f"| {r['name']} | {r['seed']} | {100 * r['trained_accuracy']:.2f} "
            f"| {100 * r['test_accuracy']:.2f} | {r['macs']:,} | {share} | {gates} |"
        )
    return "\n".join(lines)


def figures(records, random) -> list[tfc.report.Curves]:
    """Accuracy over MACs and over the pruning rate, and the trainings."""
    frontier: dict[str, list] = {}
    rates: dict[str, list] = {}
    for r in records.values():
        family = "dense" if r["gates"] == "none" else job_of(r).family
        point = (r["macs"] / 1e6, r["test_accuracy"])
        frontier.setdefault(family, []).append(point)
        rate = 0.0 if r["gates"] == "none" else 1.0 - r["train"]["r_act"]
        rates.setdefault(family, []).append((rate, r["test_accuracy"]))
    for entry in random:
        name = f"random {entry['kind']}"
        rates.setdefault(name, []).append((entry["rate"], entry["accuracy"]))
        if entry["kind"] == "layers":
            point = (entry["macs"] / 1e6, entry["accuracy"])
            frontier.setdefault(name, []).append(point)
    curves = [
        tfc.report.Curves(
            title="Accuracy over MACs",
            x_label="million MACs",
            y_label="test accuracy",
            series={name: sorted(points) for name, points in frontier.items()},
            description="Each gated run at one λ_act; random layers are dropped from "
            "the dense network without training. As Figure 4, right.",
        ),
        tfc.report.Curves(
            title="Accuracy over the pruning rate",
            x_label="fraction of gates closed, or of parameters at zero",
            y_label="test accuracy",
            series={name: sorted(points) for name, points in rates.items()},
            description="As Figure 4, left.",
        ),
    ]
    for title, quantity in (
        ("Validation accuracy while training", "val_accuracy"),
        ("Polarisation while training", "r_polar"),
    ):
        series = {
            name: list(enumerate(r["history"][quantity], start=1))
            for name, r in records.items()
            if quantity in r["history"]
        }
        if series:
            curves.append(
                tfc.report.Curves(
                    title=title,
                    x_label="epoch",
                    y_label=quantity.replace("val_", "validation "),
                    series=series,
                )
            )
    return curves


def heatmaps(records) -> list[tfc.report.Heatmap]:
    """Opening ratio of each gate over the epochs, for each gated run."""
    maps = []
    for name, r in records.items():
        if r["gates"] == "none":
            continue
        epochs = max(map(len, r["epochs"].values()))
        maps.append(
            tfc.report.Heatmap(
                title=f"Opening ratios: {name}",
                x_label="epoch",
                y_label="gate",
                value_label="fraction open",
                columns=[str(epoch) for epoch in range(1, epochs + 1)],
                rows=[gate.removesuffix("_gate") for gate in r["epochs"]],
                values=list(r["epochs"].values()),
                description="As Figure 6.",
            )
        )
    return maps


if __name__ == "__main__":
    app.run(main)
