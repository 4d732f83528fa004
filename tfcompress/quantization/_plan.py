"""Which layer gets which bits, and why a layer stays in float."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras

from tfcompress import _checks, policy, structure
from tfcompress.layers import FakeQuantize, QuantizedKernel
from tfcompress.quantization._rules import Decision, activation, decide, is_relu
from tfcompress.structure import _graph
from tfcompress.structure._graph import Call

__all__ = ["Bits", "Plan", "Row", "Step", "plan", "steps"]

Bits = int | Mapping[str, int]


@dataclass(frozen=True)
class Row:
    """What becomes of one layer or operation.

    Attributes:
        name: its name; `"outer/inner"` inside nested models.
        kind: its class.
        weights: bits of its kernels; `None` where it has none, or in float.
        activations: bits of its output; `None` in float.
        note: why it stays in float, or what takes its place.
    """

    name: str
    kind: str
    weights: int | None
    activations: int | None
    note: str = ""

    @property
    def in_float(self) -> bool:
        """Whether the layer computes in float."""
        return self.activations is None


@dataclass(frozen=True)
class Plan:
    """The plan of `prepare` for a model; `print` shows a table.

    Attributes:
        rows: one `Row` for each layer and operation, in the order of computation.
    """

    rows: tuple[Row, ...]

    @property
    def in_float(self) -> dict[str, str]:
        """Name -> reason of what stays in float."""
        return {row.name: row.note for row in self.rows if row.in_float}

    def __getitem__(self, name: str) -> Row:
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(name)

    def __str__(self) -> str:
        lines = [("layer", "class", "weights", "activations", "")]
        for row in self.rows:
            bits = ("float" if row.in_float else f"{row.activations} bits",)
            weights = "" if row.weights is None else f"{row.weights} bits"
            lines.append((row.name, row.kind, weights, *bits, row.note))
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join(
                cell.ljust(n) for cell, n in zip(line, widths, strict=True)
            ).rstrip()
            for line in lines
        )


def plan(
    model: keras.Model,
    weights: Bits = 8,
    activations: int = 8,
    layers: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
) -> Plan:
    """Lists the bits that `prepare` gives each layer, and why a layer stays in float.

    Batch normalizations that `structure.fold_batch_norm` folds are not in the
    table: they are part of the layer before.

    Example:

    >>> print(tfc.quantization.plan(model, weights={"conv1": 4}))

    Args:
        model: a built Functional or Sequential model.
        weights: as in `prepare`. Defaults to `8`.
        activations: as in `prepare`. Defaults to `8`.
        layers: as in `prepare`. Defaults to `None`.
        exclude: as in `prepare`. Defaults to `()`.

    Returns:
        A `Plan`.

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: if `model` is subclassed, not built or prepared already, bits
            are out of range, or a name is unknown.
    """
    _graph.require_graph(model)
    request = Request(model, weights, activations, layers, exclude)
    folded = structure.fold_batch_norm(model, verify=False, carry_optimizer=False)
    return Plan(tuple(step.row for step in steps(folded, request)))


class Request:
    """The checked arguments of `plan` and `prepare`."""

    def __init__(
        self,
        model: keras.Model,
        weights: Bits,
        activations: int,
        layers: Sequence[str] | None,
        exclude: Sequence[str],
    ) -> None:
        for layer in model._flatten_layers():
            if isinstance(layer, FakeQuantize | QuantizedKernel):
                raise ValueError(
                    _checks.invalid(
                        "model",
                        "a model in float, not one that is prepared already",
                        model.name,
                    )
                )
        known = [
            prefix + call.operation.name
            for prefix, call in _graph.walk(model)
            if not _graph.is_editable(call)
        ]
        self.activations = _checks.whole("activations", activations)
        if self.activations not in (8, 16):
            raise ValueError(_checks.invalid("activations", "8 or 16", activations))
        self.weights = _weights(weights, known)
        self.layers = (
            None if layers is None else policy.check_names(layers, known, "layers")
        )
        self.exclude = policy.check_names(exclude, known, "exclude")
        both = sorted(set(self.layers or ()) & set(self.exclude))
        if both:
            raise ValueError(
                _checks.invalid("exclude", "names that are not in `layers`", both)
            )

    def bits(self, name: str) -> int:
        """The bits of a layer's kernels."""
        if isinstance(self.weights, int):
            return self.weights
        return self.weights.get(name, 8)

    def left_out(self, name: str) -> str | None:
        """Why the user wants a layer in float."""
        if name in self.exclude:
            return "excluded by name"
        if self.layers is not None and name not in self.layers:
            return "not among the named layers"
        return None


