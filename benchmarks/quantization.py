"""What quantization costs, before and after training for it.

    python benchmarks/quantization.py --part=train --network=lenet5 [--data_dir=…]
    python benchmarks/quantization.py --part=judge --network=lenet5 [--data_dir=…]
    python benchmarks/quantization.py --part=tfmot [--data_dir=…]
    python benchmarks/quantization.py --part=sizes [--data_dir=…]
    python benchmarks/quantization.py --part=agreement [--networks=lenet5,MobileNetV2]

`train` trains a network in float, and from there with fake quantization of 8, 4 and
2 bits for the weights, once for each of `--qat_rates`, if they are given. It needs no
TensorFlow: with `KERAS_BACKEND=jax` and `--npz` (arrays x_train, y_train, x_test,
y_test) it runs on a machine that has JAX alone. It leaves a `.keras` file and a `.json`
of accuracies for each training run in `--out`.

`judge` needs TensorFlow. It makes files of these models: of the float model, after
quantization with 8 and 4 bits; and for each number of bits of the model trained with
fake quantization that has the best validation accuracy. It prints the test accuracy of
the Keras models and of the files. For `mobilenet` it adds a model with one step for
each depthwise kernel instead of one for each channel.

`tfmot` trains LeNet-5 with 8 bits with TensorFlow's toolkit, from the same weights in
float and equally long, in a process of its own. `sizes` prints the sizes of a LeNet-5
that `train` has pruned to 90 % zeros, clustered to 16 values and trained with 8 bits.

`agreement` compares networks with their files on `--samples` samples: decisions,
outputs, and every layer on the inputs that it has in the file. The networks have random
weights and statistics, and a last layer that distinguishes ten kinds of pictures.

Finished rows are kept in `--out`, so that the same command resumes after an
interruption.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from absl import app, flags

import tfcompress as tfc

FLAGS = flags.FLAGS
flags.DEFINE_enum(
    "part",
    None,
    ["train", "judge", "sizes", "agreement", "tfmot"],
    "What to do.",
    required=True,
)
flags.DEFINE_enum(
    "network", "lenet5", ["lenet5", "resnet20", "mobilenet"], "What to train or judge."
)
flags.DEFINE_string("data_dir", None, "Folder of prepared TensorFlow Datasets.")
flags.DEFINE_string("npz", None, "File of the data, instead of a prepared set.")
flags.DEFINE_string("out", "out/quantization", "Folder of models and finished rows.")
flags.DEFINE_integer("epochs", None, "Epochs in float; by the network if not given.")
flags.DEFINE_integer("qat_epochs", None, "Epochs with fake quantization.")
flags.DEFINE_list(
    "qat_rates",
    None,
    "Learning rates with fake quantization; one that depends on the bits if not given.",
)
flags.DEFINE_list("bits", ["8", "4", "2"], "Bits of the weights to train with.")
flags.DEFINE_integer("limit", None, "Training samples; by the network if not given.")
flags.DEFINE_integer("test_limit", None, "Test samples; all if not given.")
flags.DEFINE_integer("batch_size", 128, "Samples in a step.")
flags.DEFINE_integer("samples", 1000, "Samples of the agreement.")
flags.DEFINE_list("networks", None, "Networks of the agreement; all if not given.")
flags.DEFINE_integer("seed", 0, "Seed of everything random.")


def main(argv) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {' '.join(argv[1:])}")
    Path(FLAGS.out).mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(FLAGS.seed)
    parts = {
        "train": train,
        "judge": judge,
        "sizes": sizes,
        "agreement": agreement,
        "tfmot": tfmot,
    }
    parts[FLAGS.part]()


# Networks -------------------------------------------------------------------


@dataclass(frozen=True)
class Network:
    """A network and how it is trained.

    Attributes:
        make: function of input shape and classes.
        dataset: name of its data set.
        limit: training samples; None for all.
        augment: as in `Dataset.pipeline`.
        optimizer: function of the learning rate that returns an optimizer, in float.
        rate: the first learning rate in float, which falls by a cosine.
        epochs: epochs in float.
        qat_epochs: epochs with fake quantization.
    """

    make: Callable[[tuple[int, ...], int], keras.Model]
    dataset: str
    limit: int | None
    augment: Any
    optimizer: Callable[[Any], keras.Optimizer]
    rate: float
    epochs: int
    qat_epochs: int


def momentum(rate):
    return keras.optimizers.SGD(rate, momentum=0.9, nesterov=True, weight_decay=5e-4)


def mobilenet(shape, classes):
    """MobileNetV2 at a width of 0.35 on images that are three times as large."""
    inputs = keras.Input(shape)
    x = keras.layers.UpSampling2D(3, interpolation="bilinear")(inputs)
    core = keras.applications.MobileNetV2(
        input_tensor=x, alpha=0.35, weights=None, classes=classes
    )
    for layer in core.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.99  # 0.999 is for ImageNet's number of steps
    return keras.Model(inputs, core.outputs)


NETWORKS = {
    "lenet5": Network(
        lambda shape, classes: tfc.zoo.lenet5(input_shape=shape, classes=classes),
        dataset="mnist",
        limit=None,
        augment=None,
        optimizer=keras.optimizers.Adam,
        rate=1e-3,
        epochs=5,
        qat_epochs=2,
    ),
    "resnet20": Network(
        lambda shape, classes: tfc.zoo.resnet20(input_shape=shape, classes=classes),
        dataset="cifar10",
        limit=20_000,
        augment="standard",
        optimizer=momentum,
        rate=0.1,
        epochs=60,
        qat_epochs=15,
    ),
    "mobilenet": Network(
        mobilenet,
        dataset="cifar10",
        limit=10_000,
        augment="standard",
        optimizer=keras.optimizers.Adam,
        rate=3e-3,
        epochs=40,
        qat_epochs=10,
    ),
}

# First learning rates of Adam with fake quantization: fewer bits have more to learn.
QAT_RATES = {8: 1e-4, 4: 5e-4, 2: 1e-3}


def read(network: Network) -> tfc.data.Dataset:
    limit = FLAGS.limit or network.limit
    if FLAGS.npz:
        return tfc.data.load(f"npz:{FLAGS.npz}", limit=limit, seed=FLAGS.seed)
    return tfc.data.load(network.dataset, FLAGS.data_dir, limit=limit, seed=FLAGS.seed)


# Training -------------------------------------------------------------------


def train() -> None:
    name = FLAGS.network
    network, data = NETWORKS[name], read(NETWORKS[name])
    print(data, flush=True)
    model = in_float(name, network, data)
    for bits in map(int, FLAGS.bits):
        for rate in map(float, FLAGS.qat_rates or [QAT_RATES[bits]]):
            key = f"{name}-qat{bits}-{rate:g}"
            run = partial(with_bits, key, network, data, model, bits, rate)
            say(key, once(key, run))
    if name == "lenet5":
        key = "lenet5-few"
        say(key, once(key, lambda: few_values(key, network, data, model)))


def in_float(name: str, network: Network, data: tfc.data.Dataset) -> keras.Model:
    """The network trained in float, from the folder if it is there."""
    key = f"{name}-float"

    def run():
        model = network.make(data.input_shape, data.classes)
        epochs = FLAGS.epochs or network.epochs
        found = fit(model, network, data, epochs, network.rate, network.optimizer)
        save(model, key)
        return found

    say(key, once(key, run))
    return open_model(key)


def with_bits(
    key: str,
    network: Network,
    data: tfc.data.Dataset,
    model: keras.Model,
    bits: int,
    rate: float,
) -> dict[str, Any]:
    """Trains with fake quantization from the weights in float."""
    qat = tfc.quantization.prepare(model, weights=bits)
    qat = tfc.quantization.calibrate(qat, data.train.images[:500])
    epochs = FLAGS.qat_epochs or network.qat_epochs
    found = fit(qat, network, data, epochs, rate, keras.optimizers.Adam)
    save(qat, key)
    return {"bits": bits, **found}


def fit(
    model: keras.Model,
    network: Network,
    data: tfc.data.Dataset,
    epochs: int,
    rate: float,
    optimizer: Callable[[Any], keras.Optimizer],
    callbacks: tuple[keras.callbacks.Callback, ...] = (),
) -> dict[str, Any]:
    """Trains, and returns accuracies and the time of an epoch."""
    steps = epochs * -(-len(data.train) // FLAGS.batch_size)
    model.compile(
        optimizer(keras.optimizers.schedules.CosineDecay(rate, steps)),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    batches = data.pipeline(
        batch_size=FLAGS.batch_size, augment=network.augment, seed=FLAGS.seed
    )
    clock = Clock()
    model.fit(batches, epochs=epochs, verbose=2, callbacks=[clock, *callbacks])
    images, labels = tested(data)
    return {
        "validation": accuracy(model, data.validation.images, data.validation.labels),
        "test": accuracy(model, images, labels),
        "epochs": epochs,
        "rate": rate,
        **clock.found(),
    }


class Clock(keras.callbacks.Callback):
    """Median time of an epoch; the first one, which compiles, is left out."""

    def __init__(self) -> None:
        super().__init__()
        self._epochs: list[tuple[float, float]] = []

    def on_epoch_begin(self, epoch, logs=None) -> None:
        """Starts the clock."""
        self._start = time.perf_counter(), time.process_time()

    def on_epoch_end(self, epoch, logs=None) -> None:
        """Stops it."""
        wall, processor = self._start
        self._epochs.append(
            (time.perf_counter() - wall, time.process_time() - processor)
        )

    def found(self) -> dict[str, Any]:
        """Device and seconds, by the clock and of the processor."""
        device = keras.distribution.list_devices()[0]
        if len(self._epochs) < 2:
            return {"device": device}
        wall, processor = zip(*self._epochs[1:], strict=True)
        return {
            "device": device,
            "epoch": statistics.median(wall),
            "epoch_processor": statistics.median(processor),
        }


def tested(data: tfc.data.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Test images and labels."""
    return data.test.images[: FLAGS.test_limit], data.test.labels[: FLAGS.test_limit]


