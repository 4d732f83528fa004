"""The one exit: from a model that was instrumented to a plain, smaller one."""

from __future__ import annotations

from typing import Any

import keras

from tfcompress import structure
from tfcompress.policy import named_layers
from tfcompress.structure._graph import require_graph

__all__ = ["finalize"]


def finalize(model: keras.Model, data: Any = None) -> keras.Model:
    """Returns `model` as a plain Keras model without anything superfluous.

    Wrapped layers become the plain layers that compute the same (masks and
    other transformations of a kernel are written into it), and channels that
    are provably zero are removed. The result needs nothing of this library to
    be loaded.

    A layer of your own takes part by a method `bake()` that returns the plain
    layer to put in its place, built and with its weights.

    Example:

    ```python
    model.fit(x, y, epochs=25, callbacks=[tfc.callbacks.FilterPruning(schedule)])
    small = tfc.finalize(model)
    small.save("small.keras")
    ```

    Args:
        model: a built Functional or Sequential model. It is not modified.
        data: inputs on which layers that decide from data are resolved; none of
            the layers of a model without gates needs it. Defaults to `None`.

    Returns:
        A new `keras.Model` with the same inputs and outputs. Where `model` is
        compiled, so is the result, with the optimizer's state.

    Raises:
        TypeError: if `model` is not a Keras model.
        ValueError: if `model` is subclassed or not built.
    """
    require_graph(model)
    return structure.shrink(_bake(model))


def _bake(model: keras.Model) -> keras.Model:
    baking = {
        name: lambda layer: layer.bake()
        for name, layer in named_layers(model).items()
        if callable(getattr(layer, "bake", None))
    }
    return structure.wrap(model, baking) if baking else model
