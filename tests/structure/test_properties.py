"""Masked equals shrunk, on random networks."""

import keras
import pytest

import tfcompress as tfc
from tests.structure import graphs
from tests.structure.random_models import randomized

CASES = 200
PER_TEST = 10


@pytest.fixture(autouse=True)
def float64():
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize("first", range(0, CASES, PER_TEST))
def test_removing_equals_masking_on_random_networks(first):
    for seed in range(first, first + PER_TEST):
        model = randomized(seed)
        groups = tfc.structure.channel_groups(model)
        channels = graphs.some_channels(groups, rate=0.4, seed=seed)
        assert channels, f"nothing prunable in network {seed}"
        inputs = graphs.random_inputs(model, seed=seed)
        masked = tfc.structure.zero_channels(model, channels)
        small = tfc.structure.remove_channels(model, channels, verify=False)
        assert small.count_params() < model.count_params(), seed
        assert graphs.largest_difference(masked, small, inputs) < 1e-10, seed
        assert graphs.largest_difference(model, masked, inputs) > 1e-9, seed
    keras.backend.clear_session()
