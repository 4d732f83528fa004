"""The table of facts, checked against the functions themselves."""

import keras
import numpy as np
import pytest
from keras import layers as L

import tfcompress as tfc
from tests.structure import graphs
from tfcompress.structure import _facts

PLACES = (
    keras.src.ops.nn,
    keras.src.ops.numpy,
    keras.src.ops.math,
    keras.src.activations.activations,
)


def functions():
    """Keras' activation functions and operations of one tensor, by class name."""
    found = {}
    for name in _facts._FACTS:
        snake = "".join(f"_{c.lower()}" if c.isupper() else c for c in name)[1:]
        classes = [vars(place)[name] for place in PLACES if name in vars(place)]
        if name == "Clip":
            found[name] = classes[0](-1.0, 1.0)
        elif name == "Threshold":
            found[name] = classes[0](0.5, 0.25)
        else:
            function = getattr(keras.activations, snake, None)
            found[name] = function or classes[0]()
    return found


FUNCTIONS = functions()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_row_holds_for_the_function_itself(name):
    function, row = FUNCTIONS[name], _facts._FACTS[name]
    assert _facts.facts(function) is row
    values = np.linspace(-4, 4, 161).astype("float32").reshape(1, -1)
    with np.errstate(all="ignore"):
        whole = np.asarray(function(values))
        near = np.asarray(function(values[:, 60:68] / 50))
        half = np.asarray(function(values[:, 60:68:2] / 50))
    same = np.allclose(near[:, ::2], half, rtol=1e-5, atol=0, equal_nan=True)
    assert row.elementwise is same
    zero = float(np.ravel(function(np.zeros((1, 1), "float32")))[0])
    if row.elementwise and row.zero is not None:
        assert row.zero is (zero == 0)
    if row.activation and row.sparse is not None:
        assert row.sparse is bool((whole[:, :80] == 0).any())


def test_operations_of_the_table_exist():
    for name in _facts.UNARY:
        assert any(name in vars(place) for place in PLACES), name


def test_every_activation_function_of_keras_is_known():
    names = set(dir(keras.activations)) - {"get", "serialize", "deserialize"}
    for name in sorted(name for name in names if not name.startswith("_")):
        function = getattr(keras.activations, name)
        known = _facts.facts(function) is not _facts.UNKNOWN
        # A gated linear unit halves its tensor.
        assert known or not callable(function) or name == "glu", name


def test_functions_of_others_are_tried_whatever_their_name():
    def gelu(x):
        return x + 1.0

    def relu(x):
        return x - keras.ops.mean(x, axis=-1, keepdims=True)

    assert _facts.facts(gelu) is _facts.UNKNOWN
    assert _facts.is_elementwise(gelu) and not _facts.preserves_zero(gelu)
    assert not _facts.is_elementwise(relu)
    assert _facts.makes_zeros(lambda x: keras.ops.maximum(x, 0.0))
    assert not _facts.makes_zeros(keras.activations.gelu)


@pytest.mark.parametrize("activation", ["sparse_plus", "mish"])
def test_what_a_removed_channel_carries_follows_from_the_table(activation):
    # sparse_plus(0) is 1/4, which the bias of the next layer takes over.
    i = keras.Input((5,))
    x = L.Dense(6, activation=activation, name="hidden")(i)
    model = graphs.randomize(keras.Model(i, L.Dense(3)(x)))
    masked = tfc.structure.zero_channels(model, {"hidden": [1, 4]})
    small = tfc.structure.remove_channels(model, {"hidden": [1, 4]}, verify=False)
    inputs = graphs.random_inputs(model)
    assert graphs.largest_difference(masked, small, inputs) < 1e-6
    assert graphs.largest_difference(model, masked, inputs) > 1e-3


def test_kernels_of_layers():
    i = keras.Input((8, 8, 3))
    conv, separable, norm = L.Conv2D(2, 3), L.SeparableConv2D(2, 3), L.PReLU()
    norm(separable(conv(i)))
    assert [v.name for v in _facts.kernels(conv)] == ["kernel"]
    named = ["depthwise_kernel", "pointwise_kernel"]
    assert [v.name for v in _facts.kernels(separable)] == named
    assert _facts.kernels(norm) == []
    conv.trainable = False
    assert _facts.kernels(conv, trainable=True) == []
