"""MLPerf Tiny's networks against what is published about them.

Parameters: `model.summary()` of the reference code (github.com/mlcommons/tiny).
Multiply–accumulates: kernel size times output positions, by hand from the
reference's layers. Sizes: the int8 files of the closed division (53 KB, 325 KB,
96 KB, 270 KB; Microprocessor Report, August 2021).
"""

import keras
import numpy as np
import pytest

import tfcompress as tfc
from tfcompress import zoo

PARAMETERS = {
    zoo.resnet8: 78_666,
    zoo.ds_cnn: 24_908,
    zoo.mobilenet_v1: 221_794,
    zoo.autoencoder: 269_992,
}


def separable(positions, before, after):
    """(depthwise positions × 9 + pointwise) of one separable convolution."""
    return positions * before * 9 + positions * before * after


# Output sides and channels of MobileNet's thirteen blocks at width 0.25.
SIDES = [48, 24, 24, 12, 12, *[6] * 6, 3, 3]
CHANNELS = [8, 16, 32, 32, 64, 64, *[128] * 6, 256, 256]
MACS = {
    zoo.resnet8: 1024 * (27 * 16 + 2 * 144 * 16)
    + 256 * (144 * 32 + 288 * 32 + 16 * 32)
    + 64 * (288 * 64 + 576 * 64 + 32 * 64)
    + 640,
    zoo.ds_cnn: 125 * 40 * 64 + 4 * separable(125, 64, 64) + 64 * 12,
    zoo.mobilenet_v1: 48 * 48 * 27 * 8
    + sum(map(separable, [s * s for s in SIDES], CHANNELS, CHANNELS[1:]))
    + 256 * 2,
    zoo.autoencoder: 2 * 640 * 128 + 6 * 128 * 128 + 2 * 128 * 8,
}
INT8_KILOBYTES = {
    zoo.resnet8: 96,
    zoo.ds_cnn: 53,
    zoo.mobilenet_v1: 325,
    zoo.autoencoder: 270,
}


@pytest.mark.parametrize("function", PARAMETERS, ids=lambda f: f.__name__)
def test_parameters_and_operations_are_the_published_ones(function):
    model = function()
    assert model.count_params() == PARAMETERS[function]
    assert tfc.cost.count(model).macs == MACS[function]


def test_resnet8_trains_the_published_number_of_parameters():
    model = zoo.resnet8()
    assert sum(int(np.prod(v.shape)) for v in model.trainable_variables) == 78_186
    assert round(MACS[zoo.resnet8] / 1e6, 1) == 12.5
    assert round(MACS[zoo.ds_cnn] / 1e6, 2) == 2.66
    assert round(MACS[zoo.mobilenet_v1] / 1e6, 2) == 7.49
    assert round(MACS[zoo.autoencoder] / 1e6, 3) == 0.264


@pytest.mark.parametrize(
    "function",
    [
        zoo.resnet8,
        zoo.ds_cnn,
        pytest.param(zoo.mobilenet_v1, marks=pytest.mark.slow),
        zoo.autoencoder,
    ],
    ids=lambda f: f.__name__,
)
def test_int8_files_are_no_larger_than_the_published_ones(function, tmp_path):
    keras.utils.set_random_seed(0)
    model = function()
    samples = np.random.default_rng(0).random((20, *model.input_shape[1:]), "float32")
    artifact = tfc.export.to_tflite(
        model, tmp_path / "m.tflite", quantization="int8", calibration=samples
    )
    kernels = sum(row.parameters for row in tfc.cost.count(model).rows)
    # Every weight takes a byte; the reference's own converter was less frugal.
    assert 0.9 * kernels < artifact.bytes < 1.05 * 1024 * INT8_KILOBYTES[function]


def test_autoencoder_learns_to_return_its_input():
    keras.utils.set_random_seed(0)
    model = zoo.autoencoder(width=0.25, features=20)
    factors = np.random.default_rng(0).normal(size=(256, 2))
    sounds = (factors @ np.random.default_rng(1).normal(size=(2, 20))).astype("float32")
    model.compile(keras.optimizers.Adam(1e-2), "mse")
    before = model.evaluate(sounds, sounds, verbose=0)
    model.fit(sounds, sounds, epochs=20, verbose=0)
    assert model.evaluate(sounds, sounds, verbose=0) < before / 2
    assert model.get_layer("fc5").units == 2


@pytest.mark.parametrize("arguments", [{"width": 0}, {"features": 0}])
def test_autoencoder_refuses_what_it_cannot_build(arguments):
    with pytest.raises(ValueError, match="Invalid value for argument"):
        zoo.autoencoder(**arguments)
