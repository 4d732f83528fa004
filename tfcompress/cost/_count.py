"""Counts what a model takes, layer by layer."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import KerasTensor

from tfcompress.cost._operands import effective_values, operands, unwrap
from tfcompress.cost._operations import operation_work
from tfcompress.cost._results import LayerCost, ModelCost
from tfcompress.cost._rules import layer_rule
from tfcompress.cost._uses import Shape, Use, elements, uses
from tfcompress.cost._work import Product, Work
from tfcompress.structure._graph import require_graph

__all__ = ["Entry", "Sizes", "count", "entries", "summarize"]


def count(
    model: keras.Model, *, input_shape: Shape | Sequence[Shape] | None = None
) -> ModelCost:
    """Counts multiply–accumulates, parameters and activations of a model.

    One *MAC* is one multiplication and one addition of a sum of products, 2
    FLOPs. Products with padding count as any other. Everything else (bias,
    activation, normalization, pooling, additions) is counted apart as
    `operations`. Layers count each time they are used, their parameters once.

    Example:

    >>> cost = tfc.cost.count(model)
    >>> print(cost)
    >>> cost.macs, cost.parameters, cost.rows[0].macs

    Args:
        model: a built Functional or Sequential model. It is not modified.
        input_shape: shape of the input without the batch axis, or a list of one
            for each input; needed where the model leaves sizes open. Defaults to
            `None`.

    Returns:
        A `ModelCost`, for one sample. Layers whose arithmetic is not known are
        in `ModelCost.uncounted`, with a reason, and one warning names them.

    Raises:
        TypeError: if `model` is not a Keras 3 model.
        ValueError: if `model` is subclassed or not built, or a size is unknown.
    """
    require_graph(model)
    cost = summarize(model.name, entries(model, input_shape))
    if cost.uncounted:
        reasons: dict[str, list[str]] = {}
        for row in cost.uncounted:
            reasons.setdefault(row.reason, []).append(row.name)
        listed = "; ".join(f"{names} ({why})" for why, names in reasons.items())
        warnings.warn(
            f"The cost of {model.name!r} is a lower bound, because it leaves out "
            f"{listed}.",
            stacklevel=2,
        )
    return cost


@dataclass(frozen=True)
class Entry:
    """One use of an operation and what it takes; the shapes of a `LayerCost`.

    Attributes:
        name: unique name.
        use: the use.
        work: what it takes.
        layer: the layer that does the work, without wrappers; an operation
            where it is not a layer.
        owned: the variables that count as this row's parameters.
    """

    name: str
    use: Use
    work: Work
    layer: Any
    owned: tuple[keras.Variable, ...]


def entries(
    model: keras.Model, input_shape: Shape | Sequence[Shape] | None = None
) -> list[Entry]:
    """Every use in `model` and what it takes."""
    found = []
    times: dict[int, int] = {}
    paths: dict[int, str] = {}
    seen: set[int] = set()
    for use in uses(model, input_shape):
        operation = use.operation
        path = paths.setdefault(id(operation), use.path)
        times[id(operation)] = number = times.get(id(operation), 0) + 1
        if isinstance(operation, keras.Layer):
            layer: Any = unwrap(operation)[0]
            work = layer_rule(operation)(operation, use)
        else:
            layer = operation
            work = operation_work(use)
        variables = tuple(getattr(layer, "weights", ()))
        owned = tuple(v for v in variables if id(v) not in seen)
        seen.update(map(id, variables))
        name = path if number == 1 else f"{path}#{number}"
        found.append(Entry(name, use, work, layer, owned))
    return found


class Sizes:
    """Sizes of tensors and variables, and how much of them is not zero."""

    def __init__(self) -> None:
        self._nonzero: dict[int, int] = {}

    def variable(self, variable: keras.Variable) -> int:
        """Number of elements."""
        return elements(variable)

    def nonzero(self, entry: Entry, variable: keras.Variable) -> int:
        """Number of elements that are not zero."""
        if id(variable) not in self._nonzero:
            values = effective_values(entry.use.operation, variable)
            self._nonzero[id(variable)] = self.count(variable, values)
        return self._nonzero[id(variable)]

    def count(self, variable: keras.Variable, values: np.ndarray) -> int:
        """Number of values that are not zero."""
        # Several times as fast as counting floats.
        return int(np.count_nonzero(values != 0))

    def macs(self, product: Product) -> int:
        """Multiply–accumulates."""
        return product.macs

    def scaled(self, number: int, symbols: Sequence[KerasTensor]) -> int:
        """`number`, which is proportional to the size of `symbols`."""
        return number


def summarize(
    name: str, found: Iterable[Entry], sizes: Sizes | None = None
) -> ModelCost:
    """The cost of a model, with the zeros that its weights have now."""
    known = sizes or Sizes()
    return ModelCost(name, tuple(_row(entry, known) for entry in found))


def _row(entry: Entry, sizes: Sizes) -> LayerCost:
    # There are three groups of variables. All variables of the layer are read at each
    # use. Those that no earlier row has counted (`owned`) are its parameters, because
    # a shared layer computes twice and is stored once. And the kernels, the variables
    # that products read, give the sparsity, without biases and statistics.
    use, work = entry.use, entry.work
    variables = tuple(getattr(entry.layer, "weights", ()))
    weighted = [p for p in work.products if p.weight is not None]
    trained = [p for p in weighted if getattr(p.weight, "trainable", False)]
    kernels = {id(p.weight): p.weight for p in weighted}
    owned = {id(v) for v in entry.owned}
    new = [v for key, v in kernels.items() if key in owned]

    def size(chosen: Iterable[Any]) -> int:
        return sum(map(sizes.variable, chosen))

    def alive(chosen: Iterable[Any]) -> int:
        return sum(sizes.nonzero(entry, variable) for variable in chosen)

    def effective(product: Product) -> int:
        macs = sizes.macs(product)
        if product.weight is None or not macs:
            return macs
        # Every element of a weight is used equally often (see `Product`), so that the
        # share of products with a zero is the share of zeros.
        return macs * alive([product.weight]) // sizes.variable(product.weight)

    reads, live_reads = size(variables), alive(variables)
    if work.weight_reads is not None:
        share = live_reads / reads if reads else 1.0
        reads = sizes.scaled(work.weight_reads, use.symbols[1])
        live_reads = round(reads * share)
    inputs = sum(map(elements, use.inputs)) if work.writes else 0
    outputs = sum(map(elements, use.outputs)) if work.writes else 0
    return LayerCost(
        name=entry.name,
        kind=work.kind or type(entry.layer).__name__,
        output_shape=tuple(use.outputs[0].shape),
        macs=sum(map(sizes.macs, work.products)),
        effective_macs=sum(map(effective, work.products)),
        weight_macs=sum(map(sizes.macs, weighted)),
        update_macs=sum(map(sizes.macs, trained)),
        operations=sizes.scaled(work.operations, use.symbols[1]),
        parameters=size(entry.owned),
        nonzero=alive(entry.owned),
        trainable=size(v for v in entry.owned if v.trainable),
        weights=size(new),
        nonzero_weights=alive(new),
        inputs=sizes.scaled(inputs, use.symbols[0]),
        activations=sizes.scaled(outputs, use.symbols[1]),
        weight_reads=reads,
        nonzero_reads=live_reads,
        operands=operands(use.operation, use.outputs[0]),
        reason=work.reason,
    )
