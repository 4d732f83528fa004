"""Training, on JAX, where TensorFlow is not installed."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("jax")

# TensorFlow is installed where the tests run: importing it fails as if it were not.
BLOCKED = "import sys; sys.modules['tensorflow'] = None\n"


def on_jax(code, *arguments):
    """Runs code on JAX in a Python of its own; returns the JSON that it prints."""
    result = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=os.environ | {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    return json.loads(result.stdout.splitlines()[-1])


TRAIN = """
import json
import keras
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
    "tensorflow": sys.modules["tensorflow"] is not None,
}))
"""


def test_lenet5_is_pruned_quantized_and_saved(tmp_path):
    path = tmp_path / "small.keras"
    found = on_jax(BLOCKED + TRAIN, path)
    assert not found["tensorflow"]
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
    assert "pip install tensorflow" in found["refused"][0]
    assert "TensorFlow Datasets" in found["refused"][1]


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
    found = on_jax(CONVERT, path)
    assert path.stat().st_size == found["bytes"]
    assert found["error"] < 0.05
    # The converter runs in a process of its own, whose refusals are handed on.
    assert "argument `calibration`" in found["refused"]
