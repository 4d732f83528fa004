"""Networks whose layers are as wide as their activations are dense.

Trains one network in the ways that "Activation Density driven Efficient Pruning in
Training" (Foldy-Porto et al., 2020) is about, and three controls:

    dense            as it is
    density-random   Algorithm 1: trained until the density of its activations has
                     settled, resized by the density of each layer, initialized
                     anew, and so on
    density-inherit  the same, but resized networks keep weights of the former
    uniform          the dense network with all layers narrowed alike, initialized
                     anew, to the operations of the first `density` variant that
                     ends narrower (where none does: of the last network it tried)
    uniform-inherit  the first network of `density-inherit`, narrowed alike to the
                     operations of its last, with the weights that it keeps
    shallow          the first 8 convolutions of VGG-19, as wide as in the first
                     narrower network of a `density` variant, initialized anew
                     (section III-B)

    python recipes/activation_density.py                        # digits, two minutes
    python recipes/activation_density.py --preset=paper --variants=density-random \\
        --variants=shallow
    python recipes/activation_density.py --preset=paper --total=activations \\
        --optimizer=adam --learning_rate=1e-3 --out=out/adam
    python recipes/activation_density.py --preset=paper --width=0.1875 --epochs=30 \\
        --model=resnet18 --round_epochs=10 --decay_at=15,23
    python recipes/activation_density.py --preset=paper --model=resnet18 \\
        --dataset=folder:tiny-imagenet --epochs=60 --decay_at=30,45

With random weights, each convolution of the residual network gets its own width, as in
the paper; with inherited weights, coupled layers share one. The same command resumes a
run that was interrupted; further --seeds and --variants add to the results in --out.

Prints Tables I, II and IV in the paper's columns: parameters and operations of
convolutions, without the 1×1 ones on shortcuts. Results in --out: report.html and
report.json with the paper's Figures 1 to 5, results.json with every run, and the
trained models.
"""

import bisect
import dataclasses
import functools
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
from _experiment import (
    Experiment,
    Job,
    by_name,
    first_of_each,
    mean,
    percent,
    plot,
    table,
)
from _settings import FLAGS, chosen, common, define_flags, flags, launch, setting
from _training import Progress, fit, sgd