@dataclass
class Step:
    """What becomes of one call in a graph.

    Attributes:
        call: the call.
        decision: what the rules say.
        row: its line in the plan.
        barred: tensors that it reads in float though they lie on a grid.
        rounded: tensors that it makes, and that get a grid.
    """

    call: Call
    decision: Decision
    row: Row
    barred: list[Any] = field(default_factory=list)
    rounded: list[Any] = field(default_factory=list)


def steps(model: keras.Model, request: Request) -> list[Step]:
    """The steps of a model and of the models inside, in the order of computation."""
    uses: dict[int, list[Call]] = {}
    for _, call in _graph.walk(model):
        uses.setdefault(id(call.operation), []).append(call)
    return _steps(model, request, "", {}, uses)


def _steps(
    model: keras.Model,
    request: Request,
    prefix: str,
    decided: dict[int, Decision],
    uses: Mapping[int, list[Call]],
) -> list[Step]:
    # Which tensors get a grid is decided here, and `_prepare` only carries it out.
    # A grid belongs wherever the integer file rounds, and nowhere else:
    #
    #     input -> [grid] -> Conv2D -> ReLU -> [grid] -> Dense -> [grid] -> Softmax
    #     -> [the grid that LiteRT fixes]
    #
    # None stands between Conv2D and ReLU, which are one operator (`_fuses`), none
    # behind what only moves values ("pass"), and none between two operations in float
    # (`_stays`). An output of the model is always on a grid, because the file stores
    # it. So a convolution whose result is also an output does not fuse with its ReLU.
    graph = _graph.functional(model)
    walk = list(_graph.calls(model))
    ends = {id(tensor) for tensor in graph.outputs}
    readers: dict[int, list[Call]] = {}
    for call in walk:
        for tensor in call.inputs:
            readers.setdefault(id(tensor), []).append(call)
    choices = {
        id(call.node): _choose(call, request, prefix, decided, uses)
        for call in walk
        if not _graph.is_editable(call)
    }
    found: list[Step] = []
    grids = _Known(request.activations, [] if prefix else graph.inputs)
    for call in walk:
        if _graph.is_editable(call):
            inner = call.operation
            if id(inner) not in decided:  # a shared model is one
                decided[id(inner)] = Decision("pass")
                inside = f"{prefix}{inner.name}/"
                found += _steps(inner, request, inside, decided, uses)
            continue
        decision = choices[id(call.node)]
        if decision is None:
            continue  # no floats
        reason = grids.refused(call, decision)
        if reason:
            decision = choices[id(call.node)] = Decision("float", reason)
        step = Step(call, decision, _row(call, decision, request, prefix))
        in_float = decision.kind == "float"
        if in_float:
            step.barred = [t for t in _distinct(call.inputs) if _is_float(t)]
        for tensor in call.outputs:
            if not _is_float(tensor) or decision.kind == "pass":
                continue
            after = readers.get(id(tensor), [])
            if decision.fusable and id(tensor) not in ends and _fuses(after, choices):
                continue
            if in_float and id(tensor) not in ends and _stays(after, choices):
                continue
            step.rounded.append(tensor)
        grids.note(step)
        found.append(step)
    return found


