"""Kernels that take few values."""

from __future__ import annotations

from typing import Any, Literal

import keras
import numpy as np
from keras import ops

from tfcompress import _checks
from tfcompress.layers._kernel_wrapper import KernelWrapper

__all__ = ["ClusteredKernel", "Start"]

Start = Literal["linear", "density", "kmeans++"]
_STARTS = ("linear", "density", "kmeans++")
_LLOYD_STEPS = 20


@keras.saving.register_keras_serializable(package="tfcompress")
class ClusteredKernel(KernelWrapper):
    """Computes what a layer computes, with a kernel of few different values.

    Each weight takes the nearest of a few centroids, which are trained: the
    gradient of a centroid is the sum of those of its weights (Han et al. 2016,
    "Deep Compression", eq. 3). The weights get their gradients as if they were not
    rounded (straight-through), and so may change from one cluster to another.

    With `preserve_sparsity`, weights that are zero when the layer is wrapped stay
    zero, and 0 is one of the values.

    Example:

    ```python
    layer = tfc.layers.ClusteredKernel(keras.layers.Dense(10), clusters=16)
    ```

    Args:
        layer: a layer of the kinds that `KernelWrapper` takes.
        clusters: the most different values of a kernel, at least 2. Defaults to
            `16`.
        preserve_sparsity: whether zeros stay. Defaults to `True`.
        start: where the centroids begin: `"linear"`, evenly from the smallest to
            the largest weight; `"density"`, at even quantiles; `"kmeans++"`, by
            k-means from a random start that spreads them (Arthur and
            Vassilvitskii 2007). Defaults to `"kmeans++"`.
        seed: of the random start. Defaults to `0`.
        name: defaults to the name of `layer`.
        trainable: whether the layer's variables are trained. Defaults to True.

    Attributes:
        centroids: one variable of shape `(clusters,)` for each of `kernels`, once
            the layer is built; of `(clusters - 1,)` where 0 is a value, too.

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: if an argument is not as described.
    """

    def __init__(
        self,
        layer: keras.Layer,
        clusters: int = 16,
        *,
        preserve_sparsity: bool = True,
        start: Start = "kmeans++",
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(layer, **kwargs)
        self.clusters = _checks.whole("clusters", clusters, 2)
        self.preserve_sparsity = _checks.flag("preserve_sparsity", preserve_sparsity)
        self.start = _checks.one_of("start", start, _STARTS)
        self.seed = _checks.whole("seed", seed, 0)

    def build(self, input_shape: Any = None) -> None:
        """Builds the inner layer and places the centroids."""
        super().build(input_shape)
        self.centroids = tuple(self._place(kernel) for kernel in self.kernels)
        self._kept = (
            tuple(self._mask(kernel) for kernel in self.kernels)
            if self.preserve_sparsity
            else ()
        )

    def effective_kernel(self, variable: keras.Variable, value: Any) -> Any:
        """The nearest centroid of each weight."""
        number = [variable is kernel for kernel in self.kernels].index(True)
        value = ops.convert_to_tensor(value)
        known = ops.sort(ops.cast(self.centroids[number], value.dtype))
        if self.preserve_sparsity:
            # 0 takes part as a centroid that is not trained.
            known = ops.sort(ops.concatenate([known, ops.zeros((1,), value.dtype)]))
        # The nearest of sorted centroids is found by counting the midpoints below a
        # weight: between -1, 0 and 4 lie -0.5 and 2, so 1.5 has one below it, and goes
        # to centroid 1, which is 0. `take` has the gradient of Han et al., equation 3:
        # a centroid gets the sum of the gradients of the weights that took it.
        middles = ops.stop_gradient((known[1:] + known[:-1]) / 2)
        flat = ops.reshape(ops.stop_gradient(value), (-1,))
        nearest = ops.searchsorted(middles, flat)
        clustered = ops.reshape(ops.take(known, nearest), value.shape)
        # value - value is exactly 0, and brings the gradient.
        clustered = clustered + (value - ops.stop_gradient(value))
        if not self.preserve_sparsity:
            return clustered
        kept = ops.convert_to_tensor(self._kept[number])
        return ops.where(kept, clustered, ops.zeros_like(clustered))

    def around(self, layer: keras.Layer) -> ClusteredKernel:
        """The same clusters around another layer with the same kernels."""
        config = self.get_config()
        del config["layer"]
        twin = ClusteredKernel(layer, **config)
        twin.build_from_config(self.get_build_config())
        for old, new in zip(
            (*self.centroids, *self._kept), (*twin.centroids, *twin._kept), strict=True
        ):
            new.assign(old)
        return twin

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        own = ("clusters", "preserve_sparsity", "start", "seed")
        return {**super().get_config(), **{name: getattr(self, name) for name in own}}

    # Helpers ----------------------------------------------------------------

    def _place(self, kernel: keras.Variable) -> keras.Variable:
        values = ops.convert_to_numpy(kernel).astype("float64").reshape(-1)
        count = self.clusters
        if self.preserve_sparsity:
            values, count = values[values != 0], count - 1
        first = _centroids(values, count, self.start, self.seed)
        variable = self.add_weight(
            shape=(count,), initializer="zeros", name=f"{kernel.name}_centroids"
        )
        variable.assign(first)
        return variable

    def _mask(self, kernel: keras.Variable) -> keras.Variable:
        mask = self.add_weight(
            shape=kernel.shape,
            initializer="ones",
            dtype="bool",
            trainable=False,
            name=f"{kernel.name}_kept",
        )
        mask.assign(ops.convert_to_numpy(kernel) != 0)
        return mask


# Helpers --------------------------------------------------------------------


def _centroids(values: np.ndarray, count: int, start: str, seed: int) -> np.ndarray:
    """Where the centroids begin, sorted."""
    if not values.size:
        return np.zeros(count)
    if start == "linear":
        return np.linspace(values.min(), values.max(), count)
    if start == "density":
        return np.quantile(values, (np.arange(count) + 0.5) / count)
    different = np.unique(values)
    if different.size <= count:
        return np.pad(different, (0, count - different.size), mode="edge")
    return _kmeans(values, count, np.random.default_rng(seed))


def _kmeans(values: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """k-means in one dimension, where clusters are intervals."""
    # k-means++: each further centroid is drawn with a probability in proportion to the
    # squared distance to the nearest one so far. Then Lloyd's steps: weights to the
    # nearest centroid, centroids to the mean of their weights. An empty one stays where
    # it is.
    found = [rng.choice(values)]
    distance = (values - found[0]) ** 2
    while len(found) < count:
        found.append(rng.choice(values, p=distance / distance.sum()))
        distance = np.minimum(distance, (values - found[-1]) ** 2)
    centroids = np.sort(found)
    for _ in range(_LLOYD_STEPS):
        nearest = np.searchsorted((centroids[1:] + centroids[:-1]) / 2, values)
        sizes = np.bincount(nearest, minlength=count)
        sums = np.bincount(nearest, values, minlength=count)
        centroids = np.sort(np.where(sizes, sums / np.maximum(sizes, 1), centroids))
    return centroids
