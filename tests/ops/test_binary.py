import keras
import numpy as np
import pytest
import tensorflow as tf

import tfcompress as tfc

# Values on both sides of every border, and the borders.
X = np.array([-2.0, -1.0, -0.4, -0.0, 0.0, 0.3, 1.0, 1.5, np.inf], "float32")


def value_and_gradient(function, x, compiled=False):
    """`function` of x, and the gradient of a weighted sum of its results."""
    weights = tf.constant(np.arange(1.0, x.size + 1).reshape(x.shape), x.dtype)

    def run(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x)
            loss = tf.reduce_sum(y * weights)
        return y, tape.gradient(loss, x) / weights

    run = tf.function(run, jit_compile=True) if compiled else run
    y, gradient = run(tf.constant(x))
    return y.numpy(), gradient.numpy()


@pytest.mark.parametrize("compiled", [False, True])
def test_binary_step_is_equations_4_and_5(compiled):
    y, gradient = value_and_gradient(tfc.ops.binary_step, X, compiled)
    np.testing.assert_array_equal(y, [0, 0, 0, 0, 0, 1, 1, 1, 1])
    np.testing.assert_array_equal(gradient, [0, 1, 1, 1, 1, 1, 1, 0, 0])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_decisions_keep_the_dtype(dtype):
    x = keras.ops.convert_to_tensor([-0.3, 0.2, 5.0], dtype)
    for step in (tfc.ops.binary_step, tfc.ops.gumbel_step, tfc.ops.mean_step):
        y = step(x)
        assert keras.backend.standardize_dtype(y.dtype) == dtype
        assert set(np.asarray(y, "float32")) <= {0.0, 1.0}


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_gumbel_step_has_the_gradient_of_its_soft_form(temperature):
    x = np.linspace(-3, 3, 13).astype("float32")
    y, gradient = value_and_gradient(
        lambda x: tfc.ops.gumbel_step(x, temperature, seed=3), x
    )
    u = np.asarray(
        keras.random.uniform(x.shape, 1e-7, 1 - 1e-7, seed=3), dtype="float64"
    )
    soft = 1 / (1 + np.exp(-(x + np.log(u / (1 - u))) / temperature))
    np.testing.assert_array_equal(y, soft > 0.5)
    expected = soft * (1 - soft) / temperature
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)


def test_gumbel_step_opens_with_the_probability_of_its_logit():
    n = 40_000
    for logit in (-1.5, 0.0, 2.0):
        opened = np.mean(tfc.ops.gumbel_step(np.full(n, logit, "float32"), 0.7, seed=1))
        p = 1 / (1 + np.exp(-logit))
        assert abs(opened - p) < 5 * np.sqrt(p * (1 - p) / n)


def test_gumbel_step_draws_anew_from_a_generator():
    x = np.zeros(64, "float32")
    generator = keras.random.SeedGenerator(1)
    first = np.asarray(tfc.ops.gumbel_step(x, seed=generator))
    assert (first != np.asarray(tfc.ops.gumbel_step(x, seed=generator))).any()


@pytest.mark.parametrize("compiled", [False, True])
def test_mean_step_compares_with_the_mean_as_a_constant(compiled):
    x = np.array([[1.0, 2.0], [2.2, 6.0]], "float32")  # mean 2.8
    y, gradient = value_and_gradient(tfc.ops.mean_step, x, compiled)
    np.testing.assert_array_equal(y, [[0, 0], [0, 1]])
    np.testing.assert_array_equal(gradient, [[0, 1], [1, 0]])


def test_mean_step_takes_a_threshold():
    np.testing.assert_array_equal(tfc.ops.mean_step([1.0, 2.0, 6.0], 1.5), [0, 1, 1])
