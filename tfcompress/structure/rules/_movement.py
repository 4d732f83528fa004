"""Operations that only move data: they are carried out on the labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np

from tfcompress.structure._graph import Call
from tfcompress.structure._labels import Abstract
from tfcompress.structure._trace import Trace
from tfcompress.structure.rules._base import MOVEMENT, Kept, Rule, shape_of

__all__ = [
    "GetItem",
    "Join",
    "Move",
    "Reshape",
    "Split",
    "Squeeze",
    "permute",
    "transpose",
    "with_numpy",
]


class Move(Rule):
    """Operations that only move data: run on the labels themselves."""

    kind = MOVEMENT
    note = "followed position by position"

    def __init__(self, function: Callable[[Any, Call], Callable]) -> None:
        self.function = function

    def trace(
        self, trace: Trace, op: Any, call: Call, inputs: list[Abstract]
    ) -> list[Abstract]:
        tensor = inputs[0]
        shape = shape_of(call.outputs[0])
        try:
            moved = tensor.move(self.function(op, call), shape)
        except (ValueError, IndexError, TypeError):
            return trace.freeze(
                inputs, f"{trace.key(op)!r} depends on an unknown size", call.outputs
            )
        # In the array, the batch and axes of unknown size have size 1. If channels were
        # moved to such an axis, labels and tensor no longer fit.
        expected = tuple(1 if s is None or a == 0 else s for a, s in enumerate(shape))
        try:
            np.broadcast_to(moved.labels, expected)
        except ValueError:
            return trace.freeze(
                inputs,
                f"{trace.key(op)!r} mixes channels with an unknown size",
                call.outputs,
            )
        return [_settle(trace, moved, trace.key(op))]


def _settle(trace: Trace, tensor: Abstract, name: str) -> Abstract:
    """Freezes labels that no axis could lose: a single selected channel."""
    if tensor.labels.size == 1 and tensor.labels.any():
        trace.table.freeze(tensor.labels, f"{name!r} selects a single channel")
        return Abstract.frozen(tensor.shape)
    return tensor


class Reshape(Move):
    """Reshape, Flatten: the target follows the kept sizes."""

    def __init__(self) -> None:
        super().__init__(self._reshape)

    @staticmethod
    def _reshape(op: Any, call: Call) -> Callable:
        shape = shape_of(call.outputs[0])
        target = [1 if s is None or a == 0 else s for a, s in enumerate(shape)]
        # (batch, time, 8) as (batch, 8, time) is no transposition: each row of the
        # result has values of all channels. The arrays of labels, in which `time` is 1,
        # do not show that. What lies behind the last open axis must stay together.
        kept_together = _behind(shape_of(call.inputs[0])) == _behind(shape)

        def function(x: np.ndarray) -> np.ndarray:
            if not kept_together:
                raise ValueError
            # Keras' Flatten puts channels last before it flattens.
            if (
                isinstance(op, keras.layers.Flatten)
                and op.data_format == "channels_first"
                and x.ndim > 2
            ):
                x = np.moveaxis(x, 1, -1)
            return np.reshape(x, target)

        return function

    def configure(self, op: Any, call: Call, config: dict, kept: Kept) -> None:
        if "target_shape" in config:
            config["target_shape"] = self._target(
                op.target_shape, kept.shape(call.outputs[0])[1:]
            )

    def adjust(
        self, op: Any, call: Call, args: tuple, kwargs: dict, kept: Kept
    ) -> tuple[tuple, dict]:
        if hasattr(op, "newshape"):
            op.newshape = self._target(op.newshape, kept.shape(call.outputs[0]))
        return args, kwargs

    @staticmethod
    def _target(old: Sequence[Any], new: Sequence[int | None]) -> tuple[Any, ...]:
        # What is open (-1, None, a size computed in the graph) stays open.
        return tuple(
            n if isinstance(o, int) and o != -1 and n is not None else o
            for o, n in zip(old, new, strict=True)
        )


def _behind(shape: Sequence[int | None]) -> int:
    """Number of values behind the last axis of unknown size, the batch included."""
    last = max(a for a, n in enumerate(shape) if n is None or a == 0)
    return math.prod(n for n in shape[last + 1 :] if n is not None)


class Squeeze(Move):
    """Squeeze: without an axis, it drops those that the graph knows to be 1."""

    def __init__(self) -> None:
        super().__init__(lambda op, call: lambda x: np.squeeze(x, self._axes(op, call)))

    @staticmethod
    def _axes(op: Any, call: Call) -> tuple[int, ...]:
        # The array of labels has length 1 along the batch and unknown axes as well, and
        # the copy may have a single channel left. Neither is dropped.
        if op.axis is None:
            shape = shape_of(call.inputs[0])
            return tuple(axis for axis, size in enumerate(shape) if size == 1)
        return (op.axis,) if isinstance(op.axis, int) else tuple(op.axis)

    def adjust(
        self, op: Any, call: Call, args: tuple, kwargs: dict, kept: Kept
    ) -> tuple[tuple, dict]:
        op.axis = self._axes(op, call)
        return args, kwargs


class Join(Rule):
    """Concatenate, Stack: labels side by side."""

    kind = MOVEMENT
    note = "channels keep their places side by side"

    def __init__(self, stack: bool = False, axis: int | None = None) -> None:
        self.stack = stack
        self.axis = axis

    def trace(
        self, trace: Trace, op: Any, call: Call, inputs: list[Abstract]
    ) -> list[Abstract]:
        shape = shape_of(call.outputs[0])
        axis = (op.axis if self.axis is None else self.axis) % len(shape)
        if call.arrays:
            return trace.freeze(
                inputs, f"{trace.key(op)!r} joins with an array", call.outputs
            )
        parts = []
        for tensor in inputs:
            labels, constant = tensor.labels, tensor.constant
            constant = np.broadcast_to(constant, labels.shape)
            if self.stack:
                labels, constant = (
                    np.expand_dims(labels, axis),
                    np.expand_dims(constant, axis),
                )
            size = 1 if self.stack else (tensor.shape[axis] or 1)
            parts.append((labels, constant, size))
        if shape[axis] is None or axis == 0:
            # Positions along the axis cannot be told apart: couple the parts.
            first, value = parts[0][:2]
            for labels, constant, _ in parts[1:]:
                trace.table.tie(
                    first, labels, f"{trace.key(op)!r} joins them with frozen channels"
                )
                value = np.where(value == constant, value, np.nan)
            return [Abstract(first, value, shape)]
        # All axes but the joined one must agree in size, and the joined one must be
        # written out: 3 channels beside a tensor of 2 without labels (shape 1 in the
        # array) are 7 8 9 0 0.
        dims = np.broadcast_shapes(
            *(
                tuple(1 if a == axis else n for a, n in enumerate(labels.shape))
                for labels, _, _ in parts
            )
        )

        def spread(array: np.ndarray, size: int) -> np.ndarray:
            return np.broadcast_to(
                array, tuple(size if a == axis else n for a, n in enumerate(dims))
            )

        labels = np.concatenate([spread(p, n) for p, _, n in parts], axis)
        if not labels.any():
            return [Abstract.frozen(shape)]
        values = {p.flat[0] for _, p, _ in parts if p.size}
        if len(values) == 1 and all((p == p.flat[0]).all() for _, p, _ in parts):
            constant = np.full((1,) * len(shape), values.pop())
        else:
            constant = np.concatenate([spread(p, n) for _, p, n in parts], axis)
        return [Abstract.compact(labels, constant, shape)]


class Split(Rule):
    """ops.split, ops.unstack: pieces of the labels."""

    kind = MOVEMENT
    note = "each piece keeps its channels"

    def trace(
        self, trace: Trace, op: Any, call: Call, inputs: list[Abstract]
    ) -> list[Abstract]:
        axis = op.axis % len(inputs[0].shape)
        start = 0
        results = []
        for tensor in call.outputs:
            size = tensor.shape[axis]
            if size is None:
                return trace.freeze(
                    inputs, f"{trace.key(op)!r} splits an unknown size", call.outputs
                )
            take = partial(np.take, indices=range(start, start + size), axis=axis)
            start += size
            part = inputs[0].move(take, shape_of(tensor))
            results.append(_settle(trace, part, trace.key(op)))
        return results

    def adjust(
        self, op: Any, call: Call, args: tuple, kwargs: dict, kept: Kept
    ) -> tuple[tuple, dict]:
        axis = op.axis % len(call.inputs[0].shape)
        sizes = [kept.shape(tensor)[axis] for tensor in call.outputs]
        old = [tensor.shape[axis] for tensor in call.outputs]
        if sizes != old:
            op.indices_or_sections = tuple(np.cumsum(sizes)[:-1].tolist())
        return args, kwargs


class GetItem(Move):
    """Basic slicing."""

    def __init__(self) -> None:
        super().__init__(lambda op, call: lambda x: x[self._of_labels(call)])

    @staticmethod
    def _key(call: Call) -> Any:
        arguments = call.node.arguments
        key = arguments.kwargs.get("key", arguments.args[-1])
        key = tuple(key) if isinstance(key, list | tuple) else (key,)
        if (key and isinstance(key[0], int)) or any(
            not isinstance(k, int | slice | type(None) | type(Ellipsis)) for k in key
        ):
            raise TypeError(key)
        return key

    @classmethod
    def _of_labels(cls, call: Call) -> tuple[Any, ...]:
        """The key for the array of labels, in which open axes have length 1."""
        shape = shape_of(call.inputs[0])
        return tuple(
            k
            if axis is None or (axis > 0 and shape[axis] is not None)
            else (slice(None) if isinstance(k, slice) else 0)
            for k, axis in cls._axes(call)
        )

    @classmethod
    def _axes(cls, call: Call) -> Iterator[tuple[Any, int | None]]:
        """The entries of the key, with the axis of the input that each is for."""
        # Only axes of the input count for `given`; None makes a new axis of the output.
        key = cls._key(call)
        given = sum(k is not None and k is not Ellipsis for k in key)
        axis = 0
        for k in key:
            if k is None:
                yield k, None
            elif k is Ellipsis:
                yield k, None
                axis += len(call.inputs[0].shape) - given
            else:
                yield k, axis
                axis += 1

    def adjust(
        self, op: Any, call: Call, args: tuple, kwargs: dict, kept: Kept
    ) -> tuple[tuple, dict]:
        new = [
            k if axis is None else self._move_key(k, kept.along(call.inputs[0], axis))
            for k, axis in self._axes(call)
        ]
        args = tuple(tuple(new) if not hasattr(a, "shape") else a for a in args)
        if "key" in kwargs:
            kwargs = {**kwargs, "key": tuple(new)}
        return args, kwargs

    @staticmethod
    def _move_key(key: Any, keep: np.ndarray | None) -> Any:
        if keep is None or (isinstance(key, slice) and key == slice(None)):
            return key
        # Old positions become new ones. x[..., 2:6] of 8 channels, of which 3 leaves:
        #     old position   0 1 2 - 4 5 6 7
        #     new position   0 1 2   3 4 5 6
        # The slice has chosen 2, 3, 4, 5. What is left of it, 2, 4, 5, is now 2:5. With
        # a step the new positions may have different gaps, which no slice can express.
        position = np.cumsum(keep) - 1
        if isinstance(key, int):
            return int(position[key])
        chosen = np.arange(keep.size)[key]
        chosen = position[chosen[keep[chosen]]]
        if not chosen.size:
            return slice(0, 0)
        step = int(chosen[1] - chosen[0]) if chosen.size > 1 else 1
        if (np.diff(chosen) != step).any():
            raise ValueError(
                "The slice would not be regular after the removal; remove other "
                "channels, or exclude this group."
            )
        stop = int(chosen[-1]) + (1 if step > 0 else -1)
        return slice(int(chosen[0]), None if stop < 0 else stop, step)


def transpose(op: Any, call: Call) -> Callable:
    return lambda x: np.transpose(x, op.axes)


def permute(op: Any, call: Call) -> Callable:
    return lambda x: np.transpose(x, (0, *op.dims))


def with_numpy(name: str, *attributes: str) -> Callable[[Any, Call], Callable]:
    function = getattr(np, name)

    def make(op: Any, call: Call) -> Callable:
        values = [getattr(op, attribute) for attribute in attributes]
        return lambda x: function(x, *values)

    return make
