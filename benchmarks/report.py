"""What a report costs beside the conversions and timings that it needs.

    python benchmarks/report.py [--width=0.35] [--size=96]

compares two MobileNetV2 and prints processor seconds of `report.compare`, of the
conversions and timings of their files alone, the ratio, and the size of the page.
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
from tfcompress.export._runtime import benchmark_together

FLAGS = flags.FLAGS
flags.DEFINE_float("width", 0.35, "Factor on the channels of MobileNetV2.")
flags.DEFINE_integer("size", 96, "Pixels of the images, in both directions.")
flags.DEFINE_integer("samples", 50, "Images to calibrate and to test with, each.")


def main(_) -> None:
    keras.utils.set_random_seed(0)
    shape = (FLAGS.size, FLAGS.size, 3)
    models = {
        name: keras.applications.MobileNetV2(
            shape, alpha=FLAGS.width, weights=None, classes=10
        )
        for name in ("first", "second")
    }
    rng = np.random.default_rng(0)
    images = rng.random((2 * FLAGS.samples, *shape), "float32")
    calibration, test = np.split(images, 2)
    with tempfile.TemporaryDirectory() as folder:
        # Once before, so that neither pays for what is loaded at first use.
        export(models["first"], Path(folder), calibration)
        needed = seconds(lambda: alone(models, Path(folder), calibration))
        reports = []
        whole = seconds(
            lambda: reports.append(
                tfc.report.compare(
                    models,
                    data=(test, rng.integers(0, 10, len(test))),
                    calibration=calibration,
                    verbose=0,
                )
            )
        )
        page = reports[0].save(Path(folder) / "report.html")
        print(
            f"conversions and timings {needed:.1f} s, report {whole:.1f} s of "
            f"processor time: {whole / needed:.2f} ×; page "
            f"{page.stat().st_size / 1e6:.2f} MB"
        )


def alone(models, folder, calibration):
    """What a report needs: files of all models, and their latency."""
    paths = [path for m in models.values() for path in export(m, folder, calibration)]
    benchmark_together(paths, warmup=5, runs=50)


def export(model, folder, calibration):
    """The float32 and the int8 file of a model."""
    paths = []
    for kind in (None, "int8"):
        path = folder / f"{model.name}-{id(model)}.{kind or 'float32'}.tflite"
        given = {} if kind is None else {"calibration": calibration}
        tfc.export.to_tflite(model, path, quantization=kind, **given)
        paths.append(path)
    return paths


def seconds(work):
    """Processor seconds, of programs that it starts, too."""
    before = sum(os.times()[:4])
    work()
    return sum(os.times()[:4]) - before


if __name__ == "__main__":
    app.run(main)
