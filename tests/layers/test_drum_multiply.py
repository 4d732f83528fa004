"""Layers on approximate multipliers, and the base of such wrappers."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers as L

import tfcompress as tfc
from tfcompress.layers import DrumMultiply, KernelWrapper, MaskedKernel
from tfcompress.ops import _reference

RNG = np.random.default_rng(0)

# A layer and the shape of its input.
LAYERS = {
    "conv1d": (lambda: L.Conv1D(4, 3, padding="causal", dilation_rate=2), (9, 3)),
    "conv2d": (lambda: L.Conv2D(4, 3, strides=2, activation="relu"), (8, 8, 4)),
    "grouped": (lambda: L.Conv2D(4, 3, groups=2, padding="same"), (6, 6, 4)),
    "conv3d": (lambda: L.Conv3D(3, 2), (4, 4, 4, 2)),
    "depthwise1d": (lambda: L.DepthwiseConv1D(3, padding="same"), (8, 4)),
    "depthwise2d": (lambda: L.DepthwiseConv2D(3, depth_multiplier=2), (6, 6, 4)),
    "separable1d": (lambda: L.SeparableConv1D(5, 3), (8, 4)),
    "separable2d": (lambda: L.SeparableConv2D(5, 3, strides=2), (8, 8, 4)),
    "dense": (lambda: L.Dense(5, activation="tanh"), (6, 7)),
    "no_bias": (lambda: L.Dense(5, use_bias=False), (7,)),
}


@keras.saving.register_keras_serializable(package="tests")
class Scaled(KernelWrapper):
    def effective_kernel(self, variable, value):
        return 2 * value


def make(name):
    """A layer with random weights, and inputs."""
    build, shape = LAYERS[name]
    layer = build()
    layer.build((2, *shape))
    for variable in layer.variables:
        variable.assign(RNG.normal(size=variable.shape))
    return layer, RNG.normal(size=(2, *shape)).astype("float32")


def truncated(x, bits):
    return tfc.ops.drum_truncate(np.asarray(x), bits).numpy()


@pytest.mark.parametrize("name", LAYERS)
def test_a_wrapper_computes_with_the_effective_kernel(name):
    layer, x = make(name)
    once, twice = Scaled(layer)(x), Scaled(Scaled(layer))(x)
    wrapper = Scaled(layer)
    wrapper.build(x.shape)
    for expected in (once, twice):
        for kernel in wrapper.kernels:
            kernel.assign(2 * kernel)
        np.testing.assert_array_equal(layer(x), expected)
    assert wrapper.name == layer.name
    assert wrapper.compute_output_shape(x.shape) == tuple(once.shape)


@pytest.mark.parametrize("name", LAYERS)
def test_wrapped_layers_are_saved_and_loaded(name, tmp_path):
    layer, x = make(name)
    wrapper = DrumMultiply(Scaled(layer), 2, 5, partition="mixed", fraction_bits=4)
    model = keras.Sequential([keras.Input(x.shape[1:]), wrapper])
    for kernel, mask in zip(wrapper.kernels, wrapper.approximations, strict=True):
        mask.assign(RNG.random(kernel.shape) < 0.5)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(x), model(x))
    expected, received = wrapper.get_config(), loaded.layers[0].get_config()
    for config in (expected, received):
        config["layer"] = config["layer"]["class_name"]
    assert received == expected


@pytest.mark.parametrize("name", [n for n in LAYERS if "separable" not in n])
def test_drum_layers_compute_with_truncated_operands(name):
    layer, x = make(name)
    received = DrumMultiply(layer, 1, 5)(x)
    layer.kernel.assign(truncated(layer.kernel, 1))
    np.testing.assert_array_equal(received, layer(truncated(x, 5)))


def test_both_parts_of_a_separable_convolution_are_approximate():
    layer, x = make("separable2d")
    received = DrumMultiply(layer, 2, 4)(x)
    depth = keras.ops.depthwise_conv(
        truncated(x, 4), truncated(layer.depthwise_kernel, 2), strides=(2, 2)
    )
    point = keras.ops.conv(truncated(depth, 4), truncated(layer.pointwise_kernel, 2))
    np.testing.assert_array_equal(received, point + layer.bias)


@pytest.mark.parametrize("name", ["conv2d", "dense", "depthwise2d", "grouped"])
def test_mixed_products_are_exactly_mixed(name):
    layer, x = make(name)
    drum = DrumMultiply(layer, 1, 5, partition="mixed")
    drum.build(x.shape)
    chosen = RNG.random(layer.kernel.shape) < 0.5
    drum.approximated.assign(chosen)
    received = drum(x)
    kernel, activation = layer.kernel.numpy(), layer.activation
    layer.activation = None
    layer.kernel.assign(kernel * ~chosen)
    exact = layer(x)
    if layer.bias is not None:
        layer.bias.assign(0 * layer.bias)
    layer.kernel.assign(truncated(kernel * chosen, 1))
    expected = activation(exact + layer(truncated(x, 5)))
    np.testing.assert_allclose(received, expected, atol=1e-5)
    drum.partition = "none"
    assert np.abs(np.asarray(drum(x) - received)).max() > 0.01


def test_partitions_meet_at_their_ends():
    layer, x = make("conv2d")
    drum = DrumMultiply(layer, 1, 5)
    outputs = {}
    for partition in ("all", "mixed", "none"):
        drum.partition = partition
        outputs[partition] = np.asarray(drum(x))
    np.testing.assert_allclose(outputs["mixed"], outputs["none"], atol=1e-5)
    np.testing.assert_array_equal(outputs["none"], layer(x))
    drum.partition = "mixed"
    drum.approximated.assign(np.ones(layer.kernel.shape, bool))
    np.testing.assert_allclose(drum(x), outputs["all"], atol=1e-5)


@pytest.mark.parametrize("gradient", ["exact", "approximate"])
def test_gradients(gradient):
    import tensorflow as tf

    layer, x = make("no_bias")
    drum = DrumMultiply(layer, 2, 3, gradient=gradient)
    inputs = tf.constant(x)
    upstream = RNG.normal(size=(2, 5)).astype("float32")
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        loss = tf.reduce_sum(drum(inputs) * upstream)
    of_x, of_w = tape.gradient(loss, (inputs, layer.kernel.value))
    w = np.asarray(layer.kernel)
    if gradient == "approximate":
        x, w = truncated(x, 3), truncated(w, 2)
    np.testing.assert_allclose(of_x, upstream @ w.T, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(of_w, x.T @ upstream, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("gradient", ["exact", "approximate"])
def test_gradients_of_mixed_products(gradient):
    import tensorflow as tf

    layer, x = make("no_bias")
    drum = DrumMultiply(layer, 1, 3, gradient=gradient, partition="mixed")
    drum.build(x.shape)
    chosen = RNG.random(layer.kernel.shape) < 0.5
    drum.approximated.assign(chosen)
    inputs = tf.constant(x)
    upstream = RNG.normal(size=(2, 5)).astype("float32")
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        loss = tf.reduce_sum(drum(inputs) * upstream)
    of_x, of_w = tape.gradient(loss, (inputs, layer.kernel.value))
    w, seen = np.asarray(layer.kernel), x
    if gradient == "approximate":
        w = np.where(chosen, truncated(w, 1), w)
        seen = truncated(x, 3)
    np.testing.assert_allclose(of_x, upstream @ w.T, rtol=1e-4, atol=1e-5)
    expected = np.where(chosen, seen.T @ upstream, x.T @ upstream)
    np.testing.assert_allclose(of_w, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("order", [(DrumMultiply, MaskedKernel), None])
def test_masks_compose_in_either_order(order):
    layer, x = make("conv2d")
    if order:
        mask = MaskedKernel(layer)
        outer = DrumMultiply(mask, 3, 5)
    else:
        outer = mask = MaskedKernel(DrumMultiply(layer, 3, 5))
    outer.build(x.shape)
    keep = RNG.random(layer.kernel.shape) < 0.5
    mask.masks[0].mask.assign(keep)
    received = outer(x)
    layer.kernel.assign(truncated(layer.kernel, 3) * keep)
    np.testing.assert_allclose(received, layer(truncated(x, 5)), atol=1e-5)


def network():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(8, 3, activation="relu", name="conv")(inputs)
    x = L.SeparableConv2D(8, 3, name="separable")(x)
    return keras.Model(inputs, L.Dense(4, name="logits")(L.Flatten()(x)))


def on_drum(model, **arguments):
    return tfc.layers.wrap_kernels(
        model, lambda layer: DrumMultiply(layer, 1, 5, **arguments)
    )


@pytest.mark.parametrize("gradient", ["exact", "approximate"])
def test_training_is_the_same_with_and_without_xla(gradient):
    x = RNG.normal(size=(32, 8, 8, 3))
    y = RNG.normal(size=(32, 4))
    weights = []
    for mode in (False, True, "auto"):
        model = on_drum(network(), gradient=gradient)
        model.compile("sgd", "mse", jit_compile=mode)
        model.fit(x, y, epochs=2, shuffle=False, verbose=0)
        weights.append(np.concatenate([w.ravel() for w in model.get_weights()]))
    start = np.concatenate([w.ravel() for w in on_drum(network()).get_weights()])
    assert np.abs(weights[0] - start).max() > 1e-4
    for other in weights[1:]:
        np.testing.assert_allclose(other, weights[0], rtol=1e-3, atol=1e-4)


def test_finalized_models_stay_approximate_and_are_not_trained_by_accident():
    masked = tfc.layers.wrap_kernels(network(), MaskedKernel)
    model = on_drum(masked)
    inner = model.get_layer("conv").layer
    inner.masks[0].mask.assign(RNG.random(inner.kernels[0].shape) < 0.5)
    final = tfc.finalize(model)
    conv = final.get_layer("conv")
    assert type(conv) is DrumMultiply and type(conv.layer) is L.Conv2D
    x = RNG.normal(size=(4, 8, 8, 3)).astype("float32")
    np.testing.assert_allclose(final(x), model(x), atol=1e-5)
    assert np.abs(np.asarray(final(x) - network()(x))).max() > 1e-3
    kernel = np.asarray(conv.layer.kernel)
    np.testing.assert_array_equal(truncated(kernel, 1), kernel)
    final.compile("sgd", "mse")
    with pytest.raises(ValueError, match="stored truncated"):
        final.fit(x, np.zeros((4, 4)), verbose=0)
    for name in ("conv", "separable", "logits"):
        final.get_layer(name).truncate_kernel = True
    final.fit(x, np.zeros((4, 4)), verbose=0)


def test_energy_is_that_of_the_approximate_multiplier():
    model = on_drum(network())
    cost = tfc.cost.count(model)
    assert {row.operands.multiplier_bits for row in cost.rows if row.macs} == {(1, 5)}
    assert cost.macs == tfc.cost.count(network()).macs
    model.get_layer("conv").partition = "mixed"
    rows = {row.name: row for row in tfc.cost.count(model).rows}
    assert rows["conv"].operands.multiplier_bits is None


def test_tflite_files_are_approximate_too(tmp_path):
    keras.utils.set_random_seed(0)
    model = on_drum(keras.Sequential([keras.Input((6,)), L.Dense(1)]))
    x = RNG.normal(size=(50, 6)).astype("float32")
    tfc.export.to_tflite(model, tmp_path / "m.tflite", calibration=x)
    received = np.concatenate(
        [
            np.asarray(tfc.export.run(tmp_path / "m.tflite", x[i : i + 1])).reshape(1)
            for i in range(50)
        ]
    )
    np.testing.assert_allclose(received, np.asarray(model(x))[:, 0], rtol=1e-6)


@pytest.mark.parametrize("fraction_bits", [None, 6])
@pytest.mark.parametrize("bits", [1, 5])
def test_tflite_files_truncate_with_the_same_bits(bits, fraction_bits, tmp_path):
    """One product a number, with a weight of 2, so that nothing else is rounded."""
    dense = L.Dense(1, use_bias=False)
    drum = DrumMultiply(dense, 1, bits, fraction_bits=fraction_bits)
    model = keras.Sequential([keras.Input((4096, 1)), drum])
    dense.kernel.assign([[2.0]])
    sizes = np.ldexp(RNG.uniform(1, 2, 4096), RNG.integers(-120, 120, 4096))
    sizes[:3] = 0.0, 2**-6, 2**-1
    x = RNG.choice([-1, 1], 4096) * sizes
    x = x.reshape(1, 4096, 1).astype("float32")
    path = tmp_path / "model.tflite"
    tfc.export.to_tflite(model, path, calibration=x)
    received = np.asarray(tfc.export.run(path, x)).reshape(x.shape)
    expected = 2 * _reference.drum_truncate(x, bits, fraction_bits)
    np.testing.assert_array_equal(received.view("uint32"), expected.view("uint32"))


@pytest.mark.parametrize("quantization", ["float16", "dynamic", "int8"])
def test_quantization_on_top_is_refused(tmp_path, quantization):
    model = on_drum(network())
    x = RNG.normal(size=(4, 8, 8, 3)).astype("float32")
    path = tmp_path / "model.tflite"
    with pytest.raises(ValueError, match=r"'conv'.*approximate multiplier"):
        tfc.export.to_tflite(model, path, quantization=quantization, calibration=x)
    assert not path.exists()


def test_a_portable_export_needs_no_library(tmp_path):
    model, x = on_drum(network()), RNG.normal(size=(2, 8, 8, 3)).astype("float32")
    np.save(tmp_path / "x.npy", x)
    with tfc.ops.portable():
        model.export(tmp_path / "exported", verbose=False)
    code = f"""
