"""What the contract test is about: every callback, on a small network of its own.

A new callback joins by one entry of `CASES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import tfcompress as tfc

EPOCHS = 4
SAMPLES, BATCH = 64, 8  # 8 steps an epoch


# Where a run may take place; the columns of the table in docs/scaling.md.
PLACES = (
    "TensorFlow, one device",
    "TensorFlow, `MirroredStrategy`",
    "TensorFlow, several processes",
    "JAX, one device",
    "JAX, data parallel",
    "JAX, several processes",
    "torch",
)


def proves(*places, outcome="tested"):
    """Marks a test that is parametrized by cases as what cells of the table stand on.

    `scripts/document_backends.py` writes the table from these marks.
    """
    assert set(places) <= set(PLACES)

    def mark(function):
        function.proves = (places, outcome)
        return function

    return mark


def data():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(SAMPLES, 6, 6, 2)).astype("float32")
    return x, generator.integers(0, 3, SAMPLES)


def network(around=None, *, frozen=(), dtype=None, zeros=False, residual=False):
    """A small network; `around` wraps its layer "b"."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(8, 3, activation="relu", name="a", dtype=dtype)(inputs)
    b = layers.Conv2D(8, 3, padding="same", activation="relu", name="b", dtype=dtype)
    x = layers.Add(name="add", dtype=dtype)([x, b(x)]) if residual else b(x)
    x = layers.Flatten(dtype=dtype)(x)
    x = layers.Dense(8, activation="relu", name="h", dtype=dtype)(x)
    model = keras.Model(inputs, layers.Dense(3, name="c", dtype="float32")(x))
    if zeros:
        kernel = model.get_layer("b").kernel
        kernel.assign(kernel.numpy() * zero_pattern(kernel.shape))
    if around is not None:
        model = tfc.structure.wrap(model, {"b": around})
    for name in frozen:
        model.get_layer(name).trainable = False
    return model


def zero_pattern(shape):
    return np.random.default_rng(1).random(shape) < 0.4


def gated(**options):
    return tfc.gates.add_channel_gates(network(residual=True, **options))


@dataclass(frozen=True)
class Case:
    """A callback and how to see that it does what it says.

    Attributes:
        method: returns a new callback.
        model: returns a new model, not compiled; takes `frozen` and `dtype`.
        check: function of callback, model and the logs of the last epoch that
            asserts the method's effect from the weights.
        owns: whether the method may write a variable, by its path.
        prunable: layers whose channels are removed beside the method.
        exact: whether the method does in a smaller model what it does in a masked
            one. Rates of single weights are of those that the model has.
    """

    method: Callable[[], Any]
    check: Callable[[Any, keras.Model, dict[str, float]], None]
    model: Callable[..., keras.Model] = network
    owns: Callable[[str], bool] = lambda path: False
    prunable: tuple[str, ...] = ("a", "h")
    exact: bool = True


NOTHING = np.zeros(0, int)


# What must be true after training ------------------------------------------------


def zero_channels_are_as_logged(pruning, model, logs):
    groups = tfc.structure.channel_groups(model)
    zero = tfc.structure.zero_indices(groups)
    for name in ("a", "b", "h"):
        # A smaller model has the others only.
        assert zero.get(name, NOTHING).size == groups[name].size - 4
    assert logs["pruning_rate"] == 0.5


def zeros_stay(hold, model, logs):
    kernel = keras.ops.convert_to_numpy(model.get_layer("b").kernel)
    pattern = zero_pattern((3, 3, 8, 8))
    if kernel.shape == pattern.shape:
        np.testing.assert_array_equal(kernel != 0, pattern)
    else:  # of a smaller model: some of the input channels
        columns = {(kernel[:, :, i] != 0).tobytes() for i in range(kernel.shape[2])}
        assert columns < {pattern[:, :, i].tobytes() for i in range(8)}


def targets_lie_in_the_set(admm, model, logs):
    (auxiliary,) = admm.auxiliary["b"]
    kernel = keras.ops.convert_to_numpy(model.get_layer("b").kernel)
    assert set(np.unique(np.abs(np.round(auxiliary / 0.1)))) <= {0, 1, 2, 3, 4}
    assert auxiliary.shape == kernel.shape and np.ptp(auxiliary) > 0.3
    assert admm.updates in (EPOCHS, 2 * EPOCHS)  # of one fit or two
    gap = np.linalg.norm(kernel - auxiliary) / np.linalg.norm(kernel)
    # The logs are those before averaged weights were written.
    assert 0 < gap < 1 and 0 < logs["admm_primal"] < 1


