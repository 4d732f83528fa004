"""Checks an installed package: files, commands, DRUM, a method, a file, a recipe.

Run by scripts/wheel.sh with the Python of a clean environment, outside of the clone.

Usage: python scripts/try_installation.py c++ | tensorflow
"""

import importlib.metadata
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import tfcompress as tfc

EXPECTED_FILES = [
    "py.typed",
    "ops/drum.cc",
    "report/assets/page.css",
    "cost/profiles/horowitz_45nm.toml",
    "_recipes/quickstart.py",
    "_recipes/_experiment.py",
]
PROGRAM = Path(sys.executable).with_name("tfcompress")


def files() -> None:
    folder = Path(tfc.__file__).parent
    assert "site-packages" in folder.parts, f"{folder} is no installation"
    missing = [name for name in EXPECTED_FILES if not (folder / name).is_file()]
    assert not missing, f"the package lacks {missing}"
    assert importlib.metadata.version("tfcompress") == tfc.__version__


def command() -> None:
    listed = subprocess.run(
        [PROGRAM, "recipe"], capture_output=True, text=True, check=True
    )
    assert "quickstart" in listed.stdout, listed.stdout


def recipe() -> None:
    """Runs a recipe of the package, with what the recipes share, on the digits."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [PROGRAM, "recipe", "quickstart", "--epochs=2", f"--out={folder}"],
            check=True,
        )
        written = {path.name for path in Path(folder).iterdir()}
        expected = {"dense.keras", "compressed.keras", "report.html"}
        expected |= {"compressed_float32.tflite", "compressed_int8.tflite"}
        assert written >= expected, f"the recipe has written {sorted(written)} only"


def multipliers(expected: str) -> None:
    used = tfc.ops.implementation()
    assert used == expected, f"DRUM is computed by {used}, not {expected}"
    numbers = np.random.default_rng(0).normal(size=10_000).astype("float32")
    got = keras.ops.convert_to_numpy(tfc.ops.drum_truncate(numbers, 5))
    # Keep five bits from the leading one, the last of them set (Hashemi et al.).
    kept = numbers.view("uint32") >> 19 << 19 | np.uint32(1 << 19)
    np.testing.assert_array_equal(got.view("uint32"), kept)


def method() -> None:
    data = tfc.data.load("digits")
    model = tfc.zoo.lenet5(0.5, data.classes, data.input_shape)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    pruning = tfc.callbacks.FilterPruning(0.5)
    model.fit(data.pipeline("train"), epochs=1, callbacks=[pruning], verbose=0)
    small = tfc.finalize(model)
    assert small.count_params() < model.count_params() / 3
    with tempfile.TemporaryDirectory() as folder:
        samples = data.test.images[:50]
        path = Path(folder) / "small.tflite"
        tfc.export.to_tflite(small, path, quantization="int8", calibration=samples)
        assert path.stat().st_size > 1000
        report = tfc.report.compare({"before": model, "after": small}, verbose=0)
        report.save(Path(folder) / "report.html")
        assert (Path(folder) / "report.html").stat().st_size > 100_000


def main() -> None:
    (expected,) = sys.argv[1:]
    files()
    command()
    multipliers(expected)
    method()
    recipe()
    print(f"The installation works; DRUM is computed by {expected}.")


if __name__ == "__main__":
    main()
