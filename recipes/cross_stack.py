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

    python recipes/cross_stack.py                               # digits, two minutes
    python recipes/cross_stack.py --preset=paper --width=0.125 --limit=20000
    python recipes/cross_stack.py --preset=paper --bits=2,6     # the other reading of K
    python recipes/cross_stack.py --preset=paper --order=magnitude
    python recipes/cross_stack.py --preset=stl10
    python recipes/cross_stack.py --preset=imagenet --data_dir=DIR

The paper's multiplier keeps "the following k bits" after the leading one; DRUM's k
includes it. So the paper's (1, 5) can be read as --bits=1,5 or as --bits=2,6.

Every scheme starts from the dense network and gets the same number of epochs. The same
command resumes a run that was interrupted; further --seeds, --modes and --schemes add
to the results in --out.

Results in --out: report.html and report.json, results.json with every run, and
the trained models. Prints the columns of the paper's Figure 4 and Table II.
"""

import dataclasses
import functools
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from _experiment import (
    Experiment,
    Job,
    by_name,
    first_of_each,
    learning_curves,
    load_model,
    mean,
    percent,
    plot,
    table,
)
from _settings import FLAGS, chosen, common, define_flags, flags, launch, setting
from _streams import Stream
from _training import fit

import tfcompress as tfc


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a comparison is about; runs with the same settings are comparable."""

    dataset: str = setting('"digits", "mnist" or the name of a TFDS set.')
    network: str = setting("Network.", choices=["lenet5", "regular", "shallow"])
    dense_epochs: int = setting("Epochs of the dense network.", least=1)
    surgery_epochs: int = setting("Epochs of surgery in `proposed`.", least=1)
    approximation_epochs: int = setting(
        "Epochs of approximation in `proposed`. The other schemes have both in one.",
        least=1,
    )
    width: float = setting("Factor on the number of filters.", 1.0, least=0)
    limit: int | None = setting("Number of training images.", None, least=1)
    stream: int | None = setting(
        "Side of images that are read while they are used.", None, least=32
    )
    test_fraction: float | None = setting(
        "Fraction of all labeled images that are the test set; without it the set's "
        "own split.",
        None,
        least=0.01,
        most=0.9,
    )
    batch_size: int = setting("Images in a batch.", 64, least=1)
    learning_rate: float = setting(
        "Initial rate of Adam, which decays along a cosine to 0.", 1e-3, least=0
    )
    fine_tuning_rate: float = setting(
        "The same for all but the dense network.", 1e-3, least=0
    )
    # High, because few weights have to make up for many.
    approximation_rate: float = setting(
        "The same while weights are handed over to approximate multipliers.",
        3e-3,
        least=0,
    )
    # The rate decays in these only: until then the weights that are left have to
    # make up for the others.
    settling_epochs: int = setting(
        "Epochs at the end of the approximation, after the last hand-over.", 1, least=0
    )
    surgery_fraction: float = setting(
        "Fraction of the steps after which masks stay.", 0.7, least=0, most=1
    )
    iterations: int = setting("Of the incremental approximation.", 50, least=1)
    order: str = setting(
        "Which weights are handed over first: with the smallest error (the paper's), "
        "the smallest relative error, or the largest magnitude.",
        "error",
        choices=["error", "relative", "magnitude"],
    )
    bits: tuple[int, ...] = setting("Significant bits of weights, activations.", (1, 5))
    gradient: str = setting(
        "Of approximate products.", "exact", choices=["exact", "approximate"]
    )
    dense_seed: int | None = setting(
        "Seed of the dense network that all seeds start from; each its own without.",
        None,
        least=0,
    )
    augment: str | None = setting(
        "Augmentation.", "standard", choices=["none", "shift", "standard"]
    )
    hardware: str = setting("Profile of the modeled energy.", "cross_stack_65nm")
    products: str = setting(
        'What a product with a pruned weight takes. The paper\'s Table II is "gated".',
        "gated",
        choices=["computed", "gated", "skipped"],
    )


