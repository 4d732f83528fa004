"""What each way to compress a network saves on each target.

    python benchmarks/targets.py [--accelerator=ethos-u55-128] [--epochs=5]

trains LeNet-5 on scikit-learn's digits and prints, for int8 files of the dense
network, of one with 90 % of its weights zero, of one without 60 % of its filters and
hidden units, and of two with 16 values a layer: the bytes of the file, flash, SRAM
and inferences a second on an Ethos-U by Vela, and the arena of a microcontroller by
TensorFlow Lite Micro. It needs `pip install "tfcompress[targets]"`.

These figures do not depend on how well a network recovers, so the networks are not
trained again after they were compressed. Only one of those with few values is prepared
for quantization and trained for an epoch, which rounds the values with one scale for
each layer. The other is converted directly, with a scale for each channel, so that its
values become other integers in each channel.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from absl import app, flags

import tfcompress as tfc

FLAGS = flags.FLAGS
flags.DEFINE_string("accelerator", "ethos-u55-128", "Arm accelerator to compile for.")
flags.DEFINE_integer("epochs", 5, "Epochs of training.")


def main(_) -> None:
    data = tfc.data.load("digits")
    dense = train(data, FLAGS.epochs)
    networks = {
        "dense": dense,
        "90 % zeros": changed(dense, without_small),
        "60 % of filters": tfc.structure.remove_channels(dense, weak_channels(dense)),
        "16 values by quantiles": changed(dense, quantiles),
        "16 values, prepared": few_values(dense, data),
    }
    print(
        f"| LeNet-5, int8 | .tflite (KiB) | {FLAGS.accelerator}: flash (KiB) | "
        "SRAM (KiB) | inferences/s | microcontroller: arena (KiB) | bit for bit |"
    )
    print("|---|---:|---:|---:|---:|---:|---|")
    for name, row in rows(networks, data.train.images[:500], FLAGS.accelerator):
        print(f"| {name} | {' | '.join(row)} |")


def rows(networks, calibration, accelerator):
    """(name, cells) of each network."""
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, network) in enumerate(networks.items()):
            path = Path(folder) / f"{number}.tflite"
            if name == "16 values, prepared":  # its ranges were learned
                file = tfc.export.to_tflite(network, path)
            else:
                file = tfc.export.to_tflite(
                    network, path, quantization="int8", calibration=calibration
                )
            npu = tfc.export.target(path, accelerator)
            micro = tfc.export.target(path, "microcontroller")
            yield (
                name,
                (
                    f"{file.bytes / 1024:.0f}",
                    f"{npu.flash / 1024:.0f}",
                    f"{npu.ram / 1024:.1f}",
                    f"{npu.inferences_per_second:,.0f}",
                    f"{micro.ram / 1024:.1f}",
                    "yes" if micro.exact else "no",
                ),
            )


def train(data, epochs):
    """LeNet-5 as a user would train it."""
    keras.utils.set_random_seed(0)
    model = tfc.zoo.lenet5(input_shape=data.input_shape, classes=data.classes)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(data.train.images, data.train.labels, epochs=epochs, verbose=0)
    return model


def changed(model, change):
    """A copy of `model` with other kernels."""
    copy = keras.models.clone_model(model)
    copy.set_weights(
        [change(array) if array.ndim > 1 else array for array in model.get_weights()]
    )
    return copy


def without_small(kernel, zeros=0.9):
    """A kernel without its smallest weights."""
    limit = np.quantile(np.abs(kernel), zeros)
    return np.where(np.abs(kernel) <= limit, 0, kernel)


def quantiles(kernel, count=16):
    """A kernel of the values in the middle of as many equally large groups."""
    values = np.quantile(kernel, (np.arange(count) + 0.5) / count)
    nearest = np.abs(kernel.reshape(-1, 1) - values).argmin(1)
    return values[nearest].reshape(kernel.shape)


def few_values(model, data):
    """The network with 16 values a layer, prepared for quantization."""
    clustered = tfc.quantization.cluster(model, clusters=16)
    prepared = tfc.quantization.prepare(clustered)
    prepared.compile(keras.optimizers.Adam(1e-4), "sparse_categorical_crossentropy")
    prepared.fit(data.train.images, data.train.labels, epochs=1, verbose=0)
    return prepared


def weak_channels(model, share=0.6):
    """The weakest filters and units of every layer that may lose some."""
    groups = tfc.structure.channel_groups(model)
    weak = {}
    for layer in model.layers:
        if not hasattr(layer, "kernel") or not groups.of(layer.name).prunable:
            continue
        kernel = keras.ops.convert_to_numpy(layer.kernel)
        norms = np.abs(kernel).sum(axis=tuple(range(kernel.ndim - 1)))
        weak[layer.name] = np.argsort(norms)[: round(share * len(norms))]
    return weak


if __name__ == "__main__":
    app.run(main)
