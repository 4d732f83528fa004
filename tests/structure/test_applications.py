"""The networks of keras.applications: groups are pinned, shrinking is exact."""

import keras
import numpy as np
import pytest

import tfcompress as tfc
from tests.structure import graphs

# Prunable groups. ResNet50: 32 inside blocks, 4 stages, 1 stem. ConvNeXt: one
# expansion a block; its residual stream is under layer normalization.
GROUPS = {
    "MobileNetV2": 25,
    "MobileNetV3Small": 27,
    "Xception": 28,
    "EfficientNetB0": 40,
    "ConvNeXtTiny": 18,
    "ResNet50": 37,
    "VGG16": 15,
    "DenseNet121": 120,
    "InceptionV3": 94,
    "NASNetMobile": 128,
}
QUICK = {"MobileNetV2", "Xception", "EfficientNetB0", "MobileNetV3Small"}
ALL = [
    pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow)
    for name in GROUPS
]


def build(name):
    return getattr(keras.applications, name)(weights=None, classifier_activation=None)


@pytest.mark.parametrize("name", ALL)
def test_nothing_freezes_silently(name):
    groups = tfc.structure.channel_groups(build(name))
    assert sum(group.prunable for group in groups) == GROUPS[name]
    assert all(group.reason for group in groups if not group.prunable)
    keras.backend.clear_session()


def randomize_statistics(model):
    rng = np.random.default_rng(0)
    ranges = {
        "gamma": (0.8, 1.2),
        "beta": (-0.2, 0.2),
        "moving_mean": (-0.2, 0.2),
        "moving_variance": (0.8, 1.2),
    }
    for variable in model.weights:
        if variable.name in ranges:
            variable.assign(rng.uniform(*ranges[variable.name], variable.shape))
        elif "layer_scale" in variable.path:  # 1e-6 would hide every branch
            variable.assign(rng.uniform(0.2, 0.4, variable.shape))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=[] if n == "MobileNetV3Small" else pytest.mark.slow)
        for n in GROUPS
    ],
)
def test_forty_percent_of_the_channels_come_out_exactly(name):
    model = build(name)
    randomize_statistics(model)
    groups = tfc.structure.channel_groups(model)
    channels = graphs.some_channels(groups, rate=0.4)
    masked = tfc.structure.zero_channels(model, channels)
    # The self-check compares every tensor of the two.
    small = tfc.structure.remove_channels(model, channels)
    assert small.count_params() < 0.75 * model.count_params()
    shape = (1, *(size or 96 for size in model.input_shape[1:]))
    x = np.random.default_rng(1).normal(size=shape)

    a, b, c = (np.asarray(m(x.astype("float32"))) for m in (masked, small, model))
    assert np.abs(a - b).max() / np.abs(a).max() < 1e-4
    assert np.abs(a - c).max() / np.abs(a).max() > 1e-3
    keras.backend.clear_session()
