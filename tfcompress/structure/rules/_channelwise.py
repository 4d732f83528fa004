"""Operations that treat every channel by itself, or couple several tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from tfcompress.structure._graph import Call
from tfcompress.structure._labels import Abstract
from tfcompress.structure._trace import Trace
from tfcompress.structure.rules._base import (
    CHANNELWISE,
    FROZEN,
    Kept,
    Rule,
    Weighted,
    channel_axis,
    shape_of,
)

__all__ = [
    "Activation",
    "BatchNorm",
    "Cast",
    "Elementwise",
    "Identity",
    "LayerNorm",
    "Merge",
    "PReLU",
    "Reduce",
    "Registered",
    "Rescaling",
    "Resizing",
    "Softmax",
    "Spatial",
    "divide",
    "multiply",
]


class BatchNorm(Weighted):
    """BatchNormalization: gamma, beta and the moving statistics follow."""

    kind = CHANNELWISE
    note = "its variables follow the channels"

    def weigh(
        self, trace: Trace, op: Any, call: Call, inputs: list[Abstract]
    ) -> list[Abstract]:
        axes = op.axis if isinstance(op.axis, list | tuple) else [op.axis]
        if len(axes) != 1:
            return trace.freeze(
                inputs, f"{trace.key(op)!r} normalizes over several axes", call.outputs
            )
        labels, constant = trace.vector(inputs[0], axes[0], f"{trace.key(op)!r}")
        # y = gamma · (x - mean) / sigma + beta. A removed channel with x = 0 would
        # leave the constant beta - gamma · mean / sigma behind, which is far from zero
        # in a trained network. So masking a channel zeroes gamma, beta and mean as
        # well, and the output is 0 whatever x is. Without a gamma nothing cancels x:
        # the channel must be zero before. The variance stays; it only divides.
        if not op.scale:
            trace.require_zero(op, labels, constant)
        trace.bind(op, op.gamma, 0, labels, "scale", zero=True)
        trace.bind(op, op.beta, 0, labels, "offset", zero=True)
        trace.bind(op, op.moving_mean, 0, labels, "mean", zero=True)
        trace.bind(op, op.moving_variance, 0, labels, "variance")
        if op.renorm:
            trace.bind(op, op.renorm_mean, 0, labels, "mean")
            trace.bind(op, op.renorm_stddev, 0, labels, "variance")
        return [trace.layout(labels, np.zeros(1), axes[0], shape_of(call.outputs[0]))]


class LayerNorm(Weighted):
    """LayerNormalization and RMSNormalization: freeze what they normalize."""

    kind = FROZEN
    note = "normalizes over the channels; inexact=('layer_norm',) prunes through"

    def weigh(
        self, trace: Trace, op: Any, call: Call, inputs: list[Abstract]
    ) -> list[Abstract]:
        name = trace.key(op)
        tensor = inputs[0]
        rank = len(tensor.shape)
        axes = op.axis if isinstance(op.axis, list | tuple) else [op.axis]
        axes = [axis % rank for axis in axes]
        if "layer_norm" in trace.inexact and axes == [rank - 1]:
            labels, _ = trace.vector(tensor, -1, f"{name!r}")
            variables = [
                (getattr(op, "gamma", None), "scale"),
                (getattr(op, "beta", None), "offset"),
            ]
            if type(op) is keras.layers.RMSNormalization:
                variables = [(op.scale, "scale")]
            for variable, role in variables:
                trace.bind(op, variable, 0, labels, role, zero=True)
            return [trace.layout(labels, np.zeros(1), -1, shape_of(call.outputs[0]))]
        return trace.freeze(
            inputs, f"{name!r} normalizes over the channels", call.outputs
        )


class PReLU(Weighted):
    """PReLU: alpha has the input's shape, 1 on the shared axes."""

    kind = CHANNELWISE
    note = "alpha follows the channels"

    def weigh(
        self, trace: Trace, op: Any, call: Call, inputs: list[Abstract]
    ) -> list[Abstract]:
        tensor = inputs[0]
        axes = [axis for axis, n in enumerate(tensor.labels.shape) if n > 1]
        if len(axes) > 1:
            return trace.freeze(
                inputs, f"{trace.key(op)!r}: channels on several axes", call.outputs
            )
        for axis in axes:
            labels, constant = trace.vector(tensor, axis, f"{trace.key(op)!r}")
            trace.require_zero(op, labels, constant)
            if op.alpha.shape[axis - 1] > 1:
                trace.bind(op, op.alpha, axis - 1, labels, "channelwise")
        # Another call may have channels on an axis that must stay whole for this one.
        for position, size in enumerate(op.alpha.shape):
            if size > 1 and position + 1 not in axes:
                trace.bind(op, op.alpha, position, np.zeros(1, np.int64), "channelwise")
        return [tensor]


