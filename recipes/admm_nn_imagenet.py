"""ADMM-NN on ImageNet: AlexNet, VGG-16 and ResNet-50.

Tables 2 to 9 of Ren et al., "ADMM-NN: an algorithm-hardware co-design framework of
DNNs using alternating direction methods of multipliers" (ASPLOS 2019), for those
who have ImageNet prepared for TensorFlow Datasets (`imagenet2012`) and a GPU:

    python recipes/admm_nn_imagenet.py --preset=vgg16 --data_dir=DIR
    python recipes/admm_nn_imagenet.py --preset=vgg16 --plan=20x --data_dir=DIR
    python recipes/admm_nn_imagenet.py --preset=resnet50 --plan=17.4x --data_dir=DIR
    python recipes/admm_nn_imagenet.py --preset=alexnet --weights=FILE --data_dir=DIR
    python recipes/admm_nn_imagenet.py --preset=alexnet --weights=FILE \\
        --plan=convolutions --data_dir=DIR

VGG-16 and ResNet-50 start from the weights of keras.applications, AlexNet from a
weights file of `tfcompress.zoo.alexnet`. Images are streamed. The same command resumes
a run that was interrupted; further --plan add to the results in --out: results.json,
and for each plan a .keras and a packed .tfcz file.
"""

import dataclasses
import functools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
from _experiment import Experiment, Job, table
from _settings import FLAGS, chosen, common, define_flags, flags, launch, setting
from _streams import Stream
from _training import Progress

import tfcompress as tfc


@dataclasses.dataclass(frozen=True)
class Settings:
    """What an experiment is about."""

    network: str = setting("Network.", choices=["alexnet", "vgg16", "resnet50"])
    weights: str | None = setting("Weights file; AlexNet needs one.", None)
    epochs: int = setting("Of ADMM in each phase, and of retraining.", 10, least=1)
    batch_size: int = setting("Images in a batch.", 128, least=1)
    learning_rate: float = setting("Of SGD with momentum.", 1e-3, least=0)


