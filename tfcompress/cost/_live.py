"""The cost that a model will have once its dead channels are removed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import keras
import numpy as np
from keras import KerasTensor

from tfcompress.cost._count import Sizes, entries, summarize
from tfcompress.cost._results import ModelCost
from tfcompress.cost._work import Product
from tfcompress.structure import ChannelGroups, channel_groups, zero_indices

__all__ = ["LiveCost"]


class LiveCost:
    """Counts a model as it would be without the channels that are zero.

    The model is analyzed once; what `count` repeats is looking for zeros.
    """

    def __init__(self, model: keras.Model) -> None:
        self.model = model
        self._entries = entries(model)
        self._groups = channel_groups(model)

    def count(self) -> ModelCost:
        """The cost of `tfcompress.structure.shrink(model)`, without building it.

        `operations` shrink with the output of their layer, which is not exact
        inside attention heads.
        """
        return self.measure()[0]

    def measure(self) -> tuple[ModelCost, float]:
        """`count`, and the fraction of zeros in the kernels of the whole model."""
        sizes = _LiveSizes(self._groups)
        cost = summarize(self.model.name, self._entries, sizes)
        kernels = {
            id(product.weight): math.prod(product.weight.shape)
            for entry in self._entries
            for product in entry.work.products
            if product.weight is not None
        }
        total = sum(kernels.values())
        nonzero = sum(sizes.whole[key] for key in kernels)
        return cost, 1 - nonzero / total if total else 0.0


class _LiveSizes(Sizes):
    """Sizes without the channels that the weights prove to be zero."""

    def __init__(self, groups: ChannelGroups) -> None:
        super().__init__()
        self._solution = groups.analysis.solution
        self._tensors = groups.analysis.tensors
        self._axes: dict[int, dict[int, np.ndarray]] = {}
        self.whole: dict[int, int] = {}  # non-zero elements, dead channels included
        self._gone = np.zeros(self._solution.frozen.size, bool)
        for name, zero in zero_indices(groups).items():
            group = groups[name]
            # Shrinking leaves one channel of a group that is zero as a whole.
            gone = zero[: group.size - 1]
            self._gone[group.classes[gone]] = True
        # The analysis gives every position along an axis of a variable a label, and
        # labels that have to be removed together one root (see docs/structure.md).
        # The roots that are gone tell which positions of each axis are left.
        for axis in groups.analysis.axes.values():
            kept = ~self._gone[self._solution.root[axis.labels]]
            if not kept.all():
                self._axes.setdefault(id(axis.variable), {})[axis.axis] = kept

    def variable(self, variable: keras.Variable) -> int:
        kept = self._axes.get(id(variable), {})
        return math.prod(
            int(kept[axis].sum()) if axis in kept else size
            for axis, size in enumerate(variable.shape)
        )

    def count(self, variable: keras.Variable, values: np.ndarray) -> int:
        self.whole[id(variable)] = whole = super().count(variable, values)
        masks = self._axes.get(id(variable), {})
        for axis, kept in masks.items():
            values = np.compress(kept, values, axis)
        return super().count(variable, values) if masks else whole

    def macs(self, product: Product) -> int:
        if product.weight is not None:
            # The division is exact: each element of the weight is used equally often.
            whole = math.prod(product.weight.shape)
            return product.macs // whole * self.variable(product.weight)
        if product.along is not None:
            variable, axis = product.along
            kept = self._axes.get(id(variable), {}).get(axis)
            if kept is not None:
                return product.macs // kept.size * int(kept.sum())
        return product.macs

    def scaled(self, number: int, symbols: Sequence[KerasTensor]) -> int:
        kept = whole = 0.0
        for symbol in symbols:
            size = math.prod(n or 1 for n in symbol.shape[1:])
            known = self._tensors.get(id(symbol))
            share = 1.0
            if known is not None:
                share = 1 - self._gone[self._solution.root[known.labels]].mean()
            kept, whole = kept + share * size, whole + size
        return round(number * kept / whole) if whole else number
