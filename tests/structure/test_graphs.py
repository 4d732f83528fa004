"""Masked equals shrunk, on one small graph for every construct."""

import keras
import numpy as np
import pytest

import tfcompress as tfc
from tests.structure import graphs


@pytest.fixture(autouse=True)
def float64():
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_dtype_policy(policy)


@pytest.mark.parametrize("build", graphs.CASES, ids=lambda f: f.__name__)
def test_removing_equals_masking(build):
    model = graphs.randomize(build())
    groups = tfc.structure.channel_groups(model)
    assert sorted(g.size for g in groups if g.prunable) == sorted(graphs.CASES[build])
    channels = graphs.some_channels(groups)
    if not channels:
        return
    inputs = graphs.random_inputs(model)
    before = [np.array(v) for v in model.weights]
    masked = tfc.structure.zero_channels(model, channels)
    small = tfc.structure.remove_channels(model, channels)
    assert small.count_params() < model.count_params()
    assert graphs.largest_difference(masked, small, inputs) < 1e-10
    assert graphs.largest_difference(model, masked, inputs) > 1e-6
    again = tfc.structure.shrink(masked)
    assert again.count_params() == small.count_params()
    assert graphs.largest_difference(masked, again, inputs) < 1e-10
    for value, variable in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(value, variable)


@pytest.mark.parametrize("build", graphs.REASONS, ids=lambda f: f.__name__)
def test_refusals_name_the_reason(build):
    groups = tfc.structure.channel_groups(build())
    reasons = [group.reason for group in groups if not group.prunable]
    assert any(graphs.REASONS[build] in reason for reason in reasons)
    assert all(reasons)
