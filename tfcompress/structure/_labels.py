"""Channel labels, and the union-find that couples them.

Every channel that a layer creates gets a label, a positive integer. Tensors
and variables are described by integer arrays of labels; label 0 marks a
position that no edit may remove. Ops tie labels to each other or freeze them
with a reason; `LabelTable.solve` turns that into classes of channels that can
only be removed together.

An example. A convolution with 3 filters gets the labels 7, 8, 9, and a ReLU follows.
What labels its output has, and what becomes of them:

| tensor | shape | labels |
| --- | --- | --- |
| output of the ReLU | (batch, 4, 4, 3) | 7 8 9, the same at all 16 positions |
| after `Flatten` | (batch, 48) | 7 8 9 7 8 9 … |
| after `Concatenate` with channels 4 5 | (batch, 4, 4, 5) | 7 8 9 4 5 |
| after `Add` with channels 10 11 12 | (batch, 4, 4, 3) | 7 8 9, tied to 10 11 12 |
| after `x[..., 1:]` | (batch, 4, 4, 2) | 8 9 |
| the convolution's kernel | (3, 3, inputs, 3) | 7 8 9 along its last axis |
| the kernel of a `Dense` behind `Flatten` | (48, units) | 7 8 9 7 8 9 … along axis 0 |

Why arrays. The obvious alternative, a graph of layers with index maps on its edges,
needs a map for every way of moving data (flattening, concatenating, slicing,
shuffling), and maps that compose. Here a moving operation is carried out on the array
of labels itself. After a Flatten of a 4×4 map with channels 7, 8, 9 the vector has the
labels 7, 8, 9, 7, 8, 9, …; whoever reads the vector knows which of its rows belong to
channel 8, and no rule had to say so.

Why constants. A removed channel has to be replaced by what it carried when it was
masked. Behind a ReLU that is 0, and a sum over channels does not miss it. Behind a
sigmoid it is 0.5, which a dense layer multiplies by its weights: the product can be
added to that layer's bias, but a convolution with padding sees 0.5 inside and 0 at the
border, so that no bias is right everywhere. Therefore each tensor also carries the
value that a masked channel would have at each place. NaN says that it depends on the
input; the channel is then frozen where a layer with weights mixes it.

A tensor may have millions of entries, but labels hardly ever vary along more than one
axis. Such axes have size 1 in the arrays, which broadcasting makes up for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

__all__ = ["Abstract", "LabelTable", "Solution", "compress"]


@dataclass(frozen=True)
class Abstract:
    """What the engine knows of one tensor.

    Attributes:
        labels: int array of the tensor's rank. An axis along which the labels
            do not vary has size 1; the batch axis always does.
        constant: float array that broadcasts against `labels`: the value that
            a removed channel would carry at this place, NaN where it is not a
            constant. Without meaning where the label is 0.
        shape: the tensor's shape, `None` for unknown sizes.
    """

    labels: np.ndarray
    constant: np.ndarray
    shape: tuple[int | None, ...]

    @staticmethod
    def frozen(shape: tuple[int | None, ...]) -> Abstract:
        """A tensor without any removable channel."""
        ones = (1,) * len(shape)
        return Abstract(np.zeros(ones, np.int64), np.full(ones, np.nan), shape)

    @property
    def labeled(self) -> bool:
        """Whether any channel of the tensor carries a label."""
        return self.labels.size > 1 or bool(self.labels.any())

    def full(self) -> tuple[np.ndarray, np.ndarray]:
        """Labels and constants at full size; batch and unknown axes at 1."""
        # No label varies along the batch or along an axis of unknown size, so one
        # position stands for all of them. `broadcast_to` makes views: nothing is
        # copied.
        shape = tuple(
            1 if size is None or axis == 0 else size
            for axis, size in enumerate(self.shape)
        )
        return (
            np.broadcast_to(self.labels, shape),
            np.broadcast_to(self.constant, shape),
        )

    def move(
        self,
        function: Callable[[np.ndarray], np.ndarray],
        shape: tuple[int | None, ...],
    ) -> Abstract:
        """The tensor after `function`, which only moves data.

        Args:
            function: acts on the full-size array (batch axis 1).
            shape: shape of the result.
        """
        labels, constant = self.full()
        moved = np.asarray(function(labels))
        # One constant for all positions is the usual case (0 behind a ReLU). It moves
        # nowhere; only the number of its axes has to follow.
        if self.constant.size == 1:
            value = self.constant.reshape((1,) * moved.ndim)
            return Abstract(compress(moved), value, shape)
        return Abstract.compact(moved, np.asarray(function(constant)), shape)

    @staticmethod
    def compact(
        labels: np.ndarray, constant: np.ndarray, shape: tuple[int | None, ...]
    ) -> Abstract:
        """A tensor from arrays of full size.

        Along an axis on which the labels do not vary, differing constants count
        as unknown.
        """
        # Take relu(x) and sigmoid(x), joined along the height: a channel has one label
        # in all rows, but carries 0 in some and 0.5 in others. A layer that reads the
        # channel has one bias for all rows, and none is right for both. NaN says so.
        small = compress(labels)
        for axis, size in enumerate(small.shape):
            if size == 1 and constant.shape[axis] > 1:
                first = constant.take([0], axis)
                agree = np.isclose(constant, first, rtol=0, atol=0, equal_nan=True)
                constant = np.where(agree.all(axis, keepdims=True), first, np.nan)
        return Abstract(small, constant, shape)


def compress(labels: np.ndarray) -> np.ndarray:
    """Reduces every axis along which `labels` does not vary to size 1."""
    for axis in range(labels.ndim):
        if labels.shape[axis] > 1:
            first = labels.take([0], axis)
            if (labels == first).all():
                labels = first
    return np.ascontiguousarray(labels)


@dataclass(frozen=True)
class Solution:
    """Classes of labels after `LabelTable.solve`.

    Attributes:
        root: int array, label -> class. Class 0 is that of label 0.
        frozen: bool array over classes.
        reasons: class -> why it is frozen.
    """

    root: np.ndarray
    frozen: np.ndarray
    reasons: dict[int, str]


@dataclass
class LabelTable:
    """Creates labels and collects what is tied and what is frozen."""

    count: int = 1
    _left: list[np.ndarray] = field(default_factory=list)
    _right: list[np.ndarray] = field(default_factory=list)
    _frozen: list[tuple[np.ndarray, str]] = field(default_factory=list)

    def fresh(self, size: int) -> np.ndarray:
        """`size` new labels."""
        labels = np.arange(self.count, self.count + size, dtype=np.int64)
        self.count += size
        return labels

    def freeze(self, labels: np.ndarray, reason: str) -> None:
        """No edit may remove `labels`, because of `reason`."""
        labels = np.asarray(labels).ravel()
        if labels.any():
            self._frozen.append((labels[labels != 0], reason))

    def tie(self, left: np.ndarray, right: np.ndarray, reason: str) -> None:
        """Couples two label arrays position by position.

        A label that meets label 0 is frozen with `reason`: two channels must
        not become coupled because both meet something frozen.
        """
        if left is right:
            return
        left, right = np.broadcast_arrays(left, right)
        left, right = left.ravel(), right.ravel()
        differs = left != right
        left, right = left[differs], right[differs]
        if not left.size:
            return
        # Label 0 never enters the union-find. If it did, all channels that meet
        # something frozen anywhere in the model would become one class, and a group
        # would seem to be coupled to layers that it has nothing to do with. What meets
        # 0 is only noted as frozen, which says the same about it.
        both = (left != 0) & (right != 0)
        if both.any():
            self._left.append(left[both])
            self._right.append(right[both])
        if not both.all():
            self.freeze(np.where(left == 0, right, left)[~both], reason)

    def solve(self) -> Solution:
        """Connected components of everything tied so far."""
        if self._left:
            left = np.concatenate(self._left)
            right = np.concatenate(self._right)
        else:
            left = right = np.zeros(0, np.int64)
        # Labels are the nodes of a graph, ties its edges, and what may only leave
        # together is a connected component. Nothing is solved while the model is
        # walked: ties are collected as arrays and joined here at once, in time that
        # grows linearly with their number.
        graph = coo_array(
            (np.ones(left.size, np.int8), (left, right)),
            shape=(self.count, self.count),
        )
        number, root = connected_components(graph, directed=False)
        frozen = np.zeros(number, bool)
        reasons: dict[int, str] = {}
        frozen[root[0]] = True
        # One frozen member freezes its class. The first reason stays: it is the place
        # nearest to the inputs, which is the one to look at.
        for labels, reason in self._frozen:
            classes = root[labels]
            news = classes[~frozen[classes]]
            if news.size:
                frozen[news] = True
                reasons.update(dict.fromkeys(news.tolist(), reason))
        return Solution(root.astype(np.int64), frozen, reasons)
