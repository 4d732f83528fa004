"""Channel groups: what can be removed together, and what cannot, and why.

Three words, from small to large, in a residual stage where two convolutions of 64
filters each end in one addition:

* a **label** is one channel of one layer: 2 × 64 of them;
* a **class** is what can only leave together. Filter 5 of the first convolution and
  filter 5 of the second are one class, because the addition needs both operands to have
  the same channels: 64 classes;
* a **group** holds the classes that lie on the same axes of the same variables, here
  both kernels, both biases, the normalizations between, and the kernels of the layers
  that read the sum: one group of size 64.

A group has one score and one mask for each channel, and not one for each of its layers.
If filter 5 of the first convolution were zeroed alone, the sum would still carry filter
5 of the second, so nothing could be removed. `members` says where in which variable a
channel of the group lies; masks, scores, costs and cuts all go by it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import keras
import numpy as np

from tfcompress.structure._graph import edited
from tfcompress.structure._text import printable
from tfcompress.structure._trace import Axis, Trace
from tfcompress.structure._walk import trace

__all__ = [
    "ChannelGroup",
    "ChannelGroups",
    "Member",
    "channel_groups",
    "keep_masks",
    "zero_indices",
]


@dataclass(frozen=True, eq=False)
class Member:
    """One axis of one variable along which channels of a group lie.

    Attributes:
        layer: the layer that owns the variable.
        layer_name: its unique key, "outer/inner" where it is nested.
        variable: the variable.
        axis: its axis.
        channels: int array of the axis' length: the channel of the group at
            each position, -1 where another group's channel lies.
        role: "kernel" (the producer's filters), "bias", "scale", "offset",
            "mean", "variance", "recurrent", "channelwise" or "input".
        zero: whether these slices are zero when the channel is masked.
    """

    layer: keras.Layer
    layer_name: str
    variable: keras.Variable
    axis: int
    channels: np.ndarray
    role: str
    zero: bool


@dataclass(frozen=True, eq=False)
class ChannelGroup:
    """Channels that lie on the same axes of the same variables.

    Attributes:
        name: unique name: that of the first producer, with "#n" behind it where
            the group's channels are not simply that layer's output channels.
        classes: int array, the label class of each channel.
        prunable: whether channels of the group can be removed.
        reason: why not; empty if prunable.
    """

    name: str
    classes: np.ndarray
    prunable: bool
    reason: str
    _axes: tuple[Axis, ...]
    _trace: Trace
    _refused: str = ""  # the layer, where no variable carries the channels

    @property
    def size(self) -> int:
        """Number of channels."""
        return self.classes.size

    @cached_property
    def members(self) -> tuple[Member, ...]:
        """Every variable axis on which the group's channels lie."""
        # From class to number within the group, -1 for all other classes. A kernel
        # behind a Concatenate has channels of several groups on one axis.
        root = self._trace.solution.root
        index = np.full(root.max() + 1, -1)
        index[self.classes] = np.arange(self.size)
        return tuple(
            Member(
                axis.layer,
                self._trace.key(axis.layer),
                axis.variable,
                axis.axis,
                index[root[axis.labels]],
                axis.role,
                axis.zero,
            )
            for axis in self._axes
        )

    @property
    def producers(self) -> tuple[str, ...]:
        """Names of the layers that create these channels."""
        return (self._refused,) if self._refused else self._names({"kernel"})

    @property
    def consumers(self) -> tuple[str, ...]:
        """Names of the layers that mix these channels into others."""
        return self._names({"input"})

    def _names(self, roles: set[str]) -> tuple[str, ...]:
        return tuple(
            dict.fromkeys(
                self._trace.key(axis.layer) for axis in self._axes if axis.role in roles
            )
        )


class ChannelGroups(Sequence[ChannelGroup]):
    """All channel groups of a model, in order of execution.

    Iterable and indexable by position or name; `print` shows a table.

    Args:
        model: the `keras.Model`.
        analysis: the trace of its labels; `channel_groups(model)` makes both.
    """

    def __init__(self, model: keras.Model, analysis: Trace) -> None:
        self.model = model
        self.analysis = analysis
        found = [*_collect(analysis), *_refused(analysis)]
        first = {label: i for i, label in reversed(list(enumerate(_roots(analysis))))}
        self._groups = tuple(sorted(found, key=lambda group: first[group.classes[0]]))
        self._by_name = {group.name: group for group in self._groups}

    def __len__(self) -> int:
        return len(self._groups)

    def __iter__(self) -> Iterator[ChannelGroup]:
        return iter(self._groups)

    def __getitem__(self, key: int | str) -> ChannelGroup:  # type: ignore[override]
        if isinstance(key, str):
            if key not in self._by_name:
                close = difflib.get_close_matches(key, self._by_name, 3)
                raise KeyError(
                    f"Unknown group {key!r}. Known: {close or list(self._by_name)[:10]}"
                )
            return self._by_name[key]
        return self._groups[key]

    def of(self, layer: str) -> ChannelGroup:
        """The group that the output channels of a layer belong to.

        Args:
            layer: name of a layer ("outer/inner" where it is nested).

        Raises:
            ValueError: if the layer is unknown, or its output channels belong
                to no group or to several.
        """
        classes = np.unique(self.analysis.solution.root[self.labels(layer)])
        found = [g for g in self._groups if np.isin(classes, g.classes).any()]
        if len(found) == 1:
            return found[0]
        if not found:
            raise ValueError(
                "Invalid value for argument `layer`. Expected a layer whose output "
                f"has channels. Received: layer={layer!r}, whose output has no "
                "channels that lie on an axis of a variable."
            )
        raise ValueError(
            "Invalid value for argument `layer`. Expected a layer whose output "
            f"channels belong to one group. Received: layer={layer!r}, whose output "
            f"channels belong to {[g.name for g in found]}."
        )

    def labels(self, layer: str) -> np.ndarray:
        """Labels of the output channels of a layer.

        Raises:
            ValueError: if the name is unknown, or the output has no channels.
        """
        outputs = self.analysis.outputs
        key = resolve_name("layer", layer, {**self.analysis.layers, **outputs})
        if key not in outputs:
            raise ValueError(
                "Invalid value for argument `layer`. Expected a layer whose "
                f"output has channels. Received: layer={layer!r}"
            )
        return outputs[key]

    def named(self, argument: str, key: str) -> ChannelGroup | np.ndarray:
        """The group or the labels that a key of a dict stands for.

        Args:
            argument: what the caller's argument is called, for the message.
            key: name of a group or a layer; the last part of a nested name is
                enough where only one has it.

        Raises:
            ValueError: if the key is unknown or ambiguous.
        """
        if key in self._by_name:
            return self._by_name[key]
        outputs = self.analysis.outputs
        known = [*self._by_name, *outputs, *self.analysis.layers]
        name = resolve_name(argument, key, known)
        if name in outputs:
            return outputs[name]
        if name in self._by_name:
            return self._by_name[name]
        raise ValueError(
            f"Invalid value for argument `{argument}`. Expected names of layers whose "
            f"output has channels. Received: {key!r}"
        )

    def classes(self, selection: Mapping[str, Iterable[int]]) -> np.ndarray:
        """Bool array over label classes: those that `selection` names.

        Args:
            selection: layer name -> indices of its output channels, or group
                name -> indices of its channels.

        Raises:
            TypeError: if `selection` is not a dict of integers.
            ValueError: for unknown names, indices out of range, and channels
                that cannot be removed (with the reason).
        """
        if not isinstance(selection, Mapping):
            raise TypeError(
                "Invalid value for argument `channels`. Expected a dict of layer or "
                f"group name to channel indices. Received: {selection!r}"
            )
        solution = self.analysis.solution
        chosen = np.zeros(solution.frozen.size, bool)
        for key, indices in selection.items():
            found = self.named("channels", key)
            if isinstance(found, ChannelGroup):
                classes = found.classes
            else:
                classes = solution.root[found]
            index = np.asarray(
                list(indices) if not hasattr(indices, "shape") else indices
            )
            if index.dtype == bool or (index.size and index.dtype.kind not in "iu"):
                raise TypeError(
                    f"Invalid value for argument `channels`. Expected indices "
                    f"(integers) for {key!r}. Received: {indices!r}"
                )
            index = index.astype(np.int64).ravel()
            if index.size and (index.min() < 0 or index.max() >= classes.size):
                raise ValueError(
                    f"Invalid value for argument `channels`. Expected indices from 0 "
                    f"to {classes.size - 1} for {key!r}. Received: "
                    f"{index.min()} … {index.max()}"
                )
            picked = classes[index]
            stuck = picked[solution.frozen[picked]]
            if stuck.size:
                reason = solution.reasons.get(int(stuck[0]), "not a channel")
                raise ValueError(
                    f"Invalid value for argument `channels`. The channels of {key!r} "
                    f"cannot be removed: {reason}."
                )
            chosen[picked] = True
        return chosen

    def __str__(self) -> str:
        rows = [("group", "size", "producers", "consumers", "prunable")]
        for group in self._groups:
            rows.append(
                (
                    printable(group.name),
                    str(group.size),
                    printable(_brief(group.producers)),
                    printable(_brief(group.consumers)),
                    "yes" if group.prunable else printable(f"no: {group.reason}"),
                )
            )
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = [
            "  ".join(
                cell.rjust(width) if i == 1 else cell.ljust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=False))
            )
            + "  "
            + row[4]
            for row in rows
        ]
        lines.insert(1, "  ".join("-" * width for width in [*widths, 8]))
        return "\n".join(lines)

    def __repr__(self) -> str:
        count = sum(group.prunable for group in self._groups)
        return f"<ChannelGroups of {self.model.name!r}: {len(self)}, {count} prunable>"