import tfcompress as tfc


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a comparison is about; runs with the same settings are comparable."""

    dataset: str = setting('"digits", the name of a TFDS set, or "folder:PATH".')
    model: str = setting("Network.", choices=["vgg19", "resnet18"])
    epochs: int = setting("Epochs of the dense and the final networks.", least=1)
    round_epochs: int = setting(
        "Epochs after which a network is resized even if its density has not settled.",
        least=1,
    )
    max_rounds: int = setting("How often networks are resized at most.", 2, least=1)
    patience: int = setting(
        "Epochs in a row in which the density must not change.", 2, least=1
    )
    min_delta: float = setting("From which on a difference counts.", 1e-3, least=0)
    total: str = setting(
        "What settles: the density of all activations, or the mean over layers.",
        "layers",
        choices=["activations", "layers"],
    )
    width: float = setting("Factor on the number of filters.", 1.0, least=0)
    limit: int | None = setting("Number of training images.", None, least=1)
    batch_size: int = setting("Images in a batch.", 128, least=1)
    optimizer: str = setting(
        "SGD with momentum, whose rate falls in steps, or Adam along a cosine.",
        "sgd",
        choices=["sgd", "adam"],
    )
    learning_rate: float = setting("Initial rate.", 0.1, least=0)
    decay_at: tuple[int, ...] = setting("Epochs at which SGD's rate falls.", ())
    momentum: float = setting("Of SGD.", 0.9, least=0, most=0.999)
    weight_decay: float = setting("Of SGD, inside momentum.", 5e-4, least=0)
    augment: str | None = setting(
        "Augmentation.", "standard", choices=["none", "shift", "standard"]
    )


PRESETS = {
    "quick": Settings(
        dataset="digits",
        model="resnet18",
        width=0.25,
        epochs=16,
        round_epochs=6,
        max_rounds=1,
        total="activations",
        min_delta=5e-3,
        batch_size=64,
        decay_at=(9, 13),
        augment="shift",
    ),
    # The paper gives its training by citing others: SGD at 0.1 with steps.
    "paper": Settings(
        dataset="cifar10",
        model="vgg19",
        epochs=210,
        round_epochs=100,
        decay_at=(105, 158),
    ),
}
VARIANTS = (
    "dense",
    "density-random",
    "density-inherit",
    "uniform",
    "uniform-inherit",
    "shallow",
)
# The paper leaves out the convolutions behind these, whose densities rise again.
SHALLOW = 8

define_flags(PRESETS, "out/activation_density")
flags.DEFINE_multi_enum(
    "variants",
    ["dense", "density-inherit", "uniform-inherit"],
    VARIANTS,
    "What to train.",
)


def main():
    run(chosen(PRESETS), variants=FLAGS.variants, **common())


def run(settings, *, variants, seeds, out, data_dir=None, report=True):
    """Trains what is not trained yet, and reports on all that is."""
    jobs = [
        Job(name=variant, seed=seed, epochs=settings.epochs)
        for seed in seeds
        for variant in VARIANTS
        if variant in variants
    ]
    if "shallow" in variants and settings.model != "vgg19":
        raise ValueError(
            "Invalid value for argument `variants`. Expected 'shallow' with vgg19 "
            f"only. Received: model={settings.model!r}"
        )
    with Experiment(out, settings) as experiment:
        for job in jobs:
            if not experiment.done(job):
                check_order(experiment, job, variants)
        data = tfc.data.load(
            settings.dataset, data_dir=data_dir, seed=0, limit=settings.limit
        )
        network(settings, data, 1)  # refuses what does not fit before any work
        experiment.run(jobs, functools.partial(train, settings, data, experiment))
        return summarize(experiment, settings, data, report)


# Training ----------------------------------------------------------------------


def train(settings, data, experiment, job):
    """Trains one variant; returns its record and its networks."""
    batches = data.pipeline(
        "train",
        batch_size=settings.batch_size,
        augment=settings.augment,
        seed=job.seed,
    )
    validation = data.pipeline("validation", batch_size=512)
    build = functools.partial(network, settings, data, len(batches))
    if job.name.startswith("density"):
        result = sized(settings, experiment, job, build, batches, validation)
        models, stop = [net.model for net in result.nets], result.stop
        final = result.final
        nets = [
            {
                "saturation": net.saturation,
                "trend": net.trend,
                "epochs": net.epochs,
                "density": net.curve,
                "densities": net.densities,
                "history": net.history,
            }
            for net in result.nets
        ]
    else:
        stop, final = "", 0
        model, history = fit(
            experiment,
            job,
            start(settings, experiment, job, build),
            batches,
            callbacks=[
                tfc.callbacks.ActivationDensity(stop=False, total=settings.total)
            ],
            shrink_every=1,
            validation_data=validation,
        )
        layers = {
            name.partition("/")[2]: values
            for name, values in history.items()
            if name.startswith("density/")
        }
        models = [model]
        nets = [
            {
                "epochs": settings.epochs,
                "density": history["density"],
                "densities": layers,
                "history": {n: v for n, v in history.items() if "/" not in n},
            }
        ]
    for net, model in zip(nets, models, strict=True):
        weights, operations = convolutions(model)
        net |= {
            "widths": channels(model),
            "weights": weights,
            "ops": operations,
            "macs": tfc.cost.count(model).macs,
            "parameters": model.count_params(),
            "val_accuracy": net["history"]["val_accuracy"][-1],
        }
    test = data.pipeline("test", batch_size=512)
    accuracy = models[final].evaluate(test, verbose=0, return_dict=True)["accuracy"]
    print(f"test accuracy {accuracy:.2%}")
    record = {"test_accuracy": accuracy, "nets": nets, "stop": stop, "final": final}
    return record, {f"-net{i}.keras": model for i, model in enumerate(models)}


def sized(settings, experiment, job, build, batches, validation):
    """Algorithm 1."""
    inherit = job.name == "density-inherit"
    dense = build()
    names = sized_layers(dense)

    def resized(widths):
        return build([widths[name] for name in names]) if widths else dense

    result = tfc.training.resize_by_density(
        dense if inherit else resized,
        batches,
        epochs=settings.epochs,
        max_rounds=settings.max_rounds,
        round_epochs=settings.round_epochs,
        weights="inherit" if inherit else "random",
        patience=settings.patience,
        min_delta=settings.min_delta,
        total=settings.total,
        layers=names,
        seed=job.seed,
        callbacks=[Progress()],
        backup_dir=experiment.backup(job),
        keep_backup=True,  # the experiment deletes it when the result is complete
        validation_data=validation,
        shuffle=False,  # the pipeline does
        verbose=0,
    )
    print(result)
    return result


def start(settings, experiment, job, build):
    """The network that a variant without rounds trains."""
    if job.name == "dense":
        return build()
    record, last = sized_record(experiment, job)
    if job.name == "shallow":
        return build(record["nets"][min(1, last)]["widths"][:SHALLOW])
    full = channels(build())
    wanted = record["nets"][last]["ops"]

    def narrowed(step):
        return [max(1, round(step / 1000 * width)) for width in full]

    # The narrowest with at least as many operations: the comparison favors it.
    steps = range(1, 1001)
    found = bisect.bisect_left(
        steps, wanted, key=lambda step: convolutions(build(narrowed(step)))[1]
    )
    widths = narrowed(steps[min(found, len(steps) - 1)])
    if job.name == "uniform":
        return build(widths)
    model = tfc.structure.resize(
        experiment.model(record, 0),
        dict(zip(sized_layers(build()), widths, strict=True)),
        weights="inherit",
    )
    fresh = build(widths)
    model.compile(fresh.optimizer, fresh.loss, metrics=["accuracy"])
    return model


def sources(job) -> list[str]:
    """The variants whose size a control takes: the first that is there."""
    if job.name == "uniform-inherit":
        return ["density-inherit"]
    if job.name in ("uniform", "shallow"):
        return ["density-random", "density-inherit"]
    return []


def check_order(experiment, job, variants):
    wanted = sources(job)
    there = [experiment.done(Job(name=name, seed=job.seed)) for name in wanted]
    if wanted and not any(there) and not set(wanted) & set(variants):
        raise ValueError(
            f"Invalid value for argument `variants`. Expected {' or '.join(wanted)} "
            f"beside {job.name!r}, or in the folder of the results."
        )


def sized_record(experiment, job):
    """The record of a control's source, and which of its networks is the measure.

    Where Algorithm 1 keeps its first network, because the density of the next one
    rises, a control of that size would be the dense network again. Then the network
    that it tried last is the measure.
    """
    keys = [Job(name=name, seed=job.seed).key for name in sources(job)]
    records = {record["key"]: record for record in experiment.records()}
    found = [records[key] for key in keys if key in records]
    record = next((r for r in found if r["final"] > 0), found[0])
    return record, record["final"] or len(record["nets"]) - 1


def network(settings, data, steps, widths=None) -> keras.Model:
    """A compiled network of the zoo; VGG-19 with as many layers as there are widths."""
    options = {"width": settings.width} if widths is None else {"widths": widths}
    if settings.model == "vgg19" and widths is not None:
        options["depth"] = len(widths)
    model = getattr(tfc.zoo, settings.model)(
        input_shape=data.input_shape, classes=data.classes, **options
    )
    if settings.optimizer == "sgd":
        optimizer = sgd(settings, steps)
    else:
        optimizer = keras.optimizers.Adam(
            keras.optimizers.schedules.CosineDecay(
                settings.learning_rate, settings.epochs * steps
            )
        )
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def sized_layers(model) -> list[str]:
    """The convolutions that the paper sizes, in the order of the zoo's `widths`."""
    names = [x.name for x in model.layers if isinstance(x, keras.layers.Conv2D)]
    return [name for name in names if "shortcut" not in name]


