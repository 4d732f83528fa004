import itertools
import warnings

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import layers

import tfcompress as tfc
from tfcompress._taps import activation_taps
from tfcompress.callbacks import ActivationDensity, FilterPruning
from tfcompress.callbacks.activation_density import is_saturated, trend

SHAPE = (6, 6, 2)


def network(activation="relu"):
    """A convolution with an activation of its own, one before a residual sum, …"""
    inputs = keras.Input(SHAPE)
    x = layers.Conv2D(4, 3, padding="same", activation=activation, name="own")(inputs)
    y = layers.Conv2D(4, 3, padding="same", use_bias=False, name="branch")(x)
    y = layers.BatchNormalization(name="norm")(y)
    x = layers.Activation(activation, name="after_sum")(layers.Add()([x, y]))
    x = layers.Dense(5, name="dense")(layers.Flatten()(x))
    x = layers.Activation(activation, name="after_dense")(x)
    return keras.Model(inputs, layers.Dense(3, activation="softmax", name="out")(x))


def compiled(model=None, **kwargs):
    model = model or network()
    kwargs.setdefault("run_eagerly", True)
    model.compile("sgd", "sparse_categorical_crossentropy", **kwargs)
    return model


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(48, *SHAPE)).astype("float32")
    return x, rng.integers(0, 3, 48)


FIT = {"batch_size": 16, "verbose": 0}


def outputs(model, names, x):
    tensors = {name: model.get_layer(name).output for name in names}
    values = keras.Model(model.input, tensors)(x)
    return [np.asarray(values[name]) for name in names]


# What is measured ---------------------------------------------------------------


def test_density_of_a_sample_is_the_fraction_that_numpy_counts(data):
    model = compiled()
    density = ActivationDensity(data[0])
    model.fit(*data, callbacks=[density], **FIT)
    maps = outputs(model, ["own", "after_sum", "after_dense"], data[0])
    expected = [np.count_nonzero(m) / m.size for m in maps]
    found = [density.layers[name][0] for name in ("own", "branch", "dense")]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    total = sum(map(np.count_nonzero, maps)) / sum(m.size for m in maps)
    np.testing.assert_allclose(density.curve, [total], rtol=1e-12)


@pytest.mark.parametrize("eager", [True, False])
def test_training_counts_an_eighth_of_each_batch(data, eager):
    # A learning rate of zero, so that all steps see the same weights.
    model = network()
    model.get_layer("norm").trainable = False
    model.compile(
        keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy", run_eagerly=eager
    )
    density = ActivationDensity()
    model.fit(*data, shuffle=False, validation_data=data, callbacks=[density], **FIT)
    seen = np.concatenate([data[0][i : i + 2] for i in (0, 16, 32)])
    (maps,) = outputs(model, ["own"], seen)
    assert density.layers["own"] == [np.count_nonzero(maps) / maps.size]


def test_counting_does_not_depend_on_xla(data):
    curves = []
    for jit in (True, False):
        keras.utils.set_random_seed(1)
        model = compiled(run_eagerly=False, jit_compile=jit)
        density = ActivationDensity(stop=False)
        history = model.fit(
            *data, epochs=2, shuffle=False, callbacks=[density], **FIT
        ).history
        assert history["density"] == density.curve
        curves.append(density.curve)
    # A sum close to zero may fall on either side of it.
    np.testing.assert_allclose(curves[0], curves[1], atol=2e-3)
    assert 0 < curves[0][0] < 1


def test_training_is_the_same_with_and_without_measuring(data):
    results = []
    for callbacks in (
        [],
        [ActivationDensity(stop=False)],
        [ActivationDensity(data[0])],
    ):
        keras.utils.set_random_seed(1)
        model = compiled(run_eagerly=False)
        model.fit(*data, epochs=2, shuffle=False, callbacks=callbacks, **FIT)
        results.append(model.get_weights())
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(one, two)