def channel_groups(model: keras.Model, inexact: Sequence[str] = ()) -> ChannelGroups:
    """Finds the channels of a model that can be removed, and how they couple.

    Time grows linearly with the number of operations and channels; no forward
    pass is run.

    Example:

    >>> groups = tfc.structure.channel_groups(model)
    >>> print(groups)
    >>> groups.of("conv2d_3").size

    Args:
        model: a built Functional or Sequential model, or a
            `keras.distillation.Distiller`, for which its student stands. It is
            not modified.
        inexact: normalizations to prune through although their statistics
            change, `("layer_norm",)` or nothing. The result must be fine-tuned.
            Defaults to `()`.

    Returns:
        A `ChannelGroups`.

    Raises:
        TypeError: if `model` is not a Keras 3 model.
        ValueError: if `model` is not built, is subclassed and has no graph, or is
            of a class whose `call` is its own.
    """
    analysis = trace(model, inexact)
    return ChannelGroups(edited(model), analysis)


def keep_masks(
    groups: ChannelGroups, channels: Mapping[str, Iterable[int]]
) -> list[tuple[keras.Variable, np.ndarray]]:
    """Masks that zero some channels wherever a masked channel must be zero.

    Args:
        groups: from `channel_groups`.
        channels: layer or group name -> indices.

    Returns:
        Pairs of a variable and a float32 array of 0 and 1 that broadcasts
        against it. Variables without a removed channel are left out; a variable
        that is masked along two axes appears once.
    """
    return masks_of(groups, groups.classes(channels))