class Registered(Weighted):
    """A layer given to `register_channelwise`."""

    kind = CHANNELWISE
    note = "registered"

    def __init__(self, variables: tuple[str, ...], config: str | None) -> None:
        self.variables = variables
        self.config = config

    def weigh(
        self, trace: Trace, op: Any, call: Call, inputs: list[Abstract]
    ) -> list[Abstract]:
        tensor = inputs[0]
        labels, constant = trace.vector(tensor, -1, f"{trace.key(op)!r}")
        trace.require_zero(op, labels, constant)
        for name in self.variables:
            trace.bind(op, getattr(op, name), -1, labels, "channelwise")
        return [trace.layout(labels, np.zeros(1), -1, shape_of(call.outputs[0]))]

    def configure(self, op: Any, call: Call, config: dict, kept: Kept) -> None:
        if self.config is not None:
            variable = getattr(op, self.variables[0])
            config[self.config] = kept.size(variable, -1)


class Identity(Rule):
    """Operations that leave every value in its place."""

    kind = CHANNELWISE
    note = "leaves values in place at inference"

    def trace(
        self, trace: Trace, op: Any, call: Call, inputs: list[Abstract]
    ) -> list[Abstract]:
        return inputs[: len(call.outputs)]

    def configure(self, op: Any, call: Call, config: dict, kept: Kept) -> None:
        # `Dropout(noise_shape=(None, 1, 8))` names the features.
        if (noise := config.get("noise_shape")) is not None:
            sizes = kept.shape(call.inputs[0])
            config["noise_shape"] = tuple(
                size if given not in (None, 1) else given
                for given, size in zip(noise, sizes, strict=True)
            )


class Activation(Rule):
    """Layers that apply one function to every element."""

    kind = CHANNELWISE
    note = "elementwise; a function that mixes channels freezes them"

    def trace(
        self, trace: Trace, op: Any, call: Call, inputs: list[Abstract]
    ) -> list[Abstract]:
        function = getattr(op, "activation", None)
        if function is not None:
            return [trace.activate(function, inputs[0], trace.key(op))]
        if self.keeps_zero(op) and not inputs[0].constant.any():
            return [inputs[0]]
        return [trace.map(inputs[0], lambda x: keras.ops.convert_to_numpy(op(x)))]

    @staticmethod
    def keeps_zero(op: Any) -> bool:
        return not getattr(op, "threshold", 0)


class Rescaling(Activation):
    """Rescaling by one number; by a list it is not elementwise."""

    def trace(
        self, trace: Trace, op: Any, call: Call, inputs: list[Abstract]
    ) -> list[Abstract]:
        if np.size(op.scale) > 1 or np.size(op.offset) > 1:
            return trace.freeze(
                inputs, f"{trace.key(op)!r} rescales by a list", call.outputs
            )
        return super().trace(trace, op, call, inputs)

    @staticmethod
    def keeps_zero(op: Any) -> bool:
        return not np.any(op.offset)


class Softmax(Rule):
    """Softmax, Normalize, and others that mix along an axis."""

    note = "mixes the channels"

    def trace(
        self, trace: Trace, op: Any, call: Call, inputs: list[Abstract]
    ) -> list[Abstract]:
        tensor = inputs[0]
        axes = op.axis if isinstance(op.axis, list | tuple) else [op.axis]
        if any(tensor.labels.shape[axis] > 1 for axis in axes):
            return trace.freeze(
                inputs, f"{trace.key(op)!r} mixes the channels", call.outputs
            )
        return [Abstract(tensor.labels, tensor.constant * np.nan, tensor.shape)]


