"""Layers that create channels: convolutions, dense, embedding, recurrent layers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from tfcompress.structure._graph import Call
from tfcompress.structure._labels import Abstract
from tfcompress.structure._trace import Trace
from tfcompress.structure.rules._base import (
    CHANNELWISE,
    PRODUCER,
    Kept,
    Weighted,
    channel_axis,
    shape_of,
)

__all__ = [
    "Conv",
    "ConvTranspose",
    "Dense",
    "DepthwiseConv",
    "EinsumDense",
    "Embedding",
    "Macs",
    "Recurrent",
    "RegisteredProducer",
    "SeparableConv",
]

# A layer, the shapes of its inputs and the shapes of its outputs, at batch 1.
Macs = Callable[[Any, list[tuple[int, ...]], list[tuple[int, ...]]], int]


class Conv(Weighted):
    """Conv1D, Conv2D, Conv3D: kernel (..., input / groups, filters)."""

    kind = PRODUCER
    note = "filters; with groups, the same positions of every group together"

    def weigh(
        self, trace: Trace, op: Any, call: Call, inputs: list[Abstract]
    ) -> list[Abstract]:
        axis = channel_axis(op, len(inputs[0].shape))
        labels, constant = trace.vector(inputs[0], axis, f"{trace.key(op)!r}")
        out = trace.create(op, op.filters)
        # A constant folds into the bias only if every position of the output sees it
        # through the whole kernel. With padding, those at the border see zeros instead.
        exact = op.padding == "valid" or math.prod(op.kernel_size) == 1
        # In a grouped convolution, each block of filters reads a block of the inputs.
        # The input axis of the kernel is shared by all blocks: its position p is input
        # p of each of them. With 4 inputs, 6 filters and 2 groups:
        #
        #     inputs   0 1 | 2 3       position 0 of the kernel is inputs 0 and 2
        #     filters  0 1 2 | 3 4 5   filters 0, 1, 2 read inputs 0 and 1
        #
        # Cutting position 0 removes inputs 0 and 2, so these are tied. All blocks must
        # also keep equally many filters, so 0 and 3 are tied, 1 and 4, 2 and 5.
        if op.groups == 1:
            trace.consume(op, op.kernel, -2, labels, constant, exact and op.use_bias)
        elif op.groups == len(labels):
            # One input channel in each group: the kernel's input axis has length 1 and
            # cannot be cut, but a whole group can go, an input with all filters that
            # read it.
            trace.require_zero(op, labels, constant)
            trace.table.tie(
                np.repeat(labels, op.filters // op.groups),
                out,
                f"{trace.key(op)!r} reads frozen channels one by one",
            )
        else:
            trace.require_zero(op, labels, constant)
            reason = f"{trace.key(op)!r} reads them with frozen channels"
            inside = labels.reshape(op.groups, -1)
            trace.table.tie(inside[1:], inside[:1], reason)
            outside = out.reshape(op.groups, -1)
            trace.table.tie(outside[1:], outside[:1], reason)
            trace.bind(op, op.kernel, -2, inside[0], "input")
        trace.bind(op, op.kernel, -1, out, "kernel", zero=True)
        trace.bind(op, op.bias, 0, out, "bias", zero=True)
        return [trace.produce(op, out, axis, shape_of(call.outputs[0]), op.activation)]

    def configure(self, op: Any, call: Call, config: dict, kept: Kept) -> None:
        filters = kept.size(op.kernel, -1)
        # Where whole groups go, the number of filters in each group stays.
        if op.groups > 1 and op.kernel.shape[-2] == 1:
            config["groups"] = op.groups * filters // op.filters
        config["filters"] = filters


class ConvTranspose(Weighted):
    """Transposed convolutions: kernel (..., filters, input)."""

    kind = PRODUCER
    note = "filters"

    def weigh(
        self, trace: Trace, op: Any, call: Call, inputs: list[Abstract]
    ) -> list[Abstract]:
        axis = channel_axis(op, len(inputs[0].shape))
        labels, constant = trace.vector(inputs[0], axis, f"{trace.key(op)!r}")
        # Constants do not fold. How many entries of the kernel reach a position of the
        # output depends on the position, at the border and with strides.
        trace.consume(op, op.kernel, -1, labels, constant)
        out = trace.create(op, op.filters)
        trace.bind(op, op.kernel, -2, out, "kernel", zero=True)
        trace.bind(op, op.bias, 0, out, "bias", zero=True)
        return [trace.produce(op, out, axis, shape_of(call.outputs[0]), op.activation)]

    def configure(self, op: Any, call: Call, config: dict, kept: Kept) -> None:
        config["filters"] = kept.size(op.kernel, -2)


class SeparableConv(Weighted):
    """SeparableConv1D/2D: depthwise (..., input, m), pointwise (..., m·input, f)."""

    kind = PRODUCER
    note = "filters of the pointwise part; the depthwise part is channel-wise"

    def weigh(
        self, trace: Trace, op: Any, call: Call, inputs: list[Abstract]
    ) -> list[Abstract]:
        axis = channel_axis(op, len(inputs[0].shape))
        labels, constant = trace.vector(inputs[0], axis, f"{trace.key(op)!r}")
        trace.consume(op, op.depthwise_kernel, -2, labels, constant)
        trace.bind(
            op, op.pointwise_kernel, -2, np.repeat(labels, op.depth_multiplier), "input"
        )
        out = trace.create(op, op.filters)
        trace.bind(op, op.pointwise_kernel, -1, out, "kernel", zero=True)
        trace.bind(op, op.bias, 0, out, "bias", zero=True)
        return [trace.produce(op, out, axis, shape_of(call.outputs[0]), op.activation)]

    def configure(self, op: Any, call: Call, config: dict, kept: Kept) -> None:
        config["filters"] = kept.size(op.pointwise_kernel, -1)


class DepthwiseConv(Weighted):
    """DepthwiseConv1D/2D: kernel (..., input, m); output c·m + j from input c."""

    kind = CHANNELWISE
    note = "follows its input"

    def weigh(
        self, trace: Trace, op: Any, call: Call, inputs: list[Abstract]
    ) -> list[Abstract]:
        axis = channel_axis(op, len(inputs[0].shape))
        labels, constant = trace.vector(inputs[0], axis, f"{trace.key(op)!r}")
        # An input leaves together with the outputs that are made of it, which carry the
        # same label. The mask zeroes their bias; with zero coming in, they are zero.
        trace.require_zero(op, labels, constant)
        trace.bind(op, op.kernel, -2, labels, "channelwise")
        out = np.repeat(labels, op.depth_multiplier)
        trace.bind(op, op.bias, 0, out, "bias", zero=True)
        result = trace.layout(out, np.zeros(1), axis, shape_of(call.outputs[0]))
        return [trace.activate(op.activation, result, trace.key(op))]


class Dense(Weighted):
    """Dense: kernel (input, units), on the last axis of any rank."""

    kind = PRODUCER
    note = "units"

    def weigh(
        self, trace: Trace, op: Any, call: Call, inputs: list[Abstract]
    ) -> list[Abstract]:
        labels, constant = trace.vector(inputs[0], -1, f"{trace.key(op)!r}")
        trace.consume(op, op.kernel, 0, labels, constant, op.use_bias)
        out = trace.create(op, op.units)
        trace.bind(op, op.kernel, 1, out, "kernel", zero=True)
        trace.bind(op, op.bias, 0, out, "bias", zero=True)
        return [trace.produce(op, out, -1, shape_of(call.outputs[0]), op.activation)]

    def configure(self, op: Any, call: Call, config: dict, kept: Kept) -> None:
        config["units"] = kept.size(op.kernel, 1)


class EinsumDense(Weighted):
    """EinsumDense: the axes of the kernel that appear in the output only."""

    kind = PRODUCER
    note = (
        "kernel axes that only the output has; one such axis is prunable, others "
        "stay whole"
    )

    @staticmethod
    def _split(op: Any) -> tuple[str, str, str]:
        left, output = op.equation.replace(" ", "").split("->")
        data, kernel = left.split(",")
        return data, kernel, output

    def weigh(
        self, trace: Trace, op: Any, call: Call, inputs: list[Abstract]
    ) -> list[Abstract]:
        data, kernel, output = self._split(op)
        name = trace.key(op)
        tensor = inputs[0]
        shape = shape_of(call.outputs[0])
        # Each letter of the kernel has one of three roles. In "abc,cde->abde", c is
        # summed over (the kernel and the data have it), d and e are made (the kernel
        # and the output have them). A letter that all three have would be a kernel of
        # its own for each position, for which there is no rule.
        shared = [c for c in kernel if c in data and c in output]
        if "..." in op.equation or shared:
            return trace.freeze(
                inputs,
                f"{name!r}: equation {op.equation!r} is not supported",
                call.outputs,
            )
        mixed = [c for c in kernel if c in data and c not in output]
        varying = [data[axis] for axis, n in enumerate(tensor.labels.shape) if n > 1]
        read = varying if len(varying) == 1 and varying[0] in mixed else []
        for letter in read:
            labels, constant = trace.vector(tensor, data.index(letter), f"{name!r}")
            trace.consume(op, op.kernel, kernel.index(letter), labels, constant)
        if tensor.labeled and not read:
            trace.freeze([tensor], f"{name!r} keeps or splits the axis", call.outputs)
        # Another call may have channels on an axis that must stay whole for this one.
        for letter in set(mixed) - set(read):
            whole = np.zeros(1, np.int64)
            trace.bind(op, op.kernel, kernel.index(letter), whole, "input")
        made = [c for c in kernel if c in output and c not in data]
        if not made:
            return [Abstract.frozen(shape)]
        # A tensor can lose slices of one axis only, so one axis gets labels: the last
        # one that is made.
        letter = made[-1]
        axis = output.index(letter)
        out = trace.create(op, op.kernel.shape[kernel.index(letter)])
        trace.bind(op, op.kernel, kernel.index(letter), out, "kernel", zero=True)
        if op.bias is not None:
            # The bias has the last axes of the output, from the first in `bias_axes`
            # on, and length 1 along those that are not in `bias_axes`.
            position = len(op.bias.shape) - (len(output) - axis)
            if position >= 0 and op.bias.shape[position] == len(out):
                trace.bind(op, op.bias, position, out, "bias", zero=True)
            else:
                # No mask could zero a channel: the others need the same bias.
                trace.table.freeze(out, f"channels of {name!r} share one bias")
        return [trace.produce(op, out, axis, shape, op.activation)]

    def configure(self, op: Any, call: Call, config: dict, kept: Kept) -> None:
        _, kernel, output = self._split(op)
        given = op.partial_output_shape
        sizes = list(given)
        for i, letter in enumerate(output[-len(given) :]):
            if letter in kernel and sizes[i] is not None:
                sizes[i] = kept.size(op.kernel, kernel.index(letter))
        config["output_shape"] = tuple(sizes)


class Embedding(Weighted):
    """Embedding: (input_dim, output_dim)."""

    kind = PRODUCER
    note = "columns of the table"

    def weigh(
        self, trace: Trace, op: Any, call: Call, inputs: list[Abstract]
    ) -> list[Abstract]:
        trace.freeze(inputs, f"index of {trace.key(op)!r}", call.outputs)
        out = trace.create(op, op.output_dim)
        trace.bind(op, op.embeddings, 1, out, "kernel", zero=True)
        return [trace.produce(op, out, -1, shape_of(call.outputs[0]))]

    def configure(self, op: Any, call: Call, config: dict, kept: Kept) -> None:
        config["output_dim"] = kept.size(op.embeddings, 1)


class Recurrent(Weighted):
    """SimpleRNN, LSTM, GRU: kernel (input, g·units), recurrent (units, g·units).

    A unit whose kernel, recurrent and bias columns are zero stays at zero when
    its output activation maps 0 to 0.

    An LSTM shows why: its cell state is f·c + i·g, and its output o·act(c). With those
    columns at zero, the candidate is g = act(0) = 0. The cell state then begins at 0
    and stays there, and the output is o·act(0) = 0, whatever the gates f, i and o are.
    """

    kind = PRODUCER
    note = "units, where the activation keeps 0"

    def __init__(self, gates: int) -> None:
        self.gates = gates

    def weigh(
        self, trace: Trace, op: Any, call: Call, inputs: list[Abstract]
    ) -> list[Abstract]:
        cell = op.cell
        name = trace.key(op)
        labels, constant = trace.vector(inputs[0], -1, f"{name!r}")
        trace.consume(op, cell.kernel, 0, labels, constant)
        out = trace.create(op, op.units)
        probe = keras.ops.convert_to_numpy(cell.activation(np.zeros(1, "float32")))
        if probe.any():
            trace.table.freeze(out, f"activation of {name!r} does not keep 0")
        if op.stateful:
            trace.table.freeze(out, f"{name!r} is stateful")
        # Keras keeps the kernels of all gates side by side: for 2 units and 4 gates,
        # the columns belong to the units 0 1 0 1 0 1 0 1. A unit is all of its columns,
        # and the row of the recurrent kernel through which the others read it.
        wide = np.tile(out, self.gates)
        trace.bind(op, cell.kernel, 1, wide, "kernel", zero=True)
        trace.bind(op, cell.recurrent_kernel, 0, out, "recurrent")
        trace.bind(op, cell.recurrent_kernel, 1, wide, "recurrent", zero=True)
        trace.bind(op, cell.bias, -1, wide, "bias", zero=True)
        for tensor in self._initial_state(call):
            state = trace.tensors[id(tensor)]
            known, value = trace.vector(state, -1, f"{name!r}")
            trace.require_zero(op, known, value)
            trace.table.tie(out, known, f"{name!r} starts from a frozen state")
        return [trace.produce(op, out, -1, shape_of(tensor)) for tensor in call.outputs]

    @staticmethod
    def _initial_state(call: Call) -> list[Any]:
        arguments = call.node.arguments
        given = (arguments.args[1:2], arguments.kwargs.get("initial_state"))
        flat = keras.tree.flatten(given)
        return [tensor for tensor in flat if isinstance(tensor, keras.KerasTensor)]

    def configure(self, op: Any, call: Call, config: dict, kept: Kept) -> None:
        config["units"] = kept.size(op.cell.recurrent_kernel, 0)


class RegisteredProducer(Weighted):
    """A layer given to `register_producer`."""

    kind = PRODUCER
    note = "registered"

    def __init__(
        self,
        kernel: str,
        bias: str | None,
        width: str,
        axes: tuple[int, int],
        macs: Macs | None,
    ) -> None:
        self.kernel = kernel
        self.bias = bias
        self.width = width
        self.axes = axes
        self.macs = macs

    def weigh(
        self, trace: Trace, op: Any, call: Call, inputs: list[Abstract]
    ) -> list[Abstract]:
        name = trace.key(op)
        kernel = getattr(op, self.kernel)
        shape = shape_of(call.outputs[0])
        made = kernel.shape[self.axes[1]]
        read = kernel.shape[self.axes[0]]
        sizes = (shape_of(call.inputs[0])[-1], shape[-1])
        if len(inputs) != 1 or len(call.outputs) != 1 or sizes != (read, made):
            return trace.freeze(
                inputs,
                f"{name!r}: registered with a kernel from {read} to {made} channels, "
                f"but called from {sizes[0]} to {sizes[1]}",
                call.outputs,
            )
        labels, constant = trace.vector(inputs[0], -1, f"{name!r}")
        trace.consume(op, kernel, self.axes[0], labels, constant)
        out = trace.create(op, made)
        trace.bind(op, kernel, self.axes[1], out, "kernel", zero=True)
        bias = None if self.bias is None else getattr(op, self.bias)
        trace.bind(op, bias, -1, out, "bias", zero=True)
        activation = getattr(op, "activation", None)
        return [trace.produce(op, out, -1, shape, activation)]

    def configure(self, op: Any, call: Call, config: dict, kept: Kept) -> None:
        config[self.width] = kept.size(getattr(op, self.kernel), self.axes[1])
