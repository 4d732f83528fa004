"""Kernels that share few values."""

from __future__ import annotations

from collections.abc import Sequence

import keras

from tfcompress import _checks
from tfcompress.layers import ClusteredKernel, FakeQuantize, wrap_kernels
from tfcompress.layers._clustered import Start
from tfcompress.structure._graph import require_graph

__all__ = ["cluster"]


def cluster(
    model: keras.Model,
    clusters: int = 16,
    preserve_sparsity: bool = True,
    *,
    start: Start = "kmeans++",
    layers: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    seed: int = 0,
) -> keras.Model:
    """A copy of `model` whose kernels take few different values.

    Every kernel of a convolution or a `Dense` layer is computed with the nearest
    of a few centroids (`layers.ClusteredKernel`), which train along. `finalize`
    leaves a plain model with these values in its kernels: of the same size in
    memory, but much smaller once compressed (`export.pack`, zip).

    A clustered model can be prepared for quantization: `prepare` then rounds the
    centroids, with one step for each kernel, so that there are not more values
    afterwards. Zeros stay zeros in all of it.

    Example:

    ```python
    clustered = tfc.quantization.cluster(pruned, clusters=16)
    clustered.compile("adam", "sparse_categorical_crossentropy")
    clustered.fit(x_train, y_train, epochs=2)
    tfc.export.pack(tfc.finalize(clustered), "model.tfcz")
    ```

    Args:
        model: a built Functional or Sequential model. It is not modified.
        clusters: the most different values of a kernel, 0 included, at least 2.
            Defaults to `16`.
        preserve_sparsity: whether weights that are zero stay zero. Defaults to
            `True`.
        start: `"linear"`, `"density"` or `"kmeans++"`, see
            `layers.ClusteredKernel`. Defaults to `"kmeans++"`.
        layers: names of the layers to cluster; `None` for all with kernels.
            Defaults to `None`.
        exclude: names of layers to leave alone. Defaults to `()`.
        seed: of the random start. Defaults to `0`.

    Returns:
        A new model with the weights and the compile state of `model`.

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: if an argument is not as described, a name is unknown, or
            `model` is prepared for quantization already.
    """
    require_graph(model)
    if any(isinstance(layer, FakeQuantize) for layer in model._flatten_layers()):
        raise ValueError(
            _checks.invalid(
                "model",
                "a model that is not prepared for quantization: cluster first, then "
                "prepare, so that the clusters are rounded and not the other way round",
                model.name,
            )
        )

    def clustered(layer: keras.Layer) -> keras.Layer:
        return ClusteredKernel(
            layer,
            clusters,
            preserve_sparsity=preserve_sparsity,
            start=start,
            seed=seed,
            trainable=layer.trainable,
        )

    # Arguments are checked before a model is built.
    clustered(keras.layers.Dense(1))
    return wrap_kernels(model, clustered, layers=layers, exclude=exclude)
