"""What `count` returns."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from tfcompress.cost._accesses import Accesses, PhaseAccesses
from tfcompress.cost._accesses import total as total_accesses
from tfcompress.cost._operands import Operands
from tfcompress.cost._table import quantity, table
from tfcompress.cost._uses import Shape

__all__ = ["LayerCost", "ModelCost"]


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
        operations: other arithmetic operations: bias, activation, normalization,
            pooling, additions.
        parameters: elements of all the layer's weights; 0 at the further uses of
            a shared layer.
        nonzero: those that are not zero.
        trainable: those that training updates.
        weights: elements of the kernels, that is without biases, normalizations
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
        # Table I of `_accesses`, for any layer. A product of data with data (attention)
        # reads both of its inputs again in the backward pass, because the gradient of
        # one is a product with the other. A layer whose weights are frozen has no
        # update, but still passes gradients on to the layers before it.
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
        """Elements of the kernels: parameters without biases and normalizations."""
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