PRESETS = {
    "quick": Settings(
        dataset="digits",
        network="lenet5",
        dense_epochs=20,
        surgery_epochs=8,
        approximation_epochs=8,
        batch_size=32,
        learning_rate=2e-3,
        augment="shift",
    ),
    "paper": Settings(
        dataset="cifar10",
        network="regular",
        dense_epochs=80,
        surgery_epochs=40,
        approximation_epochs=40,
    ),
    "stl10": Settings(
        dataset="stl10",
        network="regular",
        dense_epochs=80,
        surgery_epochs=40,
        approximation_epochs=40,
        test_fraction=0.2,
        hardware="cross_stack_65nm_stl10",
    ),
    # AlexNet in one column, as `tfcompress.zoo.cross_stack` has it.
    "imagenet": Settings(
        dataset="imagenet2012",
        network="regular",
        dense_epochs=90,
        surgery_epochs=20,
        approximation_epochs=20,
        stream=224,
        batch_size=256,
    ),
}
MODES = ("conservative", "intermediate", "aggressive")
SCHEMES = ("dense", "proposed", "baseline", "pruning", "incremental")
NAMES = ("dense", "pruned", "baseline", "pruning", "incremental", "proposed")
# What the accelerator computes with where nothing is to be approximate.
ACCURATE = (5, 5)
SENSITIVITY_IMAGES = 500

define_flags(PRESETS, "out/cross_stack")
flags.DEFINE_multi_enum("schemes", SCHEMES, SCHEMES, "What to train.")
flags.DEFINE_multi_enum("modes", ["aggressive"], MODES, "How far to prune.")


def main():
    run(chosen(PRESETS), schemes=FLAGS.schemes, modes=FLAGS.modes, **common())


def run(settings, *, schemes, modes, seeds, out, data_dir=None, report=True):
    """Trains what is not trained yet, and reports on all that is."""
    if len(settings.bits) != 2 or min(settings.bits) < 1:
        raise ValueError(
            "Invalid value for argument `bits`. Expected two positive numbers. "
            f"Received: bits={settings.bits}"
        )
    jobs = [job for seed in seeds for job in plan(settings, schemes, modes, seed)]
    for job in jobs:
        callbacks(job, settings, steps=1)  # refuses bad values before any work
    with Experiment(out, settings) as experiment:
        data = open_data(settings, data_dir)
        network(settings, data)
        experiment.run(jobs, functools.partial(train, settings, data, experiment))
        return summarize(experiment, settings, data, report)


def open_data(settings, data_dir):
    """The data set, divided as in the paper."""
    if settings.stream:
        return Stream(settings.dataset, data_dir, settings.stream)
    data = tfc.data.load(
        settings.dataset, data_dir=data_dir, seed=0, limit=settings.limit
    )
    return redivided(data, settings.test_fraction) if settings.test_fraction else data


def redivided(data, fraction):
    """All labeled images, a fraction of each class for the test, the same always."""
    parts = [data.train, data.validation, data.test]
    images = np.concatenate([part.images for part in parts])
    labels = np.concatenate([part.labels for part in parts])
    rng = np.random.default_rng(0)
    order = rng.permutation(len(labels))
    held: dict[str, list] = {"test": [], "validation": [], "train": []}
    for label in range(data.classes):
        own = order[labels[order] == label]
        test = round(fraction * len(own))
        validation = test + round(0.1 * (len(own) - test))
        held["test"].append(own[:test])
        held["validation"].append(own[test:validation])
        held["train"].append(own[validation:])
    splits = {name: np.concatenate(indices) for name, indices in held.items()}
    return dataclasses.replace(
        data, **{n: tfc.data.Split(images[i], labels[i]) for n, i in splits.items()}
    )


