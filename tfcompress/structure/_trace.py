"""The vocabulary in which rules say what an operation does to channels.

A rule describes an operation by few verbs. `create` and `produce`: new channels come
from here. `bind`: this axis of this variable runs over those channels, so that it is
cut with them. `consume`: the operation mixes channels, by weights; a removed one must
be zero there, or a constant that folds into the bias. `tie` (of the label table): two
channels are combined one by one, and leave together. `freeze`: no statement can be
made, for this reason. An operation that only moves data says `Abstract.move`.

A Dense layer behind a convolution, for example, consumes the labels of its input along
axis 0 of the kernel, creates labels for its units, and binds them to axis 1 of the
kernel and to the bias. Nothing else has to know what a Dense layer is: masking,
cutting, scoring and counting all read the table of axes that results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from tfcompress.structure._facts import facts, is_elementwise
from tfcompress.structure._labels import Abstract, LabelTable, Solution

__all__ = ["Axis", "Fold", "Trace"]


@dataclass(frozen=True)
class Axis:
    """One labeled axis of one variable.

    Attributes:
        layer: owner of the variable (a leaf of a composite layer counts as
            the composite).
        variable: the variable.
        axis: its axis.
        labels: int array of the axis' length.
        role: "kernel", "bias", "scale", "offset", "mean", "variance",
            "recurrent", "channelwise" or "input".
        zero: whether masking a channel zeroes this slice.
    """

    layer: keras.Layer
    variable: keras.Variable
    axis: int
    labels: np.ndarray
    role: str
    zero: bool


@dataclass(frozen=True)
class Fold:
    """The constants that removed inputs of a layer carry, which go into its bias."""

    labels: np.ndarray
    constant: np.ndarray


@dataclass
class Trace:
    """Labels of a whole model, as `tfcompress.structure._walk.trace` leaves them.

    Attributes:
        table: the label table.
        axes: (id of variable, axis) -> `Axis`.
        tensors: id of `KerasTensor` -> `Abstract`.
        layers: layer key -> layer, in order of execution.
        outputs: layer key -> labels of its output channels.
        folds: id of layer -> `Fold`.
        inexact: normalizations that may be pruned through.
        solution: classes of the labels.
        keys: id of layer -> layer key.
        sources: id of `KerasTensor` -> key of the operation that it comes from.
        created: (id of layer, tag) -> labels that the layer created.
        refused: layer key -> labels of the channels of a layer that cannot be
            pruned because of what it is, and why.
        refusal: why a rule froze its inputs last.
    """

    inexact: frozenset[str] = frozenset()
    table: LabelTable = field(default_factory=LabelTable)
    axes: dict[tuple[int, int], Axis] = field(default_factory=dict)
    tensors: dict[int, Abstract] = field(default_factory=dict)
    layers: dict[str, keras.Layer] = field(default_factory=dict)
    outputs: dict[str, np.ndarray] = field(default_factory=dict)
    folds: dict[int, Fold] = field(default_factory=dict)
    solution: Solution = field(init=False)
    keys: dict[int, str] = field(default_factory=dict)
    sources: dict[int, str] = field(default_factory=dict)
    created: dict[tuple[int, str], np.ndarray] = field(default_factory=dict)
    refused: dict[str, tuple[np.ndarray, str]] = field(default_factory=dict)
    refusal: str = ""

    def key(self, layer: keras.Operation) -> str:
        """The unique key of `layer`: its name, or "outer/inner" if nested."""
        return self.keys.get(id(layer), layer.name)

    def create(self, layer: keras.Layer, size: int, tag: str = "out") -> np.ndarray:
        """Labels for `size` channels that `layer` produces.

        A shared layer gets the same labels at every call.
        """
        labels = self.created.get((id(layer), tag))
        if labels is None:
            labels = self.table.fresh(size)
            if size == 1:
                self.table.freeze(labels, "a single channel cannot be removed")
            self.created[id(layer), tag] = labels
        return labels

    def refuse(self, layer: keras.Layer, size: int, reason: str) -> None:
        """Notes the channels of a layer that cannot be pruned, and why."""
        key = self.key(layer)
        if key not in self.refused:
            labels = self.table.fresh(size)
            self.table.freeze(labels, reason)
            self.refused[key] = (labels, reason)
            self.outputs.setdefault(key, labels)

    def bind(
        self,
        layer: keras.Layer,
        variable: keras.Variable | None,
        axis: int,
        labels: np.ndarray,
        role: str,
        zero: bool = False,
    ) -> None:
        """Says that `axis` of `variable` carries `labels`."""
        if variable is None:
            return
        axis %= len(variable.shape)
        labels = np.broadcast_to(labels, (variable.shape[axis],))
        known = self.axes.get((id(variable), axis))
        # A shared layer binds its variables at every call. There is one array to cut,
        # so that position i of one call and position i of the other leave together.
        if known is None:
            self.axes[id(variable), axis] = Axis(
                layer, variable, axis, labels, role, zero
            )
        else:
            self.table.tie(
                known.labels,
                labels,
                f"shared layer {self.key(layer)!r} also reads frozen channels",
            )

    def vector(
        self, tensor: Abstract, axis: int, reader: str
    ) -> tuple[np.ndarray, np.ndarray]:
        """Labels and constants along `axis`; the other axes must agree.

        Channels that vary along another axis as well are coupled over it;
        channels that lie on another axis only are frozen.
        """
        axis %= len(tensor.shape)
        labels = np.moveaxis(tensor.labels, axis, -1)
        size = tensor.shape[axis] or 1
        # The reader sums over an axis that has no channels on it, such as a Dense layer
        # behind a Permute that has put the positions last. What channels there are lie
        # on other axes, of which no variable of the reader could be cut.
        if labels.shape[-1] == 1:
            self.table.freeze(
                labels, f"channels lie on an axis over which {reader} computes"
            )
            return np.zeros(size, np.int64), np.full(size, np.nan)
        # One variable axis serves all positions, so that a channel has to mean the same
        # at each of them. Where labels differ along another axis, as after a reshape
        # that has spread one axis over two, every row is tied to the first one: what
        # leaves in one row leaves in all.
        rows = labels.reshape(-1, labels.shape[-1])
        if len(rows) > 1:
            self.table.tie(
                rows[1:], rows[:1], f"{reader} reads them with frozen channels"
            )
        constant = np.broadcast_to(
            np.moveaxis(tensor.constant, axis, -1), labels.shape
        ).reshape(-1, labels.shape[-1])
        first = constant[0]
        # Rows whose constants differ have no common one (NaN differs from itself).
        if len(rows) > 1 and not (constant == first).all():
            first = np.where((constant == first).all(0), first, np.nan)
        return rows[0], first

    def consume(
        self,
        layer: keras.Layer,
        variable: keras.Variable,
        axis: int,
        labels: np.ndarray,
        constant: np.ndarray,
        foldable: bool = False,
    ) -> None:
        """`layer` mixes channels: removed ones must be zero, or foldable."""
        self.bind(layer, variable, axis, labels, "input")
        self.require_zero(layer, labels, constant, foldable)

    def require_zero(
        self,
        layer: keras.Layer,
        labels: np.ndarray,
        constant: np.ndarray,
        foldable: bool = False,
    ) -> None:
        """Freezes the channels that would not carry zero into `layer`."""
        # A removed channel leaves a constant behind where it is read: 0 after a ReLU,
        # 0.5 after a sigmoid. The sum over channels that `layer` computes loses
        # w · constant with it. There are three cases. The constant is 0: nothing is
        # lost. It is another known number: the loss is the same for every sample and
        # every position, and can be added to the bias once and for all, if the layer
        # sees it everywhere (not where padding puts zeros in its place). It is unknown
        # (NaN): the channel has to stay.
        labels, constant = np.broadcast_arrays(labels, constant)
        nonzero = (labels != 0) & (constant != 0)
        unknown = nonzero & np.isnan(constant)
        self.table.freeze(
            labels[unknown],
            f"would not be constant where {self.key(layer)!r} reads it",
        )
        values = np.where(nonzero & ~unknown, constant, 0.0)
        if not foldable:
            self.table.freeze(
                labels[values != 0],
                "would carry a non-zero constant that cannot be folded into "
                f"{self.key(layer)!r}",
            )
            return
        # A layer that is called twice has one bias for both calls: the constants must
        # agree, or there is no bias that is right for both. So zeros are noted, too.
        known = self.folds.setdefault(id(layer), Fold(labels, values))
        self.table.freeze(
            labels[known.constant != values],
            f"carries different constants at the calls of {self.key(layer)!r}",
        )

    def layout(
        self,
        labels: np.ndarray,
        constant: np.ndarray,
        axis: int,
        shape: tuple[int | None, ...],
    ) -> Abstract:
        """A tensor whose channels lie on `axis` and do not vary elsewhere."""
        axis %= len(shape)
        dims = tuple(-1 if i == axis else 1 for i in range(len(shape)))
        return Abstract(labels.reshape(dims), constant.reshape(dims), shape)

    def produce(
        self,
        layer: keras.Layer,
        labels: np.ndarray,
        axis: int,
        shape: tuple[int | None, ...],
        activation: Any = None,
    ) -> Abstract:
        """The output of a layer that creates channels, after its activation."""
        self.outputs.setdefault(self.key(layer), labels)
        out = self.layout(labels, np.zeros(1), axis, shape)
        if activation is None:
            return out
        return self.activate(activation, out, self.key(layer))

    def activate(self, function: Any, tensor: Abstract, name: str) -> Abstract:
        """`tensor` after an activation function, freezing it if that mixes."""
        if not tensor.labeled:
            return tensor
        if not is_elementwise(function):
            label = getattr(function, "__name__", type(function).__name__)
            self.table.freeze(
                tensor.labels, f"activation {label!r} of {name!r} mixes channels"
            )
            return Abstract.frozen(tensor.shape)
        if not tensor.constant.any() and facts(function).zero:
            return tensor

        def run(x: np.ndarray) -> np.ndarray:
            try:
                result = function(keras.ops.convert_to_tensor(x, "float64"))
            except Exception:  # whatever a backend raises where types are mixed
                # The function holds a tensor of its own, most often of float32.
                result = function(keras.ops.convert_to_tensor(x, "float32"))
            return keras.ops.convert_to_numpy(result)

        return self.map(tensor, run)

    def map(
        self, tensor: Abstract, function: Callable[[np.ndarray], np.ndarray]
    ) -> Abstract:
        """`tensor` after an elementwise function that acts on constants."""
        # A tensor has few different constants, most often one: the function runs on
        # these. What is unknown stays unknown. So is what is not finite, such as 1/0:
        # inf · w has no place in a bias.
        values, inverse = np.unique(tensor.constant, return_inverse=True)
        known = ~np.isnan(values)
        mapped = np.full(values.shape, np.nan)
        if known.any():
            mapped[known] = np.asarray(function(values[known]), "float64")
        mapped[~np.isfinite(mapped)] = np.nan
        constant = mapped[inverse].reshape(tensor.constant.shape)
        return Abstract(tensor.labels, constant, tensor.shape)

    def freeze(
        self, tensors: Sequence[Abstract], reason: str, outputs: Sequence[Any]
    ) -> list[Abstract]:
        """Freezes all channels of `tensors`; returns unlabeled outputs."""
        self.refusal = reason
        for tensor in tensors:
            self.table.freeze(tensor.labels, reason)
        return [Abstract.frozen(tuple(out.shape)) for out in outputs]

    def named_tensors(self) -> Iterator[tuple[str, Abstract]]:
        """The labeled tensors, with the name of the operation they come from."""
        for key, tensor in self.tensors.items():
            if tensor.labeled:
                yield self.sources[key], tensor
