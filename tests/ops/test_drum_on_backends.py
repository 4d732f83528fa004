"""DRUM's operands against the arithmetic reference, on whatever backend runs."""

import keras
import ml_dtypes
import numpy as np
import pytest
from keras import ops

import tfcompress as tfc
from tfcompress.ops import _reference
from tfcompress.ops._gradients import with_gradient_of

RNG = np.random.default_rng(0)
ON_JAX = keras.backend.backend() == "jax"


def assert_agrees(x, bits, fraction_bits=None):
    expected = _reference.drum_truncate(x, bits, fraction_bits)
    received = tfc.ops.drum_truncate(x, bits, fraction_bits)
    received = np.asarray(ops.convert_to_numpy(received))
    assert received.dtype == expected.dtype
    np.testing.assert_array_equal(received.view("uint8"), expected.view("uint8"))


def gradients(function, *operands):
    """Gradients of the sum of what a function returns."""
    operands = [ops.convert_to_tensor(x) for x in operands]
    if ON_JAX:
        import jax

        wanted = tuple(range(len(operands)))
        found = jax.grad(lambda *x: ops.sum(function(*x)), wanted)(*operands)
    else:
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(operands)
            total = ops.sum(function(*operands))
        found = tape.gradient(total, operands)
    return [ops.convert_to_numpy(each) for each in found]


def test_the_form_is_that_of_the_backend():
    assert (tfc.ops.implementation() == "jax") == ON_JAX


@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16])
def test_every_float_of_two_bytes_is_truncated_as_by_arithmetic(kind):
    numbers = np.arange(65536, dtype="uint16").view(kind)
    for bits in (1, 2, 5, 8):
        for fraction_bits in (None, 3, -4):
            assert_agrees(numbers, bits, fraction_bits)


@pytest.mark.parametrize("bits", [1, 5, 24])
def test_random_float32_are_truncated_as_by_arithmetic(bits):
    # Random bits: every exponent, with infinities, NaN and subnormals among them.
    special = [0, 1, 0x7FFFFF, 0x800000, 0x7F7FFFFF, 0x7F800000, 0x7F800001]
    special = np.array([*special, *(each | 1 << 31 for each in special)], "uint32")
    words = RNG.integers(0, 2**32, 200_000, dtype="uint64").astype("uint32")
    numbers = np.concatenate([words, special]).view("float32")
    assert_agrees(numbers, bits)
    assert_agrees(numbers, bits, fraction_bits=10)


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32"])
def test_integers_are_truncated_as_by_arithmetic(dtype):
    limits = np.iinfo(dtype)
    numbers = RNG.integers(limits.min, limits.max, 50_000, dtype=dtype, endpoint=True)
    numbers = np.concatenate([numbers, [limits.min, limits.max, -1, 0, 1]])
    for bits in (1, 3, 7, 20):
        assert_agrees(numbers.astype(dtype), bits)


def test_compiled_steps_truncate_the_same():
    class Truncate(keras.layers.Layer):
        def call(self, x):
            return tfc.ops.drum_truncate(x, 3)

    x = RNG.normal(size=(64, 32)).astype("float32")
    model = keras.Sequential([keras.Input((32,)), Truncate()])
    model.compile(jit_compile=True)
    received = model.predict(x, verbose=0)
    np.testing.assert_array_equal(received, _reference.drum_truncate(x, 3))


def test_gradients_pass_the_truncation():
    x = RNG.normal(size=(5,)).astype("float32")
    (received,) = gradients(lambda x: 3.0 * tfc.ops.drum_truncate(x, 2), x)
    np.testing.assert_array_equal(received, np.full(5, 3.0))


def test_gradients_of_products_are_exact_or_of_the_hardware():
    a = RNG.normal(size=(4, 1)).astype("float32")
    b = RNG.normal(size=(3,)).astype("float32")
    of_a, of_b = gradients(lambda a, b: tfc.ops.drum_multiply(a, b, (2, 3)), a, b)
    np.testing.assert_allclose(of_a, np.full((4, 1), b.sum()), rtol=1e-6)
    np.testing.assert_allclose(of_b, np.full(3, a.sum()), rtol=1e-6)
    of_a, of_b = gradients(
        lambda a, b: tfc.ops.drum_multiply(a, b, (2, 3), gradient="approximate"), a, b
    )
    expected = _reference.drum_truncate(b, 3).sum()
    np.testing.assert_allclose(of_a, np.full((4, 1), expected), rtol=1e-6)


def test_integer_products_are_wide_enough():
    a = np.array([127, -128, 100], "int8")
    received = ops.convert_to_numpy(tfc.ops.drum_multiply(a, a, (8, 8)))
    np.testing.assert_array_equal(received, a.astype(int) ** 2)
    assert received.dtype == np.int16


@pytest.mark.skipif(not ON_JAX, reason="only JAX has no 64 bits")
def test_jax_refuses_to_cut_off_64_bits():
    for dtype in ("int64", "float64"):
        with pytest.raises(ValueError, match="jax_enable_x64"):
            tfc.ops.drum_truncate(np.ones(3, dtype), 3)
    with pytest.raises(ValueError, match="jax_enable_x64"):
        tfc.ops.drum_multiply(np.ones(3, "int32"), np.ones(3, "int32"), (3, 3))


def test_value_and_gradient_come_from_different_functions():
    function = with_gradient_of(lambda x, y: x * x * y, lambda x, y: x + y)
    of_x, of_y = gradients(function, np.float32(3.0), np.float32(5.0))
    assert (of_x, of_y) == (30.0, 9.0)
    assert float(function(*map(ops.convert_to_tensor, (3.0, 5.0)))) == 8.0