# Schemes -----------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scheme(Job):
    """What a network starts from, and what happens to it.

    Attributes:
        source: key of the job whose model it starts from; `None` for a new one.
        surgery: pruning mode; `None` leaves the masks as they are.
        approximation: how multiplications become approximate: "incremental",
            "at once" or `None`.
        bits: what the result is evaluated with; `None` for exact products.
    """

    source: str | None = None
    surgery: str | None = None
    approximation: str | None = None
    bits: tuple[int, ...] | None = None


def plan(settings, schemes, modes, seed) -> list[Scheme]:
    """The jobs of one seed, each after the one it starts from."""
    dense_seed = seed if settings.dense_seed is None else settings.dense_seed
    dense = Scheme(name="dense", seed=dense_seed, epochs=settings.dense_epochs)
    scheme = functools.partial(
        Scheme,
        seed=seed,
        source=dense.key,
        epochs=settings.surgery_epochs + settings.approximation_epochs,
    )
    step_by_step = {"approximation": "incremental", "bits": settings.bits}
    jobs = [dense]
    for mode in modes:
        if "proposed" in schemes:
            pruned = scheme(
                name=f"pruned-{mode}", epochs=settings.surgery_epochs, surgery=mode
            )
            proposed = scheme(
                name=f"proposed-{mode}",
                epochs=settings.approximation_epochs,
                **{**step_by_step, "source": pruned.key},
            )
            jobs += [pruned, proposed]
        if "baseline" in schemes:
            at_once = {"approximation": "at once", "bits": settings.bits}
            jobs.append(scheme(name=f"baseline-{mode}", surgery=mode, **at_once))
    if "pruning" in schemes:
        jobs.append(scheme(name="pruning", surgery="pruning_only", bits=ACCURATE))
    if "incremental" in schemes:
        jobs.append(scheme(name="incremental", **step_by_step))
    return jobs


def train(settings, data, experiment, job):
    """Trains one scheme; returns its record and its model."""
    model = prepare(job, settings, data, experiment)
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
    model, history = fit(
        experiment,
        job,
        model,
        batches,
        callbacks=callbacks(job, settings, steps),
        validation_data=data.pipeline("validation", batch_size=512),
    )
    evaluated = model
    if job.bits and not job.approximation:
        evaluated = tfc.layers.wrap_kernels(model, approximate(job.bits, settings))
    accuracies = {}
    for split in ("validation", "test"):
        batches = data.pipeline(split, batch_size=512)
        logs = evaluated.evaluate(batches, verbose=0, return_dict=True)
        accuracies[f"{split}_accuracy"] = logs["accuracy"]
    cost = tfc.cost.count(evaluated)
    energy = tfc.cost.energy(cost, settings.hardware, products=settings.products)
    record = {
        **accuracies,
        "joules": energy.total,
        "sparsity": cost.sparsity,
        "macs": cost.macs,
        "effective_macs": cost.effective_macs,
        "history": history,
    }
    print(
        f"test accuracy {accuracies['test_accuracy']:.2%}, {energy.total:.4g} J modeled"
    )
    return record, {".keras": model}


def prepare(job, settings, data, experiment) -> keras.Model:
    """The model that a job starts with."""
    if job.source is None:
        return network(settings, data)
    model = load_model(experiment.path(job.source))
    if job.surgery:
        model = tfc.layers.wrap_kernels(model, tfc.layers.MaskedKernel)
    if job.approximation:
        model = tfc.layers.wrap_kernels(model, approximate(job.bits, settings))
    return model


def network(settings, data) -> keras.Model:
    if settings.network == "lenet5":
        return tfc.zoo.lenet5(
            width=settings.width, input_shape=data.input_shape, classes=data.classes
        )
    name = settings.dataset.removesuffix("2012")  # of ImageNet
    return tfc.zoo.cross_stack(
        name, settings.network, width=settings.width, classes=data.classes
    )


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
                settings.iterations,
                epochs=job.epochs - settings.settling_epochs,
                order=settings.order,
            )
        )
    return chosen