def everything_is_approximated(approximation, model, logs):
    (mask,) = model.get_layer("b").approximations
    assert keras.ops.convert_to_numpy(mask).all()
    assert model.get_layer("b").partition == "all"
    assert logs["approximated"] == 1.0


def masks_are_as_logged(surgery, model, logs):
    (own,) = model.get_layer("b").masks
    masked = 1 - keras.ops.convert_to_numpy(own.mask).mean()
    assert logs["surgery_sparsity"] == masked
    assert 0.2 < masked < 0.9  # of a normal distribution 0.68, at first


def densities_are_measured(density, model, logs):
    assert set(density.layers) == {"a", "b", "h"}
    assert all(0 < v < 1 for curve in density.layers.values() for v in curve)
    assert logs["density"] == density.curve[-1]
    # A share of all activations: between those of the layers.
    last = [curve[-1] for curve in density.layers.values()]
    assert min(last) <= density.curve[-1] <= max(last)


def gates_are_counted(penalty, model, logs):
    assert len(penalty.openings) == 1
    (openings,) = penalty.openings.values()
    assert openings and all(0 <= opening <= 1 for opening in openings)
    assert logs["r_act"] == openings[-1]
    (gate,) = (each for each in model.layers if each.name in penalty.openings)
    assert gate.penalty == (0, 0)


def weights_are_zero(pruning, model, logs):
    for name in ("a", "b", "h", "c"):
        kernel = keras.ops.convert_to_numpy(model.get_layer(name).kernel)
        kept = round(kernel.size * 0.25)
        assert np.count_nonzero(kernel) == kept
    assert logs["weight_sparsity"] == pruning.sparsity == pytest.approx(0.75, abs=1e-2)


def costs_are_counted(metrics, model, logs):
    assert logs["macs"] == tfc.cost.count(tfc.structure.shrink(model)).macs
    assert logs["parameters"] == metrics.costs[-1].parameters


CASES: dict[str, Case] = {
    "FilterPruning": Case(
        lambda: tfc.callbacks.FilterPruning(tfc.schedules.Linear(0.0, 0.5, 0, 2)),
        zero_channels_are_as_logged,
        owns=lambda path: path.startswith(("a/", "b/", "h/")),
        prunable=(),
    ),
    "HoldWeights": Case(
        lambda: tfc.callbacks.HoldWeights("zeros", layers=["b"]),
        zeros_stay,
        lambda **options: network(zeros=True, **options),
    ),
    "ADMM": Case(
        lambda: tfc.callbacks.ADMM(
            tfc.constraints.Levels(3, step=0.1), rho=1.0, layers=["b"]
        ),
        targets_lie_in_the_set,
    ),
    "IncrementalApproximation": Case(
        lambda: tfc.callbacks.IncrementalApproximation(8, epochs=3),
        everything_is_approximated,
        lambda **options: network(
            lambda layer: tfc.layers.DrumMultiply(layer, 2, 6), **options
        ),
        owns=lambda path: "approximated" in path,
        prunable=("h",),
    ),
    "DynamicSurgery": Case(
        lambda: tfc.callbacks.DynamicSurgery({"b": 0.5}, gamma=0.0, begin=8),
        masks_are_as_logged,
        lambda **options: network(tfc.layers.MaskedKernel, **options),
        owns=lambda path: "mask" in path or "statistics" in path,
        prunable=("h",),
    ),
    "ActivationDensity": Case(
        lambda: tfc.callbacks.ActivationDensity(stop=False), densities_are_measured
    ),
    "GatePenalty": Case(
        lambda: tfc.callbacks.GatePenalty(1.0, 0.5),
        gates_are_counted,
        gated,
        owns=lambda path: path.split("/")[-1] in ("opened", "samples", "polarity"),
        prunable=("h",),
    ),
    "MagnitudePruning": Case(
        lambda: tfc.callbacks.MagnitudePruning(
            tfc.schedules.Polynomial(0.0, 0.75, begin=0, end=3), unit="epoch"
        ),
        weights_are_zero,
        owns=lambda path: path.endswith("kernel"),
        exact=False,
    ),
    "CompressionMetrics": Case(tfc.callbacks.CompressionMetrics, costs_are_counted),
}
