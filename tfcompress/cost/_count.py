"""Counts what a model takes, layer by layer."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import keras
import numpy as np
from keras import KerasTensor

from tfcompress.cost._accesses import Accesses, PhaseAccesses
from tfcompress.cost._accesses import total as total_accesses
from tfcompress.cost._operands import Operands, effective_values, operands, unwrap
from tfcompress.cost._operations import operation_work
from tfcompress.cost._rules import layer_rule
from tfcompress.cost._table import quantity, table
from tfcompress.cost._uses import Shape, Use, elements, uses
from tfcompress.cost._work import Product, Work
from tfcompress.structure._graph import require_graph

__all__ = [
    "Entry",
    "LayerCost",
    "ModelCost",
    "Sizes",
    "count",
    "entries",
    "summarise",
]


@dataclass(frozen=True)
class LayerCost:
    """What one use of one layer takes, for one sample at inference.

    A *MAC* is one multiplication and one addition of a sum of products; 1 MAC =
    2 FLOPs.

    Attributes:
        name: name of the layer, "outer/inner" where it is nested, with "#2" and
            so on for the further uses of a shared layer.
        kind: class of the layer.
        output_shape: shape of its output, batch axis 1.
        macs: multiply–accumulates.
        effective_macs: those whose weight is not zero.
        weight_macs: those of which one operand is a weight (the others multiply
            data with data, as attention does).
        update_macs: those that a training step takes again for the gradients of
            the weights.
        operations: other arithmetic operations: bias, activation, normalisation,
            pooling, additions.
        parameters: elements of all the layer's weights; 0 at the further uses of
            a shared layer.
        nonzero: those that are not zero.
        trainable: those that training updates.
        weights: elements of the kernels, that is without biases, normalisations
            and their statistics.
        nonzero_weights: those that are not zero.
        inputs: elements that go in.
        activations: elements that are written; 0 for a view such as Flatten.
        weight_reads: weight elements read.
        nonzero_reads: those that are not zero.
        operands: widths of the multiplications' operands.
        reason: why the arithmetic of this layer is not counted; empty if it is.
    """

    name: str
    kind: str
    output_shape: Shape
    macs: int
    effective_macs: int
    weight_macs: int
    update_macs: int
    operations: int
    parameters: int
    nonzero: int
    trainable: int
    weights: int
    nonzero_weights: int
    inputs: int
    activations: int
    weight_reads: int
    nonzero_reads: int
    operands: Operands
    reason: str = ""

    @property
    def flops(self) -> int:
        """Floating-point operations of the multiply–accumulates: 2 × MACs."""
        return 2 * self.macs

    @property
    def backward_macs(self) -> int:
        """Multiply–accumulates for the gradients of the layer's inputs.

        As many as forward; a product of data with data has two inputs.
        """
        return 2 * self.macs - self.weight_macs

    @property
    def accesses(self) -> PhaseAccesses:
        """Elements read and written in the phases of training."""
        both_data = self.macs > self.weight_macs
        updated = self.update_macs or self.trainable
        return PhaseAccesses(
            forward=Accesses(
                input_reads=self.inputs,
                weight_reads=self.weight_reads,
                output_writes=self.activations,
            ),
            backward=Accesses(
                input_reads=self.inputs if both_data else 0,
                weight_reads=self.weight_reads,
                output_reads=self.activations,
                input_writes=self.inputs,
            ),
            update=Accesses(
                input_reads=self.inputs,
                weight_reads=self.trainable,
                output_reads=self.activations,
                weight_writes=self.trainable,
            )
            if updated
            else Accesses(),
        )

    def to_dict(self) -> dict[str, Any]:
        """A dictionary of plain values, for JSON."""
        plain = asdict(self)
        plain["output_shape"] = list(self.output_shape)
        bits = self.operands.multiplier_bits
        plain["operands"]["multiplier_bits"] = None if bits is None else list(bits)
        return plain

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> LayerCost:
        """The opposite of `to_dict`."""
        details = dict(plain["operands"])
        bits = details["multiplier_bits"]
        details["multiplier_bits"] = None if bits is None else tuple(bits)
        return cls(
            **{
                **plain,
                "output_shape": tuple(plain["output_shape"]),
                "operands": Operands(**details),
            }
        )


@dataclass(frozen=True)
class ModelCost:
    """What a model takes, for one sample at inference; `print` shows a table.

    Totals are sums over `rows`. 1 MAC = 2 FLOPs.

    Attributes:
        name: name of the model.
        rows: one `LayerCost` for each use of each layer, in order of execution.
    """

    name: str
    rows: tuple[LayerCost, ...]

    @property
    def macs(self) -> int:
        """Multiply–accumulates."""
        return sum(row.macs for row in self.rows)

    @property
    def effective_macs(self) -> int:
        """Multiply–accumulates whose weight is not zero."""
        return sum(row.effective_macs for row in self.rows)

    @property
    def flops(self) -> int:
        """Floating-point operations of the multiply–accumulates: 2 × MACs."""
        return 2 * self.macs

    @property
    def operations(self) -> int:
        """Arithmetic operations that belong to no multiply–accumulate."""
        return sum(row.operations for row in self.rows)

    @property
    def parameters(self) -> int:
        """Elements of all weights, shared ones once."""
        return sum(row.parameters for row in self.rows)

    @property
    def nonzero(self) -> int:
        """Parameters that are not zero."""
        return sum(row.nonzero for row in self.rows)

    @property
    def sparsity(self) -> float:
        """Fraction of the kernels' elements that are zero."""
        weights = self.weights
        return 1 - self.nonzero_weights / weights if weights else 0.0

    @property
    def weights(self) -> int:
        """Elements of the kernels: parameters without biases and normalisations."""
        return sum(row.weights for row in self.rows)

    @property
    def nonzero_weights(self) -> int:
        """Elements of the kernels that are not zero."""
        return sum(row.nonzero_weights for row in self.rows)

    @property
    def activations(self) -> int:
        """Elements that the layers write."""
        return sum(row.activations for row in self.rows)

    @property
    def training_macs(self) -> int:
        """Multiply–accumulates of a training step: forward, backward, update."""
        return sum(row.macs + row.backward_macs + row.update_macs for row in self.rows)

    @property
    def accesses(self) -> PhaseAccesses:
        """Elements read and written in the phases of training."""
        return total_accesses(row.accesses for row in self.rows)

    @property
    def uncounted(self) -> tuple[LayerCost, ...]:
        """Rows whose arithmetic is not counted; `row.reason` says why."""
        return tuple(row for row in self.rows if row.reason)

    def to_dict(self) -> dict[str, Any]:
        """A dictionary of plain values, for JSON."""
        return {
            "name": self.name,
            "macs": self.macs,
            "effective_macs": self.effective_macs,
            "operations": self.operations,
            "parameters": self.parameters,
            "nonzero": self.nonzero,
            "weights": self.weights,
            "nonzero_weights": self.nonzero_weights,
            "activations": self.activations,
            "rows": [row.to_dict() for row in self.rows],
        }

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> ModelCost:
        """The opposite of `to_dict`."""
        return cls(plain["name"], tuple(map(LayerCost.from_dict, plain["rows"])))

    def __str__(self) -> str:
        rows = [
            (
                row.name,
                row.kind,
                "×".join(map(str, row.output_shape[1:])) or "1",
                "?" if row.reason else f"{row.macs:,}",
                f"{row.parameters:,}",
                f"{row.nonzero:,}",
                f"{row.activations:,}",
            )
            for row in self.rows
        ]
        least = "≥ " if self.uncounted else ""
        total = (
            "total",
            "",
            "",
            f"{least}{self.macs:,}",
            f"{self.parameters:,}",
            f"{self.nonzero:,}",
            f"{self.activations:,}",
        )
        head = (
            *("layer", "kind", "output", "MACs", "parameters", "non-zero"),
            "activations",
        )
        notes = [f"? {row.name}: {row.reason}" for row in self.uncounted]
        return "\n".join(
            [
                f"{self.name}: {least}{quantity(self.macs)}MACs "
                f"({least}{quantity(self.flops)}FLOPs = 2 × MACs), "
                f"{quantity(self.parameters)}parameters, one sample",
                table(head, rows, total, left=3),
                *notes,
            ]
        )


def count(
    model: keras.Model, *, input_shape: Shape | Sequence[Shape] | None = None
) -> ModelCost:
    """Counts multiply–accumulates, parameters and activations of a model.

    One *MAC* is one multiplication and one addition of a sum of products, 2
    FLOPs. Products with padding count as any other. Everything else (bias,
    activation, normalisation, pooling, additions) is counted apart as
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
    cost = summarise(model.name, entries(model, input_shape))
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


def summarise(
    name: str, found: Iterable[Entry], sizes: Sizes | None = None
) -> ModelCost:
    """The cost of a model, with the zeros that its weights have now."""
    known = sizes or Sizes()
    return ModelCost(name, tuple(_row(entry, known) for entry in found))


def _row(entry: Entry, sizes: Sizes) -> LayerCost:
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