def test_a_second_fit_measures_anew_and_a_third_without_not_at_all(data):
    model = compiled(run_eagerly=False)
    density = ActivationDensity(stop=False)
    for _ in range(2):
        model.fit(*data, epochs=2, callbacks=[density], **FIT)
        assert len(density.curve) == len(density.layers["own"]) == 2
    assert not any("call" in vars(layer) for layer in model.layers)
    model.fit(*data, **FIT)
    assert len(density.curve) == 2


def test_two_meters_share_a_layer(data):
    model = compiled()
    rising = tfc.schedules.Linear(0.0, 0.5, begin=0, end=1)
    density = ActivationDensity(stop=False)
    pruning = FilterPruning(rising, "mean_activation", layers=["own"])
    model.fit(*data, epochs=2, callbacks=[density, pruning], **FIT)
    # Pruned channels are the inputs of the sum as well: half of its terms.
    assert density.layers["own"][1] < density.layers["own"][0]
    assert not any("call" in vars(layer) for layer in model.layers)


def test_logs_have_a_number_for_each_layer_and_the_total(data):
    history = compiled().fit(*data, callbacks=[ActivationDensity()], **FIT).history
    names = {"density", "density/own", "density/branch", "density/dense"}
    assert names <= set(history)
    assert "density/out" not in history


def test_the_total_is_the_mean_of_the_layers_where_asked(data):
    x, _ = data
    density = ActivationDensity(x, total="layers")
    compiled().fit(*data, epochs=2, callbacks=[density], **FIT)
    means = np.mean(list(density.layers.values()), axis=0)
    np.testing.assert_allclose(density.curve, means)
    with pytest.raises(ValueError, match="`total`"):
        ActivationDensity(total="filters")


