"""With `verbose=0` nothing is printed, whatever runs.

Conversion and reports have tests of their own, in `tests/export` and `tests/report`.
"""

import re

import keras
import numpy as np
import pytest

import tfcompress as tfc
from tfcompress.constraints import Cardinality
from tfcompress.training import AdmmPhase

X = np.random.default_rng(0).random((24, 8, 8, 1), "float32")
Y = np.arange(24) % 3
LOSS = "sparse_categorical_crossentropy"
SLOW = pytest.mark.slow


def network():
    image = keras.Input((8, 8, 1))
    h = keras.layers.Conv2D(6, 3, padding="same", activation="relu", name="c1")(image)
    branch = keras.layers.Conv2D(6, 3, padding="same", name="c2")(h)
    h = keras.layers.ReLU()(keras.layers.add([h, branch]))
    h = keras.layers.Dense(8, activation="relu", name="d")(keras.layers.Flatten()(h))
    model = keras.Model(image, keras.layers.Dense(3, activation="softmax")(h))
    model.compile("adam", LOSS, metrics=["accuracy"])
    return model


def shrink(folder):
    pruning = tfc.callbacks.FilterPruning(0.5)
    tfc.training.fit_shrinking(
        network(), X, Y, epochs=2, shrink_every=1, callbacks=[pruning], verbose=0
    )


def resize(folder):
    tfc.training.resize_by_density(
        network(), X, Y, epochs=1, round_epochs=1, max_rounds=1, seed=0, verbose=0
    )


def admm(folder):
    plan = [AdmmPhase(Cardinality(fraction=0.5), admm_epochs=1, retrain_epochs=1)]
    tfc.training.admm_compress(network(), plan, X, Y, verbose=0)


def gates(folder):
    model = tfc.gates.add_layer_gates(network(), seed=0)
    model.compile("adam", LOSS)
    penalty = tfc.callbacks.GatePenalty(polarization=1.0, activation=0.5)
    model.fit(X, Y, verbose=0, callbacks=[penalty])
    tfc.gates.measure(model, X)
    tfc.finalize(model, X, threshold=0.5)


def methods(folder):
    model = tfc.layers.wrap_kernels(network(), tfc.layers.MaskedKernel)
    model.compile("adam", LOSS)
    callbacks = [
        tfc.callbacks.DynamicSurgery(0.5),
        tfc.callbacks.ActivationDensity(X),
        tfc.callbacks.CompressionMetrics(),
    ]
    model.fit(X, Y, verbose=0, callbacks=callbacks)
    tfc.analysis.sensitivity(network(), (X, Y), [0.5], workers=1, verbose=False)


def budget(folder):
    tfc.compress(
        network(), (X, Y), (X, Y), budget=tfc.Budget(macs=0.6), epochs=1, verbose=0
    )


RUNS = [shrink, resize, admm, gates, methods, pytest.param(budget, marks=SLOW)]


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.__name__)
def test_nothing_is_printed(run, tmp_path, capfd):
    run(tmp_path)
    printed = capfd.readouterr()
    assert printed.out == ""
    # TensorFlow's C++ greets a process once, with a time before each line.
    greeting = re.compile(r"[IWE]\d{4} |WARNING")
    assert [x for x in printed.err.splitlines() if not greeting.match(x)] == []