def masks_of(
    groups: ChannelGroups, removed: np.ndarray
) -> list[tuple[keras.Variable, np.ndarray]]:
    """`keep_masks` for a bool array over label classes."""
    root = groups.analysis.solution.root
    masks: dict[int, tuple[keras.Variable, np.ndarray]] = {}
    for axis in groups.analysis.axes.values():
        if not axis.zero:
            continue
        gone = removed[root[axis.labels]]
        if not gone.any():
            continue
        shape = [1] * len(axis.variable.shape)
        shape[axis.axis] = -1
        mask = (~gone).astype("float32").reshape(shape)
        # Masks along two axes of one variable become one: their product broadcasts to
        # zeros wherever either of the two is masked.
        known = masks.get(id(axis.variable))
        if known is not None:
            mask = mask * known[1]
        masks[id(axis.variable)] = (axis.variable, mask)
    return list(masks.values())


def zero_indices(groups: ChannelGroups) -> dict[str, np.ndarray]:
    """Channels of the prunable groups that the weights prove to be zero.

    A channel counts when every slice that a masked channel must have at zero
    (filters, biases, scale, offset, moving mean) is exactly zero.

    Returns:
        Group name -> sorted int array of channels; groups without any are left
        out.
    """
    solution = groups.analysis.solution
    zero = zero_classes(groups)
    result = {}
    for group in groups:
        indices = np.flatnonzero(zero[group.classes] & ~solution.frozen[group.classes])
        if indices.size:
            result[group.name] = indices
    return result


def zero_classes(groups: ChannelGroups) -> np.ndarray:
    """Bool array over label classes: proven to be zero, and not frozen."""
    solution = groups.analysis.solution
    # A channel that is zero in its filters is not yet a channel of zeros: a bias or the
    # offset of a normalization may make it a constant. So every slice that a mask would
    # zero (`axis.zero`) has to be zero here, wherever the channel's class occurs. And a
    # kernel must be among them: an offset of zero alone proves nothing.
    nonzero = np.zeros(solution.frozen.size, bool)
    made = np.zeros(solution.frozen.size, bool)
    for axis in groups.analysis.axes.values():
        if not axis.zero:
            continue
        value = keras.ops.convert_to_numpy(axis.variable)
        others = tuple(i for i in range(value.ndim) if i != axis.axis)
        classes = solution.root[axis.labels]
        nonzero[classes[(value != 0).any(axis=others)]] = True
        if axis.role == "kernel":
            made[classes] = True
    return made & ~nonzero & ~solution.frozen


