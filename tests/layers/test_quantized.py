import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import optimize, stats

import tfcompress as tfc
from tfcompress.layers._quantized import CLIPPING

L = keras.layers


def effective(wrapper):
    (kernel,) = wrapper.kernels
    return np.asarray(wrapper.effective_kernel(kernel, kernel.value))


def built(layer, shape, **arguments):
    wrapper = tfc.layers.QuantizedKernel(layer, **arguments)
    wrapper.build((None, *shape))
    return wrapper


class TestQuantizedKernel:
    def test_eight_bits_are_255_steps_up_to_the_largest_weight(self):
        wrapper = built(L.Conv2D(3, 3), (8, 8, 2))
        kernel = np.asarray(wrapper.core.kernel)
        step = np.abs(kernel).max((0, 1, 2)) / 127
        np.testing.assert_allclose(
            effective(wrapper), np.rint(kernel / step) * step, rtol=1e-6
        )

    @pytest.mark.parametrize(("bits", "ratio"), CLIPPING.items())
    def test_range_of_few_bits_is_the_best_for_normal_weights(self, bits, ratio):
        levels = 2 ** (bits - 1) - 1
        x = np.linspace(-8, 8, 100_001)
        density = stats.norm.pdf(x)

        def error(limit):
            step = limit / levels
            grid = np.clip(np.rint(x / step), -levels, levels) * step
            return np.sum(density * (x - grid) ** 2)

        best = optimize.minimize_scalar(error, bounds=(0.5, 8), method="bounded")
        assert ratio == pytest.approx(best.x, abs=2e-3)

    def test_range_follows_the_weights_that_are_not_zero(self):
        wrapper = built(L.Dense(50), (40,), bits=4)
        kernel = np.random.default_rng(0).normal(size=(40, 50)).astype("float32")
        kernel[:20] = 0
        wrapper.core.kernel.assign(kernel)
        spread = np.sqrt(np.mean(kernel[20:] ** 2))
        assert np.abs(effective(wrapper)).max() == pytest.approx(2.474 * spread, 1e-3)
        assert not effective(wrapper)[:20].any()

    @pytest.mark.parametrize(
        ("layer", "shape", "steps"),
        [
            (L.Conv1D(4, 3), (9, 2), (1, 1, 4)),
            (L.DepthwiseConv2D(3, depth_multiplier=2), (8, 8, 3), (1, 1, 3, 2)),
            (L.Dense(5), (7,), (1, 1)),
            (L.Conv2DTranspose(4, 3), (8, 8, 2), (1, 1, 1, 1)),
        ],
        ids=lambda value: getattr(value, "name", None),
    )
    def test_channels_of_convolutions_have_steps_of_their_own(
        self, layer, shape, steps
    ):
        wrapper = built(layer, shape)
        (kernel,) = wrapper.kernels
        assert wrapper.grid(kernel, kernel.value)[1].shape == steps

    def test_gradient_passes_for_clipped_weights_too(self):
        wrapper = built(L.Dense(6), (5,), bits=2)
        kernel = wrapper.core.kernel
        weights = np.random.default_rng(0).normal(size=(5, 6)).astype("float32")
        with tf.GradientTape() as tape:
            value = wrapper.effective_kernel(kernel, kernel.value)
            loss = tf.reduce_sum(value * weights)
        np.testing.assert_array_equal(tape.gradient(loss, kernel.value), weights)

    def test_bake_leaves_the_plain_layer_on_the_grid(self):
        wrapper = built(L.Conv2D(3, 3), (8, 8, 2), bits=3)
        expected = effective(wrapper)
        layer = wrapper.bake()
        assert type(layer) is L.Conv2D
        np.testing.assert_array_equal(layer.kernel, expected)
        assert all(len(np.unique(expected[..., c])) <= 7 for c in range(3))

    def test_transposed_convolutions_compute_the_same(self):
        layer = L.Conv2DTranspose(4, 3, strides=2, padding="same", activation="relu")
        x = np.random.default_rng(0).normal(size=(2, 5, 5, 3)).astype("float32")
        wrapper = tfc.layers.MaskedKernel(layer)
        outputs = wrapper(x)
        np.testing.assert_allclose(outputs, layer(x), atol=1e-6)

    @pytest.mark.parametrize("bits", [1, 9, 4.5])
    def test_other_bits_are_refused(self, bits):
        with pytest.raises(ValueError, match="`bits`"):
            tfc.layers.QuantizedKernel(L.Dense(2), bits)

    def test_channels_of_dense_layers_are_refused(self):
        with pytest.raises(ValueError, match="`per_channel`"):
            tfc.layers.QuantizedKernel(L.Dense(2), per_channel=True)


class TestFakeQuantize:
    def test_range_is_a_moving_average_that_starts_with_the_first_batch(self):
        layer = tfc.layers.FakeQuantize(momentum=0.9)
        for batch in ([-1.0, 2.0], [0.5, 4.0], [-3.0, 1.0]):
            layer(np.array([batch], "float32"), training=True)
        low, high = layer.range
        assert low == pytest.approx(0.9 * (0.9 * -1 + 0.1 * 0) + 0.1 * -3)
        assert high == pytest.approx(0.9 * (0.9 * 2 + 0.1 * 4) + 0.1 * 1)

    def test_values_lie_on_255_steps_with_zero_among_them(self):
        layer = tfc.layers.FakeQuantize()
        layer(np.array([[-0.3, 0.77]], "float32"), training=True)
        x = np.linspace(-1, 1, 10_001, dtype="float32")[None]
        y = np.unique(np.asarray(layer(x)))
        step = 1.07 / 255
        assert 0 in y
        assert len(y) <= 256
        np.testing.assert_allclose(y / step, np.rint(y / step), atol=1e-3)

    def test_sixteen_bits_are_symmetric(self):
        layer = tfc.layers.FakeQuantize(16)
        layer(np.array([[-0.5, 0.25]], "float32"), training=True)
        step = 0.5 / 32767
        y = np.asarray(layer(np.array([[0.4999, -0.3]], "float32")))
        np.testing.assert_allclose(y / step, np.rint(y / step), atol=1e-2)
        assert y.max() == pytest.approx(0.4999, abs=step)

    def test_passes_on_until_it_has_seen_a_batch(self):
        layer = tfc.layers.FakeQuantize()
        x = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
        np.testing.assert_array_equal(layer(x), x)
        assert layer.range is None

    def test_batches_with_nan_are_left_out(self):
        layer = tfc.layers.FakeQuantize()
        layer(np.array([[1.0, 2.0]], "float32"), training=True)
        layer(np.array([[np.nan, 9.0]], "float32"), training=True)
        assert layer.range == (0.0, 2.0)

    def test_ranges_of_tflite(self):
        layer = tfc.layers.FakeQuantize(fixed="unit")
        y = np.asarray(layer(np.array([[0.5, 1.0, -1.0]], "float32")))
        np.testing.assert_array_equal(y, [[0.5, 255 / 256, 0.0]])

    @pytest.mark.parametrize(
        "arguments", [{"bits": 4}, {"momentum": 1.5}, {"fixed": "other"}]
    )
    def test_arguments_are_checked(self, arguments):
        with pytest.raises(ValueError, match=f"`{next(iter(arguments))}`"):
            tfc.layers.FakeQuantize(**arguments)
