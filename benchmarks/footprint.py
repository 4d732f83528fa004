"""What removing half of the channels saves: size, speed and flash of the networks.

Half of the channels of every group are removed (to a multiple of 8, at least 8), both
networks become int8 files, and `report.compare` times them in turns with one thread and
asks Arm's compiler Vela for an Ethos-U55-128. The weights are random, because none of
these figures depends on them. Accuracy would, so it is not measured.

Usage: python benchmarks/footprint.py [--networks=lenet5,resnet8,mobilenet_v2]
"""

from typing import Any

import keras
import numpy as np
from absl import app, flags

import tfcompress as tfc

FLAGS = flags.FLAGS
TARGET = "ethos-u55-128"


def settled(model: keras.Model, images: np.ndarray) -> keras.Model:
    """Gives normalizations the statistics of some images, so that ranges are usual.

    As they begin, values fade from layer to layer until integers cannot hold them.
    """
    layers = [x for x in model.layers if isinstance(x, keras.layers.BatchNormalization)]
    momentum = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 0.0
    model(images, training=True)
    for layer, value in zip(layers, momentum, strict=True):
        layer.momentum = value
    return model


def mobilenet_v2() -> keras.Model:
    """MobileNetV2 on images of 96×96, as MLPerf Tiny's visual wake words has them."""
    return keras.applications.MobileNetV2((96, 96, 3), weights=None, classes=2)


NETWORKS = {
    "lenet5": tfc.zoo.lenet5,
    "resnet8": tfc.zoo.resnet8,
    "mobilenet_v2": mobilenet_v2,
}

flags.DEFINE_list("networks", list(NETWORKS), "Networks to measure.")


def halved(model: keras.Model) -> keras.Model:
    """The model with half of the channels of each group that can be pruned."""
    removed = {}
    for group in tfc.structure.channel_groups(model):
        kept = max(8, round(group.size / 2 / 8) * 8)
        if group.prunable and kept < group.size:
            removed[group.name] = range(kept, group.size)
    return tfc.structure.remove_channels(model, removed)


def figures(model: Any) -> list[str]:
    if "int8" not in model.files or TARGET not in model.targets:
        return [f"{model.macs / 1e6:.3g} M", "refused, see below", "–", "–", "–"]
    file, target = model.files["int8"], model.targets[TARGET]
    return [
        f"{model.macs / 1e6:.3g} M",
        f"{file.bytes / 1000:,.1f} kB",
        f"{file.latency.median:,.3g} ms",
        f"{target.flash / 1024:,.1f} KiB",
        f"{target.latency:,.3g} ms",
    ]


def main(argv: list[str]) -> None:
    if unknown := set(FLAGS.networks) - set(NETWORKS):
        raise app.UsageError(f"Unknown networks: {sorted(unknown)}")
    print(f"| network | | MACs | int8 file | here | {TARGET}: flash | its latency |")
    print("|---|---|---|---|---|---|---|")
    for name in FLAGS.networks:
        keras.utils.set_random_seed(0)
        model = NETWORKS[name]()
        shape = (32, *model.input_shape[1:])
        images = np.random.default_rng(0).random(shape, "float32")
        report = tfc.report.compare(
            {"dense": settled(model, images), "half": settled(halved(model), images)},
            calibration=images,
            targets=[TARGET],
            verbose=0,
        )
        for row in report.models:
            print(f"| {name} | {row.name} | {' | '.join(figures(row))} |", flush=True)
        refused = [row for row in report.models if "int8" not in row.files]
        if refused:
            print(*report.notes, sep="\n", flush=True)


if __name__ == "__main__":
    app.run(main)
