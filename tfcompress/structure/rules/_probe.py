"""Finding out by experiment whether an unknown operation is channel-wise."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from tfcompress.structure._graph import Call
from tfcompress.structure._labels import Abstract
from tfcompress.structure._trace import Trace
from tfcompress.structure.rules._base import CHANNELWISE, Rule, shape_of

__all__ = ["Probe", "is_channelwise"]

_UNKNOWN = 4  # stands for sizes that the graph leaves open


class Probe(Rule):
    """An operation without a rule: channel-wise if it proves to be."""

    kind = CHANNELWISE
    note = "probed: channel-wise only if removing commutes with it"

    def trace(
        self, trace: Trace, op: Any, call: Call, inputs: list[Abstract]
    ) -> list[Abstract]:
        name = trace.key(op)
        if getattr(op, "weights", None):
            return trace.freeze(
                inputs,
                f"{name!r}: no rule for {type(op).__name__}, which has weights",
                call.outputs,
            )
        if len(inputs) != 1 or len(call.outputs) != 1:
            return trace.freeze(
                inputs,
                f"{name!r}: no rule for {type(op).__name__} with several tensors",
                call.outputs,
            )
        tensor = inputs[0]
        axes = [axis for axis, n in enumerate(tensor.labels.shape) if n > 1]
        shape = shape_of(call.outputs[0])
        if len(axes) != 1 or not is_channelwise(op, call, axes[0]):
            return trace.freeze(
                inputs,
                f"{name!r}: no rule for {type(op).__name__}, and it is not "
                "channel-wise",
                call.outputs,
            )
        labels, constant = trace.vector(tensor, axes[0], f"{name!r}")
        axis = axes[0] if len(shape) == len(tensor.shape) else len(shape) - 1
        # What a zero channel becomes is known only if zero stays zero.
        zero = is_channelwise(op, call, axes[0], zero=True)
        value = np.where((constant == 0) & zero, 0.0, np.nan)
        return [trace.layout(labels, value, axis, shape)]


def is_channelwise(op: Any, call: Call, axis: int, zero: bool = False) -> bool:
    """Whether removing channels before `op` equals removing them after it.

    Tries several removal sets without symmetry: a symmetric one would be fooled
    by flips and swaps of halves. With `zero`, tells instead whether a channel of
    zeros comes out as zeros.

    Args:
        op: an operation without weights, of one tensor.
        call: its call in the graph.
        axis: the axis of the channels.
        zero: see above. Defaults to False.
    """
    source, target = call.inputs[0], call.outputs[0]
    if source.dtype not in ("float32", "float64", "float16", "bfloat16"):
        return False
    shape = [n if n is not None else _UNKNOWN for n in source.shape]
    shape[0] = source.shape[0] or 2
    channels = shape[axis]
    out_axis = axis if len(target.shape) == len(shape) else len(target.shape) - 1
    if target.shape[out_axis] != source.shape[axis] or channels < 2:
        return False
    rng = np.random.default_rng(7)
    x = rng.normal(size=shape).astype("float32")
    try:
        if zero:
            x[(slice(None),) * axis + (slice(0, 1),)] = 0
            result = _run(op, call, x)
            return not np.take(result, 0, out_axis).any()
        # An operation f treats channels one by one if f(x)[keep] == f(x[keep]) for any
        # choice of `keep`. One choice is not enough: a flip passes where `keep` is
        # symmetric, a mean over pairs of channels where it keeps whole pairs, a softmax
        # nowhere. Up to five choices without symmetry, on random numbers, leave little
        # room for an accident; every edit compares masked and smaller model, too.
        whole = _run(op, call, x)
        for keep in _removals(channels, rng):
            part = _run(op, call, np.take(x, keep, axis))
            expected = np.take(whole, keep, out_axis)
            if part.shape != expected.shape or not np.allclose(
                part, expected, rtol=1e-4, atol=1e-5
            ):
                return False
    except Exception:  # whatever the operation raises on fewer channels
        return False
    return True


def _removals(channels: int, rng: np.random.Generator) -> list[np.ndarray]:
    everything = np.arange(channels)
    sets = [everything[1:], np.delete(everything, channels // 3)]
    if channels > 3:
        sets.append(np.delete(everything, [0, 2]))
        for rate in (0.3, 0.6):
            count = max(1, round(channels * (1 - rate)))
            sets.append(np.sort(rng.choice(channels, count, replace=False)))
    return sets


def _run(op: Any, call: Call, x: np.ndarray) -> np.ndarray:
    args, kwargs = call.node.arguments.fill_in(
        {id(call.inputs[0]): keras.ops.cast(x, call.inputs[0].dtype)}
    )
    return np.asarray(keras.ops.convert_to_numpy(op(*args, **kwargs)), "float64")
