"""Batch normalizations become part of the layers before them."""

import keras
import numpy as np
import pytest
from keras import layers as L

import tfcompress as tfc
from tests.structure import graphs

fold = tfc.structure.fold_batch_norm


@pytest.fixture(autouse=True)
def float64():
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_dtype_policy("float32")


def norms(model):
    return [
        call.operation.name
        for _, call in tfc.structure._graph.walk(model)
        if isinstance(call.operation, L.BatchNormalization)
    ]


def check(model, left=()):
    """Folds `model`; the result computes the same with the norms `left`."""
    model = graphs.randomize(model)
    before = [np.array(v) for v in model.variables]
    folded = fold(model)
    assert sorted(norms(folded)) == list(left)
    inputs = graphs.random_inputs(model)
    assert graphs.largest_difference(model, folded, inputs) < 1e-10
    for value, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(value, variable)
    return folded


LAYERS = {
    "conv1d": ((9, 3), lambda: L.Conv1D(6, 3, padding="causal", dilation_rate=2)),
    "conv2d": ((8, 8, 4), lambda: L.Conv2D(6, 3, padding="same", strides=2)),
    "grouped": ((8, 8, 4), lambda: L.Conv2D(6, 3, groups=2, use_bias=False)),
    "conv3d": ((4, 4, 4, 2), lambda: L.Conv3D(3, 2, use_bias=False)),
    "transposed1d": ((5, 3), lambda: L.Conv1DTranspose(4, 3, use_bias=False)),
    "transposed2d": ((5, 5, 3), lambda: L.Conv2DTranspose(4, 3, strides=2)),
    "transposed3d": ((3, 3, 3, 2), lambda: L.Conv3DTranspose(4, 2)),
    "depthwise1d": ((9, 3), lambda: L.DepthwiseConv1D(3, depth_multiplier=2)),
    "depthwise2d": ((8, 8, 3), lambda: L.DepthwiseConv2D(3, use_bias=False)),
    "wide": ((8, 8, 3), lambda: L.DepthwiseConv2D(3, depth_multiplier=3)),
    "separable1d": ((9, 3), lambda: L.SeparableConv1D(4, 3, depth_multiplier=2)),
    "separable2d": ((8, 8, 3), lambda: L.SeparableConv2D(4, 3, use_bias=False)),
    "dense": ((7,), lambda: L.Dense(5, use_bias=False)),
    "dense_sequence": ((6, 7), lambda: L.Dense(5, activation="linear")),
    "einsum": ((6, 7), lambda: L.EinsumDense("abc,cd->abd", (6, 5))),
    "einsum_bias": (
        (6, 7),
        lambda: L.EinsumDense("abc,cd->abd", (6, 5), bias_axes="d"),
    ),
    "einsum_heads": (
        (6, 7),
        lambda: L.EinsumDense("abc,cde->abde", (6, 2, 5), bias_axes="de"),
    ),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_a_normalization_goes_into_the_layer_before_it(kind):
    shape, build = LAYERS[kind]
    layer, i = build(), keras.Input(shape)
    norm = L.BatchNormalization(epsilon=0.01, name="norm")
    x = L.ReLU()(norm(layer(i)))
    folded = check(keras.Model(i, x))
    assert type(folded.layers[1]) is type(layer)
    assert folded.layers[1].name == layer.name
    assert folded.layers[1].bias is not None


def test_kernel_and_bias_are_those_of_the_formula():
    i = keras.Input((3,))
    norm = L.BatchNormalization(epsilon=0.0)
    model = keras.Model(i, norm(L.Dense(2, name="dense")(i)))
    kernel, bias = np.arange(6.0).reshape(3, 2), np.array([1.0, -1.0])
    model.get_layer("dense").set_weights([kernel, bias])
    # Standard deviations 2 and 4, so that f = gamma / deviation = 1.5 and -0.5.
    norm.set_weights(np.array([[3, -2], [10, 20], [5, 6], [4, 16.0]]))
    dense = fold(model).get_layer("dense")
    np.testing.assert_array_equal(dense.kernel, kernel * [1.5, -0.5])
    np.testing.assert_array_equal(dense.bias, [1.5 * (1 - 5) + 10, -0.5 * (-7) + 20])


@pytest.mark.parametrize("options", [{"center": False}, {"scale": False}])
def test_normalizations_without_offset_or_scale(options):
    i = keras.Input((8, 8, 3))
    x = L.BatchNormalization(**options)(L.Conv2D(4, 3)(i))
    check(keras.Model(i, L.BatchNormalization(renorm=True)(L.Dense(3)(x))))


def residual():
    i = keras.Input((8, 8, 3))
    x = L.BatchNormalization(name="stem_norm")(L.Conv2D(4, 3, name="stem")(i))
    x = L.ReLU()(x)
    for n in range(2):
        y = L.Conv2D(4, 3, padding="same", use_bias=False)(x)
        y = L.ReLU()(L.BatchNormalization()(y))
        y = L.Conv2D(4, 3, padding="same", use_bias=False)(y)
        x = L.ReLU()(L.Add()([x, L.BatchNormalization(name=f"last{n}")(y)]))
    return keras.Model(i, L.Dense(2, name="head")(L.GlobalAveragePooling2D()(x)))


def inverted_residual():
    i = keras.Input((8, 8, 3))
    x = L.BatchNormalization()(L.Conv2D(4, 3, padding="same", use_bias=False)(i))
    y = L.ReLU(6.0)(L.BatchNormalization()(L.Conv2D(8, 1, use_bias=False)(x)))
    y = L.DepthwiseConv2D(3, padding="same", use_bias=False)(y)
    y = L.ReLU(6.0)(L.BatchNormalization()(y))
    y = L.BatchNormalization()(L.Conv2D(4, 1, use_bias=False)(y))
    return keras.Model(i, L.Dense(2)(L.Flatten()(L.Add()([x, y]))))


def sequential():
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            L.Conv2D(4, 3, use_bias=False),
            L.BatchNormalization(),
            L.ReLU(),
            L.Flatten(),
            L.Dense(3),
            L.BatchNormalization(),
        ]
    )


