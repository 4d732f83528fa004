"""What quantization costs, before and after training for it.

    python benchmarks/quantization.py lenet5 [--data_dir=…] [--epochs=5]
    python benchmarks/quantization.py resnet20 --epochs=30 --limit=20000
    python benchmarks/quantization.py mobilenet --epochs=30 --limit=20000
    python benchmarks/quantization.py sizes [--epochs=5]
    python benchmarks/quantization.py agreement [--networks=lenet5,MobileNetV2]

The first three train a network in float and print the test accuracy of its files
after quantization with 8 and 4 bits, and after a further `--qat_epochs` of training
with 8, 4 and 2 bits for the weights: of the fake-quantized Keras model and of its
file, with the share of equal decisions. `mobilenet` adds one step for each depthwise
kernel instead of one for each channel. `sizes` prunes LeNet-5 to 90 % zeros, clusters
it to 16 values, quantizes it, and prints what the files take. `agreement` compares
networks of random weights and statistics with their files on `--samples` samples;
features of such networks hardly differ from image to image, and `--separate` magnifies
what differs, rounding included.

Finished rows are kept in `--out`, so that the same command goes on after an
interruption.
"""

from __future__ import annotations

import json
import os
import time
import zipfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from absl import app, flags

import tfcompress as tfc

FLAGS = flags.FLAGS
flags.DEFINE_string("data_dir", None, "Folder of prepared TensorFlow Datasets.")
flags.DEFINE_string("out", "out/quantization", "Folder of models and finished rows.")
flags.DEFINE_integer("epochs", 5, "Epochs of training in float.")
flags.DEFINE_integer("qat_epochs", 2, "Epochs of training with fake quantization.")
flags.DEFINE_integer("limit", None, "Training samples; all if not given.")
flags.DEFINE_integer("batch_size", 128, "Samples in a step.")
flags.DEFINE_integer("samples", 1000, "Samples of the agreement.")
flags.DEFINE_list("networks", None, "Networks of the agreement; all if not given.")
flags.DEFINE_bool("separate", False, "Draw last kernels that magnify differences.")
flags.DEFINE_integer("seed", 0, "Seed of everything random.")


def main(argv) -> None:
    parts = {"agreement": agreement, "sizes": sizes, **dict.fromkeys(TRAINED, accuracy)}
    if len(argv) != 2 or argv[1] not in parts:
        raise app.UsageError(f"Expected one of {', '.join(parts)}.")
    Path(FLAGS.out).mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(FLAGS.seed)
    parts[argv[1]](argv[1])


# Accuracy -------------------------------------------------------------------


def lenet5(data):
    return tfc.zoo.lenet5(input_shape=data.input_shape, classes=data.classes)


def resnet20(data):
    return tfc.zoo.resnet20(input_shape=data.input_shape, classes=data.classes)


def mobilenet(data):
    inputs = keras.Input(data.input_shape)
    x = keras.layers.Resizing(96, 96)(inputs) if data.input_shape[0] != 96 else inputs
    x = keras.layers.Rescaling(2.0, -1.0)(x)
    core = keras.applications.MobileNetV2(
        input_tensor=x, alpha=0.35, weights=None, classes=data.classes
    )
    return keras.Model(inputs, core.outputs)


TRAINED = {
    "lenet5": (lenet5, "mnist"),
    "resnet20": (resnet20, "cifar10"),
    "mobilenet": (mobilenet, "cifar10"),
}


def accuracy(name: str) -> None:
    make, dataset = TRAINED[name]
    data = tfc.data.load(dataset, FLAGS.data_dir, limit=FLAGS.limit, seed=FLAGS.seed)
    model = dense(name, make, data)
    calibration = data.train.images[:500]
    print("| network | Keras | file | equal decisions | bytes | epoch / plain |")
    print("|---|---:|---:|---:|---:|---:|")

    def after(kind):
        return lambda: row(model, data, quantization=kind, calibration=calibration)

    done = {"plain": once(f"{name} plain", lambda: {"seconds": epoch(model, data)})}
    show("float", once(f"{name} float", after(None)))
    show("int8 after training", once(f"{name} int8", after("int8")))
    show("int4 after training", once(f"{name} int4", after("int4")))
    for bits in (8, 4, 2):
        found = once(f"{name} qat {bits}", lambda bits=bits: trained(model, data, bits))
        share = found["seconds"] / done["plain"]["seconds"]
        show(f"trained with {bits} bits", found, share)
    if name == "mobilenet":
        found = once(f"{name} one step", lambda: one_step(model, data, calibration))
        show("int8, one step for each depthwise kernel", found)


