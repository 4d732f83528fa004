"""The record of how a smaller model was made."""

import keras
import numpy as np
import pytest
from keras import layers as L

import tfcompress as tfc
from tests.structure import graphs
from tests.structure.test_edits import small_network
from tfcompress.structure._edit import shrink_recorded

structure = tfc.structure


def test_every_variable_is_cut_as_its_array_is():
    model = graphs.randomize(small_network())
    masked = structure.zero_channels(model, {"conv1": [1, 4], "hidden": [0, 2, 3]})
    shrunk = shrink_recorded(masked)
    assert shrunk.model.get_layer("conv1").filters == 6
    for layer in masked.layers[1:]:
        twin = shrunk.layer(layer)
        assert twin is shrunk.model.get_layer(layer.name)
        for old, new in zip(layer.variables, twin.variables, strict=True):
            assert shrunk.variable(old) is new
            # The engine itself has cut the weights: they say what is right.
            np.testing.assert_array_equal(shrunk.cut(old, old), new)
    kernel = masked.get_layer("branch1").kernel
    assert shrunk.positions(kernel, 2).tolist() == [0, 2, 3, 5, 6, 7]
    assert shrunk.positions(kernel, -1).tolist() == list(range(8))
    across = np.arange(8.0).reshape(1, 1, 8, 1)
    assert shrunk.cut(kernel, across).ravel().tolist() == [0, 2, 3, 5, 6, 7]
    groups = structure.channel_groups(masked)
    kept = {g.name: shrunk.channels(g).tolist() for g in groups if g.prunable}
    assert kept[groups.of("hidden").name] == [1, *range(4, 12)]
    assert kept[groups.of("conv1").name] == [0, 2, 3, 5, 6, 7]


def test_what_goes_with_a_branch_is_none():
    model = graphs.randomize(small_network())
    last = model.get_layer("branch2")
    for variable in last.variables:
        variable.assign(0 * variable)
    hidden = model.get_layer("hidden")
    for variable in hidden.variables:
        variable.assign(variable * (np.arange(12) != 5))
    shrunk = shrink_recorded(model)
    assert shrunk.layer(last) is shrunk.variable(last.kernel) is None
    assert shrunk.layer(hidden) is shrunk.model.get_layer("hidden")
    np.testing.assert_array_equal(
        shrunk.cut(hidden.kernel, hidden.kernel), shrunk.layer(hidden).kernel
    )
    with pytest.raises(ValueError, match=r"branch2/kernel.*not in the new model"):
        shrunk.cut(last.kernel, np.zeros(last.kernel.shape))
    branch = structure.channel_groups(model).of("branch1")
    assert shrunk.channels(branch).size == 0


def test_nested_models_and_wrong_shapes():
    inner = small_network()
    i = keras.Input((8, 8, 3))
    model = graphs.randomize(keras.Model(i, L.Dense(2)(inner(i))))
    conv = inner.get_layer("branch1")
    for variable in conv.variables:
        variable.assign(variable * (np.arange(8) > 2))
    shrunk = shrink_recorded(model, multiple_of=2)
    assert shrunk.variable(conv.kernel).shape == (3, 3, 8, 6)
    assert shrunk.cut(conv.bias, np.arange(8)).tolist() == [0, 3, 4, 5, 6, 7]
    with pytest.raises(ValueError, match="argument `array`"):
        shrunk.cut(conv.bias, np.arange(6))
