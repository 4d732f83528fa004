"""Finding the residual branches of a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import keras
from keras import KerasTensor

from tfcompress.structure import _graph
from tfcompress.structure._facts import kernels as kernels_of
from tfcompress.structure._graph import Call

__all__ = ["Branch", "branches"]


def branches(
    model: keras.Model, ignore: type | tuple[type, ...] = ()
) -> Iterator[tuple[str, Branch | str]]:
    """The additions of a model, and what they add to a skip.

    A residual branch ends at an addition of two tensors that come from a common
    one. It is the side with more layers that have kernels; the other side, the
    skip, is the common tensor itself or a projection of it.

    Args:
        model: a built Functional or Sequential model.
        ignore: classes of layers whose kernels do not count. Defaults to `()`.

    Yields:
        The name of an addition ("outer/inner" where it is nested, "#2" behind the
        name where a layer is called again), and its `Branch` or the reason why it
        has none.
    """
    views: dict[str, _View] = {}
    graphs = dict(_graph.graphs(model))
    seen: dict[str, int] = {}
    for prefix, call in _graph.walk(model):
        if type(call.operation).__name__ != "Add" or len(call.inputs) < 2:
            continue
        if prefix not in views:
            views[prefix] = _View(graphs[prefix])
        name = f"{prefix}{call.operation.name}"
        seen[name] = seen.get(name, 0) + 1
        key = name if seen[name] == 1 else f"{name}#{seen[name]}"
        yield key, _branch_at(key, call, views[prefix], ignore)


@dataclass(frozen=True)
class Branch:
    """What an addition adds to a skip.

    Attributes:
        key: name of the addition, "outer/inner" where nested.
        add: its call.
        features: the tensor that branch and skip start from.
        result: the branch's last tensor.
        kernels: calls with kernels on the branch, in order of execution.
        ancestors: id of tensor -> bits of what leads to it, itself included.
        bit: id of tensor -> its own bit.
    """

    key: str
    add: Call
    features: KerasTensor
    result: KerasTensor
    kernels: tuple[Call, ...]
    ancestors: Mapping[int, int]
    bit: Mapping[int, int]

    def gate_name(self, kind: str) -> str:
        """Name of the branch's gate."""
        return f"{self.key.rsplit('/', 1)[-1].replace('#', '_')}_{kind}"

    def reader(self, position: str) -> Call:
        """The call that reads what a channel gate at `position` gives."""
        chosen = {"before": self.kernels[0], "middle": self.kernels[-1]}
        return chosen.get(position, self.add)

    def without(self, position: str) -> str | None:
        """Why there is no such position."""
        reader = self.reader(position)
        if position == "after":
            return None
        if position == "middle" and len(self.kernels) < 2:
            return "it has a single layer with a kernel, hence no middle"
        if len({id(tensor) for tensor in reader.inputs}) > 1:
            return f"its layer {reader.operation.name!r} reads several tensors"
        # A channel gate acts on the whole branch only if its layers form a chain: all
        # others come from the first one, or lead to the last one. A layer that is
        # parallel to the reader would bypass the gate.
        others = [call for call in self.kernels if call is not reader]
        if position == "before":
            made = self.bit[id(reader.outputs[0])]
            row = all(self.ancestors[id(c.outputs[0])] & made for c in others)
        else:
            known = self.ancestors[id(reader.inputs[0])]
            row = all(known & self.bit[id(c.outputs[0])] for c in others)
        return None if row else "its layers with kernels do not follow each other"


class _View:
    """The calls of one graph, and what each of its tensors comes from.

    Sets of tensors are the bits of integers.
    """

    def __init__(self, graph: keras.Model) -> None:
        self.calls = list(_graph.calls(graph))
        self.outputs = _graph.functional(graph).outputs
        self.tensors: list[KerasTensor] = list(_graph.functional(graph).inputs)
        self.tensors += [tensor for call in self.calls for tensor in call.outputs]
        self.bit = {id(tensor): 1 << index for index, tensor in enumerate(self.tensors)}
        # What a tensor comes from is a set of tensors, kept as bits of one integer. The
        # sets of two operands then intersect in a single operation, and the highest bit
        # left is the last tensor that both come from: the input of the block.
        self.ancestors = dict(self.bit)
        for call in self.calls:
            before = 0
            for tensor in call.inputs:
                before |= self.ancestors[id(tensor)]
            for tensor in call.outputs:
                self.ancestors[id(tensor)] |= before


def _branch_at(
    key: str, add: Call, view: _View, ignore: type | tuple[type, ...]
) -> Branch | str:
    def count(call: Call) -> int:
        """Number of kernels that a call computes with."""
        layer = call.operation
        if not isinstance(layer, keras.Layer) or isinstance(layer, ignore):
            return 0
        return len(kernels_of(layer))

    if len(add.inputs) > 2:
        return f"adds {len(add.inputs)} tensors"
    common = view.ancestors[id(add.inputs[0])] & view.ancestors[id(add.inputs[1])]
    if not common:
        return "its operands come from nothing in common, so neither is a skip"
    # Tensors are numbered in order of execution: the last one that both need.
    features = view.tensors[common.bit_length() - 1]
    # What only leads to one operand and comes after the common tensor is that side of
    # the block. The side with fewer kernels is the skip: none, or one for a projection.
    sides = []
    for operand in add.inputs:
        own = view.ancestors[id(operand)] & ~view.ancestors[id(features)]
        calls = [c for c in view.calls if own & view.bit[id(c.outputs[0])]]
        sides.append((tuple(c for c in calls if count(c)), operand))
    (few, skip), (kernels, result) = sorted(
        sides, key=lambda side: sum(count(c) for c in side[0])
    )
    if sum(map(count, few)) == sum(map(count, kernels)):
        return f"both sides have {len(few)} layers with kernels, so neither is a skip"
    if skip.shape != result.shape:
        return f"broadcasts {skip.shape} and {result.shape}"
    readers = sum(id(result) in map(id, call.inputs) for call in view.calls)
    readers += id(result) in map(id, view.outputs)
    if readers > 1:
        return "something else reads its branch, too"
    channels_first = [
        c.operation.name
        for c in kernels
        if getattr(c.operation, "data_format", None) == "channels_first"
    ]
    if channels_first:
        return f"{channels_first[0]!r} has its channels first; gates need them last"
    return Branch(key, add, features, result, kernels, view.ancestors, view.bit)
