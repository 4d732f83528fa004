"""Training, on JAX, where TensorFlow is not installed."""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from packaging.requirements import Requirement

pytest.importorskip("jax")

REPOSITORY = Path(__file__).resolve().parents[1]
# What the wheel is built from.
SOURCES = ("tfcompress", "recipes")
SETUP = ("setup.py", "setup.cfg", "pyproject.toml", "MANIFEST.in", "README.md")


def run(*command, **environment):
    """Runs a command; returns what it prints."""
    result = subprocess.run(
        [str(word) for word in command],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    return result.stdout


def on_jax(python, *arguments):
    """Runs Python on JAX; returns the JSON that it prints last."""
    printed = run(python, *arguments, KERAS_BACKEND="jax", JAX_PLATFORMS="cpu")
    return json.loads(printed.splitlines()[-1])


# An environment without TensorFlow -------------------------------------------------


def documented_packages():
    """What the page on installing names beside the package itself."""
    text = (REPOSITORY / "docs" / "install.md").read_text(encoding="utf-8")
    section = text.split("## Without TensorFlow")[1].split("\n## ")[0]
    own, others = re.findall(r"^pip install (.*)$", section, flags=re.MULTILINE)
    assert own == "--no-deps ."
    return others.split()


def with_dependencies(packages):
    """The distributions of packages, as installed here, and of all they require."""
    found, waiting = {}, list(packages)
    while waiting:
        name = waiting.pop().lower()
        if name in found:
            continue
        found[name] = importlib.metadata.distribution(name)
        for line in found[name].requires or ():
            requirement = Requirement(line)
            marker = requirement.marker
            if marker is None or marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    return found.values()


def wheel(folder):
    """Builds the wheel, without the operation for TensorFlow."""
    source = folder / "source"
    for name in SOURCES:
        ignored = shutil.ignore_patterns("*.so", "__pycache__")
        shutil.copytree(REPOSITORY / name, source / name, ignore=ignored)
    for name in SETUP:
        shutil.copyfile(REPOSITORY / name, source / name)
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir")
    build = (sys.executable, "-m", "pip", "wheel", *options, folder / "wheels", source)
    run(*build, CXX="none")
    (built,) = (folder / "wheels").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The Python of an environment with the wheel and the documented packages.

    Nothing is downloaded: the packages are links to those that the tests have.
    """
    folder = tmp_path_factory.mktemp("without_tensorflow")
    environment = folder / "environment"
    venv.create(environment)
    (site,) = environment.glob("lib/python*/site-packages")
    for distribution in with_dependencies(documented_packages()):
        roots = {file.parts[0] for file in distribution.files or ()}
        for root in roots - {"..", "__pycache__"}:
            if not (site / root).exists():
                (site / root).symlink_to(distribution.locate_file(root))
    interpreter = environment / "bin" / "python"
    install = ("install", "--no-deps", "--no-index", wheel(folder))
    run(sys.executable, "-m", "pip", "--python", interpreter, *install)
    return interpreter


TRAIN = """
import importlib.util, json, sys
import keras
import numpy as np
import tfcompress as tfc

for name in tfc.__all__:
    getattr(tfc, name)
keras.utils.set_random_seed(0)
data = tfc.data.load("digits")
model = tfc.zoo.lenet5(width=0.2, input_shape=(8, 8, 1))
model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
dense = tfc.cost.count(model)
pruning = tfc.callbacks.FilterPruning(tfc.schedules.Linear(0.0, 0.5, 0, 3))
history = model.fit(
    data.train.images,
    data.train.labels,
    epochs=6,
    batch_size=64,
    callbacks=[pruning],
    verbose=0,
)
small = tfc.finalize(model)
small.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
small.save(sys.argv[1])
tfc.export.pack(small, sys.argv[1] + ".tfcz")
again = tfc.export.unpack(sys.argv[1] + ".tfcz")
packed = all(map(np.array_equal, small.get_weights(), again.get_weights()))
qat = tfc.quantization.prepare(small, weights=4)
qat = tfc.quantization.calibrate(qat, data.train.images[:100])
qat.fit(data.train.images, data.train.labels, batch_size=64, verbose=0)
levels = len(set(keras.ops.convert_to_numpy(
    tfc.finalize(qat).get_layer("fc1").kernel
).ravel().tolist()))
refused = []
for call in (
    lambda: tfc.export.to_tflite(small, sys.argv[1] + ".tflite"),
    lambda: tfc.data.load("mnist"),
):
    try:
        call()
    except ImportError as error:
        refused.append(str(error))
accuracy = small.evaluate(
    data.test.images, data.test.labels, verbose=0, return_dict=True
)["accuracy"]
print(json.dumps({
    "rates": history.history["pruning_rate"],
    "accuracy": accuracy,
    "widths": [small.get_layer(n).kernel.shape[-1] for n in ("conv1", "conv2", "fc1")],
    "macs": [dense.macs, tfc.cost.count(small).macs],
    "refused": refused,
    "levels": levels,
    "packed": packed,
    "tensorflow": importlib.util.find_spec("tensorflow") is not None,
    "package": tfc.__file__,
}))
"""


def test_lenet5_is_pruned_quantized_and_saved(python, tmp_path):
    path = tmp_path / "small.keras"
    found = on_jax(python, "-I", "-c", TRAIN, path)
    assert not found["tensorflow"]
    assert Path(found["package"]).is_relative_to(python.parents[1])
    assert path.stat().st_size > 0
    # LeNet-5 at a fifth of its width: 4, 10 and 100 channels, of which half go.
    assert found["rates"][-1] == 0.5
    assert found["widths"] == [2, 5, 50]
    # Padded 5×5 convolutions on 8×8 and 4×4, then 2×2 maps into the dense layers.
    macs = [
        64 * 25 * a + 16 * 25 * a * b + 4 * b * c + 10 * c
        for a, b, c in ([4, 10, 100], [2, 5, 50])
    ]
    assert found["macs"] == macs
    assert found["accuracy"] > 0.6  # a tenth by chance
    assert 4 < found["levels"] <= 15  # of 4 bits, symmetric
    assert found["packed"]
    assert "pip install tensorflow" in found["refused"][0]
    assert "TensorFlow Datasets" in found["refused"][1]


@pytest.mark.slow
def test_every_method_trains_finalizes_and_saves(python, tmp_path):
    script = REPOSITORY / "tests" / "callbacks" / "on_lenet5.py"
    found = on_jax(python, "-I", script, tmp_path)
    notes = found.pop("report")
    assert any("No float32 TFLite file" in note for note in notes)
    assert (tmp_path / "report.html").stat().st_size > 0
    assert len(found) == 9
    for name, result in found.items():
        assert result["error"] is None, f"{name}: {result['error']}"
        assert result["saved"]  # and loaded, with the same outputs
        assert result["accuracy"] > 0.3  # a tenth by chance
    # Half of all filters, half of all weights, and the wrappers are gone.
    before, after = found["FilterPruning"]["parameters"]
    assert after < 0.4 * before
    assert found["FilterPruning"]["logs"]["pruning_rate"] == 0.5
    assert found["MagnitudePruning"]["logs"]["weight_sparsity"] == pytest.approx(
        0.5, abs=0.01
    )
    assert found["IncrementalApproximation"]["logs"]["approximated"] == 1
    assert found["DynamicSurgery"]["logs"]["surgery_sparsity"] > 0.3


CONVERT = """
import json, sys
import keras
import numpy as np
import tfcompress as tfc

keras.utils.set_random_seed(0)
model = keras.Sequential([
    keras.Input((4, 4, 1)),
    keras.layers.Conv2D(3, 3, activation="relu"),
    keras.layers.Flatten(),
    keras.layers.Dense(2, name="last"),
])
x = np.random.default_rng(0).normal(size=(20, 4, 4, 1)).astype("float32")
artifact = tfc.export.to_tflite(model, sys.argv[1], quantization="int8", calibration=x)
outputs = tfc.export.run(sys.argv[1], x)
error = np.abs(outputs - model.predict(x, verbose=0)).max()
try:
    tfc.export.to_tflite(model, sys.argv[1], quantization="int8")
except ValueError as refused:
    text = str(refused)
print(json.dumps({
    "bytes": artifact.bytes,
    "error": float(error / np.abs(outputs).max()),
    "refused": text,
}))
"""


def test_a_model_on_jax_becomes_a_tflite_file(tmp_path):
    path = tmp_path / "model.tflite"
    found = on_jax(sys.executable, "-c", CONVERT, path)
    assert path.stat().st_size == found["bytes"]
    assert found["error"] < 0.05
    # The converter runs in a process of its own, whose refusals are handed on.
    assert "argument `calibration`" in found["refused"]
