"""How each operation treats channels.

A rule does two things: `trace` says what happens to channel labels, and
`configure` (layers) or `adjust` (other operations) edits the operation for the
rebuild, given which labels stay. Every rule also states its `kind` and a `note`
for the generated documentation. Operations without a rule are probed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, Protocol

import keras
import numpy as np

from tfcompress.structure._graph import Call
from tfcompress.structure._labels import Abstract
from tfcompress.structure._probe import is_channelwise
from tfcompress.structure._trace import Trace

__all__ = ["Kept", "Rule", "register_channelwise", "rule_for", "rules"]

PRODUCER = "prunable"
CHANNELWISE = "channel-wise"
MOVEMENT = "data movement"
FROZEN = "frozen"


class Kept(Protocol):
    """What stays after the edit, as rules ask for it."""

    def size(self, variable: keras.Variable, axis: int) -> int:
        """Kept length of an axis of a variable."""

    def shape(self, tensor: Any) -> tuple[int | None, ...]:
        """Kept shape of a `KerasTensor` of the original model."""

    def along(self, tensor: Any, axis: int) -> np.ndarray | None:
        """Bool array of the kept positions on an axis, None if all stay."""


class Rule:
    """Base: an operation whose inputs are frozen."""

    kind: ClassVar[str] = FROZEN
    note: str = ""

    def trace(
        self, trace: Trace, op: Any, call: Call, inputs: list[Abstract]
    ) -> list[Abstract]:
        """Labels of the outputs of `call`, given those of its inputs."""
        return trace.freeze(inputs, f"{trace.key(op)!r}: {self.note}", call.outputs)

    def configure(self, op: Any, call: Call, config: dict, kept: Kept) -> None:
        """Edits the config of a layer in place."""

    def adjust(
        self, op: Any, call: Call, args: tuple, kwargs: dict, kept: Kept
    ) -> tuple[tuple, dict]:
        """Edits a copied operation, or the arguments that it is called with."""
        return args, kwargs


class Frozen(Rule):
    """A named refusal."""

    def __init__(self, note: str) -> None:
        self.note = note


def _shape(tensor: Any) -> tuple[int | None, ...]:
    return tuple(tensor.shape)


def _channel_axis(layer: Any, rank: int) -> int:
    channels_first = getattr(layer, "data_format", None) == "channels_first"
    return 1 if channels_first else rank - 1


def _is_plain(layer: Any) -> str | None:
    """Why the weights of a layer are not what its rule expects."""
    if getattr(layer, "quantization_mode", None):
        return "is quantised"
    if getattr(layer, "lora_enabled", False):
        return "has LoRA weights"
    return None


class _Weighted(Rule):
    """Shared guard of the layers with weights."""

    def trace(
        self, trace: Trace, op: Any, call: Call, inputs: list[Abstract]
    ) -> list[Abstract]:
        problem = _is_plain(op)
        if problem:
            return trace.freeze(inputs, f"{trace.key(op)!r} {problem}", call.outputs)
        return self.weigh(trace, op, call, inputs)

    def weigh(
        self, trace: Trace, op: Any, call: Call, inputs: list[Abstract]
    ) -> list[Abstract]:
        raise NotImplementedError


# Producers ------------------------------------------------------------------


class Conv(_Weighted):
    """Conv1D, Conv2D, Conv3D: kernel (..., input / groups, filters)."""

    kind = PRODUCER
    note = "filters; with groups, the same positions of every group together"

    def weigh(
        self, trace: Trace, op: Any, call: Call, inputs: list[Abstract]
    ) -> list[Abstract]:
        axis = _channel_axis(op, len(inputs[0].shape))
        labels, constant = trace.vector(inputs[0], axis, f"{trace.key(op)!r}")
        out = trace.create(op, op.filters)
        exact = op.padding == "valid" or math.prod(op.kernel_size) == 1
        if op.groups == 1:
            trace.consume(op, op.kernel, -2, labels, constant, exact and op.use_bias)
        elif op.groups == len(labels):
            # One input channel a group: whole groups can go.
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
        return [trace.produce(op, out, axis, _shape(call.outputs[0]), op.activation)]

    def configure(self, op: Any, call: Call, config: dict, kept: Kept) -> None:
        filters = kept.size(op.kernel, -1)
        if op.groups > 1 and op.kernel.shape[-2] == 1:
            config["groups"] = op.groups * filters // op.filters
        config["filters"] = filters


class ConvTranspose(_Weighted):
    """Transposed convolutions: kernel (..., filters, input)."""

    kind = PRODUCER
    note = "filters"

    def weigh(
        self, trace: Trace, op: Any, call: Call, inputs: list[Abstract]
    ) -> list[Abstract]:
        axis = _channel_axis(op, len(inputs[0].shape))
        labels, constant = trace.vector(inputs[0], axis, f"{trace.key(op)!r}")
        trace.consume(op, op.kernel, -1, labels, constant)
        out = trace.create(op, op.filters)
        trace.bind(op, op.kernel, -2, out, "kernel", zero=True)
        trace.bind(op, op.bias, 0, out, "bias", zero=True)
        return [trace.produce(op, out, axis, _shape(call.outputs[0]), op.activation)]

    def configure(self, op: Any, call: Call, config: dict, kept: Kept) -> None:
        config["filters"] = kept.size(op.kernel, -2)


class SeparableConv(_Weighted):
    """SeparableConv1D/2D: depthwise (..., input, m), pointwise (..., m·input, f)."""

    kind = PRODUCER
    note = "filters of the pointwise part; the depthwise part is channel-wise"

    def weigh(
        self, trace: Trace, op: Any, call: Call, inputs: list[Abstract]
    ) -> list[Abstract]:
        axis = _channel_axis(op, len(inputs[0].shape))
        labels, constant = trace.vector(inputs[0], axis, f"{trace.key(op)!r}")
        trace.consume(op, op.depthwise_kernel, -2, labels, constant)
        trace.bind(
            op, op.pointwise_kernel, -2, np.repeat(labels, op.depth_multiplier), "input"
        )
        out = trace.create(op, op.filters)
        trace.bind(op, op.pointwise_kernel, -1, out, "kernel", zero=True)
        trace.bind(op, op.bias, 0, out, "bias", zero=True)
        return [trace.produce(op, out, axis, _shape(call.outputs[0]), op.activation)]

    def configure(self, op: Any, call: Call, config: dict, kept: Kept) -> None:
        config["filters"] = kept.size(op.pointwise_kernel, -1)


class DepthwiseConv(_Weighted):
    """DepthwiseConv1D/2D: kernel (..., input, m); output c·m + j from input c."""

    kind = CHANNELWISE
    note = "follows its input"

    def weigh(
        self, trace: Trace, op: Any, call: Call, inputs: list[Abstract]
    ) -> list[Abstract]:
        axis = _channel_axis(op, len(inputs[0].shape))
        labels, constant = trace.vector(inputs[0], axis, f"{trace.key(op)!r}")
        trace.require_zero(op, labels, constant)
        trace.bind(op, op.kernel, -2, labels, "channelwise")
        out = np.repeat(labels, op.depth_multiplier)
        trace.bind(op, op.bias, 0, out, "bias", zero=True)
        result = trace.layout(out, np.zeros(1), axis, _shape(call.outputs[0]))
        return [trace.activate(op.activation, result, trace.key(op))]


class Dense(_Weighted):
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
        return [trace.produce(op, out, -1, _shape(call.outputs[0]), op.activation)]

    def configure(self, op: Any, call: Call, config: dict, kept: Kept) -> None:
        config["units"] = kept.size(op.kernel, 1)


class EinsumDense(_Weighted):
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
        shape = _shape(call.outputs[0])
        shared = [c for c in kernel if c in data and c in output]
        if "..." in op.equation or shared:
            return trace.freeze(
                inputs,
                f"{name!r}: equation {op.equation!r} is not supported",
                call.outputs,
            )
        mixed = [c for c in kernel if c in data and c not in output]
        varying = [data[axis] for axis, n in enumerate(tensor.labels.shape) if n > 1]
        if len(varying) == 1 and varying[0] in mixed:
            labels, constant = trace.vector(tensor, data.index(varying[0]), f"{name!r}")
            trace.consume(op, op.kernel, kernel.index(varying[0]), labels, constant)
        elif tensor.labelled:
            trace.freeze([tensor], f"{name!r} keeps or splits the axis", call.outputs)
        made = [c for c in kernel if c in output and c not in data]
        if not made:
            return [Abstract.frozen(shape)]
        letter = made[-1]
        axis = output.index(letter)
        out = trace.create(op, op.kernel.shape[kernel.index(letter)])
        trace.bind(op, op.kernel, kernel.index(letter), out, "kernel", zero=True)
        if op.bias is not None:
            bias_axis = output.replace(data[0], "", 1)
            offset = len(op.bias.shape) - len(bias_axis)
            position = bias_axis.index(letter) + offset
            if position >= 0:
                trace.bind(op, op.bias, position, out, "bias", zero=True)
        return [trace.produce(op, out, axis, shape, op.activation)]

    def configure(self, op: Any, call: Call, config: dict, kept: Kept) -> None:
        _, kernel, output = self._split(op)
        given = op.partial_output_shape
        sizes = list(given)
        for i, letter in enumerate(output[-len(given) :]):
            if letter in kernel and sizes[i] is not None:
                sizes[i] = kept.size(op.kernel, kernel.index(letter))
        config["output_shape"] = tuple(sizes)


class Embedding(_Weighted):
    """Embedding: (input_dim, output_dim)."""

    kind = PRODUCER
    note = "columns of the table"

    def weigh(
        self, trace: Trace, op: Any, call: Call, inputs: list[Abstract]
    ) -> list[Abstract]:
        trace.freeze(inputs, f"index of {trace.key(op)!r}", call.outputs)
        out = trace.create(op, op.output_dim)
        trace.bind(op, op.embeddings, 1, out, "kernel", zero=True)
        return [trace.produce(op, out, -1, _shape(call.outputs[0]))]

    def configure(self, op: Any, call: Call, config: dict, kept: Kept) -> None:
        config["output_dim"] = kept.size(op.embeddings, 1)


class Recurrent(_Weighted):
    """SimpleRNN, LSTM, GRU: kernel (input, g·units), recurrent (units, g·units).

    A unit whose kernel, recurrent and bias columns are zero stays at zero when
    its output activation maps 0 to 0.
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
        return [trace.produce(op, out, -1, _shape(tensor)) for tensor in call.outputs]

    @staticmethod
    def _initial_state(call: Call) -> list[Any]:
        arguments = call.node.arguments
        given = (arguments.args[1:2], arguments.kwargs.get("initial_state"))
        flat = keras.tree.flatten(given)
        return [tensor for tensor in flat if isinstance(tensor, keras.KerasTensor)]

    def configure(self, op: Any, call: Call, config: dict, kept: Kept) -> None:
        config["units"] = kept.size(op.cell.recurrent_kernel, 0)


