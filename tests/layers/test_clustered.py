import keras
import numpy as np
import pytest
import tensorflow as tf

import tfcompress as tfc
from tfcompress.layers._clustered import _centroids

L = keras.layers


def wrapped(kernel, **arguments):
    layer = L.Dense(kernel.shape[1], use_bias=False)
    layer.build((None, kernel.shape[0]))
    layer.kernel.assign(kernel)
    wrapper = tfc.layers.ClusteredKernel(layer, **arguments)
    wrapper.build((None, kernel.shape[0]))
    return wrapper


def effective(wrapper):
    (kernel,) = wrapper.kernels
    return np.asarray(wrapper.effective_kernel(kernel, kernel.value))


@pytest.fixture
def kernel():
    weights = np.random.default_rng(0).normal(size=(20, 30)).astype("float32")
    weights[np.abs(weights) < 0.7] = 0
    return weights


@pytest.mark.parametrize("start", ["linear", "density", "kmeans++"])
def test_weights_take_the_nearest_of_few_values(kernel, start):
    wrapper = wrapped(kernel, clusters=5, start=start)
    values = effective(wrapper)
    assert len(np.unique(values)) <= 5
    known = np.append(np.asarray(wrapper.centroids[0]), 0)
    nearest = known[np.abs(kernel[..., None] - known).argmin(-1)]
    expected = np.where(kernel == 0, 0, nearest)
    np.testing.assert_allclose(values, expected, atol=1e-6)
    assert not values[kernel == 0].any()


def test_starts():
    values = np.array([0.0, 1.0, 2.0, 3.0, 10.0])
    np.testing.assert_array_equal(_centroids(values, 3, "linear", 0), [0, 5, 10])
    np.testing.assert_allclose(
        _centroids(values, 2, "density", 0), np.quantile(values, [0.25, 0.75])
    )


def test_kmeans_finds_separated_groups():
    rng = np.random.default_rng(1)
    values = np.concatenate([c + 0.01 * rng.normal(size=50) for c in (-3, 0.5, 2)])
    found = _centroids(values, 3, "kmeans++", 0)
    means = [values[i : i + 50].mean() for i in (0, 50, 100)]
    np.testing.assert_allclose(found, means, rtol=1e-6)


def test_gradient_of_a_centroid_is_the_sum_of_those_of_its_weights():
    kernel = np.array([[0.9, 1.1, -1.0, -1.2]], "float32")
    wrapper = wrapped(kernel, clusters=2, preserve_sparsity=False)
    variable = wrapper.core.kernel
    weights = np.array([[1.0, 2.0, 3.0, 4.0]], "float32")
    centroids = wrapper.centroids[0]
    with tf.GradientTape() as tape:
        value = wrapper.effective_kernel(variable, variable.value)
        loss = tf.reduce_sum(value * weights)
    by_centroid, by_weight = tape.gradient(loss, [centroids.value, variable.value])
    np.testing.assert_allclose(np.asarray(centroids), [-1.1, 1.0], rtol=1e-6)
    np.testing.assert_array_equal(by_centroid, [7.0, 3.0])
    np.testing.assert_array_equal(by_weight, weights)


@pytest.mark.parametrize(
    ("arguments", "name"), [({"clusters": 1}, "clusters"), ({"start": "x"}, "start")]
)
def test_arguments_are_checked(arguments, name):
    with pytest.raises(ValueError, match=f"`{name}`"):
        tfc.layers.ClusteredKernel(L.Dense(2), **arguments)