def channels(model) -> list[int]:
    return [model.get_layer(name).filters for name in sized_layers(model)]


def convolutions(model) -> tuple[int, int]:
    """Weights and MACs as the paper counts them."""
    rows = [
        row
        for row in tfc.cost.count(model).rows
        if row.kind == "Conv2D" and "shortcut" not in row.name
    ]
    return sum(row.weights for row in rows), sum(row.macs for row in rows)


# Results -----------------------------------------------------------------------


def summarize(experiment, settings, data, report):
    records = experiment.records()
    records.sort(key=lambda r: (VARIANTS.index(r["name"]), r["seed"]))
    experiment.write_results(records)
    tables = (table_1(records), table_2(records, settings), summary(records))
    print("", *tables, sep="\n\n", flush=True)
    if not report:
        return None
    first = first_of_each(records)
    models = {
        label(record, index): experiment.model(record, index)
        for record in first
        for index in range(len(record["nets"]))
        # The first network of Algorithm 1 is the dense one, trained less.
        if index or not record["name"].startswith("density")
    }
    maps = [
        tfc.report.activation_map(
            model,
            data.test.images[0],
            title=f"Active filters, first test image: {name}",
        )
        for name, model in models.items()
    ]
    return experiment.write_report(
        models,
        data,
        f"{settings.model} on {settings.dataset}: sized by activation density",
        calibration=data.train.images,
        curves=figures(records, first),
        heatmaps=[*layer_heatmaps(first), *maps],
    )


