"""Where in a model the activations of a layer are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfcompress.structure._facts import (
    ACTIVATION_LAYERS,
    IDENTITY_LAYERS,
    KERNELS,
    applied_function,
    at_zero,
    is_elementwise,
    makes_zeros,
    unwrapped,
)
from tfcompress.structure._graph import (
    Call,
    calls,
    functional,
    inner_inputs,
    is_editable,
    walk,
)
from tfcompress.structure._trace import Trace
from tfcompress.structure._walk import trace

__all__ = ["Tap", "activation_taps", "filter_taps"]


# The activation of each filter ----------------------------------------------------


def filter_taps(
    model: keras.Model, members: Sequence[Any]
) -> dict[str, tuple[Any, int]]:
    """Finds where the next layer reads the filters of layers.

    That is after the normalization and the activation function, as far as each is
    the only reader of what comes before it.

    Args:
        model: a built Functional or Sequential model.
        members: the kernels (`Member`s of channel groups) of the layers.

    Returns:
        Layer name -> the operation whose output it is, and the axis of the filters.

    Raises:
        ValueError: if a layer's output does not show its filters on an axis.
    """
    watched = {member.layer_name: member for member in members}
    taps: dict[str, tuple[Any, int]] = {}
    listed = list(walk(model))
    # Counted in this graph: a layer also keeps the calls of other models, and those of
    # a Sequential model before its last `add`.
    times = Counter(id(call.operation) for _, call in listed)
    readers: dict[int, list[Call]] = {}
    for _, call in listed:
        for tensor in call.inputs:
            readers.setdefault(id(tensor), []).append(call)
    for prefix, call in listed:
        name = f"{prefix}{call.operation.name}"
        if not is_editable(call) and name in watched and name not in taps:
            axis = _filter_axis(name, call, watched[name])
            taps[name] = (_last_operation(call, readers, times), axis)
    return taps


def _filter_axis(name: str, call: Call, member: Any) -> int:
    shape = call.outputs[0].shape
    channels_first = getattr(call.operation, "data_format", "") == "channels_first"
    axis = 1 if channels_first else len(shape) - 1
    if shape[axis] != len(member.channels):
        raise ValueError(
            "Invalid value for argument `criterion`. Expected layers whose output has "
            "one channel for each filter, as MeanActivation needs. Received: layer "
            f"{name!r} with {len(member.channels)} filters and output shape {shape}. "
            "Name it in `exclude`, or use another criterion."
        )
    return axis


def _last_operation(
    call: Call, readers: Mapping[int, list[Call]], times: Mapping[int, int]
) -> Any:
    """The operation whose output is the activation of the filters of `call`."""
    while not _is_activated(call.operation):
        following = readers.get(id(call.outputs[0]), [])
        if len(following) != 1:
            break
        operation = following[0].operation
        if not isinstance(operation, _BETWEEN) and not _is_function(operation):
            break
        if times[id(operation)] != 1:
            break  # a shared layer: its output is not this layer's alone
        call = following[0]
    return call.operation


def _is_activated(operation: Any) -> bool:
    return isinstance(operation, ACTIVATION_LAYERS) or (
        applied_function(operation) is not None
    )


def _is_function(operation: Any) -> bool:
    """Whether an operation is an activation function, as `keras.ops.relu(x)` is."""
    # A layer with an activation function, such as an LSTM, does more than that.
    return not isinstance(operation, keras.Layer) and _is_activated(operation)


# What may stand between a filter and its activation function, or be that.
_BETWEEN = (keras.layers.BatchNormalization, *IDENTITY_LAYERS, *ACTIVATION_LAYERS)


# Density of non-zero activations -------------------------------------------------


@dataclass(frozen=True, eq=False)
class Tap:
    """Where the activations of a layer's channels are.

    Attributes:
        operation: the operation that applies the activation function.
        positions: bool array that broadcasts against its output: what belongs to
            the layer; `None` for everything.
        sparse: whether the activation function makes exact zeros.
    """

    operation: Any
    positions: np.ndarray | None
    sparse: bool

    @property
    def key(self) -> tuple[int, bytes]:
        """Equal for layers that share their activations, as after an addition."""
        return (
            id(self.operation),
            b"" if self.positions is None else self.positions.tobytes(),
        )


@dataclass(frozen=True, eq=False)
class _Step:
    """A leaf call of a possibly nested graph, or a border of a nested model."""

    key: str
    operation: Any | None
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def activation_taps(model: keras.Model) -> tuple[dict[str, Tap], dict[str, str]]:
    """Finds the activation that follows each convolution and dense layer.

    It may be part of the layer or come later: behind normalization, pooling or
    concatenation, or behind a residual addition. The structure engine's channel
    labels tell which channels of it are the layer's.

    Args:
        model: a built Functional or Sequential model.

    Returns:
        Two dicts by layer name: a `Tap`, or the reason why there is none.
    """
    analysis = trace(model)
    steps = list(_steps(model, ""))
    uses: dict[int, set[tuple[int, ...]]] = {}
    for step in steps:
        uses.setdefault(id(step.operation), set()).add(step.outputs)
    taps: dict[str, Tap] = {}
    reasons: dict[str, str] = {}
    for index, step in enumerate(steps):
        if not _has_kernel(step.operation) or step.key in taps or step.key in reasons:
            continue
        found = _follow(analysis, steps, index)
        if isinstance(found, str):
            reasons[step.key] = found
        elif _is_shared(found, step, uses):
            reasons[step.key] = (
                f"its activation {found.operation.name!r} is used in several places; "
                "give each layer an activation of its own"
            )
        else:
            taps[step.key] = found
    return taps, reasons


def _is_shared(tap: Tap, step: _Step, uses: Mapping[int, set[Any]]) -> bool:
    """Whether other layers' activations would be counted as well."""
    return tap.operation is not step.operation and len(uses[id(tap.operation)]) > 1


