import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import tfcompress as tfc
from tfcompress.layers import MaskedKernel

CASES = {
    "conv1d": (lambda: layers.Conv1D(4, 3, padding="causal"), (6, 3)),
    "conv2d": (lambda: layers.Conv2D(4, 3, strides=2, activation="relu"), (7, 7, 3)),
    "depthwise": (lambda: layers.DepthwiseConv2D(3, depth_multiplier=2), (6, 6, 3)),
    "separable": (lambda: layers.SeparableConv2D(5, 3), (6, 6, 3)),
    "dense": (lambda: layers.Dense(4, use_bias=False), (5,)),
}


def masked(case):
    """A masked layer with random masks, an equal plain one, and inputs."""
    make, shape = CASES[case]
    layer, plain = MaskedKernel(make()), make()
    layer.build((None, *shape))
    plain.build((None, *shape))
    plain.set_weights([w.numpy() for w in layer.core.weights])
    rng = np.random.default_rng(0)
    for own in layer.masks:
        own.mask.assign(rng.random(own.mask.shape) < 0.5)
    return layer, plain, rng.normal(size=(2, *shape)).astype("float32")


def put_zeros(plain, layer):
    """The masks as zeros in the kernels of the plain layer."""
    for own in layer.masks:
        name = own.kernel.name
        variable = getattr(plain, name)
        variable.assign(variable.numpy() * own.mask.numpy())


@pytest.mark.parametrize("case", CASES)
def test_a_masked_layer_computes_with_zeros(case):
    layer, plain, x = masked(case)
    unmasked = plain(x)
    put_zeros(plain, layer)
    np.testing.assert_array_equal(layer(x), plain(x))
    assert not np.array_equal(layer(x), unmasked)


@pytest.mark.parametrize("case", CASES)
def test_gradients_pass_the_mask(case):
    """dL/dW is dL/d(W ⊙ M), that of the plain layer with zeros, in all entries."""
    layer, plain, x = masked(case)
    put_zeros(plain, layer)
    kernels = [own.kernel for own in layer.masks]
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(x) ** 2)
    found = tape.gradient(loss, [kernel.value for kernel in kernels])
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(plain(x) ** 2)
    expected = tape.gradient(loss, [getattr(plain, k.name).value for k in kernels])
    for mine, theirs, own in zip(found, expected, layer.masks, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5)
        assert np.any(mine.numpy()[~own.mask.numpy()] != 0)


def small(width=6):
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(width, 3, name="conv1"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(name="relu"),
            layers.Conv2D(width, 3, name="conv2"),
            layers.Flatten(name="flatten"),
            layers.Dense(4, name="logits"),
        ]
    )


def test_wrapping_takes_all_kernels_and_changes_nothing():
    model = small()
    wrapped = tfc.layers.wrap_kernels(model, MaskedKernel)
    kinds = {la.name: isinstance(la, MaskedKernel) for la in wrapped.layers}
    assert [name for name, is_masked in kinds.items() if is_masked] == [
        "conv1",
        "conv2",
        "logits",
    ]
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")
    np.testing.assert_array_equal(
        wrapped.predict_on_batch(x), model.predict_on_batch(x)
    )
    some = tfc.layers.wrap_kernels(model, MaskedKernel, exclude=["logits"])
    assert isinstance(some.get_layer("logits"), layers.Dense)


def test_only_layers_with_kernels_can_be_wrapped():
    with pytest.raises(ValueError, match=r"norm.*no convolution"):
        tfc.layers.wrap_kernels(small(), MaskedKernel, layers=["norm"])
    with pytest.raises(ValueError, match="of class ReLU"):
        MaskedKernel(layers.ReLU())


def test_masks_are_saved_and_leave_as_zeros(tmp_path):
    model = tfc.layers.wrap_kernels(small(), MaskedKernel, layers=["conv2"])
    mask = model.get_layer("conv2").masks[0].mask
    mask.assign(np.random.default_rng(0).random(mask.shape) < 0.3)
    model.save(tmp_path / "masked.keras")
    loaded = keras.saving.load_model(tmp_path / "masked.keras")
    x = np.random.default_rng(1).normal(size=(2, 8, 8, 3)).astype("float32")
    expected = model.predict_on_batch(x)
    np.testing.assert_array_equal(loaded.predict_on_batch(x), expected)
    plain = tfc.finalize(loaded)
    assert type(plain.get_layer("conv2")) is layers.Conv2D
    kernel = plain.get_layer("conv2").kernel.numpy()
    np.testing.assert_array_equal(kernel != 0, mask.numpy())
    np.testing.assert_array_equal(plain.predict_on_batch(x), expected)


def test_masked_weights_cost_nothing_where_zeros_are_skipped():
    model = tfc.layers.wrap_kernels(small(), MaskedKernel)
    own = model.get_layer("conv2").masks[0]
    keep = np.arange(own.mask.numpy().size).reshape(own.mask.shape) % 4 == 0
    own.mask.assign(keep)
    rows = {row.name: row for row in tfc.cost.count(model).rows}
    assert rows["conv2"].effective_macs * 4 == rows["conv2"].macs
    assert rows["conv1"].effective_macs == rows["conv1"].macs


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_masked_weights_are_exactly_zero_in_any_precision(policy):
    layer = MaskedKernel(layers.Dense(8, dtype=policy))
    layer.build((None, 16))
    layer.masks[0].mask.assign(np.zeros((16, 8), bool))
    x = 1e3 * np.random.default_rng(0).normal(size=(4, 16))
    assert not np.any(keras.ops.convert_to_numpy(layer(x)))