def final_net(record):
    return record["nets"][record["final"]]


def label(record, index) -> str:
    name = record["name"]
    return f"{name} net {index}" if name.startswith("density") else name


def reductions(record) -> list[tuple[float, float]]:
    """Parameter and OPS reduction of each network against the first one."""
    first = record["nets"][0]
    return [
        (first["weights"] / net["weights"], first["ops"] / net["ops"])
        for net in record["nets"]
    ]


def complexities(record) -> tuple[float, float]:
    """Training complexity (Table II) and training memory complexity (Table IV)."""
    parameters, operations = zip(*reductions(record), strict=True)
    epochs = [net["epochs"] for net in record["nets"]]
    return (
        tfc.cost.training_complexity(operations, epochs),
        tfc.cost.training_memory_complexity(parameters, epochs),
    )


def table_1(records) -> str:
    """Every network of Algorithm 1, in the columns of Table I."""
    nets = [
        (record, index, net, *reduction)
        for record in records
        if record["name"].startswith("density")
        for index, (net, reduction) in enumerate(
            zip(record["nets"], reductions(record), strict=True)
        )
    ]
    return table(
        nets,
        {
            "run": lambda row: f"{row[0]['name']}, seed {row[0]['seed']}",
            "net": lambda row: row[1],
            "configuration": lambda row: row[2]["widths"],
            "validation accuracy, %": lambda row: percent([row[2]["val_accuracy"]]),
            "parameters reduction": lambda row: f"{row[3]:.1f}×",
            "OPS reduction": lambda row: f"{row[4]:.1f}×",
            "epochs": lambda row: row[2]["epochs"],
            "AE": lambda row: f"{row[2]['density'][-1]:.3f}, {row[2]['trend']}",
        },
    )