# Results -----------------------------------------------------------------------


def summarize(experiment, settings, data, report):
    """Writes the results, prints the tables, and reports on the smallest seeds."""
    records = experiment.records()
    records.sort(key=lambda r: (*place(r["name"]), r["seed"]))
    experiment.write_results(records)
    print(f"\n{figure_4(records)}\n\n{table_2(records)}", flush=True)
    if not report:
        return None
    first = first_of_each(records)
    models = {r["name"]: tfc.finalize(experiment.model(r)) for r in first}
    some = slice(SENSITIVITY_IMAGES)
    found = tfc.analysis.sensitivity(
        models["dense"],
        (data.validation.images[some], data.validation.labels[some]),
        factors=[0.0, 0.5, 0.8, 1.1, 1.3, 1.6],
    )
    print(f"\n{found}")
    points = {r["name"]: [(1e3 * r["joules"], r["test_accuracy"])] for r in first}
    energy = f"modeled energy, mJ, products of pruned weights {settings.products}"
    title = "Accuracy while training"
    return experiment.write_report(
        models,
        data,
        f"{settings.network} on {settings.dataset}: pruning and approximation",
        hardware=settings.hardware,
        products=settings.products,
        curves=[
            found.curves(),
            plot("Accuracy and energy", energy, "test accuracy", points, "Table II."),
            *learning_curves(first, "val_accuracy", title, "From the dense network."),
        ],
        heatmaps=[found.heatmap(), energies(models, settings)],
    )


def place(name):
    """Where a scheme is in the tables."""
    scheme, _, mode = name.partition("-")
    return NAMES.index(scheme), MODES.index(mode) if mode else 0


def figure_4(records) -> str:
    """Accuracy of both ways to combine the techniques, by pruning mode."""
    runs = by_name(records)

    def values(name, what):
        return (record[what] for record in runs.get(name, []))

    def accuracy(scheme):
        return lambda mode: percent(values(f"{scheme}-{mode}", "test_accuracy"))

    def macs(scheme):
        return lambda mode: mean(values(f"{scheme}-{mode}", "effective_macs"), 1e-6)

    modes = [m for m in MODES if {f"proposed-{m}", f"baseline-{m}"} & set(runs)]
    return table(
        modes,
        {
            "mode": str,
            "dense, %": lambda mode: percent(values("dense", "test_accuracy")),
            "proposed, %": accuracy("proposed"),
            "baseline, %": accuracy("baseline"),
            "proposed, million MACs": macs("proposed"),
            "baseline, million MACs": macs("baseline"),
        },
    )


def table_2(records) -> str:
    """Accuracy and modeled energy of every scheme."""
    return table(
        by_name(records).values(),
        {
            "scheme": lambda runs: runs[0]["name"],
            "seeds": len,
            "test accuracy, %": lambda runs: percent(r["test_accuracy"] for r in runs),
            "pruned, %": lambda runs: percent((r["sparsity"] for r in runs), 1),
            "energy, mJ": lambda runs: mean((r["joules"] for r in runs), 1e3, 4),
            "seconds": lambda runs: mean((r["seconds"] for r in runs), digits=0),
        },
    )


def energies(models, settings) -> tfc.report.Heatmap:
    """Energy of the layers that multiply."""
    shares = {
        name: tfc.analysis.layer_energy(
            model, settings.hardware, products=settings.products
        )
        for name, model in models.items()
    }
    layers = list(shares["dense"])
    return tfc.report.Heatmap(
        title="Energy of the layers",
        x_label="layer",
        y_label="scheme",
        value_label="modeled energy, mJ",
        columns=layers,
        rows=list(shares),
        values=[[1e3 * own.get(n, 0.0) for n in layers] for own in shares.values()],
        description=f"Products with pruned weights are {settings.products}.",
    )


if __name__ == "__main__":
    launch(main)
