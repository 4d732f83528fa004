"""Wrapping the layers of a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras

from tfcompress import policy, structure
from tfcompress.layers._kernel_wrapper import KernelWrapper

__all__ = ["wrap_kernels"]


def wrap_kernels(
    model: keras.Model,
    wrapper: Callable[[keras.Layer], keras.Layer],
    *,
    layers: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
) -> keras.Model:
    """A copy of `model` whose layers with kernels are wrapped.

    `structure.wrap` for a method that works on all kernels of a model: of
    convolutions and `Dense` layers, also of those that are wrapped already.

    Example:

    ```python
    model = tfc.layers.wrap_kernels(dense, tfc.layers.MaskedKernel)
    model = tfc.layers.wrap_kernels(model, lambda x: tfc.layers.DrumMultiply(x, 1, 5))
    ```

    Args:
        model: a built Functional or Sequential model. It is not modified.
        wrapper: takes the copy of a layer, with its weights, and returns the
            layer to put in its place, under its name.
        layers: names of the layers to wrap; `None` for all. Defaults to `None`.
        exclude: names of layers to leave as they are. Defaults to `()`.

    Returns:
        A new model with the weights, the compile state and the optimizer's state
        of `model`.

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: if `model` is subclassed or not built, a name is unknown or
            stands for a layer without such a kernel, or nothing is left.
    """
    selection = policy.select_layers(model, _refuse, layers=layers, exclude=exclude)
    return structure.wrap(model, dict.fromkeys(selection.chosen, wrapper))


def _refuse(layer: keras.Layer) -> str | None:
    try:
        KernelWrapper(layer)
    except ValueError:
        return "is no convolution or Dense layer with an ordinary kernel"
    return None