def test_activations_below_a_threshold_count_as_zero(data):
    model = compiled(network("gelu"))
    density = ActivationDensity(data[0], threshold=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.fit(*data, callbacks=[density], **FIT)
    (maps,) = outputs(model, ["own"], data[0])
    assert density.layers["own"] == [pytest.approx(np.mean(np.abs(maps) > 0.1))]


@pytest.mark.parametrize("activation", ["gelu", "silu", "tanh", "leaky_relu"])
def test_activations_that_are_never_zero_are_warned_of(data, activation):
    with pytest.warns(UserWarning, match=r"never exactly zero.*threshold"):
        compiled(network(activation)).fit(*data, callbacks=[ActivationDensity()], **FIT)


def test_prelu_is_never_zero():
    inputs = keras.Input(SHAPE)
    x = layers.PReLU(name="act")(layers.Conv2D(3, 1, name="conv")(inputs))
    taps, _ = activation_taps(keras.Model(inputs, layers.Flatten()(x)))
    assert not taps["conv"].sparse


# Where activations are ----------------------------------------------------------


def test_activations_are_found_in_the_papers_networks():
    for model in (tfc.zoo.vgg19(width=0.05), tfc.zoo.resnet20(width=0.2)):
        taps, reasons = activation_taps(model)
        assert list(reasons) == ["classifier"]
        assert "mixes channels" in reasons["classifier"]
        for name, tap in taps.items():
            stem = name.removeprefix("conv").replace("shortcut", "2")
            assert tap.operation.name == f"relu{stem}"
            assert tap.sparse and tap.positions is None


def test_layers_that_are_concatenated_have_their_own_channels(data):
    inputs = keras.Input(SHAPE)
    parts = [layers.Conv2D(n, 1, name=f"conv{n}")(inputs) for n in (2, 5)]
    x = layers.ReLU(name="relu")(layers.Concatenate()(parts))
    out = layers.Dense(3, activation="softmax")(layers.Flatten()(x))
    model = compiled(keras.Model(inputs, out))
    density = ActivationDensity(data[0])
    model.fit(*data, callbacks=[density], **FIT)
    (maps,) = outputs(model, ["relu"], data[0])
    assert density.layers["conv2"] == [np.mean(maps[..., :2] != 0)]
    assert density.layers["conv5"] == [pytest.approx(np.mean(maps[..., 2:] != 0))]
    assert density.curve == [pytest.approx(np.mean(maps != 0))]


def test_activations_outside_of_a_nested_model_are_found():
    inner = keras.Sequential([keras.Input(SHAPE), layers.Conv2D(3, 1, name="conv")])
    inner.name = "inner"
    outer = keras.Sequential([keras.Input(SHAPE), inner, layers.ReLU(name="relu")])
    taps, _ = activation_taps(outer)
    assert taps["inner/conv"].operation.name == "relu"


@pytest.mark.parametrize("relu", [keras.ops.relu, keras.activations.relu])
def test_functions_of_keras_are_activations(relu):
    inputs = keras.Input(SHAPE)
    x = relu(layers.Conv2D(3, 1, name="conv")(inputs))
    taps, _ = activation_taps(keras.Model(inputs, layers.Flatten()(x)))
    assert taps["conv"].sparse
    # The tap is behind the function, not before it.
    assert taps["conv"].operation.name != "conv"


def test_a_leak_makes_no_zeros_and_a_shifted_relu_does_not_keep_them():
    inputs = keras.Input(SHAPE)
    x = layers.Conv2D(3, 1, name="leaky")(inputs)
    x = keras.activations.relu(x, negative_slope=0.1)
    x = layers.Conv2D(3, 1, name="shifted")(x)
    x = keras.activations.relu(x, negative_slope=0.1, threshold=1.0)
    taps, reasons = activation_taps(keras.Model(inputs, layers.Flatten()(x)))
    assert not taps["leaky"].sparse
    assert "f(0) = -0.1" in reasons["shifted"]


def test_a_linear_bottleneck_and_a_gate_are_left_out_with_a_reason():
    inputs = keras.Input(SHAPE)
    x = layers.Conv2D(3, 1, name="linear")(inputs)
    gate = layers.Dense(4, activation="sigmoid", name="gate")(
        layers.GlobalAveragePooling2D()(x)
    )
    x = layers.Conv2D(4, 1, activation="relu", name="conv")(x)
    model = keras.Model(inputs, layers.Multiply()([x, gate]))
    taps, reasons = activation_taps(model)
    assert list(taps) == ["conv"]
    assert reasons["linear"] == "no activation function follows"
    assert "f(0) = 0.5" in reasons["gate"]


def test_an_activation_that_several_layers_use_is_refused():
    inputs = keras.Input(SHAPE)
    relu = layers.ReLU(name="relu")
    x = relu(layers.Conv2D(3, 1, name="one")(inputs))
    x = relu(layers.Conv2D(3, 1, name="two")(x))
    taps, reasons = activation_taps(keras.Model(inputs, layers.Flatten()(x)))
    assert not taps
    assert "several places" in reasons["one"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "measured"),
    # Convolutions before an activation, counted in the published architectures.
    [("VGG16", 13), ("DenseNet121", 120), ("InceptionV3", 94), ("MobileNetV2", 35)],
)
def test_activations_are_found_in_applications(name, measured):
    model = getattr(keras.applications, name)(weights=None, include_top=False)
    taps, _ = activation_taps(model)
    assert len(taps) == measured


# When it has settled ------------------------------------------------------------


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        ([0.5], False),
        ([0.5, 0.5], False),
        ([0.5, 0.5, 0.5], True),
        ([0.5, 0.4, 0.4005, 0.4001], True),
        ([0.4, 0.4, 0.4, 0.402], False),
        ([0.4, 0.4, 0.41, 0.41], False),
    ],
)
def test_saturation_needs_two_small_changes_in_a_row(curve, expected):
    assert is_saturated(curve) is expected


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=12),
    st.integers(1, 4),
    st.floats(0, 0.1),
)
def test_saturation_is_the_definition(curve, patience, min_delta):
    small = [abs(b - a) < min_delta for a, b in itertools.pairwise(curve)]
    expected = len(small) >= patience and all(small[len(small) - patience :])
    assert is_saturated(curve, patience, min_delta) is expected


