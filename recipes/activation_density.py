"""Networks whose layers are as wide as their activations are dense.

Trains one network in the ways that "Activation Density driven Efficient Pruning in
Training" (Foldy-Porto et al., 2020) is about:

    dense            as it is
    density-random   Algorithm 1: trained until the density of its activations has
                     settled, resized by the density of each layer, initialised
                     anew, and so on
    density-inherit  the same, but resized networks keep weights of the former
    uniform          the dense network with all layers narrowed alike, to the
                     operations of the first `density` variant

    python recipes/activation_density.py
    python recipes/activation_density.py --preset=paper --width=0.25 --limit=20000 \\
        --epochs=20 --round_epochs=5
    python recipes/activation_density.py --preset=paper --model=resnet18 \\
        --dataset=folder:tiny-imagenet --epochs=60

The residual network gets a width for each convolution, as in the paper, where
weights are random; where they are inherited, coupled layers share one. A run that
is interrupted goes on where it was when the same command is given again; further
--seeds and --variants add to what is there.

Prints Tables I, II and IV in the paper's columns: parameters and operations of
convolutions, without the 1×1 ones on shortcuts. Results in --out: report.html and
report.json with the paper's Figures 1 to 5, results.json with every run, and the
trained models.
"""

import dataclasses
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
        dataset: "digits", the name of a TFDS set, or "folder:PATH".
        model: network of `tfcompress.zoo`.
        width: factor on its number of filters.
        limit: number of training images; `None` for all.
        epochs: epochs of the dense, the uniform and the final network.
        max_rounds: how often networks are resized at most.
        round_epochs: epochs after which a network is resized even if its density
            has not settled; `None` for `epochs`.
        patience: epochs in a row in which the density must not change.
        min_delta: the difference from which on a change counts.
        batch_size: images in a batch.
        learning_rate: initial rate of Adam, which decays along a cosine to 0.
        augment: as for `tfcompress.data.Dataset.pipeline`.
    """

    dataset: str
    model: str
    width: float
    limit: int | None
    epochs: int
    max_rounds: int
    round_epochs: int | None
    patience: int
    min_delta: float
    batch_size: int
    learning_rate: float
    augment: str | None


PRESETS = {
    "quick": Settings(
        dataset="digits",
        model="resnet18",
        width=0.25,
        limit=None,
        epochs=16,
        max_rounds=2,
        round_epochs=6,
        patience=2,
        min_delta=5e-3,
        batch_size=64,
        learning_rate=2e-3,
        augment="shift",
    ),
    "paper": Settings(
        dataset="cifar10",
        model="vgg19",
        width=1.0,
        limit=None,
        epochs=210,
        max_rounds=2,
        round_epochs=100,
        patience=2,
        min_delta=1e-3,
        batch_size=64,
        learning_rate=1e-3,
        augment="standard",
    ),
}
VARIANTS = ("dense", "density-random", "density-inherit", "uniform")
# The convolutions that `widths` of the zoo's networks stands for.
CONVOLUTIONS = {
    "vgg19": [
        f"conv{block}_{index}"
        for block, depth in enumerate((2, 2, 4, 4, 4), start=1)
        for index in range(1, depth + 1)
    ],
    "resnet18": [
        "conv1",
        *(
            f"conv{stage}_{block}_{index}"
            for stage in range(1, 5)
            for block in (1, 2)
            for index in (1, 2)
        ),
    ],
}

FLAGS = flags.FLAGS
flags.DEFINE_enum("preset", "quick", sorted(PRESETS), "Where the settings come from.")
flags.DEFINE_multi_enum(
    "variants", ["dense", "density-random", "uniform"], VARIANTS, "What to train."
)
flags.DEFINE_list("seeds", ["0"], "One training of each variant for each seed.")
flags.DEFINE_string("dataset", None, "Overrides the preset.")
flags.DEFINE_enum("model", None, sorted(CONVOLUTIONS), "Overrides the preset.")
flags.DEFINE_float("width", None, "Overrides the preset.", lower_bound=0.0)
flags.DEFINE_integer("limit", None, "Overrides the preset.", lower_bound=1)
flags.DEFINE_integer("epochs", None, "Overrides the preset.", lower_bound=1)
flags.DEFINE_integer("max_rounds", None, "Overrides the preset.", lower_bound=1)
flags.DEFINE_integer("round_epochs", None, "Overrides the preset.", lower_bound=1)
flags.DEFINE_integer("patience", None, "Overrides the preset.", lower_bound=1)
flags.DEFINE_float("min_delta", None, "Overrides the preset.", lower_bound=0.0)
flags.DEFINE_integer("batch_size", None, "Overrides the preset.", lower_bound=1)
flags.DEFINE_string("out", "out/activation_density", "Folder for the results.")
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
        seeds=[int(seed) for seed in FLAGS.seeds],
        out=FLAGS.out,
        data_dir=FLAGS.data_dir,
    )
    print(f"\n{report}\n\nResults are in {Path(FLAGS.out).resolve()}")


def run(settings, *, variants, seeds, out, data_dir=None):
    """Trains what is not trained yet, and reports on all that is."""
    folder = open_folder(out, settings)
    data = tfc.data.load(
        settings.dataset, data_dir=data_dir, seed=0, limit=settings.limit
    )
    jobs = [(v, seed) for seed in seeds for v in VARIANTS if v in variants]
    for number, (variant, seed) in enumerate(jobs, start=1):
        print(f"\n[{number}/{len(jobs)}] {variant}, seed {seed}", flush=True)
        if (folder / f"{variant}-seed{seed}.json").exists():
            print("is there already")
        else:
            train(variant, seed, settings, data, folder)
    return write_report(settings, data, folder)


# Trainings ---------------------------------------------------------------------


def train(variant, seed, settings, data, folder):
    """Trains one variant, and writes its networks and its record."""
    keras.utils.set_random_seed(seed)
    key = f"{variant}-seed{seed}"
    batches = data.pipeline(
        "train", batch_size=settings.batch_size, augment=settings.augment, seed=seed
    )
    arguments = {
        "epochs": settings.epochs,
        "validation_data": data.pipeline("validation", batch_size=512),
        "backup_dir": folder / f"{key}.backup",
        "shuffle": False,  # the pipeline does
        "verbose": 1 if sys.stdout.isatty() else 2,
    }
    start = time.perf_counter()
    if variant.startswith("density"):
        nets, stop = sized(variant, seed, settings, data, batches, arguments, folder)
    else:
        widths = None if variant == "dense" else uniform(settings, data, folder, seed)
        model = tfc.training.fit_shrinking(
            network(settings, data, len(batches), widths),
            batches,
            callbacks=[tfc.callbacks.ActivationDensity(stop=False)],
            **arguments,
        )
        save_model(model, folder / f"{key}-net0.keras")
        nets, stop = [record_of(model, settings)], ""
    model = keras.saving.load_model(folder / f"{key}-net{len(nets) - 1}.keras")
    test = data.pipeline("test", batch_size=512)
    accuracy = model.evaluate(test, verbose=0, return_dict=True)["accuracy"]
    record = {
        "variant": variant,
        "seed": seed,
        "test_accuracy": accuracy,
        "nets": nets,
        "stop": stop,
        # Of this process: less than the whole if the run was interrupted.
        "seconds": time.perf_counter() - start,
    }
    write_atomic(folder / f"{key}.json", json.dumps(record, default=float))
    print(f"test accuracy {accuracy:.2%}")


def sized(variant, seed, settings, data, batches, arguments, folder):
    """Algorithm 1: the records of its networks, and why it stopped."""

    def build(widths):
        listed = [widths[name] for name in CONVOLUTIONS[settings.model]] or None
        return network(settings, data, len(batches), listed)

    inherit = variant == "density-inherit"
    dense = network(settings, data, len(batches))
    result = tfc.training.resize_by_density(
        dense if inherit else lambda widths: build(widths) if widths else dense,
        batches,
        max_rounds=settings.max_rounds,
        round_epochs=settings.round_epochs,
        weights="inherit" if inherit else "random",
        patience=settings.patience,
        min_delta=settings.min_delta,
        layers=CONVOLUTIONS[settings.model],
        seed=seed,
        **arguments,
    )
    print(result)
    records = []
    for index, net in enumerate(result.nets):
        save_model(net.model, folder / f"{variant}-seed{seed}-net{index}.keras")
        records.append(
            {
                **record_of(net.model, settings),
                "saturation": net.saturation,
                "trend": net.trend,
                "val_accuracy": net.accuracy,
                "density": net.curve,
                "densities": net.densities,
                "epochs": net.epochs,
            }
        )
    return records, result.stop


def network(settings, data, steps, widths=None) -> keras.Model:
    """A compiled network of the zoo."""
    options = {"width": settings.width} if widths is None else {"widths": widths}
    model = getattr(tfc.zoo, settings.model)(
        input_shape=data.input_shape, classes=data.classes, **options
    )
    decay = keras.optimizers.schedules.CosineDecay(
        settings.learning_rate, settings.epochs * steps
    )
    model.compile(
        keras.optimizers.Adam(decay),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


def uniform(settings, data, folder, seed):
    """Widths of the network that is narrowed alike, to the same operations."""
    paths = [folder / f"density-{w}-seed{seed}.json" for w in ("random", "inherit")]
    path = next((path for path in paths if path.exists()), None)
    if path is None:
        raise ValueError(
            "Invalid value for argument `variants`. Expected a density variant beside "
            "'uniform', or one in the folder of the results."
        )
    wanted = json.loads(path.read_text())["nets"][-1]["ops"]
    full = channels(network(settings, data, 1), settings)
    # The narrowest with at least as many operations: the comparison favours it.
    for factor in (step / 1000 for step in range(1, 1001)):
        widths = [max(1, round(factor * width)) for width in full]
        if convolutions(network(settings, data, 1, widths))[1] >= wanted:
            return widths
    return full


def channels(model, settings) -> list[int]:
    return [model.get_layer(name).filters for name in CONVOLUTIONS[settings.model]]


def convolutions(model) -> tuple[int, int]:
    """Weights and MACs as the paper counts them."""
    rows = [
        row
        for row in tfc.cost.count(model).rows
        if row.kind == "Conv2D" and "shortcut" not in row.name
    ]
    return sum(row.weights for row in rows), sum(row.macs for row in rows)


def record_of(model, settings) -> dict:
    weights, operations = convolutions(model)
    history = model.history.history if model.history else {}
    return {
        "widths": channels(model, settings),
        "weights": weights,
        "ops": operations,
        "macs": tfc.cost.count(model).macs,
        "parameters": model.count_params(),
        "epochs": settings.epochs,
        "density": history.get("density", []),
        "densities": {
            name.partition("/")[2]: values
            for name, values in history.items()
            if name.startswith("density/")
        },
        "val_accuracy": history["val_accuracy"][-1] if history else None,
    }


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
    records = [
        json.loads(path.read_text())
        for variant in VARIANTS
        for path in sorted(folder.glob(f"{variant}-seed*.json"))
    ]
    write_atomic(folder / "results.json", json.dumps(records, indent=1))
    print(f"\n{table_1(records)}\n\n{table_2(records, settings)}\n\n{summary(records)}")
    seed = min(record["seed"] for record in records)
    first = [record for record in records if record["seed"] == seed]
    models = {
        label(record, index): keras.saving.load_model(
            folder / f"{record['variant']}-seed{seed}-net{index}.keras"
        )
        for record in first
        for index in range(len(record["nets"]))
        # The first network of Algorithm 1 is the dense one, trained less.
        if index or not record["variant"].startswith("density")
    }
    image = data.test.images[0]
    report = tfc.report.compare(
        models,
        data=(data.test.images, data.test.labels),
        calibration=data.train.images[:500],
        curves=figures(records, first),
        heatmaps=[
            *layer_heatmaps(first),
            *(
                tfc.report.activation_map(
                    model, image, title=f"Active filters, first test image: {name}"
                )
                for name, model in models.items()
            ),
        ],
        title=f"{settings.model} on {settings.dataset}: sized by activation density",
        provenance={**dataclasses.asdict(settings), "seed": seed},
    )
    report.save(folder / "report.json")
    report.save(folder / "report.html")
    return report


def label(record, index) -> str:
    variant = record["variant"]
    return f"{variant} net {index}" if variant.startswith("density") else variant


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
    lines = [
        "| run | net | configuration | validation accuracy, % | parameters reduction "
        "| OPS reduction | epochs | AE |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for record in records:
        if not record["variant"].startswith("density"):
            continue
        for index, (net, (parameters, operations)) in enumerate(
            zip(record["nets"], reductions(record), strict=True)
        ):
            lines.append(
                f"| {record['variant']}, seed {record['seed']} | {index} "
                f"| {net['widths']} | {100 * net['val_accuracy']:.2f} "
                f"| {parameters:.1f}× | {operations:.1f}× | {net['epochs']} "
                f"| {net['density'][-1]:.3f}, {net['trend']} |"
            )
    return "\n".join(lines)


def table_2(records, settings) -> str:
    """Training complexity (Table II) and training memory complexity (Table IV)."""
    lines = [
        "| run | training complexity | training memory complexity | test accuracy, % "
        "| parameters reduction | OPS reduction |",
        "|---|---|---|---|---|---|",
    ]
    dense = next((r for r in records if r["variant"] == "dense"), None)
    for record in records:
        if record["variant"].startswith("density"):
            operations, parameters = complexities(record)
            small = reductions(record)[-1]
        elif dense is not None:
            net, first = record["nets"][0], dense["nets"][0]
            small = first["weights"] / net["weights"], first["ops"] / net["ops"]
            parameters, operations = (net["epochs"] / ratio for ratio in small)
        else:
            continue
        lines.append(
            f"| {record['variant']}, seed {record['seed']} "
            f"| {operations:.1f} ({operations / settings.epochs:.2f}×) "
            f"| {parameters:.1f} ({parameters / settings.epochs:.2f}×) "
            f"| {100 * record['test_accuracy']:.2f} "
            f"| {small[0]:.1f}× | {small[1]:.1f}× |"
        )
    return "\n".join(lines)


def summary(records) -> str:
    """Mean and spread over the seeds of each variant."""
    lines = [
        "| variant | seeds | test accuracy, % | parameters | MACs | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for variant in VARIANTS:
        runs = [r for r in records if r["variant"] == variant]
        if not runs:
            continue
        accuracy = [100 * r["test_accuracy"] for r in runs]
        text = f"{statistics.mean(accuracy):.2f}"
        if len(runs) > 1:
            text += f" ± {statistics.stdev(accuracy):.2f}"
        last = [r["nets"][-1] for r in runs]
        lines.append(
            f"| {variant} | {len(runs)} | {text} "
            f"| {statistics.mean(net['parameters'] for net in last):,.0f} "
            f"| {statistics.mean(net['macs'] for net in last):,.0f} "
            f"| {statistics.mean(r['seconds'] for r in runs):.0f} |"
        )
    return "\n".join(lines)


def figures(records, first) -> list[tfc.report.Curves]:
    """Figures 1 and 4 of the paper."""
    curves = []
    for record in first:
        if not record["variant"].startswith("density"):
            continue
        series: dict[str, list] = {}
        for index, net in enumerate(record["nets"]):
            series[f"net {index}"] = list(enumerate(net["density"], start=1))
            saturation = net["saturation"]
            if saturation:
                point = (saturation, net["density"][saturation - 1])
                series[f"net {index} settled"] = [point]
        curves.append(
            tfc.report.Curves(
                title=f"Activation density: {record['variant']}",
                x_label="epoch",
                y_label="density",
                series=series,
                description="Fraction of activations that are not zero. Points: where "
                "it had settled. As Figure 1 of the paper.",
            )
        )
    dense = [r for r in records if r["variant"] == "dense"]
    if dense:
        operations = dense[0]["nets"][0]["ops"]
        frontier: dict[str, list] = {}
        for record in records:
            point = (operations / record["nets"][-1]["ops"], record["test_accuracy"])
            frontier.setdefault(record["variant"], []).append(point)
        curves.append(
            tfc.report.Curves(
                title="Accuracy over OPS reduction",
                x_label="OPS reduction",
                y_label="test accuracy",
                series={name: sorted(points) for name, points in frontier.items()},
                description="Networks that were trained for all epochs. As Figure 4.",
            )
        )
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
    app.run(main)