class Elementwise(Rule):
    """Operations on every element of one tensor (constants may join)."""

    kind = CHANNELWISE
    note = "elementwise"

    def trace(
        self, trace: Trace, op: Any, call: Call, inputs: list[Abstract]
    ) -> list[Abstract]:
        rank = len(call.outputs[0].shape)
        if rank != len(inputs[0].shape) or any(
            math.prod(array.shape) > 1 for array in call.arrays
        ):
            return trace.freeze(
                inputs, f"{trace.key(op)!r} combines with an array", call.outputs
            )

        def function(x: np.ndarray) -> np.ndarray:
            args, kwargs = call.node.arguments.fill_in({id(call.inputs[0]): x})
            # An array of one value may have any number of axes.
            return keras.ops.convert_to_numpy(op(*args, **kwargs)).reshape(x.shape)

        return [trace.map(inputs[0], function)]


class Cast(Identity):
    """Casts: values stay in their places, but 0.5 may become the integer 0."""

    def trace(
        self, trace: Trace, op: Any, call: Call, inputs: list[Abstract]
    ) -> list[Abstract]:
        return Elementwise().trace(trace, op, call, inputs)


class Merge(Rule):
    """Elementwise operations on several tensors, with broadcasting."""

    kind = CHANNELWISE
    note = "couples its operands channel by channel; broadcasts"

    def __init__(self, combine: Callable[..., np.ndarray] | None) -> None:
        self.combine = combine

    def trace(
        self, trace: Trace, op: Any, call: Call, inputs: list[Abstract]
    ) -> list[Abstract]:
        if len(inputs) == 1:
            return Elementwise().trace(trace, op, call, inputs)
        shape = shape_of(call.outputs[0])
        rank = len(shape)
        name = f"{trace.key(op)!r}"
        labels, constants = [], []
        for tensor in inputs:
            lead = rank - len(tensor.shape)
            if isinstance(op, keras.layers.Layer) and lead:
                # Merge layers pad the rank after the batch axis.
                dims = (tensor.labels.shape[0], *(1,) * lead, *tensor.labels.shape[1:])
                cdims = (1, *(1,) * lead, *tensor.constant.shape[1:])
                real = (tensor.shape[0], *(1,) * lead, *tensor.shape[1:])
            else:
                dims = (*(1,) * lead, *tensor.labels.shape)
                cdims = (*(1,) * lead, *tensor.constant.shape)
                real = (*(1,) * lead, *tensor.shape)
            labels.append((tensor.labels.reshape(dims), real))
            constants.append(tensor.constant.reshape(cdims))
        axes = {
            axis for array, _ in labels for axis in range(rank) if array.shape[axis] > 1
        }

        def single(real: Sequence[int | None]) -> bool:
            return bool(axes) and all(real[axis] == 1 for axis in axes)

        # y = a + b, position by position: channel i of the result is zero only if
        # channel i of both is. The operands' labels are therefore tied, and a residual
        # stage, in which every block adds to the same tensor, becomes one class for
        # each channel. Two kinds of operands are not of the same size:
        # * (batch, 1, 1, channels), as in squeeze-and-excite, has the channels and is
        #   tied. Its labels broadcast over the positions.
        # * (batch, height, width, 1), such as a spatial gate, has one value for all
        #   channels. It is left out, or all of them would be tied to its one label.
        result: np.ndarray | None = None
        for array, real in labels:
            if single(real):
                continue
            if result is None:
                result = array
                continue
            trace.table.tie(result, array, f"{name} joins them with frozen channels")
            # Any of the tied labels stands for the class. Where one operand has none,
            # the other's label was just frozen and is kept for its reason.
            result, array = np.broadcast_arrays(result, array)
            result = np.where(result == 0, array, result)
        if result is None:
            return [Abstract.frozen(shape)]
        # The constant of an operand without labels means nothing: it carries data. So
        # does the one value for all channels, also where it has a label of its own.
        known = [
            np.where(_labeled(array) & (not single(real)), constant, np.nan)
            for (array, real), constant in zip(labels, constants, strict=True)
        ]
        return [Abstract(result, self._combine(known), shape)]

    def _combine(self, constants: list[np.ndarray]) -> np.ndarray:
        if self.combine is None:
            return np.full((1,) * constants[0].ndim, np.nan)
        total = constants[0]
        for constant in constants[1:]:
            total = self.combine(total, constant)
        return total


