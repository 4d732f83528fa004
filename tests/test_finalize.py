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
