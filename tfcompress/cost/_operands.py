"""How a layer declares the operands that it computes with.

A layer that wraps another one, and computes the same with other operands, declares
that with a method that this package looks for:

    def cost_layer(self) -> tuple[keras.Layer, dict[str, Any]]:
        return self.layer, {"multiplier_bits": (1, 5)}

The cost is that of the layer it returns. The dictionary may hold

- `weight_bits`, `activation_bits`: int, width of integer operands;
- `multiplier_bits`: `(k0, k1)`, significant bits of weight and activation that
  an approximate multiplier looks at;
- `values`: function from a `keras.Variable` of the inner layer to the array
  that takes its place in the computation (a masked kernel), or `None` for the
  variable itself.

A layer that wraps nothing, and that is not registered, may have a method
`cost_macs(input_shapes, output_shapes) -> int` instead.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

__all__ = ["Operands", "effective_values", "operands", "unwrap"]

_KEYS = ("weight_bits", "activation_bits", "multiplier_bits", "values")


@dataclass(frozen=True)
class Operands:
    """What a layer's multiplications work on.

    Attributes:
        number: `"float"` or `"int"`.
        weight_bits: stored width of a weight.
        activation_bits: width of an activation.
        multiplier_bits: `(k0, k1)` of an approximate multiplier, or `None`.
    """

    number: str = "float"
    weight_bits: int = 32
    activation_bits: int = 32
    multiplier_bits: tuple[int, int] | None = None


def unwrap(layer: keras.Layer) -> tuple[keras.Layer, dict[str, Any]]:
    """The layer that does the work, and what the layers around it declare."""
    said: dict[str, Any] = {}
    while hasattr(layer, "cost_layer"):
        inner, details = layer.cost_layer()
        unknown = set(details) - set(_KEYS)
        if unknown or not isinstance(inner, keras.Layer):
            raise ValueError(
                f"{type(layer).__name__}.cost_layer() must return a layer and a dict "
                f"with keys from {_KEYS}. Received: {(inner, details)!r}"
            )
        said = {**details, **said}
        layer = inner
    return layer, said


def operands(operation: keras.Operation, tensor: Any) -> Operands:
    """What the multiplications of `operation` work on.

    Args:
        operation: the layer or operation.
        tensor: its output, whose dtype is the width if nothing else declares one.
    """
    # From the most specific: what wrappers say (`cost_layer`), then Keras' own int8
    # quantization, then dtypes. Operands are integers only if both widths are known to
    # be: a layer with 4-bit weights alone still multiplies floats.
    layer, said = _told(operation)
    compute = getattr(layer, "compute_dtype", None) or tensor.dtype
    quantized = getattr(layer, "quantization_mode", None) == "int8"
    whole = quantized or {"weight_bits", "activation_bits"} <= said.keys()
    stored = [v.dtype for v in getattr(layer, "weights", ())]
    weight = 8 if quantized else max(map(_bits, stored), default=_bits(compute))
    return Operands(
        number="int" if whole or "float" not in compute else "float",
        weight_bits=said.get("weight_bits", weight),
        activation_bits=said.get("activation_bits", 8 if quantized else _bits(compute)),
        multiplier_bits=said.get("multiplier_bits"),
    )


def effective_values(operation: Any, variable: keras.Variable) -> np.ndarray:
    """The values that `operation` computes with in the place of a variable."""
    values = _told(operation)[1].get("values")
    instead = None if values is None else values(variable)
    return keras.ops.convert_to_numpy(variable if instead is None else instead)


def _told(operation: Any) -> tuple[Any, dict[str, Any]]:
    """The layer at the core of `operation`, and what the layers around it declare."""
    said: dict[str, Any] = {}
    while True:
        if hasattr(operation, "cost_layer"):
            operation, details = unwrap(operation)
            said = {**details, **said}
        elif type(operation) is keras.layers.TimeDistributed:
            operation = operation.layer
        else:
            return operation, said


def _bits(dtype: str) -> int:
    """Width of a dtype; 8 for bool."""
    digits = re.search(r"\d+", dtype)
    return int(digits.group()) if digits else 8