class _Known:
    """Which tensors of a graph lie on a grid that is known there.

    Not those that come into a nested model or out of it: it may be called on several.
    """

    def __init__(self, bits: int, inputs: Iterable[Any]) -> None:
        self._bits = bits
        # id of a tensor -> whether LiteRT fixes its grid.
        self._fixed = {id(tensor): False for tensor in inputs}

    def refused(self, call: Call, decision: Decision) -> str | None:
        """Why an operation that shares its grid with its inputs cannot."""
        # Its output would get a grid of its own, and the converter would round, and cut
        # off, the inputs to that one: the mean of four values has a narrower range.
        if decision.kind == "same" and id(call.inputs[0]) not in self._fixed:
            return "the grid of its input lies beyond the border of a nested model"
        kind = type(call.operation).__name__
        joins = decision.kind == "own" and kind in _JOINING
        if self._bits == 16 and joins and any(map(self._is_fixed, call.inputs)):
            return (
                "LiteRT's converter does not round outputs of sigmoid and tanh for it"
            )
        return None

    def note(self, step: Step) -> None:
        """Takes in the tensors that an operation makes."""
        decision, inputs = step.decision, step.call.inputs
        fixed = decision.kind
        if decision.activation is not None:
            fixed = activation(decision.activation, self._bits).kind
        for tensor in step.rounded:
            self._fixed[id(tensor)] = fixed in ("unit", "signed")
        if decision.kind in ("pass", "same") and id(inputs[0]) in self._fixed:
            for tensor in step.call.outputs:
                self._fixed[id(tensor)] = self._is_fixed(inputs[0])

    def _is_fixed(self, tensor: Any) -> bool:
        return self._fixed.get(id(tensor), False)


# What has one grid for its inputs and its output.
_JOINING = ("Concatenate", "Stack", "Maximum", "Minimum")


# Helpers --------------------------------------------------------------------


def _choose(
    call: Call,
    request: Request,
    prefix: str,
    decided: dict[int, Decision],
    uses: Mapping[int, list[Call]],
) -> Decision | None:
    """The decision on a call; `None` where it makes no floats."""
    if not any(map(_is_float, call.outputs)):
        return None
    operation = call.operation
    # A layer that is called several times is wrapped once, so that the first call
    # decides, and one that has to stay in float keeps all of them there. Operations
    # have no variables and are decided call by call.
    is_layer = isinstance(operation, keras.Layer)
    if id(operation) not in decided or not is_layer:
        decision = decide(call, request.activations)
        for other in uses[id(operation)] if is_layer else ():
            if other.node is not call.node and any(map(_is_float, other.outputs)):
                refused = decide(other, request.activations)
                if refused.kind == "float":
                    decision = refused
        reason = request.left_out(prefix + operation.name)
        if reason and decision.kind != "pass":
            decision = Decision("float", reason)
        decided[id(operation)] = decision
    return decided[id(operation)]


def _fuses(after: list[Call], choices: Mapping[int, Decision | None]) -> bool:
    """Whether a ReLU is all that reads a tensor."""
    if len(after) != 1 or not is_relu(after[0]):
        return False
    choice = choices.get(id(after[0].node))
    return choice is not None and choice.kind == "own"


def _stays(after: list[Call], choices: Mapping[int, Decision | None]) -> bool:
    """Whether all that reads a tensor is in float, too."""
    kinds = [choices.get(id(call.node)) for call in after]
    return all(choice is not None and choice.kind == "float" for choice in kinds)


def _row(call: Call, decision: Decision, request: Request, prefix: str) -> Row:
    name = prefix + call.operation.name
    kind = type(call.operation).__name__
    if decision.kind == "float":
        return Row(name, kind, None, None, decision.reason)
    weights = request.bits(name) if decision.kind == "kernel" else None
    return Row(name, kind, weights, request.activations, decision.reason)


def _distinct(tensors: Iterable[Any]) -> list[Any]:
    return list({id(tensor): tensor for tensor in tensors}.values())


def _is_float(tensor: Any) -> bool:
    return "float" in keras.backend.standardize_dtype(tensor.dtype)


def _weights(weights: Bits, known: list[str]) -> int | dict[str, int]:
    if isinstance(weights, Mapping):
        full = policy.by_full_name(weights, known, "weights")
        return {name: _width(bits) for name, bits in full.items()}
    return _width(weights)


def _width(bits: Any) -> int:
    if _checks.whole("weights", bits, 2) > 8:
        raise ValueError(_checks.invalid("weights", "from 2 to 8 bits", bits))
    return int(bits)