class Attention(_Weighted):
    """MultiHeadAttention: whole heads, and the output projection's features."""

    kind = PRODUCER
    note = "features of the output projection; whole heads as group 'NAME/heads'"

    def weigh(
        self, trace: Trace, op: Any, call: Call, inputs: list[Abstract]
    ) -> list[Abstract]:
        name = trace.key(op)
        arguments = call.node.arguments
        named = dict(zip(("query", "value", "key"), arguments.args, strict=False))
        named |= {k: v for k, v in arguments.kwargs.items() if hasattr(v, "shape")}
        if set(named) - {"query", "value", "key"} or getattr(op, "_use_gate", False):
            return trace.freeze(
                inputs, f"{name!r} has a mask input or a gate", call.outputs
            )
        given = {k: trace.tensors[id(v)] for k, v in named.items() if v is not None}
        given.setdefault("key", given["value"])
        shape = _shape(call.outputs[0])
        if len(shape) != 3 or len(inputs[0].shape) != 3:
            return trace.freeze(
                inputs, f"{name!r} attends over several axes", call.outputs
            )
        for part, dense in self._denses(op).items():
            labels, constant = trace.vector(given[part], -1, f"{name!r}")
            trace.consume(op, dense.kernel, 0, labels, constant)
        heads = self._heads(trace, op)
        final = op._output_dense
        trace.bind(op, final.kernel, 0, heads, "input")
        if len(call.outputs) > 1:
            trace.table.freeze(heads, f"scores of {name!r} are read")
        out = trace.create(op, final.kernel.shape[-1])
        trace.bind(op, final.kernel, -1, out, "kernel", zero=True)
        trace.bind(op, final.bias, 0, out, "bias", zero=True)
        result = trace.produce(op, out, -1, shape)
        return [result, *(Abstract.frozen(_shape(t)) for t in call.outputs[1:])]

    @staticmethod
    def _denses(op: Any) -> dict[str, Any]:
        return {
            "query": op._query_dense,
            "key": op._key_dense,
            "value": op._value_dense,
        }

    def _heads(self, trace: Trace, op: Any) -> np.ndarray:
        heads = trace.create(op, op._query_dense.kernel.shape[1], "heads")
        for dense in self._denses(op).values():
            trace.bind(op, dense.kernel, 1, heads, "kernel", zero=True)
            trace.bind(op, dense.bias, 0, heads, "bias", zero=True)
        return heads

    def configure(self, op: Any, call: Call, config: dict, kept: Kept) -> None:
        config["num_heads"] = kept.size(op._query_dense.kernel, 1)
        size = kept.size(op._output_dense.kernel, -1)
        if size != op._output_dense.kernel.shape[-1] or config["output_shape"]:
            config["output_shape"] = (size,)
        else:
            # Without it Keras takes the query's size, which may shrink.
            config["output_shape"] = (
                None if kept.size(op._query_dense.kernel, 0) == size else (size,)
            )


