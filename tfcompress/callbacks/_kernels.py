"""The kernels of a model: the weights that pruning and quantisation work on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import keras

from tfcompress import policy
from tfcompress.layers._kernel_wrapper import KernelWrapper
from tfcompress.structure import _facts

__all__ = ["find_wrapper", "kernels", "select_kernels"]

W = TypeVar("W", bound=KernelWrapper)


def kernels(layer: keras.layers.Layer) -> list[keras.Variable]:
    """The trainable kernels of a layer: weights that multiply its input.

    Biases, the parameters of normalisations and embedding tables are not among
    them.
    """
    return _facts.kernels(layer, trainable=True)


def select_kernels(
    model: keras.Model,
    layers: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
) -> dict[str, list[keras.Variable]]:
    """The kernels of the selected layers, by the name of the layer.

    Raises:
        TypeError: if `layers` or `exclude` is not a list of strings.
        ValueError: if a name is unknown, or nothing is left.
    """
    selection = policy.select_layers(model, _refuse, layers=layers, exclude=exclude)
    result: dict[str, list[keras.Variable]] = {}
    seen: set[int] = set()
    for name, layer in selection.chosen.items():
        # A layer that a model holds twice is constrained once.
        own = [variable for variable in kernels(layer) if id(variable) not in seen]
        seen.update(map(id, own))
        if own:
            result[name] = own
    return result


def _refuse(layer: keras.layers.Layer) -> str | None:
    return None if kernels(layer) else "has no trainable kernel"


def find_wrapper(layer: keras.layers.Layer, kind: type[W]) -> W | None:
    """The wrapper of some kind around a kernel: `layer` itself or one inside it."""
    while isinstance(layer, KernelWrapper):
        if isinstance(layer, kind):
            return layer
        layer = layer.layer
    return None
