import keras
import numpy as np
import pytest
from keras import layers

import tfcompress as tfc


@pytest.fixture
def model():
    inputs = keras.Input((16, 16, 1))
    x = layers.Conv2D(2, 1, activation="relu", use_bias=False, name="one")(inputs)
    x = layers.MaxPooling2D(2)(x)
    x = layers.ReLU(name="relu")(layers.Conv2D(3, 1, name="two")(x))
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))
    model.get_layer("one").kernel.assign([[[[1.0, -1.0]]]])
    kernel = np.zeros((1, 1, 2, 3), "float32")
    kernel[0, 0, 0] = 1.0, 1.0, -1.0
    model.get_layer("two").kernel.assign(kernel)
    return model


def test_a_tile_shows_the_fraction_of_active_filters(model):
    image = np.zeros((16, 16, 1), "float32")
    image[:8] = 1.0  # one filter of the first layer
    image[8:, :8] = -1.0  # the other one
    grid = tfc.report.activation_map(model, image)
    values = np.array(grid.values, "float64")  # None becomes NaN
    assert values.shape == (16, 33)
    one, gap, two = values[:, :16], values[:, 16], values[:, 17:]
    assert np.isnan(gap).all()
    np.testing.assert_array_equal(one[:8], 0.5)
    np.testing.assert_array_equal(one[8:, :8], 0.5)
    np.testing.assert_array_equal(one[8:, 8:], 0.0)
    np.testing.assert_allclose(two[:8], 2 / 3)
    np.testing.assert_array_equal(two[8:], 0.0)
    assert "one, two" in grid.description


def test_layers_are_chosen_by_name_and_run_on(model):
    names = ["two", "one", "two", "one", "two", "one"]
    grid = tfc.report.activation_map(model, np.ones((16, 16, 1)), names, title="Maps")
    values = np.array(grid.values, "float64")
    assert values.shape == (33, 5 * 17 - 1)
    assert np.isnan(values[17:, 17:]).all()
    assert grid.title == "Maps"


def test_networks_with_many_layers_show_ten():
    network = tfc.zoo.vgg19(width=0.05)
    grid = tfc.report.activation_map(network, np.zeros((32, 32, 3)))
    names = grid.description.removeprefix("Layers: ").removesuffix(".").split(", ")
    assert len(names) == 10
    assert (names[0], names[-1]) == ("conv1_1", "conv5_4")


def test_the_model_stays_as_it_is(model):
    tfc.report.activation_map(model, np.zeros((16, 16, 1)))
    assert not any("call" in vars(layer) for layer in model.layers)


def test_a_map_goes_into_a_report(model, tmp_path):
    grid = tfc.report.activation_map(model, np.ones((16, 16, 1)))
    report = tfc.report.compare({"model": model}, heatmaps=[grid])
    again = tfc.report.load(report.to_json())
    assert [list(row) for row in again.heatmaps[0].values] == grid.values


@pytest.mark.parametrize(
    ("image", "names", "argument"),
    [
        (np.zeros((1, 16, 16, 1)), None, "image"),
        (np.zeros((16, 16, 3)), None, "image"),
        (np.zeros((16, 16, 1)), ["three"], "layers"),
        (np.zeros((16, 16, 1)), [], "layers"),
    ],
)
def test_bad_arguments_are_refused(model, image, names, argument):
    with pytest.raises(ValueError, match=f"argument `{argument}`.*Received"):
        tfc.report.activation_map(model, image, names)
