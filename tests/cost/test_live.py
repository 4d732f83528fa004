"""The cost without dead channels is the cost of the model that shrinking builds."""

import keras
import numpy as np
import pytest
from keras import layers as L

from tfcompress import cost, structure, zoo
from tfcompress.cost._live import LiveCost


def inverted_residual():
    x = inputs = keras.Input((12, 12, 3))
    x = skip = L.Conv2D(8, 3, padding="same", name="stem")(x)
    x = L.BatchNormalization()(L.Conv2D(16, 1, use_bias=False, name="expand")(x))
    x = L.DepthwiseConv2D(3, padding="same")(L.ReLU()(x))
    x = L.Conv2D(8, 1, name="project")(L.ReLU()(x))
    x = L.Concatenate()([L.Add()([x, skip]), x])
    x = L.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, L.Dense(3)(x))


def attention():
    x = inputs = keras.Input((6, 8))
    x = L.MultiHeadAttention(4, 3, name="attention")(x, x)
    return keras.Model(inputs, L.Dense(3)(L.Flatten()(x)))


def recurrent():
    x = inputs = keras.Input((6, 8))
    x = L.LSTM(5, return_sequences=True, name="first")(x)
    return keras.Model(inputs, L.Dense(3)(L.LSTM(4, name="second")(x)))


@pytest.mark.parametrize(
    ("build", "channels"),
    [
        (zoo.lenet5, {"conv1": [0, 5, 7], "fc1": range(300)}),
        (inverted_residual, {"expand": [1, 3, 5], "stem": [0, 2]}),
        (attention, {"attention/heads": [1, 2]}),
        (recurrent, {"first": [0, 4], "second": [2]}),
    ],
)
def test_live_cost_is_that_of_the_shrunken_model(build, channels):
    model = build()
    masked = structure.zero_channels(model, channels)
    live = LiveCost(masked).count()
    small = cost.count(structure.shrink(masked, verify=False))
    assert live.macs == small.macs < cost.count(model).macs
    assert live.parameters == small.parameters
    assert live.nonzero == small.nonzero
    assert live.activations == small.activations
    if build is not attention:  # softmax inside the heads is not followed
        assert live.operations == small.operations


def test_live_cost_follows_the_weights():
    model = zoo.lenet5()
    live = LiveCost(model)
    whole = live.count()
    assert whole == cost.count(model)
    kernel, bias = model.get_layer("conv1").get_weights()
    kernel[..., 0], bias[0] = 0, 0
    model.get_layer("conv1").set_weights([kernel, bias])
    conv1 = live.count().rows[0]
    assert conv1.macs * 20 == whole.rows[0].macs * 19


def test_a_layer_that_is_zero_keeps_one_channel():
    model = zoo.lenet5()
    for variable in model.get_layer("conv2").weights:
        variable.assign(np.zeros(variable.shape))
    row = next(r for r in LiveCost(model).count().rows if r.name == "conv2")
    assert row.parameters == 25 * 20 + 1
