"""From a dense network to a small, exported one, in one command.

Trains a network twice from the same start, once as it is and once while its
filters are pruned, removes the pruned filters, exports the result to TFLite
(float32 and int8), and writes a report that compares both.

    python recipes/quickstart.py
    python recipes/quickstart.py --dataset=mnist --out=out/lenet5

Results in --out: report.html, report.json, dense.keras, compressed.keras,
compressed_float32.tflite, compressed_int8.tflite. What is finished stays, also
when a later step fails.
"""

import os
import tempfile
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import tensorflow as tf
from _experiment import save_model
from _settings import FLAGS, flags, launch
from _training import Progress

import tfcompress as tfc

NETWORKS = ("lenet5", "vgg16", "vgg19", "resnet20", "resnet18")
CALIBRATION_IMAGES = 500


class Recipe(NamedTuple):
    """How a data set is learned."""

    epochs: int = 30
    batch_size: int = 128
    augment: str = "standard"


# Digits lose their meaning when they are mirrored, so they are only shifted.
RECIPES = {"digits": Recipe(60, 32, "shift"), "mnist": Recipe(12, 128, "shift")}

flags.DEFINE_string("dataset", "digits", "digits, folder:PATH or a TFDS name.")
flags.DEFINE_enum("model", "lenet5", NETWORKS, "Network of tfcompress.zoo.")
flags.DEFINE_float("rate", 0.6, "Fraction of each layer's filters to prune.")
flags.DEFINE_integer(
    "epochs", None, "Epochs of each run. [default: by dataset]", lower_bound=2
)
flags.DEFINE_string("out", "out/quickstart", "Folder for the results.")
flags.DEFINE_string("data_dir", None, "Folder of prepared TFDS sets.")
flags.DEFINE_integer("seed", 0, "Seed of everything that is random.", lower_bound=0)


def main():
    tf.config.experimental.enable_op_determinism()
    report = run(
        dataset=FLAGS.dataset,
        network=FLAGS.model,
        rate=FLAGS.rate,
        epochs=FLAGS.epochs or RECIPES.get(FLAGS.dataset, Recipe()).epochs,
        out=FLAGS.out,
        data_dir=FLAGS.data_dir,
        seed=FLAGS.seed,
    )
    print(f"\n{report}\n")


def run(
    *,
    dataset: str,
    network: str,
    rate: float,
    epochs: int,
    out: str,
    data_dir: str | None,
    seed: int,
) -> tfc.report.Report:
    """The whole job; everything that can be wrong is checked before training."""
    folder = writable_folder(out)
    # Full rate after half of the epochs: the other half is for recovery.
    ramp = tfc.schedules.Linear(0.0, rate, begin=0, end=epochs // 2)
    pruning = tfc.callbacks.FilterPruning(ramp)
    data = tfc.data.load(dataset, data_dir=data_dir, seed=seed)
    print(f"{data}\n\n1/4 Training the dense network ({network}, {epochs} epochs)")
    dense, dense_history = train(network, data, epochs, seed)
    save_model(dense, folder / "dense.keras")

    print(f"\n2/4 Training it again while pruning {rate:.0%} of its filters")
    masked, pruned_history = train(network, data, epochs, seed, pruning)
    compressed = tfc.finalize(masked)
    save_model(compressed, folder / "compressed.keras")

    print("\n3/4 Exporting")
    calibration = data.train.images[:CALIBRATION_IMAGES]
    for quantization in (None, "int8"):
        path = folder / f"compressed_{quantization or 'float32'}.tflite"
        artifact = tfc.export.to_tflite(
            compressed, path, quantization=quantization, calibration=calibration
        )
        print(artifact)
        parity = tfc.export.parity(compressed, path, data.test.images)
        print(f"  on all test images: {parity}")

    print("\n4/4 Measuring")
    report = tfc.report.compare(
        {"dense": dense, "compressed": compressed},
        data=(data.test.images, data.test.labels),
        calibration=calibration,
        histories={"dense": dense_history, "compressed": pruned_history},
        title=f"{network} on {dataset}: {rate:.0%} of filters pruned while training",
        provenance={"data set": repr(data), "epochs": epochs, "seed": seed},
    )
    report.save(folder / "report.json")
    report.save(folder / "report.html")
    return report


def train(network, data, epochs, seed, *callbacks):
    """Trains a network from the start that `seed` stands for."""
    keras.utils.set_random_seed(seed)
    model = getattr(tfc.zoo, network)(
        input_shape=data.input_shape, classes=data.classes
    )
    recipe = RECIPES.get(data.name, Recipe())
    batches = data.pipeline(
        "train", batch_size=recipe.batch_size, augment=recipe.augment, seed=seed
    )
    rate = keras.optimizers.schedules.CosineDecay(2e-3, epochs * len(batches))
    model.compile(
        keras.optimizers.Adam(rate),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    history = model.fit(
        batches,
        validation_data=data.pipeline("validation", batch_size=512),
        epochs=epochs,
        callbacks=[*callbacks, Progress()],
        shuffle=False,  # the pipeline does
        verbose=0,
    )
    return model, history


def writable_folder(out: str) -> Path:
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(
            "Invalid value for argument `out`. Expected a folder that can be written. "
            f"Received: out={out!r} ({error.strerror})"
        ) from error
    return folder


if __name__ == "__main__":
    launch(main)