def _labeled(array: np.ndarray) -> np.ndarray:
    return array != 0 if array.size > 1 else np.array(bool(array.any()))


def multiply(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    # Zero times what is unknown (NaN) is zero: a gate cannot reopen a removed channel.
    return np.where((a == 0) | (b == 0), 0.0, a * b)


def divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    # 0 / unknown may be 0 / 0.
    return np.full(np.broadcast_shapes(a.shape, b.shape), np.nan)


class Spatial(Rule):
    """Pooling, padding, cropping, resizing: every channel by itself."""

    kind = CHANNELWISE
    note = "acts inside each channel"

    def __init__(self, pads: bool = False) -> None:
        self.pads = pads

    def trace(
        self, trace: Trace, op: Any, call: Call, inputs: list[Abstract]
    ) -> list[Abstract]:
        tensor = inputs[0]
        out = shape_of(call.outputs[0])
        rank = len(tensor.shape)
        axis = channel_axis(op, rank)
        labels, constant = trace.vector(tensor, axis, f"{trace.key(op)!r}")
        # Padding adds zeros: any other constant is no longer the same at all positions.
        if self.pads:
            constant = np.where(constant == 0, 0.0, np.nan)
        if len(out) < rank:  # global pooling without keepdims
            axis = 1
        return [trace.layout(labels, constant, axis, out)]


class Resizing(Spatial):
    """Resizing, which may pad."""

    def trace(
        self, trace: Trace, op: Any, call: Call, inputs: list[Abstract]
    ) -> list[Abstract]:
        (result,) = super().trace(trace, op, call, inputs)
        if op.pad_to_aspect_ratio:
            known = (result.constant == 0) & (op.fill_value == 0)
            constant = np.where(known, 0.0, np.nan)
            return [Abstract(result.labels, constant, result.shape)]
        return [result]


class Reduce(Rule):
    """Reductions: fine over axes without channels."""

    kind = CHANNELWISE
    note = "over other axes; over the channels it freezes them (sums are exact)"

    def __init__(self, additive: bool = False) -> None:
        self.additive = additive

    def trace(
        self, trace: Trace, op: Any, call: Call, inputs: list[Abstract]
    ) -> list[Abstract]:
        tensor = inputs[0]
        rank = len(tensor.shape)
        if op.axis is None:
            axes = list(range(rank))
        elif isinstance(op.axis, int):
            axes = [op.axis % rank]
        else:
            axes = [axis % rank for axis in op.axis]
        # A sum over the channels does not miss those that are zero. A mean does,
        # because it divides by their number, and a maximum does where 0 is the largest
        # value.
        if any(tensor.labels.shape[a] > 1 for a in axes):
            zero = not np.where(tensor.labels != 0, tensor.constant, 0.0).any()
            if not (self.additive and zero):
                return trace.freeze(
                    inputs,
                    f"{trace.key(op)!r} reduces over the channels",
                    call.outputs,
                )
            rest = [a for a in range(rank) if a not in axes]
            if any(tensor.labels.shape[a] > 1 for a in rest):
                return trace.freeze(
                    inputs,
                    f"{trace.key(op)!r} reduces over several channel axes",
                    call.outputs,
                )
            return [Abstract.frozen(shape_of(call.outputs[0]))]
        keep = getattr(op, "keepdims", False)
        index = tuple(0 if a in axes and not keep else slice(None) for a in range(rank))
        constant = np.broadcast_to(tensor.constant, tensor.labels.shape)
        starts_at_zero = not getattr(op, "initial", None)  # of a maximum or a minimum
        constant = np.where((constant == 0) & starts_at_zero, 0.0, np.nan)
        return [
            Abstract(tensor.labels[index], constant[index], shape_of(call.outputs[0]))
        ]