def _collect(analysis: Trace) -> Iterator[ChannelGroup]:
    solution = analysis.solution
    root = solution.root
    axes = list(analysis.axes.values())
    classes_of = [np.unique(root[axis.labels[axis.labels != 0]]) for axis in axes]
    # Classes are single channels; people think in groups, such as all channels of a
    # residual stage. Two classes belong to one group if they occur on the same set of
    # variable axes. To compare sets quickly, each axis gets a random number of 62 bits,
    # and the sum of the numbers of its axes is a class' signature: equal sets have
    # equal sums, and two different sets have one by chance in 1 of about 10^18 cases.
    keys = np.random.default_rng(0).integers(1, 2**62, max(len(axes), 1), np.uint64)
    signature = np.zeros(solution.frozen.size, np.uint64)
    for key, classes in zip(keys, classes_of, strict=False):
        signature[classes] += key
    first = np.full(solution.frozen.size, root.size)
    np.minimum.at(first, root, np.arange(root.size))
    members: dict[tuple[int, str], list[int]] = {}
    present = np.flatnonzero(signature)
    for label_class in present[np.argsort(first[present])].tolist():
        if label_class == root[0]:
            continue
        # Frozen channels of one place with different reasons make several groups, so
        # that each row of the table has one reason.
        reason = solution.reasons.get(label_class, "")
        members.setdefault((int(signature[label_class]), reason), []).append(
            label_class
        )
    positions: dict[int, list[int]] = {}
    for position, classes in enumerate(classes_of):
        for value in np.unique(signature[classes]).tolist():
            positions.setdefault(value, []).append(position)
    taken: set[str] = set()
    whole = {
        key: root[labels] for key, labels in analysis.outputs.items() if labels.any()
    }
    for (value, reason), listed in members.items():
        classes = np.asarray(listed)
        own = tuple(axes[position] for position in positions[value])
        name = _name(analysis, own, classes, whole, taken)
        taken.add(name)
        yield ChannelGroup(name, classes, not reason, reason, own, analysis)


def _refused(analysis: Trace) -> Iterator[ChannelGroup]:
    """A row for each layer that cannot be pruned because of what it is."""
    root = analysis.solution.root
    bound = {id(axis.layer) for axis in analysis.axes.values()}
    for key, (labels, reason) in analysis.refused.items():
        if id(analysis.layers[key]) not in bound:
            yield ChannelGroup(key, root[labels], False, reason, (), analysis, key)


def _roots(analysis: Trace) -> list[int]:
    """The classes in the order in which their labels were created."""
    return analysis.solution.root.tolist()


def _name(
    analysis: Trace,
    axes: tuple[Axis, ...],
    classes: np.ndarray,
    whole: Mapping[str, np.ndarray],
    taken: set[str],
) -> str:
    # A group that is all output channels of its first producer has the producer's name.
    # Parts of them, as after a slice, are numbered.
    kernels = [axis for axis in axes if axis.role == "kernel"] or list(axes)
    layer = analysis.key(kernels[0].layer)
    if layer not in taken and np.array_equal(whole.get(layer, ()), classes):
        return layer
    stem = layer
    created = analysis.created.get((id(kernels[0].layer), "heads"))
    if created is not None and np.isin(classes, analysis.solution.root[created]).all():
        stem = name = f"{layer}/heads"
        if name not in taken:
            return name
    number = 1
    while f"{stem}#{number}" in taken:
        number += 1
    return f"{stem}#{number}"


def _brief(names: Sequence[str], limit: int = 3) -> str:
    shown = ", ".join(names[:limit])
    return shown + (f", +{len(names) - limit}" if len(names) > limit else "")


def resolve_name(argument: str, name: str, known: Iterable[str]) -> str:
    """The full name that `name` stands for.

    Args:
        argument: what the caller's argument is called, for the message.
        name: a name of `known`, or the last part ("c2" of "base/c2") of one.
        known: the names that exist.

    Raises:
        ValueError: if there is no such name, or several. The message lists names that
            exist.
    """
    known = list(dict.fromkeys(known))
    if name in known:
        return name
    ending = [key for key in known if key.endswith(f"/{name}")]
    if len(ending) == 1:
        return ending[0]
    start = f"Invalid value for argument `{argument}`. "
    if ending:
        raise ValueError(f"{start}{name!r} stands for several of the names {ending}.")
    close = difflib.get_close_matches(name, known, 3)
    short = {key.rsplit("/", 1)[-1]: key for key in reversed(known)}
    close = close or [short[key] for key in difflib.get_close_matches(name, short, 3)]
    hint = f"Did you mean {close}?" if close else f"Known: {known[:10]}"
    raise ValueError(f"{start}Unknown name {name!r}. {hint}")
