"""The walk that labels a model's tensors and variables.

Calls are visited in the order in which the model computes them, nested models in their
place. Each call hands the labels of its inputs to the rule of its operation and records
the labels that come back. There is one pass and no fixed point, because ties are only
collected; `LabelTable.solve` joins them at the end. A layer that is called twice has
the same labels both times, so that what one call couples is coupled for the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from tfcompress.structure import _graph
from tfcompress.structure._facts import kernels
from tfcompress.structure._labels import Abstract, Solution
from tfcompress.structure._trace import Trace
from tfcompress.structure.rules import rule_for
from tfcompress.structure.rules._base import PRODUCER, channel_axis

__all__ = ["trace"]


def trace(model: keras.Model, inexact: Sequence[str] = ()) -> Trace:
    """Labels every tensor and variable of `model`. Time: linear in ops and
    channels.
    """
    _graph.require_graph(model)
    model = _graph.edited(model)
    allowed = {"layer_norm"}
    if isinstance(inexact, str) or set(inexact) - allowed:
        raise ValueError(
            "Invalid value for argument `inexact`. Expected a tuple with names "
            f"among {sorted(allowed)}. Received: inexact={inexact!r}"
        )
    result = Trace(frozenset(inexact))
    walk = _Walk(result)
    graph = _graph.functional(model)
    outputs = walk.run(
        model, [Abstract.frozen(tuple(t.shape)) for t in graph.inputs], ""
    )
    for output in outputs:
        result.table.freeze(output.labels, "model output")
    result.solution = walk.solve()
    return result


class _Walk:
    """Goes through the calls of a model and asks the rule of each of them.

    Args:
        result: what the rules fill.
    """

    def __init__(self, result: Trace) -> None:
        self.result = result
        self._several: list[np.ndarray] = []  # labels that vary along several axes
        self._refused: dict[int, str] = {}  # id of a layer -> why, at some call
        self._sized: dict[int, list[Abstract]] = {}  # what such a layer made first

    def run(
        self, model: keras.Model, inputs: Sequence[Abstract], prefix: str
    ) -> list[Abstract]:
        """Labels the tensors of one (possibly nested) model."""
        result = self.result
        graph = _graph.functional(model)
        for tensor, abstract in zip(graph.inputs, inputs, strict=True):
            self._record(tensor, abstract)
            result.sources.setdefault(id(tensor), prefix + tensor.name)
        for call in _graph.calls(model):
            operation = call.operation
            key = prefix + operation.name
            tensors = [result.tensors[id(tensor)] for tensor in call.inputs]
            if isinstance(operation, keras.Layer):
                result.keys[id(operation)] = key
                result.layers.setdefault(key, operation)
            if _graph.is_editable(call):
                # A nested model has tensors of its own, made when it was built. Its
                # inputs take over the labels of what this call feeds in. A second call
                # meets the labels of the first, and `_record` ties the two: the nested
                # layers exist once, so both calls lose the same channels.
                inner = _graph.inner_inputs(call) or ()
                given = [result.tensors[id(tensor)] for tensor in inner]
                outputs = self.run(operation, given, key + "/")
            else:
                outputs = self._apply(operation, call, tensors, key)
            for tensor, abstract in zip(call.outputs, outputs, strict=True):
                self._record(tensor, abstract)
                result.sources.setdefault(id(tensor), key)
            if len(outputs) == 1 and isinstance(operation, keras.Layer):
                self._note_output(key, outputs[0])
        return [result.tensors[id(tensor)] for tensor in graph.outputs]

    def _apply(
        self, operation: Any, call: _graph.Call, tensors: list[Abstract], key: str
    ) -> list[Abstract]:
        """What the rule of an operation says, and whether it refused a layer.

        A layer whose channels cannot be removed is noted with the reason. Nothing else
        would mention it, because its variables carry no labels.
        """
        result = self.result
        for mask in _masks(operation, call):
            result.table.freeze(
                result.tensors[id(mask)].labels, f"is a mask of {key!r}"
            )
        result.refusal = ""
        rule = rule_for(operation, tensors)
        outputs = rule.trace(result, operation, call, tensors)
        if _has_sizes(operation):
            # The config of its copy has one shape, for all calls.
            first = self._sized.setdefault(id(operation), outputs)
            for earlier, tensor in zip(first, outputs, strict=True):
                if earlier.shape[1:] == tensor.shape[1:]:
                    reason = f"shared layer {key!r} also makes frozen channels"
                    result.table.tie(earlier.labels, tensor.labels, reason)
        if result.refusal and not any(tensor.labeled for tensor in outputs):
            self._refused.setdefault(id(operation), result.refusal)
        if result.refusal and isinstance(operation, keras.Layer):
            known = any(axis.layer is operation for axis in result.axes.values())
            if not known and (rule.kind == PRODUCER or _has_kernels(operation)):
                shape = call.outputs[0].shape
                size = shape[channel_axis(operation, len(shape))] or 1
                result.refuse(operation, size, result.refusal)
        return outputs

    def _record(self, tensor: Any, abstract: Abstract) -> None:
        known = self.result.tensors.get(id(tensor))
        if known is not None:  # a nested model that is used again
            self.result.table.tie(
                known.labels, abstract.labels, "a nested model also reads frozen ones"
            )
            # Inside, the constants of the first call count. Channels that carry
            # something else at this one have to stay. (NaN is unknown as it is.)
            labels, first, here = np.broadcast_arrays(
                known.labels, known.constant, abstract.constant
            )
            self.result.table.freeze(
                labels[(first != here) & ~np.isnan(first)],
                "carries different constants at the calls of a nested model",
            )
            return
        self.result.tensors[id(tensor)] = abstract
        if sum(size > 1 for size in abstract.labels.shape) > 1:
            self._several.append(abstract.labels)

    def _note_output(self, key: str, tensor: Abstract) -> None:
        # A name in `{"conv2": [0, 5]}` means the channels that the layer puts out. That
        # also holds for layers that create none, such as a ReLU, if their labels lie on
        # one axis.
        if sum(size > 1 for size in tensor.labels.shape) == 1:
            self.result.outputs.setdefault(key, tensor.labels.ravel())

    def solve(self) -> Solution:
        """Solves for classes.

        Every tensor must stay rectangular: where labels vary along several
        axes, the removable slices are those of one axis, the last that is not
        already coupled away.

        Such tensors come from reshaping. 12 units seen as 3×4 carry the labels

            1  2  3  4
            5  6  7  8
            9 10 11 12

        and unit 6 cannot leave alone, because that would leave a hole in the array.
        All rows are tied to the first one: 1-5-9, 2-6-10 and so on. What can leave are
        the four columns. `Rebuild.along` relies on this.
        """
        table = self.result.table
        # A shared layer that is refused at one call has its full size there, so that
        # what another call has bound stays, too.
        for bound in self.result.axes.values():
            if id(bound.layer) in self._refused:
                table.freeze(bound.labels, self._refused[id(bound.layer)])
        solution = table.solve()
        for labels in self._several:
            rooted = solution.root[labels]
            axes = [
                axis
                for axis in range(rooted.ndim)
                if rooted.shape[axis] > 1 and (rooted != rooted.take([0], axis)).any()
            ]
            if len(axes) > 1:
                for axis in axes[:-1]:
                    table.tie(
                        labels,
                        labels.take([0], axis),
                        "shares a reshaped tensor with frozen channels",
                    )
                # The next tensor has to see these ties.
                solution = table.solve()
        return solution


def _masks(operation: Any, call: _graph.Call) -> list[keras.KerasTensor]:
    """The masks that a layer is called with. Rules look at its other inputs."""
    names = getattr(operation, "call_signature_parameters", ())
    arguments = call.node.arguments
    given = dict(zip(names, arguments.args, strict=False)) | arguments.kwargs
    masks = [value for name, value in given.items() if name.endswith("mask")]
    return [t for t in keras.tree.flatten(masks) if isinstance(t, keras.KerasTensor)]


def _has_sizes(operation: Any) -> bool:
    """Whether a layer without weights is configured with the sizes of its output."""
    if isinstance(operation, keras.layers.Reshape):
        return tuple(operation.target_shape) != (-1,)
    return isinstance(operation, keras.layers.Lambda) and not (
        operation._output_shape is None or callable(operation._output_shape)
    )


def _has_kernels(layer: keras.Layer) -> bool:
    """Whether a layer multiplies its input with weights, as far as can be told.

    The weights of a layer that is not of Keras may be anything.
    """
    foreign = not type(layer).__module__.startswith("keras.")
    return bool(kernels(layer)) or (foreign and bool(layer.weights))