class GroupedAttention(Attention):
    """GroupedQueryAttention: key-value heads with all their query heads."""

    note = (
        "a key-value head with all its query heads as group 'NAME/heads'; the "
        "output projection follows the query's features"
    )

    def _heads(self, trace: Trace, op: Any) -> np.ndarray:
        queries = op._query_dense.kernel.shape[1]
        groups = op._key_dense.kernel.shape[1]
        heads = trace.create(op, groups, "heads")
        wide = np.repeat(heads, queries // groups)
        trace.bind(op, op._query_dense.kernel, 1, wide, "kernel", zero=True)
        trace.bind(op, op._query_dense.bias, 0, wide, "bias", zero=True)
        for dense in (op._key_dense, op._value_dense):
            trace.bind(op, dense.kernel, 1, heads, "kernel", zero=True)
            trace.bind(op, dense.bias, 0, heads, "bias", zero=True)
        return wide

    def weigh(
        self, trace: Trace, op: Any, call: Call, inputs: list[Abstract]
    ) -> list[Abstract]:
        results = super().weigh(trace, op, call, inputs)
        # Keras gives the output the query's size, always.
        out = trace.outputs.get(trace.key(op))
        if out is not None:
            labels, _ = trace.vector(inputs[0], -1, f"{trace.key(op)!r}")
            trace.table.tie(out, labels, f"{trace.key(op)!r} reads a frozen query")
        return results

    def configure(self, op: Any, call: Call, config: dict, kept: Kept) -> None:
        config["num_query_heads"] = kept.size(op._query_dense.kernel, 1)
        config["num_key_value_heads"] = kept.size(op._key_dense.kernel, 1)


# Channel-wise ---------------------------------------------------------------


class BatchNorm(_Weighted):
    """BatchNormalization: gamma, beta and the moving statistics follow."""

    kind = CHANNELWISE
    note = "its variables follow the channels"

    def weigh(
        self, trace: Trace, op: Any, call: Call, inputs: list[Abstract]
    ) -> list[Abstract]:
        axes = op.axis if isinstance(op.axis, list | tuple) else [op.axis]
        if len(axes) != 1:
            return trace.freeze(
                inputs, f"{trace.key(op)!r} normalises over several axes", call.outputs
            )
        labels, constant = trace.vector(inputs[0], axes[0], f"{trace.key(op)!r}")
        if not op.scale:
            trace.require_zero(op, labels, constant)
        trace.bind(op, op.gamma, 0, labels, "scale", zero=True)
        trace.bind(op, op.beta, 0, labels, "offset", zero=True)
        trace.bind(op, op.moving_mean, 0, labels, "mean", zero=True)
        trace.bind(op, op.moving_variance, 0, labels, "variance")
        if op.renorm:
            trace.bind(op, op.renorm_mean, 0, labels, "mean")
            trace.bind(op, op.renorm_stddev, 0, labels, "variance")
        return [trace.layout(labels, np.zeros(1), axes[0], _shape(call.outputs[0]))]


class LayerNorm(_Weighted):
    """LayerNormalization and RMSNormalization: freeze what they normalise."""

    kind = FROZEN
    note = "normalises over the channels; inexact=('layer_norm',) prunes through"

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
            return [trace.layout(labels, np.zeros(1), -1, _shape(call.outputs[0]))]
        return trace.freeze(
            inputs, f"{name!r} normalises over the channels", call.outputs
        )


class PReLU(_Weighted):
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
        return [tensor]


class Registered(_Weighted):
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
        return [trace.layout(labels, np.zeros(1), -1, _shape(call.outputs[0]))]

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
        return [inputs[0]]


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
        if any(math.prod(array.shape) > 1 for array in call.arrays):
            return trace.freeze(
                inputs, f"{trace.key(op)!r} combines with an array", call.outputs
            )

        def function(x: np.ndarray) -> np.ndarray:
            args, kwargs = call.node.arguments.fill_in({id(call.inputs[0]): x})
            return keras.ops.convert_to_numpy(op(*args, **kwargs))

        return [trace.map(inputs[0], function)]


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
        shape = _shape(call.outputs[0])
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
        result: np.ndarray | None = None
        for array, real in labels:
            # An operand that is broadcast over the channels has no say.
            if axes and all(real[axis] == 1 for axis in axes):
                continue
            if result is None:
                result = array
                continue
            trace.table.tie(result, array, f"{name} joins them with frozen channels")
            result, array = np.broadcast_arrays(result, array)
            result = np.where(result == 0, array, result)
        if result is None:
            return [Abstract.frozen(shape)]
        known = [
            np.where(_labelled(array), constant, np.nan)
            for (array, _), constant in zip(labels, constants, strict=True)
        ]
        return [Abstract(result, self._combine(known), shape)]

    def _combine(self, constants: list[np.ndarray]) -> np.ndarray:
        if self.combine is None:
            return np.full((1,) * constants[0].ndim, np.nan)
        total = constants[0]
        for constant in constants[1:]:
            total = self.combine(total, constant)
        return total


def _labelled(array: np.ndarray) -> np.ndarray:
    return array != 0 if array.size > 1 else np.array(bool(array.any()))


def _multiply(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.where((a == 0) | (b == 0), 0.0, a * b)


def _divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
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
        out = _shape(call.outputs[0])
        rank = len(tensor.shape)
        axis = _channel_axis(op, rank)
        labels, constant = trace.vector(tensor, axis, f"{trace.key(op)!r}")
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
            return [Abstract.frozen(_shape(call.outputs[0]))]
        keep = getattr(op, "keepdims", False)
        index = tuple(0 if a in axes and not keep else slice(None) for a in range(rank))
        constant = np.broadcast_to(tensor.constant, tensor.labels.shape)
        constant = np.where(constant == 0, 0.0, np.nan)
        return [
            Abstract(tensor.labels[index], constant[index], _shape(call.outputs[0]))
        ]


# Data movement --------------------------------------------------------------


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
        shape = _shape(call.outputs[0])
        try:
            moved = tensor.move(self.function(op, call), shape)
        except (ValueError, IndexError, TypeError):
            return trace.freeze(
                inputs, f"{trace.key(op)!r} depends on an unknown size", call.outputs
            )
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
        shape = _shape(call.outputs[0])
        target = [1 if s is None or a == 0 else s for a, s in enumerate(shape)]

        def function(x: np.ndarray) -> np.ndarray:
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
        shape = _shape(call.outputs[0])
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
            part = inputs[0].move(take, _shape(tensor))
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
        super().__init__(lambda op, call: lambda x: x[self._key(call)])

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

    def adjust(
        self, op: Any, call: Call, args: tuple, kwargs: dict, kept: Kept
    ) -> tuple[tuple, dict]:
        key = self._key(call)
        rank = len(call.inputs[0].shape)
        given = sum(k is not None and k is not Ellipsis for k in key)
        new: list[Any] = []
        axis = 0
        for k in key:
            if k is None:
                new.append(k)
            elif k is Ellipsis:
                new.append(k)
                axis += rank - given
            else:
                new.append(self._move_key(k, kept.along(call.inputs[0], axis)))
                axis += 1
        args = tuple(tuple(new) if not hasattr(a, "shape") else a for a in args)
        if "key" in kwargs:
            kwargs = {**kwargs, "key": tuple(new)}
        return args, kwargs

    @staticmethod
    def _move_key(key: Any, keep: np.ndarray | None) -> Any:
        if keep is None or (isinstance(key, slice) and key == slice(None)):
            return key
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


def _transpose(op: Any, call: Call) -> Callable:
    return lambda x: np.transpose(x, op.axes)


def _permute(op: Any, call: Call) -> Callable:
    return lambda x: np.transpose(x, (0, *op.dims))


def _numpy(name: str, *attributes: str) -> Callable[[Any, Call], Callable]:
    function = getattr(np, name)

    def make(op: Any, call: Call) -> Callable:
        values = [getattr(op, attribute) for attribute in attributes]
        return lambda x: function(x, *values)

    return make


def _like(op: Any, call: Call) -> Callable:
    """Runs the operation itself on the labels (exact below 2**31)."""

    def function(x: np.ndarray) -> np.ndarray:
        if x.dtype == np.int64:
            return keras.ops.convert_to_numpy(op(x.astype("int32")))
        return keras.ops.convert_to_numpy(op(x.astype("float32")))

    return function


# Probing --------------------------------------------------------------------


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
        shape = _shape(call.outputs[0])
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


# The table ------------------------------------------------------------------

_K = keras.layers

_REFUSE_WRAPPER = "applies another layer; use that layer itself to prune it"

_LAYERS: dict[type, Rule] = {
    **dict.fromkeys((_K.Conv1D, _K.Conv2D, _K.Conv3D), Conv()),
    **dict.fromkeys(
        (_K.Conv1DTranspose, _K.Conv2DTranspose, _K.Conv3DTranspose), ConvTranspose()
    ),
    **dict.fromkeys((_K.SeparableConv1D, _K.SeparableConv2D), SeparableConv()),
    **dict.fromkeys((_K.DepthwiseConv1D, _K.DepthwiseConv2D), DepthwiseConv()),
    _K.Dense: Dense(),
    _K.EinsumDense: EinsumDense(),
    _K.Embedding: Embedding(),
    _K.SimpleRNN: Recurrent(1),
    _K.GRU: Recurrent(3),
    _K.LSTM: Recurrent(4),
    _K.MultiHeadAttention: Attention(),
    _K.GroupQueryAttention: GroupedAttention(),
    _K.BatchNormalization: BatchNorm(),
    _K.LayerNormalization: LayerNorm(),
    _K.RMSNormalization: LayerNorm(),
    _K.GroupNormalization: Frozen("normalises over groups of channels"),
    _K.SpectralNormalization: Frozen(_REFUSE_WRAPPER),
    _K.TimeDistributed: Frozen(_REFUSE_WRAPPER),
    _K.Bidirectional: Frozen(_REFUSE_WRAPPER),
    _K.RNN: Frozen("runs a custom cell"),
    _K.StackedRNNCells: Frozen("runs custom cells"),
    _K.ConvLSTM1D: Frozen("has no rule for its convolutional gates"),
    _K.ConvLSTM2D: Frozen("has no rule for its convolutional gates"),
    _K.ConvLSTM3D: Frozen("has no rule for its convolutional gates"),
    _K.Attention: Frozen("mixes positions by products of its inputs"),
    _K.AdditiveAttention: Frozen("mixes positions by products of its inputs"),
    _K.Dot: Frozen("sums products of its inputs"),
    _K.Masking: Frozen("compares all channels with the mask value"),
    _K.Normalization: Frozen("scales inputs by fixed statistics"),
    _K.PReLU: PReLU(),
    _K.Activation: Activation(),
    **dict.fromkeys((_K.ReLU, _K.LeakyReLU, _K.ELU), Activation()),
    _K.Softmax: Softmax(),
    **dict.fromkeys(
        (
            _K.Dropout,
            _K.SpatialDropout1D,
            _K.SpatialDropout2D,
            _K.SpatialDropout3D,
            _K.GaussianNoise,
            _K.GaussianDropout,
            _K.AlphaDropout,
            _K.ActivityRegularization,
            _K.Identity,
        ),
        Identity(),
    ),
    _K.Rescaling: Rescaling(),
    _K.Add: Merge(np.add),
    _K.Subtract: Merge(np.subtract),
    _K.Multiply: Merge(_multiply),
    _K.Average: Merge(lambda a, b: np.where((a == 0) & (b == 0), 0.0, np.nan)),
    _K.Maximum: Merge(np.maximum),
    _K.Minimum: Merge(np.minimum),
    **dict.fromkeys(
        (
            _K.MaxPooling1D,
            _K.MaxPooling2D,
            _K.MaxPooling3D,
            _K.AveragePooling1D,
            _K.AveragePooling2D,
            _K.AveragePooling3D,
            _K.GlobalAveragePooling1D,
            _K.GlobalAveragePooling2D,
            _K.GlobalAveragePooling3D,
            _K.GlobalMaxPooling1D,
            _K.GlobalMaxPooling2D,
            _K.GlobalMaxPooling3D,
            _K.UpSampling1D,
            _K.UpSampling2D,
            _K.UpSampling3D,
            _K.Cropping1D,
            _K.Cropping2D,
            _K.Cropping3D,
            _K.CenterCrop,
        ),
        Spatial(),
    ),
    **dict.fromkeys(
        (_K.ZeroPadding1D, _K.ZeroPadding2D, _K.ZeroPadding3D), Spatial(pads=True)
    ),
    _K.Resizing: Resizing(),
    _K.Flatten: Reshape(),
    _K.Reshape: Reshape(),
    _K.Permute: Move(_permute),
    _K.RepeatVector: Move(lambda op, call: lambda x: np.repeat(x[:, None], op.n, 1)),
    _K.Concatenate: Join(),
}

# Operations of `keras.ops`, by class name.
_OPS: dict[str, Rule] = {
    "Add": Merge(np.add),
    "Subtract": Merge(np.subtract),
    "Multiply": Merge(_multiply),
    "Maximum": Merge(np.maximum),
    "Minimum": Merge(np.minimum),
    **dict.fromkeys(
        ("Divide", "TrueDivide", "FloorDivide", "Mod", "Power", "DivideNoNan"),
        Merge(_divide),
    ),
    **dict.fromkeys(
        (
            "Abs",
            "Absolute",
            "Negative",
            "Square",
            "Sqrt",
            "Rsqrt",
            "Exp",
            "Expm1",
            "Log",
            "Log1p",
            "Sin",
            "Cos",
            "Tan",
            "Sinh",
            "Cosh",
            "Tanh",
            "Arctan",
            "Erf",
            "Sign",
            "Clip",
            "Floor",
            "Ceil",
            "Round",
            "Trunc",
            "Reciprocal",
            "Relu",
            "Relu6",
            "Sigmoid",
            "SparseSigmoid",
            "Softplus",
            "Softsign",
            "SoftShrink",
            "SparsePlus",
            "Silu",
            "Squareplus",
            "LogSigmoid",
            "LeakyRelu",
            "HardSigmoid",
            "HardSilu",
            "Elu",
            "Selu",
            "Gelu",
            "Celu",
            "TanhShrink",
            "HardTanh",
            "HardShrink",
            "Threshold",
        ),
        Elementwise(),
    ),
    **dict.fromkeys(
        ("Cast", "SaturateCast", "StopGradient", "Copy", "ConvertToTensor"), Identity()
    ),
    "Sum": Reduce(additive=True),
    **dict.fromkeys(
        ("Mean", "Max", "Min", "Amax", "Amin", "Prod", "Std", "Var", "Any", "All"),
        Reduce(),
    ),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Normalize"), Softmax()),
    **dict.fromkeys(("MaxPool", "AveragePool", "Resize"), Spatial()),
    "Reshape": Reshape(),
    "Transpose": Move(_transpose),
    "Swapaxes": Move(_numpy("swapaxes", "axis1", "axis2")),
    "Moveaxis": Move(_numpy("moveaxis", "source", "destination")),
    "ExpandDims": Move(_numpy("expand_dims", "axis")),
    "Squeeze": Move(_like),
    "Flip": Move(_numpy("flip", "axis")),
    "Concatenate": Join(),
    "Stack": Join(stack=True),
    "Split": Split(),
    "GetItem": GetItem(),
    **dict.fromkeys(
        ("Matmul", "Dot", "Einsum", "Tensordot", "Inner", "Outer", "Vdot"),
        Frozen("multiplies tensors of the graph with each other"),
    ),
}

_PROBE = Probe()
_INPUT = Identity()


def rules() -> dict[str, Rule]:
    """Every known layer and operation by name, for the documentation."""
    named = {f"keras.layers.{cls.__name__}": rule for cls, rule in _LAYERS.items()}
    return named | {f"keras.ops: {name}": rule for name, rule in _OPS.items()}


def rule_for(operation: Any, inputs: Sequence[Abstract]) -> Rule:
    """The rule of `operation`, or the probe."""
    rule = _LAYERS.get(type(operation))
    if rule is None and not isinstance(operation, keras.Layer):
        rule = _OPS.get(type(operation).__name__)
    if rule is not None and (
        isinstance(rule, _Weighted) or any(t.labelled for t in inputs)
    ):
        return rule
    if not any(t.labelled for t in inputs):
        return _UNLABELLED
    return rule or _PROBE


class _Unlabelled(Rule):
    """Nothing to follow: no input carries a label."""

    def trace(
        self, trace: Trace, op: Any, call: Call, inputs: list[Abstract]
    ) -> list[Abstract]:
        return [Abstract.frozen(_shape(tensor)) for tensor in call.outputs]


_UNLABELLED = _Unlabelled()


def register_channelwise(
    layer: type, *variables: str, config: str | None = None
) -> None:
    """Tells the engine that a custom layer treats every channel by itself.

    The layer must map a channel of zeros to zeros, and act on the last axis.

    Example:

    >>> register_channelwise(LayerScale, "gamma", config="projection_dim")

    Args:
        layer: the layer class.
        variables: names of the attributes whose last axis runs over channels.
        config: name of the constructor argument that gives the number of
            channels, if there is one. Defaults to `None`.
    """
    if not (isinstance(layer, type) and issubclass(layer, keras.Layer)):
        raise TypeError(
            "Invalid value for argument `layer`. Expected a keras.layers.Layer "
            f"class. Received: layer={layer!r}"
        )
    if config is not None and not variables:
        raise ValueError(
            "Invalid value for argument `variables`. Expected at least one name "
            f"when `config` is given. Received: config={config!r}"
        )
    _LAYERS[layer] = Registered(variables, config)
