"""Pruning and approximate multipliers together, against each alone.

Trains one network in the ways that the cross-stack paper (network pruning with
DRUM multipliers) compares, and models the energy of each:

    dense         as it is: the ideal accuracy
    pruned-MODE   dynamic network surgery, the first half of `proposed-MODE`
    proposed-MODE surgery, then incremental approximation
    baseline-MODE surgery, approximation and fine-tuning simultaneously
    pruning       aggressive surgery (factor 1.3), high-accuracy multipliers (5, 5)
    incremental   incremental approximation of the unpruned network

where MODE is conservative, intermediate or aggressive.

    python recipes/cross_stack.py
    python recipes/cross_stack.py --preset=paper --width=0.125 --limit=20000

Every scheme starts from the dense network and gets the same number of epochs. A
run that is interrupted goes on where it was when the same command is given again;
further --seeds, --modes and --schemes add to what is there.

Results in --out: report.html and report.json, results.json with every run, and
the trained models. Prints the columns of the paper's Figure 4 and Table II.
"""

import dataclasses
import functools
import importlib
import json
import os
import statistics
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
from absl import app, flags

import tfcompress as tfc
from tfcompress._files import check_writable, write_atomic


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a comparison is about; runs with the same settings are comparable.

    Attributes:
        dataset: "digits", "mnist" or the name of a TFDS set.
        network: "lenet5", or "regular" or "shallow" of `tfcompress.zoo.cross_stack`.
        width: factor on its number of filters.
        limit: number of training images; `None` for all.
        dense_epochs: epochs of the dense network.
        surgery_epochs: epochs of surgery in `proposed`.
        approximation_epochs: epochs of approximation in `proposed`. The other
            schemes have both in one.
        surgery_fraction: fraction of the steps after which masks stay as they are.
        iterations: of the incremental approximation.
        dense_seed: seed of the dense network that all seeds start from; `None` for
            each to train its own.
        gradient: of approximate products, as for `tfcompress.layers.DrumMultiply`.
        bits: significant bits of weights and activations.
        batch_size: images in a batch.
        learning_rate: initial rate of Adam, which decays along a cosine to 0.
        fine_tuning_rate: the same for all but the dense network.
        approximation_rate: the same while a network is handed over to approximate
            multipliers; high, because few weights have to make up for many.
        settling_epochs: epochs at the end of an incremental approximation in which
            all weights are approximated. The rate decays in them only, because
            until then the weights that are left have to make up for the others.
        augment: as for `tfcompress.data.Dataset.pipeline`.
        hardware: profile of the modelled energy.
    """

    dataset: str
    network: str
    width: float
    limit: int | None
    dense_epochs: int
    surgery_epochs: int
    approximation_epochs: int
    batch_size: int
    learning_rate: float
    fine_tuning_rate: float
    augment: str | None
    surgery_fraction: float = 0.7
    approximation_rate: float = 3e-3
    settling_epochs: int = 1
    iterations: int = 50
    dense_seed: int | None = None
    gradient: str = "exact"
    bits: tuple[int, int] = (1, 5)
    hardware: str = "cross_stack_65nm"


PRESETS = {
    "quick": Settings(
        dataset="digits",
        network="lenet5",
        width=1.0,
        limit=None,
        dense_epochs=20,
        surgery_epochs=8,
        approximation_epochs=8,
        batch_size=32,
        learning_rate=2e-3,
        fine_tuning_rate=1e-3,
        augment="shift",
    ),
    "paper": Settings(
        dataset="cifar10",
        network="regular",
        width=1.0,
        limit=None,
        dense_epochs=80,
        surgery_epochs=40,
        approximation_epochs=40,
        batch_size=64,
        learning_rate=1e-3,
        fine_tuning_rate=1e-3,
        augment="standard",
    ),
}
MODES = ("conservative", "intermediate", "aggressive")
SCHEMES = ("dense", "proposed", "baseline", "pruning", "incremental")
# What the accelerator computes with where nothing is to be approximate.
ACCURATE = (5, 5)
SENSITIVITY_IMAGES = 500

FLAGS = flags.FLAGS
flags.DEFINE_enum("preset", "quick", sorted(PRESETS), "Where the settings come from.")
flags.DEFINE_multi_enum("schemes", SCHEMES, SCHEMES, "What to train.")
flags.DEFINE_multi_enum("modes", ["aggressive"], MODES, "How far to prune.")
flags.DEFINE_list("seeds", ["0"], "One training of each scheme for each seed.")
flags.DEFINE_string("dataset", None, "Overrides the preset.")
flags.DEFINE_enum(
    "network", None, ["lenet5", "regular", "shallow"], "Overrides the preset."
)
flags.DEFINE_float("width", None, "Overrides the preset.", lower_bound=0.0)
flags.DEFINE_integer("limit", None, "Overrides the preset.", lower_bound=1)
flags.DEFINE_integer("dense_epochs", None, "Overrides the preset.", lower_bound=1)
flags.DEFINE_integer("surgery_epochs", None, "Overrides the preset.", lower_bound=1)
flags.DEFINE_integer(
    "approximation_epochs", None, "Overrides the preset.", lower_bound=1
)
flags.DEFINE_integer("iterations", None, "Overrides the preset.", lower_bound=1)
flags.DEFINE_integer("dense_seed", None, "Start all seeds from this dense network.")
flags.DEFINE_enum("gradient", None, ["exact", "approximate"], "Overrides the preset.")
flags.DEFINE_integer("settling_epochs", None, "Overrides the preset.", lower_bound=0)
flags.DEFINE_integer("batch_size", None, "Overrides the preset.", lower_bound=1)
flags.DEFINE_float("fine_tuning_rate", None, "Overrides the preset.", lower_bound=0.0)
flags.DEFINE_float("approximation_rate", None, "Overrides the preset.", lower_bound=0.0)
flags.DEFINE_string("hardware", None, "Overrides the preset.")
flags.DEFINE_bool("report", True, "Whether to write the report, once all is trained.")
flags.DEFINE_string("out", "out/cross_stack", "Folder for the results.")
flags.DEFINE_string("data_dir", None, "Folder of prepared TFDS sets.")


def main(_):
    overrides = {
        field.name: FLAGS[field.name].value
        for field in dataclasses.fields(Settings)
        if field.name in FLAGS and FLAGS[field.name].value is not None
    }
    report = run(
        dataclasses.replace(PRESETS[FLAGS.preset], **overrides),
        schemes=FLAGS.schemes,
        modes=FLAGS.modes,
        seeds=[int(seed) for seed in FLAGS.seeds],
        out=FLAGS.out,
        data_dir=FLAGS.data_dir,
        with_report=FLAGS.report,
    )
    if report is not None:
        print(f"\n{report}")
    print(f"\nResults are in {Path(FLAGS.out).resolve()}")


def run(settings, *, schemes, modes, seeds, out, data_dir=None, with_report=True):
    """Trains what is not trained yet, and reports on all that is."""
    folder = open_folder(out, settings)
    planned = [job for seed in seeds for job in plan(settings, schemes, modes, seed)]
    jobs = list(dict.fromkeys(planned))
    data = tfc.data.load(
        settings.dataset, data_dir=data_dir, seed=0, limit=settings.limit
    )
    for number, job in enumerate(jobs, start=1):
        print(f"\n[{number}/{len(jobs)}] {job.name}, seed {job.seed}", flush=True)
        if (folder / f"{job.key}.json").exists():
            print("is there already")
        else:
            train(job, settings, data, folder)
    records = read_records(folder)
    write_atomic(folder / "results.json", json.dumps(records, indent=1))
    print(f"\n{figure_4(records)}\n\n{table_2(records)}")
    return write_report(records, settings, data, folder) if with_report else None


# Schemes -----------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Job:
    """One training: what it starts from, and what happens in it.

    Attributes:
        name: the scheme, with its mode.
        seed: of weights, batches and surgery.
        epochs: number of epochs.
        source: key of the job whose model it starts from; `None` for a new one.
        surgery: pruning mode; `None` leaves the masks as they are.
        approximation: how multiplications become approximate: "incremental",
            "at once" or `None`.
        bits: what the result is evaluated with; `None` for exact products.
    """

    name: str
    seed: int
    epochs: int
    source: str | None = None
    surgery: str | None = None
    approximation: str | None = None
    bits: tuple[int, int] | None = None

    @property
    def key(self) -> str:
        """What its files are called."""
        return f"{self.name}-seed{self.seed}"


def plan(settings, schemes, modes, seed) -> list[Job]:
    """The trainings of one seed, each after the one it starts from."""
    both = settings.surgery_epochs + settings.approximation_epochs
    dense_seed = seed if settings.dense_seed is None else settings.dense_seed
    dense = Job("dense", dense_seed, settings.dense_epochs)
    jobs, source = [dense], dense.key
    for mode in modes:
        if "proposed" in schemes:
            pruned = Job(
                f"pruned-{mode}", seed, settings.surgery_epochs, source, surgery=mode
            )
            jobs += [
                pruned,
                Job(
                    f"proposed-{mode}",
                    seed,
                    settings.approximation_epochs,
                    pruned.key,
                    approximation="incremental",
                    bits=settings.bits,
                ),
            ]
        if "baseline" in schemes:
            jobs.append(
                Job(
                    f"baseline-{mode}",
                    seed,
                    both,
                    source,
                    surgery=mode,
                    approximation="at once",
                    bits=settings.bits,
                )
            )
    if "pruning" in schemes:
        jobs.append(
            Job("pruning", seed, both, source, surgery="pruning_only", bits=ACCURATE)
        )
    if "incremental" in schemes:
        jobs.append(
            Job(
                "incremental",
                seed,
                both,
                source,
                approximation="incremental",
                bits=settings.bits,
            )
        )
    return jobs


def train(job, settings, data, folder):
    """Trains one scheme and writes its model and its record."""
    keras.utils.set_random_seed(job.seed)
    model = prepare(job, settings, data, folder)
    batches = data.pipeline(
        "train",
        batch_size=settings.batch_size,
        augment=settings.augment,
        seed=job.seed,
    )
    steps = job.epochs * len(batches)
    model.compile(
        keras.optimizers.Adam(rate(job, settings, steps)),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    start = time.perf_counter()
    history = model.fit(
        batches,
        epochs=job.epochs,
        validation_data=data.pipeline("validation", batch_size=512),
        # First, so that the others see the epoch that it restores.
        callbacks=[
            keras.callbacks.BackupAndRestore(str(folder / f"{job.key}.backup")),
            *callbacks(job, settings, steps),
        ],
        shuffle=False,  # the pipeline does
        verbose=1 if sys.stdout.isatty() else 2,
    )
    seconds = time.perf_counter() - start
    save_model(model, folder / f"{job.key}.keras")
    if job.bits and not job.approximation:
        model = tfc.layers.wrap(model, approximate(job.bits, settings))
    test = data.pipeline("test", batch_size=512)
    accuracy = model.evaluate(test, verbose=0, return_dict=True)["accuracy"]
    cost = tfc.cost.count(model)
    record = {
        "name": job.name,
        "seed": job.seed,
        "test_accuracy": accuracy,
        "joules": energy(model, settings).total,
        "sparsity": cost.sparsity,
        "macs": cost.macs,
        "effective_macs": cost.effective_macs,
        # Of this process: less than the whole if the run was interrupted.
        "seconds": seconds,
        "history": history.history,
    }
    write_atomic(folder / f"{job.key}.json", json.dumps(record, default=float))
    print(f"test accuracy {accuracy:.2%}, {record['joules']:.4g} J modelled")


def prepare(job, settings, data, folder) -> keras.Model:
    """The model that a job starts with."""
    if job.source is None:
        return network(settings, data)
    model = load_model(folder / f"{job.source}.keras")
    if job.surgery:
        model = tfc.layers.wrap(model, tfc.layers.MaskedKernel)
    if job.approximation:
        model = tfc.layers.wrap(model, approximate(job.bits, settings))
    return model


def network(settings, data) -> keras.Model:
    if settings.network == "lenet5":
        return tfc.zoo.lenet5(
            width=settings.width, input_shape=data.input_shape, classes=data.classes
        )
    return tfc.zoo.cross_stack(settings.dataset, settings.network, width=settings.width)


def approximate(bits, settings):
    return functools.partial(
        tfc.layers.DrumMultiply,
        weight_bits=bits[0],
        activation_bits=bits[1],
        gradient=settings.gradient,
    )


def rate(job, settings, steps) -> keras.optimizers.schedules.LearningRateSchedule:
    """Along a cosine, after a steady part while weights are handed over."""
    initial = settings.fine_tuning_rate if job.source else settings.learning_rate
    steady = 0
    if job.approximation == "incremental":
        initial = settings.approximation_rate
        if settings.settling_epochs:
            steady = steps - steps * settings.settling_epochs // job.epochs
    return keras.optimizers.schedules.CosineDecay(
        initial, steps - steady, warmup_target=initial, warmup_steps=steady
    )


def callbacks(job, settings, steps):
    chosen = []
    if job.surgery:
        end = max(1, round(settings.surgery_fraction * steps))
        chosen.append(tfc.callbacks.DynamicSurgery(job.surgery, end=end, seed=job.seed))
    if job.approximation == "incremental":
        chosen.append(
            tfc.callbacks.IncrementalApproximation(
                settings.iterations, epochs=job.epochs - settings.settling_epochs
            )
        )
    return chosen


def energy(model, settings) -> tfc.cost.EnergyEstimate:
    """Arithmetic energy; products with pruned weights are not computed."""
    return tfc.cost.energy(tfc.cost.count(model), settings.hardware, products="skipped")


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


def load_model(path: Path) -> keras.Model:
    # Keras finds the layers of a file by name once their module is imported.
    importlib.import_module("tfcompress.layers")
    return keras.saving.load_model(path, compile=False)


def read_records(folder) -> list[dict]:
    records = [json.loads(path.read_text()) for path in folder.glob("*-seed*.json")]
    return sorted(records, key=lambda r: (_order(r["name"]), r["seed"]))


def _order(name):
    scheme, _, mode = name.partition("-")
    schemes = ("dense", "pruned", "baseline", "pruning", "incremental", "proposed")
    return schemes.index(scheme), MODES.index(mode) if mode else 0


def mean(values, scale=1.0, digits=2) -> str:
    values = [scale * value for value in values]
    text = f"{statistics.mean(values):.{digits}f}"
    if len(values) > 1:
        text += f" ± {statistics.stdev(values):.{digits}f}"
    return text


def _of(records, name, what):
    return [record[what] for record in records if record["name"] == name]


def figure_4(records) -> str:
    """Accuracy of both ways to combine the techniques, by pruning mode."""
    lines = [
        "| mode | dense, % | proposed, % | baseline, % "
        "| proposed, MACs | baseline, MACs |",
        "|---|---|---|---|---|---|",
    ]
    for mode in MODES:
        cells = [_of(records, "dense", "test_accuracy")]
        cells += [
            _of(records, f"{s}-{mode}", "test_accuracy")
            for s in ("proposed", "baseline")
        ]
        macs = [
            _of(records, f"{s}-{mode}", "effective_macs")
            for s in ("proposed", "baseline")
        ]
        if any(cells[1:]):
            texts = [mean(c, 100) if c else "–" for c in cells]
            texts += [mean(m, 1e-6) + " M" if m else "–" for m in macs]
            lines.append(f"| {mode} | {' | '.join(texts)} |")
    return "\n".join(lines)


def table_2(records) -> str:
    """Accuracy and modelled energy of every scheme."""
    lines = [
        "| scheme | seeds | test accuracy, % | pruned, % | energy, mJ | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(record["name"] for record in records):
        of = functools.partial(_of, records, name)
        lines.append(
            f"| {name} | {len(of('seed'))} | {mean(of('test_accuracy'), 100)} "
            f"| {mean(of('sparsity'), 100, 1)} | {mean(of('joules'), 1e3, 4)} "
            f"| {statistics.mean(of('seconds')):.0f} |"
        )
    return "\n".join(lines)


def write_report(records, settings, data, folder) -> tfc.report.Report:
    # Of each scheme the run with the smallest seed.
    first = list({r["name"]: r for r in reversed(records)}.values())[::-1]
    models = {
        r["name"]: tfc.finalize(
            load_model(folder / f"{r['name']}-seed{r['seed']}.keras")
        )
        for r in first
    }
    images = data.validation.images[:SENSITIVITY_IMAGES]
    labels = data.validation.labels[:SENSITIVITY_IMAGES]
    found = tfc.analysis.sensitivity(
        models["dense"], (images, labels), factors=[0.0, 0.5, 0.8, 1.1, 1.3, 1.6]
    )
    print(f"\n{found}")
    report = tfc.report.compare(
        models,
        data=(data.test.images, data.test.labels),
        hardware=settings.hardware,
        curves=[found.curves(), *figures(first)],
        heatmaps=[found.heatmap(), energies(models, settings)],
        title=f"{settings.network} on {settings.dataset}: pruning and approximation",
        provenance={
            **dataclasses.asdict(settings),
            "seeds": {r["name"]: r["seed"] for r in first},
        },
    )
    report.save(folder / "report.json")
    report.save(folder / "report.html")
    return report


def figures(records) -> list[tfc.report.Curves]:
    """Accuracy against energy, and while training."""
    return [
        tfc.report.Curves(
            title="Accuracy and energy",
            x_label="modelled energy, mJ, without products of pruned weights",
            y_label="test accuracy",
            series={
                r["name"]: [(1e3 * r["joules"], r["test_accuracy"])] for r in records
            },
            description="Table II of the paper.",
        ),
        tfc.report.Curves(
            title="Accuracy while training",
            x_label="epoch",
            y_label="validation accuracy",
            series={
                r["name"]: list(enumerate(r["history"]["val_accuracy"], start=1))
                for r in records
            },
        ),
    ]


def energies(models, settings) -> tfc.report.Heatmap:
    """Energy of the layers that multiply."""
    shares = {
        name: tfc.analysis.layer_energy(model, settings.hardware)
        for name, model in models.items()
    }
    layers = list(shares["dense"])
    return tfc.report.Heatmap(
        title="Energy of the layers",
        x_label="layer",
        y_label="scheme",
        value_label="modelled energy, mJ",
        columns=layers,
        rows=list(shares),
        values=[[1e3 * own.get(n, 0.0) for n in layers] for own in shares.values()],
        description="Products with pruned weights take none.",
    )


if __name__ == "__main__":
    app.run(main)
