"""Every method on LeNet-5 and the digits: trained, finalized, saved; prints JSON.

    on_lenet5.py FOLDER

Written for an environment in which neither TensorFlow nor pytest is installed.
"""

import json
import sys
import traceback
from pathlib import Path

import keras
import numpy as np
from keras import layers

import tfcompress as tfc

FOLDER = Path(sys.argv[1])
KERNELS = ("conv2", "fc1")
DATA = tfc.data.load("digits")
X, Y = DATA.train.images, DATA.train.labels


def lenet5():
    return tfc.zoo.lenet5(width=0.2, input_shape=(8, 8, 1))


def with_zeros():
    model = lenet5()
    kernel = model.get_layer("fc1").kernel
    kept = np.random.default_rng(0).random(kernel.shape) < 0.4
    kernel.assign(keras.ops.convert_to_numpy(kernel) * kept)
    return model


def masked():
    return tfc.structure.wrap(lenet5(), dict.fromkeys(KERNELS, tfc.layers.MaskedKernel))


def on_multipliers():
    def multiply(layer):
        return tfc.layers.DrumMultiply(layer, 2, 6)

    return tfc.structure.wrap(lenet5(), dict.fromkeys(KERNELS, multiply))


def gated():
    """LeNet-5 has no branch that a gate could close: a network that has one."""
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(4, 3, activation="relu", name="a")(inputs)
    branch = layers.Conv2D(4, 3, padding="same", activation="relu", name="b")(x)
    x = layers.Flatten()(layers.Add(name="add")([x, branch]))
    model = keras.Model(inputs, layers.Dense(10, activation="softmax", name="c")(x))
    return tfc.gates.add_layer_gates(model)


half = tfc.schedules.Linear(0.0, 0.5, begin=0, end=2)
METHODS = {
    "FilterPruning": (lenet5, tfc.callbacks.FilterPruning(half)),
    "MagnitudePruning": (lenet5, tfc.callbacks.MagnitudePruning(half, unit="epoch")),
    "HoldWeights": (with_zeros, tfc.callbacks.HoldWeights("zeros", layers=["fc1"])),
    "ADMM": (lenet5, tfc.callbacks.ADMM(tfc.constraints.Levels(3), rho=3e-3)),
    "IncrementalApproximation": (
        on_multipliers,
        tfc.callbacks.IncrementalApproximation(3),
    ),
    "DynamicSurgery": (
        masked,
        tfc.callbacks.DynamicSurgery(dict.fromkeys(KERNELS, 0.8), begin=0),
    ),
    "ActivationDensity": (lenet5, tfc.callbacks.ActivationDensity(stop=False)),
    "GatePenalty": (gated, tfc.callbacks.GatePenalty(1.0, 0.5)),
    "CompressionMetrics": (lenet5, tfc.callbacks.CompressionMetrics()),
}


def train(name):
    make, method = METHODS[name]
    keras.utils.set_random_seed(0)
    model = make()
    model.compile("adam", "sparse_categorical_crossentropy")
    history = model.fit(X, Y, epochs=3, batch_size=64, callbacks=[method], verbose=0)
    gates = {"data": X, "threshold": 0.5} if name == "GatePenalty" else {}
    small = tfc.finalize(model, **gates)
    path = FOLDER / f"{name}.keras"
    small.save(path)
    again = keras.saving.load_model(path, compile=False)
    x = DATA.test.images
    outputs = [m.predict_on_batch(x) for m in (small, again)]
    return {
        "logs": {name: float(v[-1]) for name, v in history.history.items()},
        "parameters": [model.count_params(), small.count_params()],
        "nonzero": tfc.cost.count(small).nonzero,
        "accuracy": float(np.mean(outputs[0].argmax(-1) == DATA.test.labels)),
        "saved": bool(np.array_equal(*outputs)),
    }


if __name__ == "__main__":
    assert set(METHODS) == set(tfc.callbacks.__all__)
    results = {}
    for each in METHODS:
        try:
            results[each] = {"error": None, **train(each)}
        except Exception:
            results[each] = {"error": traceback.format_exc()[-2000:]}
    report = tfc.report.compare({"dense": lenet5()}, data=(X[:64], Y[:64]), verbose=0)
    report.save(FOLDER / "report.html")
    results["report"] = list(report.notes)
    print(json.dumps(results))
