"""What one use of an operation takes: products, other arithmetic, weights read."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import keras

__all__ = ["SOFTMAX_OPERATIONS", "Product", "Work", "spatial_size"]

# Maximum, subtraction, exponential, sum and division for every element.
SOFTMAX_OPERATIONS = 5


@dataclass(frozen=True)
class Product:
    """Multiply-accumulates of one pair of operands.

    Attributes:
        macs: how many there are.
        weight: the operand that is a weight, each element of which is used
            equally often; `None` where both operands are data.
        along: a variable and one of its axes whose length they are proportional
            to, for products of data.
    """

    macs: int
    weight: keras.Variable | None = None
    along: tuple[keras.Variable, int] | None = None


@dataclass(frozen=True)
class Work:
    """What one use of an operation takes.

    Attributes:
        products: its multiply-accumulates.
        operations: other arithmetic: additions, multiplications, comparisons and
            function evaluations that belong to no multiply-accumulate.
        weight_reads: weight elements read; `None` for every weight once.
        writes: whether new values are made. A view (Flatten) moves nothing.
        kind: what to call it instead of the class name.
        reason: why the arithmetic is not counted; empty if it is.
    """

    products: tuple[Product, ...] = ()
    operations: int = 0
    weight_reads: int | None = None
    writes: bool = True
    kind: str = ""
    reason: str = ""

    def __add__(self, other: Work) -> Work:
        reads: int | None = None
        if self.weight_reads is not None and other.weight_reads is not None:
            reads = self.weight_reads + other.weight_reads
        return replace(
            self,
            products=self.products + other.products,
            operations=self.operations + other.operations,
            weight_reads=reads,
            reason="; ".join(filter(None, (self.reason, other.reason))),
        )

    def renamed(self, kind: str) -> Work:
        """The same under another name."""
        return replace(self, kind=kind)

    def times(self, count: int) -> Work:
        """The same, `count` times; the weights are still read once."""
        return replace(
            self,
            products=tuple(
                replace(product, macs=product.macs * count) for product in self.products
            ),
            operations=self.operations * count,
            weight_reads=None
            if self.weight_reads is None
            else self.weight_reads * count,
        )


def spatial_size(tensor: Any, data_format: str) -> int:
    """Number of positions of a feature map of shape (batch, …)."""
    shape = tensor.shape
    inner = shape[2:] if data_format == "channels_first" else shape[1:-1]
    return shape[0] * math.prod(inner)