def decisions(model: keras.Model, images: np.ndarray) -> np.ndarray:
    return model.predict(images, 500, verbose=0).argmax(-1)


def accuracy(model: keras.Model, images: np.ndarray, labels: np.ndarray) -> float:
    return float((decisions(model, images) == labels).mean())


def save(model: keras.Model, key: str) -> None:
    unfinished = Path(FLAGS.out) / f"{key}.unfinished.keras"
    model.save(unfinished)
    unfinished.replace(Path(FLAGS.out) / f"{key}.keras")


def open_model(key: str) -> keras.Model:
    _ = tfc.layers  # registers the layers that the file names
    return keras.saving.load_model(Path(FLAGS.out) / f"{key}.keras", compile=False)


def say(key: str, found: dict[str, Any]) -> None:
    print(
        f"{key}: validation {100 * found['validation']:.2f} %, "
        f"test {100 * found['test']:.2f} %, epoch {found.get('epoch', 0):.2f} s",
        flush=True,
    )


# Files ----------------------------------------------------------------------


def judge() -> None:
    name = FLAGS.network
    data = read(NETWORKS[name])
    trained = runs(name)
    plain = trained.pop("float")
    model = open_model(f"{name}-float")
    calibration = data.train.images[:500]

    def after(kind):
        return lambda: row(model, data, quantization=kind, calibration=calibration)

    print("| network | validation | Keras | file | equal decisions | bytes | epoch |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    show("float", once(f"{name} float file", after(None)), plain, plain)
    show("int8 after training", once(f"{name} int8 file", after("int8")))
    show("int4 after training", once(f"{name} int4 file", after("int4")))
    for bits in sorted({found["bits"] for found in trained.values()}, reverse=True):
        # Chosen by the validation split; the test split is only reported on.
        key, found = max(
            ((key, found) for key, found in trained.items() if found["bits"] == bits),
            key=lambda item: item[1]["validation"],
        )
        result = once(f"{key} file", lambda key=key: row(open_model(key), data))
        show(f"trained with {bits} bits ({found['rate']:g})", result, found, plain)
        if bits == 2:
            packed = partial(row, open_model(key), data, quantization="int2")
            show("the same, stored in 2 bits", once(f"{key} int2 file", packed))
    if name == "mobilenet":
        result = once(f"{name} one step", lambda: one_step(model, data, calibration))
        show("int8 after training, one step for each depthwise kernel", result)


def runs(name: str) -> dict[str, dict[str, Any]]:
    """What was trained, by key; the float network by `"float"`."""
    folder = Path(FLAGS.out)
    if not (folder / f"{name}-float.json").exists():
        raise app.UsageError(f"Nothing is trained in {folder}: run --part=train first.")
    found = {"float": json.loads((folder / f"{name}-float.json").read_text())}
    for path in sorted(folder.glob(f"{name}-qat*.json")):
        if path.with_suffix(".keras").exists():
            found[path.stem] = json.loads(path.read_text())
    return found


def tfmot() -> None:
    """LeNet-5 from the same weights, trained as long with the toolkit."""
    data, network = read(NETWORKS["lenet5"]), NETWORKS["lenet5"]
    images, labels = tested(data)
    folder = Path(FLAGS.out)
    runs("lenet5")  # refuses if nothing is trained
    weights = open_model("lenet5-float").get_weights()
    np.savez(
        folder / "input.npz",
        train_x=data.train.images,
        train_y=data.train.labels,
        test_x=images,
        test_y=labels,
        **{f"weight{number}": array for number, array in enumerate(weights)},
    )
    settings = {
        "seed": FLAGS.seed,
        "batch": FLAGS.batch_size,
        "epochs": FLAGS.qat_epochs or network.qat_epochs,
        "rate": QAT_RATES[8],
    }

    def run():
        script = Path(__file__).with_name("_tfmot_quantize.py")
        result = subprocess.run(
            [sys.executable, str(script), str(folder), json.dumps(settings)],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        return json.loads(result.stdout.splitlines()[-1])

    found = once("tfmot", run)
    print(
        f"TFMOT, 8 bits: Keras {100 * found['keras']:.2f} %, file "
        f"{100 * found['file']:.2f} %, equal decisions {100 * found['equal']:.2f} %, "
        f"{found['bytes']:,} bytes, epoch / plain {found['epoch']:.2f}"
    )


def one_step(model, data, calibration):
    """After training, with the kernels of depthwise convolutions as one tensor."""
    qat = tfc.quantization.prepare(model)
    for layer in qat._flatten_layers():
        inner = getattr(layer, "layer", None)
        if isinstance(inner, keras.layers.DepthwiseConv2D):
            layer.per_channel = False
    return row(tfc.quantization.calibrate(qat, calibration), data, tolerance=10.0)


def row(model, data, **settings):
    """Accuracy of a model and of its file on the test images."""
    path = Path(FLAGS.out) / "model.tflite"
    artifact = tfc.export.to_tflite(model, path, **{"tolerance": 10.0, **settings})
    images, labels = tested(data)
    expected = decisions(model, images)
    actual = np.asarray(tfc.export.run(path, images)).argmax(-1)
    return {
        "keras": float((expected == labels).mean()),
        "file": float((actual == labels).mean()),
        "equal": float((actual == expected).mean()),
        "bytes": artifact.bytes,
    }


def show(name, found, run=None, plain=None) -> None:
    """Prints a row; the time of an epoch is a share of that in float."""
    # Processors are shared with others, whose time is not counted.
    key = "epoch_processor" if run and "cpu" in run["device"].lower() else "epoch"
    share = (
        f"{run[key] / plain[key]:.2f}" if run and key in run and key in plain else ""
    )
    chosen = f"{100 * run['validation']:.2f} %" if run else ""
    print(
        f"| {name} | {chosen} | {100 * found['keras']:.2f} % | "
        f"{100 * found['file']:.2f} % | {100 * found['equal']:.2f} % | "
        f"{found['bytes']:,} | {share} |",
        flush=True,
    )


# Sizes ----------------------------------------------------------------------


def few_values(key: str, network: Network, data: Any, model: keras.Model) -> dict:
    """Trains for 90 % zeros, 16 values a layer and 8 bits, in this order."""
    small = tfc.structure.wrap(model, {}, carry_optimizer=False)
    fraction = tfc.constraints.Cardinality(fraction=0.1)
    for layer in small.layers:
        if hasattr(layer, "kernel"):
            kernel = keras.ops.convert_to_numpy(layer.kernel)
            layer.kernel.assign(fraction.project(kernel))
    held = tfc.callbacks.HoldWeights("zeros")
    epochs, adam = FLAGS.qat_epochs or network.qat_epochs, keras.optimizers.Adam
    fit(small, network, data, epochs, 1e-3, adam, (held,))
    clustered = tfc.quantization.cluster(small, clusters=16)
    fit(clustered, network, data, epochs, 3e-4, adam)
    qat = tfc.quantization.prepare(clustered)
    found = fit(qat, network, data, epochs, 1e-4, adam)
    save(qat, key)
    return found


def sizes() -> None:
    """What the network of few values takes, in every form."""
    data = read(NETWORKS["lenet5"])
    if not (Path(FLAGS.out) / "lenet5-few.json").exists():
        raise app.UsageError("Run --part=train --network=lenet5 first.")
    found = once("sizes", lambda: measured(open_model("lenet5-few"), data))
    print("| | value |\n|---|---:|")
    for name, value in found.items():
        print(f"| {name} | {value:,} |")


def measured(qat: keras.Model, data: tfc.data.Dataset) -> dict[str, float]:
    plain = tfc.finalize(qat)
    values = [np.asarray(x.kernel) for x in plain.layers if hasattr(x, "kernel")]
    weights = sum(kernel.size for kernel in values)
    folder = Path(FLAGS.out)
    result = row(qat, data)
    content = (folder / "model.tflite").read_bytes()
    with zipfile.ZipFile(folder / "m.zip", "w", zipfile.ZIP_DEFLATED, True, 9) as file:
        file.writestr("model.tflite", content)
    packed = tfc.export.pack(plain, folder / "model.tfcz")
    return {
        "accuracy of the file (%)": round(100 * result["file"], 2),
        "zeros (%)": round(100 * sum((k == 0).sum() for k in values) / weights, 2),
        "most values of a kernel": max(len(np.unique(k)) for k in values),
        "float32 weights (bytes)": 4 * weights,
        ".tflite (bytes)": len(content),
        ".tflite, zip (bytes)": (folder / "m.zip").stat().st_size,
        ".tflite, zstd (bytes)": zstd(content),
        ".tfcz (bytes)": packed.bytes,
    }


def zstd(content: bytes) -> int:
    """Bytes at the highest level; 0 without the package `zstandard`."""
    try:
        import zstandard
    except ImportError:
        return 0
    return len(zstandard.ZstdCompressor(level=22).compress(content))


# Agreement ------------------------------------------------------------------

# Name -> size of the images.
APPLICATIONS = {
    "MobileNet": 64,
    "MobileNetV2": 64,
    "MobileNetV3Small": 64,
    "EfficientNetB0": 64,
    "DenseNet121": 64,
    "NASNetMobile": 64,
    "ResNet50": 64,
    "ResNet50V2": 64,
    "VGG16": 32,
}
ZOO = [name for name in tfc.zoo.__all__ if name not in ("autoencoder", "cross_stack")]


def agreement() -> None:
    print(
        "| network | accuracy | equal decisions | largest difference (steps) | "
        "of one layer (steps) | in float |"
    )
    print("|---|---:|---:|---:|---:|---|")
    for name in FLAGS.networks or [*APPLICATIONS, *ZOO]:
        found = once(f"agreement {name} {FLAGS.samples}", partial(agree, name))
        print(
            f"| {name} | {100 * found['accuracy']:.1f} % | "
            f"{100 * found['equal']:.2f} % | {found['steps']:.0f} | "
            f"{found['layer']:.2f} | {', '.join(found['float']) or '–'} |",
            flush=True,
        )


def agree(name: str) -> dict[str, Any]:
    """A prepared network of random weights and statistics, and its file."""
    if name in APPLICATIONS:
        size = APPLICATIONS[name]
        make = getattr(keras.applications, name)
        model = make(weights=None, input_shape=(size, size, 3), classes=10)
    else:
        model = getattr(tfc.zoo, name)(classes=10)
    rng = np.random.default_rng(FLAGS.seed)
    shape = model.input_shape[1:]
    kinds = rng.random((10, 4, 4, shape[-1]))
    scale = any(isinstance(layer, keras.layers.Rescaling) for layer in model.layers)
    x, labels = pictures(kinds, 400, shape, rng, 255 if scale else 1)
    images, expected = pictures(kinds, FLAGS.samples, shape, rng, 255 if scale else 1)
    randomize(model, x[:128], rng)
    tell_apart(model, x, labels)
    reasons = tfc.quantization.plan(model).in_float
    qat = tfc.quantization.calibrate(tfc.quantization.prepare(model), x[:200])
    path = Path(FLAGS.out) / "model.tflite"
    tfc.export.to_tflite(qat, path, calibration=x[:20], tolerance=10.0)
    parity = tfc.export.parity(qat, path, images)
    (output,) = parity.outputs
    layers = tfc.export.debug(qat, path, images[:16]).rows
    return {
        "accuracy": float((decisions(qat, images) == expected).mean()),
        "equal": parity.top1_agreement,
        "steps": output.max_difference / output.step,
        "layer": max(
            row.own_difference / row.step
            for row in layers
            if row.step and row.own_difference is not None
        ),
        "float": sorted(reasons),
    }


def pictures(kinds, count, shape, rng, scale):
    """Ten kinds of pictures of low frequency, each of them different by noise."""
    labels = np.arange(count) % len(kinds)
    coarse = 0.7 * kinds[labels] + 0.3 * rng.random((count, *kinds.shape[1:]))
    images = keras.ops.image.resize(coarse, shape[:2])
    return scale * np.asarray(images, "float32"), labels


def randomize(model, images, rng) -> None:
    """Random normalizations, near to what the images have there.

    Statistics are those of the images, and then moved, because statistics that have
    nothing to do with the inputs shrink or blow up what differs between them from
    layer to layer. Shifts around 1 let a ReLU pass most values: at 0, networks of
    random weights are chaotic, and a single step at the input becomes a hundred.
    """
    norms = [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    for layer in norms:
        if layer.scale:
            layer.gamma.assign(rng.uniform(0.5, 1.5, layer.gamma.shape))
        if layer.center:
            layer.beta.assign(1 + 0.5 * rng.normal(size=layer.beta.shape))
        layer.momentum = 0.0
    model(images, training=True)
    for layer in norms:
        variance = np.asarray(layer.moving_variance)
        move = 0.1 * np.sqrt(variance) * rng.normal(size=variance.shape)
        layer.moving_mean.assign_add(move)
        layer.moving_variance.assign(variance * rng.uniform(0.75, 1.25, variance.shape))


def tell_apart(model, images, labels) -> None:
    """Makes the last layer tell the kinds apart: a regression with a penalty.

    Of random weights, decisions are close calls that single steps turn over.
    """
    last = [layer for layer in model.layers if hasattr(layer, "kernel")][-1]
    features = keras.Model(model.inputs, last.input).predict(images, verbose=0)
    features = features.reshape(len(features), -1, features.shape[-1]).mean(1)
    mean = features.mean(0)
    features = (features - mean).astype("float64")
    power = features.T @ features / len(features)
    penalty = 1e-2 * np.trace(power) / len(power)
    goal = 10 * (np.eye(10)[labels] - 0.1)
    kernel = np.linalg.solve(
        power + penalty * np.eye(len(power)), features.T @ goal / len(features)
    )
    last.kernel.assign(kernel.reshape(last.kernel.shape))
    last.bias.assign(-mean @ kernel)


# Rows -----------------------------------------------------------------------


def once(key: str, make):
    """What `make` returns, from the folder if it is there already."""
    path = Path(FLAGS.out) / f"{key.replace(' ', '-')}.json"
    if not path.exists():
        found = make()
        unfinished = path.with_suffix(".tmp")
        unfinished.write_text(json.dumps(found))
        unfinished.replace(path)
    return json.loads(path.read_text())


if __name__ == "__main__":
    app.run(main)