PRESETS = {name: Settings(network=name) for name in ("vgg16", "resnet50", "alexnet")}
PRESETS = {"quick": dataclasses.replace(PRESETS["vgg16"], epochs=1), **PRESETS}


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the paper leaves of a network.

    Attributes:
        fraction: fraction of weights to keep, by the name of a layer.
        bits: width of a level code, by the name of a layer.
    """

    fraction: Callable[[str], float]
    bits: Callable[[str], int]


@dataclasses.dataclass(frozen=True)
class Network:
    """A network, and the plans for it, the first by default.

    Attributes:
        make: returns the pretrained model, from images as `prepare` returns them.
        prepare: pixels 0 … 255 to what the network expects.
        side: height and width of its images.
        plans: by name.
    """

    make: Callable[[Settings], keras.Model]
    prepare: Callable[[Any], Any]
    side: int
    plans: Mapping[str, Plan]


def is_dense(name: str) -> bool:
    return name.startswith(("fc", "predictions", "classifier"))


def mostly(dense: int, others: int) -> Callable[[str], int]:
    """Bits of dense layers and of others."""
    return lambda name: dense if is_dense(name) else others


def listed(fractions: Mapping[str, float], dense_factor: float = 1.0):
    """Fractions by name; those of dense layers times a factor."""
    return lambda name: fractions[name] * (dense_factor if is_dense(name) else 1.0)


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
# Table 8, million operations that are left, and all of them.
ALEXNET_CONVOLUTIONS = {
    "conv1": 133 / 211,
    "conv2": 31 / 448,
    "conv3": 18 / 299,
    "conv4": 16 / 224,
    "conv5": 11 / 150,
    "fc6": 7 / 75,
    "fc7": 3 / 34,
    "classifier": 2 / 8,
}


def alexnet_for_hardware(ratio: float) -> Callable[[str], float]:
    """Table 9: the first convolution whole, the others so that all have `ratio`."""
    sizes = {"conv2": 307.2, "conv3": 884.7, "conv4": 663.5, "conv5": 442.4}
    first, others = 34.8, sum(sizes.values())
    left = ((first + others) / ratio - first) / others
    fractions = ALEXNET_CONVOLUTIONS | dict.fromkeys(sizes, left) | {"conv1": 1.0}
    return fractions.__getitem__


def vgg16_fraction(dense_factor: float) -> Callable[[str], float]:
    """26× in all, 5.3 M weights, at 1: the paper gives totals only."""
    dense = {"fc1": 0.015, "fc2": 0.03, "predictions": 0.07}

    def fraction(name: str) -> float:
        if name in dense:
            return dense[name] * dense_factor
        return 0.5 if name == "block1_conv1" else 0.2

    return fraction


def alexnet(settings: Settings) -> keras.Model:
    if not settings.weights:
        raise ValueError(
            "Invalid value for argument `weights`. Expected a weights file for "
            "AlexNet: there are none to download. Received: weights=None"
        )
    model = tfc.zoo.alexnet()
    model.load_weights(settings.weights)
    return model


NETWORKS = {
    "alexnet": Network(
        make=alexnet,
        prepare=lambda images: images / 255.0,
        side=227,
        plans={
            "21x": Plan(listed(ALEXNET), mostly(3, 5)),
            "24x": Plan(listed(ALEXNET, 0.83), mostly(3, 5)),
            "30x": Plan(listed(ALEXNET, 0.645), mostly(3, 5)),
            "convolutions": Plan(
                listed(ALEXNET_CONVOLUTIONS), lambda name: 7 if name == "conv1" else 5
            ),
            "hardware": Plan(alexnet_for_hardware(13.1), mostly(3, 5)),
            "hardware-25x": Plan(alexnet_for_hardware(25.5), mostly(3, 5)),
        },
    ),
    "vgg16": Network(
        make=lambda settings: keras.applications.VGG16(
            weights=settings.weights or "imagenet"
        ),
        prepare=keras.applications.vgg16.preprocess_input,
        side=224,
        plans={
            "26x": Plan(vgg16_fraction(1.0), mostly(3, 5)),
            "20x": Plan(vgg16_fraction(1.69), mostly(3, 5)),
        },
    ),
    "resnet50": Network(
        make=lambda settings: keras.applications.ResNet50(
            weights=settings.weights or "imagenet"
        ),
        prepare=keras.applications.resnet50.preprocess_input,
        side=224,
        plans={
            "7x": Plan(lambda name: 1 / 7, lambda name: 6),
            "9.2x": Plan(lambda name: 1 / 9.2, lambda name: 6),
            "17.4x": Plan(lambda name: 1 / 17.4, lambda name: 4),
        },
    ),
}

define_flags(PRESETS, "out/admm_nn_imagenet")
flags.DEFINE_list("plan", None, "What to leave of the network. [default: the first]")


def main():
    settings, options = chosen(PRESETS), common()
    network = NETWORKS[settings.network]
    plans = FLAGS.plan or [next(iter(network.plans))]
    jobs = [
        Job(name=plan, seed=seed, epochs=5 * settings.epochs + 2)
        for seed in options["seeds"]
        for plan in plans
    ]
    for plan in plans:
        if plan not in network.plans:
            raise ValueError(
                "Invalid value for argument `plan`. Expected one of "
                f"{', '.join(network.plans)}. Received: plan={plan!r}"
            )
    data = Stream("imagenet2012", options["data_dir"], network.side, network.prepare)
    run(settings, network, data, jobs, options["out"])


def run(settings, network, data, jobs, out):
    """Compresses a network by each of the plans that are not done yet."""
    with Experiment(out, settings) as experiment:
        work = functools.partial(compressed, settings, network, data, experiment)
        experiment.run(jobs, work)
        records = experiment.records()
        experiment.write_results(records)
        columns = {
            "plan": lambda r: r["name"],
            "top-1 before, %": lambda r: f"{100 * r['before']['accuracy']:.2f}",
            "top-1, %": lambda r: f"{100 * r['after']['accuracy']:.2f}",
            "top-5, %": lambda r: f"{100 * r['after']['top5']:.2f}",
            "pruning": lambda r: f"{r['weights'] / r['nonzero']:.1f}×",
            "data": lambda r: f"{r['data_compression']:.0f}×",
            "with indices": lambda r: f"{r['model_compression']:.0f}×",
        }
        print(f"\n{table(records, columns)}\n", flush=True)
        return records


def compressed(settings, network, data, experiment, job):
    """Follows one plan."""
    batches = {
        split: data.pipeline(
            split, batch_size=settings.batch_size, augment=augment, seed=job.seed
        )
        for split, augment in (("train", "standard"), ("test", None))
    }
    model = network.make(settings)
    model.compile(
        keras.optimizers.SGD(settings.learning_rate, momentum=0.9),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(5, "top5")],
    )
    sizes = kernels(model)
    before = model.evaluate(batches["test"], verbose=0, return_dict=True)
    result = tfc.training.admm_compress(
        model,
        phases(list(sizes), network.plans[job.name], settings.epochs),
        batches["train"],
        callbacks=[Progress()],
        backup_dir=experiment.backup(job),
        keep_backup=True,  # the experiment deletes it when the result is complete
        shuffle=False,
        verbose=0,
    )
    packed = tfc.export.pack(result.model, experiment.path(job, ".tfcz"))
    print(f"{result}\n{packed}", flush=True)
    weights = sum(sizes.values())
    record = {
        "before": before,
        "after": result.model.evaluate(batches["test"], verbose=0, return_dict=True),
        "weights": weights,
        "nonzero": packed.nonzero,
        "data_compression": packed.data_compression(weights),
        "model_compression": packed.model_compression(weights),
        "file_bytes": packed.bytes,
    }
    return record, {".keras": result.model}


def phases(
    names: Sequence[str], plan: Plan, epochs: int
) -> list[tfc.training.AdmmPhase]:
    """First half of the pruning (on a logarithmic scale), then all, then the levels."""
    pruning = [
        tfc.training.AdmmPhase(
            {
                name: tfc.constraints.Cardinality(fraction=plan.fraction(name) ** power)
                for name in names
                if plan.fraction(name) < 1
            },
            epochs,
            epochs,
        )
        for power in (0.5, 1.0)
    ]
    levels = {name: tfc.constraints.Levels(plan.bits(name)) for name in names}
    return [*pruning, tfc.training.AdmmPhase(levels, epochs, 2)]


def kernels(model: keras.Model) -> dict[str, int]:
    """Layers with kernels, and how many weights these have."""
    return {
        layer.name: math.prod(layer.kernel.shape)
        for layer in model.layers
        if hasattr(layer, "kernel")
    }


if __name__ == "__main__":
    launch(main)
