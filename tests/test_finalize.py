import keras
import numpy as np
import pytest
from keras import layers

import tfcompress as tfc


class Doubled(keras.layers.Wrapper):
    """A kernel transformation for the tests: computes with twice the kernel."""

    def call(self, inputs):
        kernel = self.layer.kernel
        state = [(v, 2 * v if v is kernel else v) for v in self.layer.variables]
        with keras.StatelessScope(state_mapping=state):
            return self.layer(inputs)

    def bake(self):
        self.layer.kernel.assign(2 * self.layer.kernel)
        return self.layer


def network():
    return keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Conv2D(8, 3, activation="relu", name="conv"),
            layers.Flatten(),
            layers.Dense(3, name="logits"),
        ]
    )


def test_zero_channels_are_removed():
    masked = tfc.structure.zero_channels(network(), {"conv": [1, 4]})
    small = tfc.finalize(masked)
    x = np.random.default_rng(0).normal(size=(5, 6, 6, 2))
    np.testing.assert_allclose(small(x), masked(x), atol=1e-6)
    assert small.get_layer("conv").filters == 6


def test_layers_that_can_bake_are_replaced_by_plain_ones():
    model = tfc.structure.wrap(network(), {"conv": Doubled})
    x = np.random.default_rng(0).normal(size=(5, 6, 6, 2))
    before = np.asarray(model(x))
    plain = tfc.finalize(model)
    assert type(plain.layers[0]) is layers.Conv2D
    np.testing.assert_allclose(plain(x), before, atol=1e-6)
    np.testing.assert_allclose(model(x), before, atol=0)


def test_a_plain_model_stays_the_same():
    model = network()
    again = tfc.finalize(model)
    assert again is not model
    assert again.to_json() == model.to_json()


def test_what_is_no_graph_is_refused():
    with pytest.raises(TypeError, match="argument `model`"):
        tfc.finalize("model.keras")
    with pytest.raises(ValueError, match=r"argument `model`.*input shape"):
        tfc.finalize(keras.Sequential([layers.Dense(3)]))


def mixed(policy):
    """A model with branches, a nested model and a wrapper, in some policy."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        inner = keras.Sequential(
            [keras.Input((6, 4)), layers.TimeDistributed(layers.Dense(4))], name="inner"
        )
        inputs = keras.Input((6, 4))
        x = layers.MultiHeadAttention(2, 3, name="attention")(inputs, inputs)
        x = layers.BatchNormalization()(keras.ops.relu(x + inner(x)))
        model = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)))
    finally:
        keras.config.set_dtype_policy(before)
    return model


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "bfloat16"])
def test_a_mixed_model_can_be_finalized_to_float32(policy):
    model = mixed(policy)
    small = tfc.finalize(model, dtype="float32")
    for layer in small._flatten_layers():
        assert layer.dtype_policy.name == "float32"
        assert all(v.dtype in ("float32", "int64") for v in layer.variables)
    assert [t.dtype for t in small.outputs] == ["float32"]
    for old, new in zip(model.weights, small.weights, strict=True):
        np.testing.assert_array_equal(
            keras.ops.convert_to_numpy(old).astype("float32"), new.numpy()
        )
    plain = mixed("float32")
    for source, target in zip(small.weights, plain.weights, strict=True):
        target.assign(source)
    x = np.random.default_rng(0).normal(size=(5, 6, 4)).astype("float32")
    np.testing.assert_allclose(small(x), plain(x), rtol=1e-5, atol=1e-6)
    assert model.layers[1].dtype_policy.name == policy  # as it was
    with pytest.raises(ValueError, match="argument `dtype`"):
        tfc.finalize(model, dtype="float64")


def test_quantized_layers_keep_their_dtype():
    model = keras.Sequential([keras.Input((8,)), layers.Dense(4, name="q")])
    model.quantize("int8")
    with pytest.raises(ValueError, match=r"`dtype`.*'q' is quantized to int8"):
        tfc.finalize(model, dtype="float32")


def test_a_layer_without_kwargs_is_told_what_it_lacks():
    class Mine(layers.Layer):
        def __init__(self, units):
            super().__init__()
            self.units = units

        def call(self, x):
            return x * self.units

    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(2)(Mine(3)(inputs)))
    with pytest.raises(ValueError, match=r"class Mine.*\*\*kwargs.*get_config"):
        tfc.finalize(model)
