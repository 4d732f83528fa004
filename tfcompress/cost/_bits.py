"""Widths of weights and activations, where the caller knows better than the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tfcompress.cost._operands import Operands
from tfcompress.cost._results import LayerCost, ModelCost

__all__ = ["Bits", "mac_bits", "with_bits"]

# Both widths, or (weights, activations), or such by layer name.
_Widths = int | tuple[int, int | None]
Bits = _Widths | Mapping[str, _Widths]


def with_bits(cost: ModelCost, bits: Bits | None) -> list[LayerCost]:
    """The rows of `cost`, with the operands that `bits` asks for."""
    if bits is None:
        return list(cost.rows)
    if not isinstance(bits, Mapping):
        widths = _widths(bits, bits)
        return [_narrow(row, widths) for row in cost.rows]
    by_layer = {name: _widths(value, bits) for name, value in bits.items()}
    # The further uses of a shared layer are rows of their own: name#2.
    known = {row.name.partition("#")[0] for row in cost.rows}
    unknown = [name for name in by_layer if name not in known]
    if unknown:
        raise ValueError(
            "Invalid value for argument `bits`. Expected names of layers of "
            f"{cost.name!r}. Received: {unknown}"
        )
    return [
        _narrow(row, by_layer[name]) if name in by_layer else row
        for row in cost.rows
        for name in [row.name.partition("#")[0]]
    ]


def mac_bits(cost: ModelCost, bits: Bits | None = None) -> int:
    """Multiply–accumulates times the width of their weights, summed over layers.

    The second metric of Table 8 of "ADMM-NN: an algorithm-hardware co-design
    framework of DNNs using alternating direction method of multipliers" (Ren et
    al., 2019), which stands for the energy of hardware whose multipliers are as
    wide as the weights. Products with a zero weight do not count.

    Example:

    >>> cost = tfc.cost.count(pruned)
    >>> tfc.cost.mac_bits(cost, bits={"conv1": 7, "conv2": 5})

    Args:
        cost: from `count`.
        bits: as for `energy`; where a layer is not named, the width in which its
            weights are stored counts. Defaults to `None`.

    Returns:
        Bits. The paper counts operations, 2 for each multiply–accumulate.

    Raises:
        TypeError: if `cost` is of another kind.
        ValueError: if `bits` names a layer that is not there or a width is out of
            range.
    """
    if not isinstance(cost, ModelCost):
        raise TypeError(
            "Invalid value for argument `cost`. Expected the result of "
            f"tfcompress.cost.count. Received: cost={cost!r}"
        )
    return sum(
        row.effective_macs * row.operands.weight_bits for row in with_bits(cost, bits)
    )


def _narrow(row: LayerCost, widths: tuple[int, int | None]) -> LayerCost:
    weight, activation = widths
    if activation is None:
        operands = replace(row.operands, weight_bits=weight)
    else:
        multiplier = row.operands.multiplier_bits
        operands = Operands("int", weight, activation, multiplier)
    return replace(row, operands=operands)


def _widths(value: Any, given: Any) -> tuple[int, int | None]:
    pair = value if isinstance(value, tuple | list) else (value, value)
    if (
        len(pair) != 2
        or not _is_width(pair[0])
        or not (pair[1] is None or _is_width(pair[1]))
    ):
        raise ValueError(
            "Invalid value for argument `bits`. Expected a number of bits from 1 to "
            "64, a pair (weights, activations), or such by layer name. Received: "
            f"bits={given!r}"
        )
    return pair[0], pair[1]


def _is_width(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 64
