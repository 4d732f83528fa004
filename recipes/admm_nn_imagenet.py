"""ADMM-NN on ImageNet: AlexNet, VGG-16 and ResNet-50.

Tables 2 to 7 of Ren et al., "ADMM-NN: an algorithm-hardware co-design framework of
DNNs using alternating direction methods of multipliers" (ASPLOS 2019), for those
who have ImageNet prepared for TensorFlow Datasets (`imagenet2012`) and a GPU:

    python recipes/admm_nn_imagenet.py --network=vgg16 --data_dir=DIR
    python recipes/admm_nn_imagenet.py --network=resnet50 --data_dir=DIR
    python recipes/admm_nn_imagenet.py --network=alexnet --weights=FILE --data_dir=DIR

VGG-16 and ResNet-50 start from the weights of keras.applications, AlexNet from a
weights file of `tfcompress.zoo.alexnet`. Images are streamed. An interrupted run
goes on where it was when the same command is given again.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
from absl import app, flags

import tfcompress as tfc
from tfcompress._files import check_writable, write_atomic

_NETWORK = flags.DEFINE_enum(
    "network", "vgg16", ["alexnet", "vgg16", "resnet50"], "What to compress."
)
_WEIGHTS = flags.DEFINE_string("weights", None, "Weights file; needed by AlexNet.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of prepared TFDS data.")
_OUT = flags.DEFINE_string("out", "results/admm_nn_imagenet", "Folder for results.")
_BATCH = flags.DEFINE_integer("batch_size", 128, "Images in a batch.", lower_bound=1)
_EPOCHS = flags.DEFINE_integer(
    "epochs", 10, "Epochs of ADMM in each phase, and of retraining.", lower_bound=1
)
_RATE = flags.DEFINE_float("learning_rate", 1e-3, "Of SGD with momentum.")


@dataclasses.dataclass(frozen=True)
class Network:
    """A network, and what the paper leaves of it.

    Attributes:
        make: returns the pretrained model, from images as `prepare` returns them.
        prepare: pixels 0 … 255 to what the network expects.
        side: height and width of its images.
        fraction: fraction of weights to keep, by the name of a layer.
        bits: width of a level code, by the name of a layer.
    """

    make: Callable[[], keras.Model]
    prepare: Callable[[Any], Any]
    side: int
    fraction: Callable[[str], float]
    bits: Callable[[str], int]


def is_dense(name: str) -> bool:
    return name.startswith(("fc", "predictions", "classifier"))


# Table 7.
ALEXNET = {
    "conv1": 0.81,
    "conv2": 0.20,
    "conv3": 0.19,
    "conv4": 0.20,
    "conv5": 0.20,
    "fc6": 0.028,
    "fc7": 0.059,
    "classifier": 0.093,
}


def vgg16_fraction(name: str) -> float:
    """26× in all, 5.3 M weights: the paper gives the total only."""
    dense = {"fc1": 0.015, "fc2": 0.03, "predictions": 0.07}
    return dense.get(name, 0.5 if name == "block1_conv1" else 0.2)


def alexnet() -> keras.Model:
    if not _WEIGHTS.value:
        raise app.UsageError("AlexNet needs --weights, there are none to download.")
    model = tfc.zoo.alexnet()
    model.load_weights(_WEIGHTS.value)
    return model


NETWORKS = {
    "alexnet": Network(
        make=alexnet,
        prepare=lambda images: images / 255.0,
        side=227,
        fraction=ALEXNET.__getitem__,
        bits=lambda name: 3 if is_dense(name) else 5,
    ),
    "vgg16": Network(
        make=lambda: keras.applications.VGG16(weights="imagenet"),
        prepare=keras.applications.vgg16.preprocess_input,
        side=224,
        fraction=vgg16_fraction,
        bits=lambda name: 3 if is_dense(name) else 5,
    ),
    "resnet50": Network(
        make=lambda: keras.applications.ResNet50(weights="imagenet"),
        prepare=keras.applications.resnet50.preprocess_input,
        side=224,
        fraction=lambda name: 0.14,
        bits=lambda name: 6,
    ),
}


def stream(examples: Any, network: Network, batch_size: int, training: bool) -> Any:
    """Batches for training or evaluation from single images of any size.

    Args:
        examples: a `tf.data.Dataset` of (image, label), pixels 0 … 255.
        network: says how its images look.
        batch_size: images in a batch.
        training: whether to crop and mirror at random, and to shuffle.
    """
    import tensorflow as tf

    shorter = round(network.side * 256 / 224)

    def example(image: Any, label: Any) -> tuple[Any, Any]:
        size = tf.cast(tf.shape(image)[:2], tf.float32)
        size = tf.cast(tf.math.ceil(size * shorter / tf.reduce_min(size)), tf.int32)
        image = tf.image.resize(image, size)
        if training:
            image = tf.image.random_crop(image, [network.side, network.side, 3])
            image = tf.image.random_flip_left_right(image)
        else:
            image = tf.image.resize_with_crop_or_pad(image, network.side, network.side)
        return network.prepare(image), label

    if training:
        examples = examples.shuffle(10_000)
    batches = examples.map(example, tf.data.AUTOTUNE).batch(batch_size)
    return batches.prefetch(tf.data.AUTOTUNE)


def plan(
    names: Sequence[str], network: Network, epochs: int
) -> list[tfc.training.AdmmPhase]:
    """Half the way (on a logarithmic scale), all the way, then the levels."""
    pruning = [
        tfc.training.AdmmPhase(
            {
                name: tfc.constraints.Cardinality(
                    fraction=network.fraction(name) ** power
                )
                for name in names
            },
            epochs,
            epochs,
        )
        for power in (0.5, 1.0)
    ]
    levels = {name: tfc.constraints.Levels(network.bits(name)) for name in names}
    return [*pruning, tfc.training.AdmmPhase(levels, epochs, 2)]


def kernels(model: keras.Model) -> dict[str, int]:
    """Layers with kernels, and how many weights these have."""
    return {
        layer.name: int(layer.kernel.shape.num_elements())
        for layer in model.layers
        if hasattr(layer, "kernel")
    }


def run(network: Network, train: Any, test: Any, epochs: int, out: Path) -> Mapping:
    model = network.make()
    model.compile(
        keras.optimizers.SGD(_RATE.value, momentum=0.9),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(5, "top5")],
    )
    sizes = kernels(model)
    before = model.evaluate(test, return_dict=True)
    result = tfc.training.admm_compress(
        model,
        plan(list(sizes), network, epochs),
        train,
        backup_dir=out / "backup",
        shuffle=False,
    )
    print(result)
    packed = tfc.export.pack(result.model, out / "model.tfcz")
    print(packed)
    weights = sum(sizes.values())
    table = {
        "before": before,
        "after": result.model.evaluate(test, return_dict=True),
        "weights": weights,
        "nonzero": packed.nonzero,
        "data_compression": packed.data_compression(weights),
        "model_compression": packed.model_compression(weights),
        "file_bytes": packed.bytes,
    }
    write_atomic(out / "results.json", json.dumps(table, indent=1))
    return table


def main(argv: Sequence[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    import tensorflow_datasets as tfds

    network = NETWORKS[_NETWORK.value]
    file = Path(_OUT.value) / _NETWORK.value / "results.json"
    out = check_writable(file, argument="out").parent
    splits = {
        split: tfds.load(
            "imagenet2012",
            split=split,
            data_dir=_DATA_DIR.value,
            as_supervised=True,
            shuffle_files=split == "train",
            download=False,
        )
        for split in ("train", "validation")
    }
    train = stream(splits["train"], network, _BATCH.value, training=True)
    test = stream(splits["validation"], network, _BATCH.value, training=False)
    print(json.dumps(run(network, train, test, _EPOCHS.value, out), indent=1))


if __name__ == "__main__":
    app.run(main)