def _steps(model: keras.Model, prefix: str) -> Iterator[_Step]:
    for call in calls(model):
        key = prefix + call.operation.name
        ids = tuple(map(id, call.inputs)), tuple(map(id, call.outputs))
        if not is_editable(call):
            yield _Step(key, call.operation, *ids)
            continue
        graph = functional(call.operation)
        given = tuple(map(id, inner_inputs(call) or ()))
        yield _Step(key, None, given, tuple(map(id, graph.inputs)))
        yield from _steps(call.operation, f"{key}/")
        yield _Step(key, None, tuple(map(id, graph.outputs)), ids[1])


def _has_kernel(operation: Any) -> bool:
    return isinstance(unwrapped(operation), tuple(KERNELS))


def _follow(analysis: Trace, steps: Sequence[_Step], index: int) -> Tap | str:
    """The first activation that the channels of a layer reach, or why none."""
    start = steps[index]
    own = applied_function(start.operation)
    if own is not None:
        return _tap(start, own, None)
    root = analysis.solution.root
    classes = np.unique(root[analysis.tensors[start.outputs[0]].labels])
    classes = classes[classes != root[0]]
    if not classes.size:
        return "its channels cannot be followed to an activation"
    reached = set(start.outputs)
    for step in steps[index + 1 :]:
        if reached.isdisjoint(step.inputs):
            continue
        if step.operation is None:
            pairs = zip(step.inputs, step.outputs, strict=True)
            reached.update(out for given, out in pairs if given in reached)
            continue
        if _has_kernel(step.operation):
            continue
        for output in step.outputs:
            mine = np.isin(root[analysis.tensors[output].labels], classes)
            if not mine.any():
                continue
            function = applied_function(step.operation)
            if function is not None:
                return _tap(step, function, None if mine.all() else mine)
            reached.add(output)
    return "no activation function follows"


def _tap(step: _Step, function: Any, positions: np.ndarray | None) -> Tap | str:
    operation: Any = step.operation
    if isinstance(unwrapped(operation), keras.layers.PReLU):
        return Tap(operation, positions, sparse=False)
    if not is_elementwise(function):
        return f"its activation {operation.name!r} mixes channels"
    zero = at_zero(function)
    if abs(zero) > 1e-6:
        return f"its activation {operation.name!r} is no rectifier: f(0) = {zero:.3g}"
    return Tap(operation, positions, sparse=makes_zeros(function))