import numpy as np, sys, tensorflow as tf
loaded = tf.saved_model.load({str(tmp_path / "exported")!r})
np.save({str(tmp_path / "y.npy")!r}, loaded.serve(np.load({str(tmp_path / "x.npy")!r})))
assert "tfcompress" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), model(x), atol=1e-5)


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_truncates_what_the_layer_computes_with(dtype):
    layer = L.Dense(3, dtype=dtype)
    drum = DrumMultiply(layer, 3, 5)
    assert drum.compute_dtype == dtype.removeprefix("mixed_")
    assert drum(RNG.normal(size=(2, 4))).dtype == drum.compute_dtype
    with pytest.raises(ValueError, match="`weight_bits`"):
        DrumMultiply(layer, 12, 5)


def test_activity_regularizer_and_masks_pass():
    layer, x = make("dense")
    layer.activity_regularizer = keras.regularizers.L2(1.0)
    drum = DrumMultiply(layer, 8, 8)
    y = np.asarray(drum(x))
    assert float(drum.losses[0]) == pytest.approx((y**2).sum() / len(y), rel=1e-4)
    assert drum.supports_masking


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"layer": L.Embedding(3, 4)}, "`layer`"),
        ({"layer": DrumMultiply(L.Dense(3), 1, 5)}, "`layer`"),
        ({"weight_bits": 0}, "`weight_bits`"),
        ({"activation_bits": 30}, "`activation_bits`"),
        ({"gradient": "both"}, "`gradient`"),
        ({"partition": "half"}, "`partition`"),
        ({"fraction_bits": "4"}, "`fraction_bits`"),
    ],
)
def test_bad_arguments(arguments, match):
    given = {"layer": L.Dense(3), "weight_bits": 1, "activation_bits": 5, **arguments}
    kind = TypeError if "fraction_bits" in arguments else ValueError
    with pytest.raises(kind, match=match):
        DrumMultiply(**given)


def test_what_has_no_plain_kernel_is_refused():
    with pytest.raises(TypeError, match="`layer`"):
        Scaled("dense")
    adapted = L.Dense(3, lora_rank=2)
    adapted.build((1, 4))
    with pytest.raises(ValueError, match="LoRA"):
        Scaled(adapted)