def table_2(records, settings) -> str:
    """Training complexity (Table II) and training memory complexity (Table IV)."""
    dense = next((r for r in records if r["name"] == "dense"), None)
    rows = []
    for record in records:
        if record["name"].startswith("density"):
            small = reductions(record)[record["final"]]
            spent = complexities(record)
        elif dense is not None:
            net, first = record["nets"][0], dense["nets"][0]
            small = first["weights"] / net["weights"], first["ops"] / net["ops"]
            # Also those of the network whose weights it has.
            before = [
                r["nets"][0]["epochs"]
                for r in records
                if record["name"] == "uniform-inherit"
                and (r["name"], r["seed"]) == ("density-inherit", record["seed"])
            ]
            spent = tuple(
                sum(before) + net["epochs"] / ratio for ratio in reversed(small)
            )
        else:
            continue
        rows.append((record, small, [(n, n / settings.epochs) for n in spent]))
    return table(
        rows,
        {
            "run": lambda row: f"{row[0]['name']}, seed {row[0]['seed']}",
            "training complexity": lambda row: "{:.1f} ({:.2f}×)".format(*row[2][0]),
            "training memory complexity": lambda row: "{:.1f} ({:.2f}×)".format(
                *row[2][1]
            ),
            "test accuracy, %": lambda row: percent([row[0]["test_accuracy"]]),
            "parameters reduction": lambda row: f"{row[1][0]:.1f}×",
            "OPS reduction": lambda row: f"{row[1][1]:.1f}×",
        },
    )


def summary(records) -> str:
    """Mean and deviation over the seeds of each variant."""

    def last(what):
        return lambda runs: mean((final_net(r)[what] for r in runs), digits=0)

    return table(
        by_name(records).values(),
        {
            "variant": lambda runs: runs[0]["name"],
            "seeds": len,
            "test accuracy, %": lambda runs: percent(r["test_accuracy"] for r in runs),
            "parameters": last("parameters"),
            "MACs": last("macs"),
            "seconds": lambda runs: mean((r["seconds"] for r in runs), digits=0),
        },
    )


def figures(records, first) -> list[tfc.report.Curves]:
    """Figures 1, 2 and 4 of the paper."""
    curves = []
    for record in first:
        density: dict[str, list] = {}
        accuracy: dict[str, list] = {}
        for index, net in enumerate(record["nets"]):
            density[f"net {index}"] = list(enumerate(net["density"], start=1))
            if net.get("saturation"):
                point = (net["saturation"], net["density"][net["saturation"] - 1])
                density[f"net {index} settled"] = [point]
            for kind, name in (
                ("accuracy", "training"),
                ("val_accuracy", "validation"),
            ):
                values = enumerate(net["history"][kind], start=1)
                accuracy[f"net {index}, {name}"] = list(values)
        note = (
            "Fraction of activations that are not zero. Points: where it had settled."
        )
        curves += [
            plot(f"Density over epochs: {record['name']}", "epoch", "density", density,
                 f"{note} As Figure 1."),
            plot(f"Accuracy over epochs: {record['name']}", "epoch", "accuracy",
                 accuracy, "As Figure 2, left."),
        ]  # fmt: skip
    dense = [r for r in records if r["name"] == "dense"]
    if dense:
        operations = dense[0]["nets"][0]["ops"]
        frontier: dict[str, list] = {}
        for record in records:
            point = (operations / final_net(record)["ops"], record["test_accuracy"])
            frontier.setdefault(record["name"], []).append(point)
        series = {name: sorted(points) for name, points in frontier.items()}
        note = "Networks that were trained for all epochs. As Figure 4."
        title = "Accuracy over OPS reduction"
        curves.append(plot(title, "OPS reduction", "test accuracy", series, note))
    return curves


def layer_heatmaps(records) -> list[tfc.report.Heatmap]:
    """Figures 2 and 3 of the paper."""
    return [
        tfc.report.Heatmap(
            title=f"Activation density of the layers: {label(record, index)}",
            x_label="epoch",
            y_label="layer",
            value_label="fraction of activations that are not zero",
            columns=[str(epoch) for epoch in range(1, len(net["density"]) + 1)],
            rows=list(net["densities"]),
            values=list(net["densities"].values()),
            description="As Figures 2 and 3 of the paper.",
        )
        for record in records
        for index, net in enumerate(record["nets"])
    ]


if __name__ == "__main__":
    launch(main)