def nested():
    inner = sequential()
    i = keras.Input((8, 8, 3))
    return keras.Model(i, L.Add()([inner(i), L.Dense(3)(inner(2.0 * i))]))


@pytest.mark.parametrize("build", [residual, inverted_residual, sequential, nested])
def test_whole_networks(build):
    model = build()
    folded = check(model)
    assert type(folded) is type(model)
    kept = [x.name for x in model.layers if not isinstance(x, L.BatchNormalization)]
    assert [layer.name for layer in folded.layers] == kept


def test_a_network_of_the_zoo():
    keras.config.set_dtype_policy("float32")
    model = graphs.randomize(tfc.zoo.resnet20())
    folded = fold(model)  # checked tensor by tensor
    assert not norms(folded)
    assert tfc.cost.count(folded).macs == tfc.cost.count(model).macs


def shared_layer(i):
    conv = L.Conv2D(3, 1)
    return L.Add()([L.BatchNormalization(name="norm")(conv(i)), conv(2.0 * i)])


def shared_norm(i):
    norm = L.BatchNormalization(name="norm")
    return L.Add()([norm(L.Conv2D(3, 1)(i)), norm(L.Conv2D(3, 1)(i))])


def read_twice(i):
    x = L.Conv2D(3, 1)(i)
    return L.Add()([x, L.BatchNormalization(name="norm")(x)])


def activated(i):
    return L.BatchNormalization(name="norm")(L.Conv2D(3, 1, activation="relu")(i))


def other_axis(i):
    return L.BatchNormalization(axis=1, name="norm")(L.Conv2D(3, 1)(i))


def statistics_of_the_batch(i):
    return L.BatchNormalization(name="norm")(L.Conv2D(3, 1)(i), training=True)


def wrapped(i):
    layer = tfc.layers.MaskedKernel(L.Conv2D(3, 1))
    return L.BatchNormalization(name="norm")(layer(i))


def after_pooling(i):
    return L.BatchNormalization(name="norm")(L.MaxPooling2D()(L.Conv2D(3, 1)(i)))


def without_variance(i):
    norm = L.BatchNormalization(epsilon=0.0, name="norm")
    x = norm(L.Conv2D(3, 1)(i))
    norm.moving_variance.assign([0.0, 1.0, 1.0])
    return x


@pytest.mark.parametrize(
    "build",
    [
        shared_layer,
        shared_norm,
        read_twice,
        activated,
        other_axis,
        statistics_of_the_batch,
        wrapped,
        after_pooling,
        without_variance,
    ],
)
def test_what_is_left_alone(build):
    i = keras.Input((8, 8, 3))
    model = keras.Model(i, build(i))
    before = len(norms(model))
    folded = fold(model, verify=build is not without_variance)
    assert norms(folded) == ["norm"] * before
    if build is not without_variance:
        inputs = graphs.random_inputs(model)
        assert graphs.largest_difference(model, folded, inputs) == 0


def test_what_is_an_output_itself_stays():
    i = keras.Input((6,))
    x = L.Dense(4)(i)
    check(keras.Model(i, [x, L.BatchNormalization(name="a")(x)]), ["a"])
    outputs = [L.BatchNormalization(name=n)(L.Dense(3)(i)) for n in ("a", "b")]
    check(keras.Model(i, outputs), ["a", "b"])
    check(keras.Model(i, outputs[0]))


def test_flags_dtypes_and_compile_state_survive():
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = residual()
    model.get_layer("stem").trainable = False
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "mse", metrics=["mae"])
    x, y = np.ones((4, 8, 8, 3)), np.ones((4, 2))
    graphs.randomize(model).fit(x, y, verbose=0)
    folded = fold(model)
    assert not norms(folded)
    stem = folded.get_layer("stem")
    assert stem.dtype_policy.name == "mixed_bfloat16" and not stem.trainable
    assert stem.get_config()["use_bias"]
    assert int(folded.optimizer.iterations) == 1
    slots = {v.path.split("/", 1)[1]: v for v in folded.optimizer.variables}
    (carried,) = [v for name, v in slots.items() if "head_kernel" in name]
    (original,) = [v for v in model.optimizer.variables if "head_kernel" in v.path]
    np.testing.assert_array_equal(carried, original)
    assert np.abs(carried).max() > 0
    folded.fit(x, y, verbose=0)


def test_folded_models_are_saved_and_shrunk(tmp_path):
    model = graphs.randomize(inverted_residual())
    folded = fold(model)
    folded.save(tmp_path / "folded.keras")
    again = keras.models.load_model(tmp_path / "folded.keras")
    inputs = graphs.random_inputs(model)
    assert graphs.largest_difference(folded, again, inputs) == 0
    groups = tfc.structure.channel_groups(folded)
    assert sorted(g.size for g in groups if g.prunable) == [4, 8]


def test_models_without_a_graph_are_refused():
    with pytest.raises(TypeError, match="argument `model`"):
        fold("model.keras")
