"""What cannot be pruned has a row with a reason; names are found and printed."""

import keras
import numpy as np
import pytest
from keras import layers as L

import tfcompress as tfc
from tests.structure import graphs

structure = tfc.structure


class Own(L.Layer):
    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], 5), name="w")

    def call(self, x):
        return x @ self.w


class Subclass(L.Dense):
    pass


def with_lora():
    layer = L.Dense(5)
    layer.build((None, 6, 4))
    layer.enable_lora(2)
    return layer


KINDS = {
    "lora": (with_lora, 5, "has LoRA weights"),
    "spectral": (
        lambda: L.SpectralNormalization(L.Conv1D(7, 3)),
        7,
        "applies another layer",
    ),
    "distributed": (lambda: L.TimeDistributed(L.Dense(5)), 5, "applies another layer"),
    "bidirectional": (
        lambda: L.Bidirectional(L.LSTM(3, return_sequences=True)),
        6,
        "applies another layer",
    ),
    "custom_cell": (
        lambda: L.RNN(L.LSTMCell(3), return_sequences=True),
        3,
        "runs a custom cell",
    ),
    "own": (Own, 5, "no rule for Own"),
    "subclass": (lambda: Subclass(5), 5, "no rule for Subclass"),
    "einsum": (
        lambda: L.EinsumDense("abc,bcd->abd", (6, 5)),
        5,
        "equation 'abc,bcd->abd' is not supported",
    ),
    "wrapped": (
        lambda: tfc.layers.MaskedKernel(L.Conv1D(7, 3)),
        7,
        "no rule for MaskedKernel",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("first", [True, False])
def test_layers_refused_for_what_they_are_have_a_row(kind, first):
    build, size, reason = KINDS[kind]
    i = keras.Input((6, 4))
    x = i if first else L.Dense(4, name="before")(i)
    layer = build()
    layer.name = "it"
    x = L.Dense(4, name="after")(layer(x))
    model = keras.Model(i, L.Dense(2, name="out")(L.Flatten()(x)))
    groups = structure.channel_groups(model)
    row = groups["it"]
    assert row is groups.of("it") and row.producers == ("it",)
    assert row.size == size and not row.prunable and reason in row.reason
    assert groups.of("after").prunable
    names = [group.name for group in groups]
    assert names == [*([] if first else ["before"]), "it", "after", "out"]
    assert any(line.startswith("it ") for line in str(groups).splitlines())
    with pytest.raises(ValueError, match="cannot be removed.*" + reason[:10]):
        structure.remove_channels(model, {"it": [0]})
    with pytest.raises(ValueError, match="cannot be resized.*" + reason[:10]):
        structure.resize(model, {"it": 2})
    selection = tfc.policy.select_groups(groups, model)
    assert reason in selection.skipped["it"]


def test_quantized_layers_have_a_row():
    model = keras.Sequential([keras.Input((8,)), L.Dense(8, name="it"), L.Dense(2)])
    model.layers[0].quantize("int8")
    assert "is quantized" in structure.channel_groups(model)["it"].reason


def test_layers_that_create_no_channels_have_no_row():
    i = keras.Input((6, 4))
    x = L.LayerNormalization()(L.Dense(4, name="dense")(i))
    x = L.GroupNormalization(2)(x)
    groups = structure.channel_groups(keras.Model(i, L.Dense(2, name="out")(x)))
    assert [group.name for group in groups] == ["dense", "out"]


def nested():
    def block(name):
        i = keras.Input((6,))
        x = L.Dense(8, activation="relu", name="c1")(i)
        return keras.Model(i, L.Dense(6, name=f"{name}_out")(x), name=name)

    i = keras.Input((6,))
    x = block("right")(block("left")(i))
    return keras.Model(i, L.Dense(2, name="head")(L.Dense(5, name="c2")(x)))


def test_the_last_part_of_a_name_is_enough_where_only_one_has_it():
    model = graphs.randomize(nested())
    short = structure.remove_channels(model, {"left_out": [1], "c2": [0]})
    full = structure.remove_channels(model, {"left/left_out": [1], "c2": [0]})
    inputs = graphs.random_inputs(model)
    assert graphs.largest_difference(short, full, inputs) == 0
    sizes = structure.resize(model, {"right_out": 3}).get_layer("right")
    assert sizes.get_layer("right_out").units == 3
    with pytest.raises(ValueError, match=r"`channels`\. 'c1' stands for several"):
        structure.zero_channels(model, {"c1": [0]})
    with pytest.raises(ValueError, match=r"`widths`\. 'c1' stands for several"):
        structure.resize(model, {"c1": 2})


@pytest.mark.parametrize("key", ["leftout", "lef_out", "left/left_ou"])
def test_typing_errors_in_keys_are_told_with_the_argument(key):
    model = nested()
    with pytest.raises(ValueError, match=r"`channels`\. Unknown name .*left/left_out"):
        structure.remove_channels(model, {key: [0]})
    with pytest.raises(ValueError, match=r"`widths`\. Unknown name .*left/left_out"):
        structure.resize(model, {key: 2})


def test_control_characters_in_names_are_printed_escaped():
    name = "d\x1b[31m\nx é"
    model = keras.Sequential([keras.Input((4,)), L.Dense(4, name=name), L.Dense(2)])
    for text in (structure.channel_groups(model), tfc.cost.count(model)):
        assert "\x1b" not in str(text)
        assert r"d\x1b[31m\nx é" in str(text)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_channels_that_are_not_numbers_are_zeroed_exactly(value):
    i = keras.Input((6,))
    x = L.BatchNormalization(name="norm")(L.Dense(8, name="hidden")(i))
    model = keras.Model(i, L.Dense(3)(L.ReLU()(x)))
    for layer, names in (("hidden", ("kernel", "bias")), ("norm", ("gamma", "beta"))):
        for attribute in names:
            variable = getattr(model.get_layer(layer), attribute)
            array = np.array(variable)
            array[..., 2] = value
            variable.assign(array)
    masked = structure.zero_channels(model, {"hidden": [2]})
    assert (np.array(masked.get_layer("hidden").kernel)[:, 2] == 0).all()
    assert np.isfinite(masked(np.ones((2, 6)))).all()
    small = structure.remove_channels(model, {"hidden": [2]})
    inputs = graphs.random_inputs(model)
    assert graphs.largest_difference(masked, small, inputs) < 1e-6
