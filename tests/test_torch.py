"""What works on the torch backend of Keras; what does not is refused by name."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("torch", reason="torch is not installed")

CODE = """
import json
import keras, numpy as np
from keras import layers
import tfcompress as tfc

keras.utils.set_random_seed(0)
x = np.random.default_rng(0).normal(size=(16, 8, 8, 2)).astype("float32")
y = np.arange(16) % 3

def network():
    inputs = keras.Input((8, 8, 2))
    h = layers.Conv2D(8, 3, activation="relu", name="a")(inputs)
    b = layers.Conv2D(8, 3, padding="same", activation="relu", name="b")(h)
    h = layers.Flatten()(layers.Add(name="add")([h, b]))
    return keras.Model(inputs, layers.Dense(3, name="c")(h))

def fit(model, *callbacks):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss)
    return model.fit(x, y, epochs=1, verbose=0, callbacks=list(callbacks))

def apart(one, other):
    a, b = (m.predict(x, verbose=0) for m in (one, other))
    return float(np.abs(a - b).max())

found, refused = {}, {}
masked = tfc.structure.zero_channels(network(), {"a": [1, 2]})
small = tfc.structure.shrink(masked)
found["shrunk"] = [small.get_layer("a").filters, apart(masked, small)]
found["macs"] = [tfc.cost.count(m).macs for m in (masked, small)]
wrapped = tfc.structure.wrap(network(), {"b": tfc.layers.MaskedKernel})
fit(wrapped)
found["masked"] = apart(wrapped, tfc.finalize(wrapped))
gated = tfc.gates.add_layer_gates(network())
fit(gated)
found["gates"] = len(tfc.gates.gates_of(tfc.finalize(gated, data=x, threshold=0.5)))
quantized = tfc.quantization.calibrate(tfc.quantization.prepare(network()), x)
found["quantized"] = float(fit(quantized).history["loss"][0])
tfc.export.pack(small, "small.tfcz")
found["packed"] = apart(small, tfc.export.unpack("small.tfcz"))
for name, call in {
    "method": lambda: fit(network(), tfc.callbacks.FilterPruning(0.5)),
    "multiplier": lambda: tfc.layers.DrumMultiply(layers.Dense(2), 2, 6)(x[:, 0, 0]),
    "truncation": lambda: tfc.ops.drum_truncate(x, 4),
}.items():
    try:
        call()
    except ValueError as error:
        refused[name] = str(error)
print(json.dumps({"found": found, "refused": refused}))
"""


def test_what_trains_without_a_method_works(tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", CODE],
        env=os.environ | {"KERAS_BACKEND": "torch"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    printed = json.loads(result.stdout.splitlines()[-1])
    found, refused = printed["found"], printed["refused"]
    assert found["shrunk"][0] == 6 and found["shrunk"][1] < 1e-5
    # Without padding 6×6 positions; the addition keeps "b" as wide as "a".
    assert found["macs"] == [
        36 * 9 * 2 * n + 36 * 9 * n * n + 36 * n * 3 for n in (8, 6)
    ]
    assert found["masked"] < 1e-5 and found["packed"] == 0
    assert found["gates"] == 0 and found["quantized"] > 0
    assert refused.keys() == {"method", "truncation", "multiplier"}
    for text in refused.values():
        assert "tensorflow and jax" in text and "'torch'" in text