def dense(name, make, data) -> keras.Model:
    """The network trained in float, from the folder if it is there."""
    path = Path(FLAGS.out) / f"{name}.keras"
    if not path.exists():
        model = make(data)
        steps = FLAGS.epochs * -(-len(data.train.images) // FLAGS.batch_size)
        rate = keras.optimizers.schedules.CosineDecay(1e-3, steps)
        fit(model, data, FLAGS.epochs, rate)
        model.save(path)
    return keras.saving.load_model(path)


def fit(model, data, epochs, rate, callbacks=()) -> None:
    model.compile(
        keras.optimizers.Adam(rate),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    images, labels = data.train.images, data.train.labels
    model.fit(
        images,
        labels,
        FLAGS.batch_size,
        epochs,
        verbose=2,
        callbacks=list(callbacks),
    )


def trained(model, data, bits):
    qat = tfc.quantization.prepare(model, weights=bits)
    qat = tfc.quantization.calibrate(qat, data.train.images[:500])
    seconds = epoch(qat, data)
    steps = FLAGS.qat_epochs * -(-len(data.train.images) // FLAGS.batch_size)
    fit(
        qat, data, FLAGS.qat_epochs, keras.optimizers.schedules.CosineDecay(3e-4, steps)
    )
    return {**row(qat, data), "seconds": seconds}


def epoch(model, data) -> float:
    """Seconds of 50 steps once they are compiled, on a copy."""
    copy = tfc.structure.wrap(model, {}, carry_optimizer=False)
    copy.compile("adam", "sparse_categorical_crossentropy")
    images = data.train.images[: 50 * FLAGS.batch_size]
    labels = data.train.labels[: 50 * FLAGS.batch_size]
    copy.fit(images[:256], labels[:256], FLAGS.batch_size, verbose=0)
    start = time.process_time()
    copy.fit(images, labels, FLAGS.batch_size, verbose=0)
    return time.process_time() - start


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
    images, labels = data.test.images, data.test.labels
    expected = model.predict(images, FLAGS.batch_size, verbose=0).argmax(-1)
    actual = np.asarray(tfc.export.run(path, images)).argmax(-1)
    return {
        "keras": float((expected == labels).mean()),
        "file": float((actual == labels).mean()),
        "equal": float((actual == expected).mean()),
        "bytes": artifact.bytes,
    }


def show(name, found, share=None) -> None:
    time_ = "" if share is None else f"{share:.2f}"
    print(
        f"| {name} | {100 * found['keras']:.2f} % | {100 * found['file']:.2f} % | "
        f"{100 * found['equal']:.2f} % | {found['bytes']:,} | {time_} |",
        flush=True,
    )


# Sizes ----------------------------------------------------------------------


def sizes(_) -> None:
    data = tfc.data.load("mnist", FLAGS.data_dir, limit=FLAGS.limit, seed=FLAGS.seed)
    model = dense("lenet5", lenet5, data)
    found = once("sizes", lambda: compressed(model, data))
    print("| | value |\n|---|---:|")
    for name, value in found.items():
        print(f"| {name} | {value:,} |")


def compressed(model, data):
    """LeNet-5 with 90 % zeros, 16 values a layer and 8 bits."""
    small = tfc.structure.wrap(model, {}, carry_optimizer=False)
    fraction = tfc.constraints.Cardinality(fraction=0.1)
    kernels = [x for x in small.layers if hasattr(x, "kernel")]
    for layer in kernels:
        layer.kernel.assign(fraction.project(np.asarray(layer.kernel)))
    held = tfc.callbacks.HoldWeights("zeros")
    fit(small, data, FLAGS.qat_epochs, 1e-3, [held])
    clustered = tfc.quantization.cluster(small, clusters=16)
    fit(clustered, data, FLAGS.qat_epochs, 3e-4)
    qat = tfc.quantization.prepare(clustered)
    fit(qat, data, FLAGS.qat_epochs, 1e-4)
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

APPLICATIONS = [
    "VGG16",
    "ResNet50",
    "ResNet50V2",
    "MobileNet",
    "MobileNetV2",
    "MobileNetV3Small",
    "EfficientNetB0",
    "DenseNet121",
    "NASNetMobile",
]
ZOO = ["lenet5", "vgg16", "vgg19", "resnet18", "resnet20", "resnet32", "alexnet"]


def agreement(_) -> None:
    print("| network | equal decisions | largest difference (steps) | in float |")
    print("|---|---:|---:|---|")
    for name in FLAGS.networks or [*ZOO, *APPLICATIONS]:
        found = once(
            f"agreement {name} {FLAGS.samples} {FLAGS.separate}",
            lambda name=name: agree(name),
        )
        print(
            f"| {name} | {100 * found['equal']:.2f} % | {found['steps']:.0f} | "
            f"{', '.join(found['float']) or '–'} |",
            flush=True,
        )


def agree(name):
    """A prepared network of random weights and statistics, and its file."""
    if name in APPLICATIONS:
        model = getattr(keras.applications, name)(
            weights=None, input_shape=(64, 64, 3), classes=10
        )
    else:
        model = getattr(tfc.zoo, name)(classes=10)
    rng = np.random.default_rng(FLAGS.seed)
    randomize(model, rng)
    shape = model.input_shape[1:]
    # Pictures of low frequency, at the scale that the network reads.
    coarse = rng.random((FLAGS.samples, 4, 4, shape[-1]))
    images = np.asarray(keras.ops.image.resize(coarse, shape[:2]), "float32")
    if any(isinstance(layer, keras.layers.Rescaling) for layer in model.layers):
        images *= 255
    if FLAGS.separate:
        separate(model, images[:200], rng)
    reasons = tfc.quantization.plan(model).in_float
    qat = tfc.quantization.calibrate(
        tfc.quantization.prepare(model), images[: min(200, len(images))]
    )
    path = Path(FLAGS.out) / "model.tflite"
    tfc.export.to_tflite(qat, path, calibration=images[:50], tolerance=10.0)
    parity = tfc.export.parity(qat, path, images)
    (output,) = parity.outputs
    return {
        "equal": parity.top1_agreement,
        "steps": output.max_difference / output.step,
        "float": sorted(reasons),
    }


def randomize(model, rng) -> None:
    """Statistics of normalizations as training leaves them."""
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_mean.assign(0.1 * rng.normal(size=layer.moving_mean.shape))
            layer.moving_variance.assign(
                rng.uniform(0.5, 1.5, layer.moving_variance.shape)
            )
            if layer.scale:
                layer.gamma.assign(rng.uniform(0.5, 1.5, layer.gamma.shape))
            if layer.center:
                layer.beta.assign(0.1 * rng.normal(size=layer.beta.shape))


def separate(model, images, rng) -> None:
    """Draws the last kernel so that the images are told apart.

    Features of random networks hardly differ from image to image. Without their
    mean, and at their own scale, they do; so does what rounding adds to them.
    """
    last = [layer for layer in model.layers if hasattr(layer, "kernel")][-1]
    features = keras.Model(model.inputs, last.input).predict(images, verbose=0)
    features = features.reshape(-1, features.shape[-1])
    mean, spread = features.mean(0), features.std(0).mean()
    shape = last.kernel.shape
    kernel = 3 * rng.normal(size=shape) / (spread * np.sqrt(shape[-2]) + 1e-9)
    last.kernel.assign(kernel)
    last.bias.assign(-mean @ kernel.reshape(-1, shape[-1]))


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
