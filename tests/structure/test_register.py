"""Layers of one's own that create channels are told once, for structure and cost."""

import keras
import pytest
from keras import layers as L

import tfcompress as tfc
from tests.structure import graphs
from tfcompress.structure import _facts
from tfcompress.structure.rules import _table

structure = tfc.structure


@pytest.fixture(autouse=True)
def registrations(monkeypatch):
    monkeypatch.setattr(_table, "_LAYERS", dict(_table._LAYERS))
    monkeypatch.setattr(_table, "_LIKE", dict(_table._LIKE))
    kernels = dict(_facts.KERNELS)
    yield
    _facts.KERNELS.clear()
    _facts.KERNELS.update(kernels)


class Projection(L.Layer):
    def __init__(self, size, activation=None, **kwargs):
        super().__init__(**kwargs)
        self.size = size
        self.activation = keras.activations.get(activation)

    def build(self, shape):
        self.w = self.add_weight(shape=(self.size, shape[-1]), name="w")
        self.b = self.add_weight(shape=(self.size,), name="b")

    def call(self, x):
        return self.activation(
            keras.ops.matmul(x, keras.ops.transpose(self.w)) + self.b
        )

    def get_config(self):
        activation = keras.activations.serialize(self.activation)
        return {**super().get_config(), "size": self.size, "activation": activation}


class Conv(L.Conv2D):
    pass


def sequence_model():
    i = keras.Input((5, 4))
    x = Projection(8, "sigmoid", name="first")(i)
    x = Projection(6, "relu", name="second")(x)
    return graphs.randomize(keras.Model(i, L.Dense(2, name="head")(x)))


def test_channels_of_a_registered_layer_are_removed_and_counted():
    model = sequence_model()
    assert "no rule for Projection" in structure.channel_groups(model)["first"].reason
    structure.register_producer(Projection, "w", "b", width="size", axes=(1, 0))
    groups = structure.channel_groups(model)
    # A removed channel would be 1/2 after the sigmoid, which nothing folds.
    assert "non-zero constant" in groups.of("first").reason
    assert groups.of("second").prunable
    masked = structure.zero_channels(model, {"second": [1, 4]})
    small = structure.remove_channels(model, {"second": [1, 4]})
    assert small.get_layer("second").size == 4
    inputs = graphs.random_inputs(model)
    assert graphs.largest_difference(masked, small, inputs) < 1e-6
    assert graphs.largest_difference(model, masked, inputs) > 1e-3
    assert structure.shrink(masked).count_params() == small.count_params()
    rows = {row.name: row for row in tfc.cost.count(model).rows}
    # 5 positions, of 4 by 8 and of 8 by 6 values.
    assert rows["first"].macs == 5 * 4 * 8 and rows["second"].macs == 5 * 8 * 6
    names = [v.name for v in _facts.kernels(model.get_layer("second"))]
    assert names == ["w"]


def test_work_may_be_told():
    structure.register_producer(
        Projection, "w", "b", "size", axes=(1, 0), macs=lambda layer, i, o: o[0][1] * 7
    )
    rows = {row.name: row for row in tfc.cost.count(sequence_model()).rows}
    assert rows["first"].macs == 5 * 7


def test_a_subclass_is_like_its_base():
    i = keras.Input((8, 8, 3))
    x = L.BatchNormalization()(Conv(6, 3, name="conv")(i))
    model = graphs.randomize(keras.Model(i, L.Dense(2)(L.Flatten()(L.ReLU()(x)))))
    plain = 6 * 6 * 27 * 6
    structure.register_producer(Conv, like=L.Conv2D)
    small = structure.remove_channels(model, {"conv": [0, 2]})
    assert type(small.get_layer("conv")) is Conv
    assert small.get_layer("conv").filters == 4
    rows = {row.name: row for row in tfc.cost.count(model).rows}
    assert rows["conv"].macs == plain


def test_wrong_registrations_are_caught():
    structure.register_producer(Projection, "w", "b", "size", axes=(0, 1))
    reason = structure.channel_groups(sequence_model()).of("first").reason
    assert "from 8 to 4 channels, but called from 4 to 8" in reason

    class Shifted(Projection):
        def call(self, x):
            return super().call(x) + 1.0

    structure.register_producer(Shifted, "w", "b", "size", axes=(1, 0))
    i = keras.Input((4,))
    x = Shifted(6, name="it")(i)
    model = graphs.randomize(keras.Model(i, L.Dense(2)(x)))
    with pytest.raises(structure.VerificationError):
        structure.remove_channels(model, {"it": [1]})


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"layer": "Dense"}, TypeError),
        ({"layer": Projection, "macs": 3}, TypeError),
        ({"layer": Projection, "like": L.Dense}, ValueError),
        ({"layer": Conv, "like": L.Layer}, ValueError),
    ],
)
def test_bad_arguments(arguments, error):
    with pytest.raises(error, match="argument `"):
        structure.register_producer(**arguments)