EPOCHS = np.arange(20)
CURVES = {
    "convex": 0.3 + 0.2 * np.exp(-EPOCHS / 5),
    "flat": np.full(20, 0.4),
    "concave": 0.5 - 0.2 * np.exp(-EPOCHS / 5),
}


@pytest.mark.parametrize("expected", CURVES)
@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_trend_is_the_direction_of_the_curve(expected, noise):
    rng = np.random.default_rng(0)
    for _ in range(20):
        curve = CURVES[expected] + noise * rng.normal(size=20)
        assert trend(curve) == expected


def test_a_slope_is_the_median_of_the_slopes_of_all_pairs():
    curve = np.random.default_rng(0).random(9)
    pairs = itertools.combinations(range(9), 2)
    change = 8 * np.median([(curve[j] - curve[i]) / (j - i) for i, j in pairs])
    direction = "concave" if change > 0 else "convex"
    assert trend(curve, abs(change) * 0.999) == direction
    assert trend(curve, abs(change) * 1.001) == "flat"


def test_one_outlier_does_not_make_a_trend():
    curve = np.full(12, 0.4)
    curve[-1] = 0.9
    assert trend(curve) == "flat"
    falling = 0.5 - 0.01 * np.arange(12)
    falling[-1] = 0.9
    assert trend(falling) == "convex"


@pytest.mark.parametrize(
    ("curve", "expected"),
    [([], "flat"), ([0.4], "flat"), ([0.4, 0.45], "concave"), ([0.4, 0.401], "flat")],
)
def test_trend_of_a_few_epochs(curve, expected):
    assert trend(curve) == expected


@given(st.lists(st.floats(0, 1), min_size=3, max_size=15))
def test_a_reversed_sign_reverses_the_trend(curve):
    opposite = {"convex": "concave", "flat": "flat", "concave": "convex"}
    assert trend([-value for value in curve]) == opposite[trend(curve)]


def settled_after(epochs, data, **kwargs):
    """A callback whose density falls by 0.1 an epoch until it settles."""
    model = compiled()
    density = ActivationDensity(data[0], **kwargs)
    values = iter([0.9 - 0.1 * min(n, epochs - 1) for n in range(20)])

    def scripted(meter):
        value = next(values)
        meter.total = lambda: value
        meter.layers = lambda: {"own": 0.5}

    density._measure = scripted
    model.fit(*data, epochs=10, callbacks=[density], **FIT)
    return density, model


def test_training_stops_when_the_density_has_settled(data):
    density, model = settled_after(4, data)
    assert density.saturation == len(density.curve) == 6
    assert model.history.epoch == list(range(6))
    assert density.trend == "convex"


def test_training_goes_on_where_it_is_not_to_stop(data):
    density, model = settled_after(4, data, stop=False)
    assert density.saturation == 6
    assert model.history.epoch == list(range(10))


# As an object -------------------------------------------------------------------


def test_configurations_stand_for_callbacks():
    density = ActivationDensity(patience=3, min_delta=0.1, stop=False, threshold=0.2)
    again = ActivationDensity.from_config(density.get_config())
    assert again.get_config() == density.get_config()
    with pytest.raises(ValueError, match="ActivationDensity with `data`"):
        ActivationDensity(np.zeros((1, 2))).get_config()


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"patience": 0}, ValueError),
        ({"patience": 1.5}, ValueError),
        ({"min_delta": -1}, ValueError),
        ({"min_delta": "small"}, TypeError),
        ({"threshold": float("nan")}, ValueError),
        ({"threshold": None}, TypeError),
    ],
)
def test_bad_arguments_are_refused(change, error):
    (name,) = change
    with pytest.raises(error, match=f"argument `{name}`.*Received"):
        ActivationDensity(**change)


def test_models_without_activations_are_refused(data):
    inputs = keras.Input(SHAPE)
    model = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(inputs)))
    with pytest.raises(ValueError, match=r"argument `model`.*no activation function"):
        compiled(model).fit(*data, callbacks=[ActivationDensity()], **FIT)
