"""The edits: every one returns a new model and leaves the original untouched.

All take the same way. `trace` labels the channels of the model. The edit chooses
classes of channels, layers or tensors. `Rebuild` makes the copy. Where copy and
original are to compute the same, `verify` compares them. `carry_compile` gives the copy
the compile state and the optimizer's slots.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfcompress._checks import whole
from tfcompress.structure import _graph
from tfcompress.structure._carry import carry_compile
from tfcompress.structure._fold import foldings
from tfcompress.structure._groups import (
    ChannelGroup,
    ChannelGroups,
    channel_groups,
    masks_of,
    resolve_name,
    zero_classes,
)
from tfcompress.structure._rebuild import Edit, Rebuild
from tfcompress.structure._trace import Trace
from tfcompress.structure._verify import verify as check
from tfcompress.structure._walk import trace

__all__ = [
    "Shrunk",
    "bypass",
    "fold_batch_norm",
    "insert_after",
    "remove_channels",
    "resize",
    "rewire",
    "shrink",
    "shrink_recorded",
    "wrap",
    "zero_channels",
]

Channels = Mapping[str, Iterable[int]]


def zero_channels(
    model: keras.Model,
    channels: Channels,
    *,
    inexact: Sequence[str] = (),
    carry_optimizer: bool = True,
) -> keras.Model:
    """A copy of `model`, same shape, in which some channels are exactly zero.

    The filters and biases that make a channel are zeroed, and the scale, offset
    and moving mean of every normalization on its path; zeroing the filters alone
    would leave the constant that the normalization adds.

    Args:
        model: a built Functional or Sequential model. It is not modified.
        channels: layer name -> indices of its output channels, or group name ->
            indices of its channels. Coupled channels go along.
        inexact: see `channel_groups`. Defaults to `()`.
        carry_optimizer: whether optimizer slots are copied. Defaults to True.

    Returns:
        A new model with the same names, dtypes and compile state.

    Raises:
        ValueError: for unknown names, indices out of range and channels that
            cannot be removed.
    """
    groups = channel_groups(model, inexact)
    model = groups.model
    removed = groups.classes(channels)
    rebuild = Rebuild(model, groups.analysis)
    _assign(rebuild, masks_of(groups, removed))
    carry_compile(model, rebuild, carry_optimizer)
    return rebuild.model


def remove_channels(
    model: keras.Model,
    channels: Channels,
    *,
    multiple_of: int = 1,
    inexact: Sequence[str] = (),
    verify: bool = True,
    carry_optimizer: bool = True,
) -> keras.Model:
    """A smaller copy of `model`, without some channels.

    It computes what `zero_channels(model, channels)` computes, up to rounding.

    Example:

    >>> small = tfc.structure.remove_channels(model, {"conv2d_3": [0, 5, 6]})

    Args:
        model: a built Functional or Sequential model. It is not modified.
        channels: as in `zero_channels`.
        multiple_of: the kept channels of a group are rounded up to a multiple
            of this; the ones kept for it are zero. Defaults to 1.
        inexact: see `channel_groups`. Defaults to `()`.
        verify: whether to compare masked and smaller model on random input.
            Defaults to True.
        carry_optimizer: whether optimizer slots are sliced and carried over, so
            that training goes on. Defaults to True.

    Returns:
        A new model with the same names, types, dtypes, trainable flags and
        compile state.

    Raises:
        ValueError: as `zero_channels`, and where no channel would be left.
        VerificationError: if masked and smaller model disagree.
    """
    multiple_of = whole("multiple_of", multiple_of)
    groups = channel_groups(model, inexact)
    model = groups.model
    masked = groups.classes(channels)
    emptied = _emptied(groups, masked)
    if emptied:
        raise ValueError(
            "Invalid value for argument `channels`. Expected at least one channel to "
            f"stay in every layer. Received: all channels of {emptied}. To drop a "
            "residual branch, use `bypass`."
        )
    removed = _round(groups, masked, multiple_of)
    return _cut(model, groups, masked, removed, verify, carry_optimizer).model


def shrink(
    model: keras.Model,
    *,
    multiple_of: int = 1,
    verify: bool = True,
    carry_optimizer: bool = True,
) -> keras.Model:
    """A copy of `model` without any channel that is provably zero.

    Needs no masks: a channel goes when its filters, biases and normalization
    parameters are exactly zero, whatever set them to zero. Residual branches that
    add nothing but zeros go as a whole; elsewhere one channel always stays.

    Example:

    >>> small = tfc.structure.shrink(model)

    Args:
        model: a built Functional or Sequential model. It is not modified.
        multiple_of: the kept channels of a group are rounded up to a multiple
            of this. Defaults to 1.
        verify: whether to compare both models on random input. Defaults to
            True.
        carry_optimizer: whether optimizer slots are sliced and carried over.
            Defaults to True.

    Returns:
        A new model that computes the same.

    Raises:
        TypeError, ValueError: for what is not a built Keras 3 graph.
        VerificationError: if the two models disagree.
    """
    return shrink_recorded(
        model,
        multiple_of=multiple_of,
        verify=verify,
        carry_optimizer=carry_optimizer,
    ).model


@dataclass(frozen=True)
class Shrunk:
    """A smaller model, with the record of how it was made.

    What a method keeps beside a model (masks, duals, sums over channels, the
    values that it holds) goes over to the smaller model by this record.

    Attributes:
        model: the smaller model.
        steps: the rebuilds that led to it, one after another: one for each branch
            that was dropped, and one for the channels.
    """

    model: keras.Model
    steps: tuple[Rebuild, ...]

    def layer(self, old: keras.Layer) -> keras.Layer | None:
        """The layer of the new model that a layer of the old one became.

        Args:
            old: a layer of the old model, inside of nested models too; not a
                nested model itself.

        Returns:
            A layer, or None where it went with a branch.
        """
        layer: keras.Layer | None = old
        for step in self.steps:
            layer = step.layers.get(id(layer), (None, None))[1]
        return layer

    def variable(self, old: keras.Variable) -> keras.Variable | None:
        """The variable of the new model that a variable of the old one became.

        Args:
            old: a variable of a layer of the old model.

        Returns:
            A variable, or None where its layer went with a branch.
        """
        variable: keras.Variable | None = old
        for step in self.steps:
            variable = step.variables.get(id(variable), (None, None))[1]
        return variable

    def cut(self, old: keras.Variable, array: Any) -> np.ndarray:
        """The part of an array that belongs to the channels that stayed.

        Args:
            old: a variable of a layer of the old model.
            array: one value for each of its values. An axis of length 1 stands
                for all positions and stays.

        Returns:
            An array of the shape of `variable(old)`, but for such axes.

        Raises:
            ValueError: if `array` does not have the shape of `old`, or the
                variable is not in the new model.
        """
        array = np.asarray(array)
        shape = tuple(old.shape)
        fits = array.ndim == len(shape) and all(
            n in (1, size) for n, size in zip(array.shape, shape, strict=True)
        )
        if not fits:
            raise ValueError(
                f"Invalid value for argument `array`. Expected an array of shape "
                f"{shape}, or 1 on some axes. Received: an array of shape {array.shape}"
            )
        for axis, size in enumerate(array.shape):
            if size > 1:
                array = array.take(self.positions(old, axis), axis)
        return array

    def positions(self, old: keras.Variable, axis: int) -> np.ndarray:
        """The positions on an axis of a variable that stayed.

        Args:
            old: a variable of a layer of the old model.
            axis: one of its axes.

        Returns:
            A sorted int array.

        Raises:
            ValueError: if the variable is not in the new model.
        """
        # Each step counts positions in what the step before has left. If the first
        # keeps 0 2 3 of 0 1 2 3 4 and the second keeps 1 2 of these three, 2 3 have
        # stayed.
        axis %= len(old.shape)
        positions = np.arange(old.shape[axis])
        variable = old
        for step in self.steps:
            if id(variable) not in step.variables:
                raise ValueError(f"Variable {old.path!r} is not in the new model.")
            keep = step.kept(variable, axis)
            if keep is not None:
                positions = positions[keep]
            variable = step.variables[id(variable)][1]
        return positions

    def channels(self, group: ChannelGroup) -> np.ndarray:
        """The channels of a group of the old model that stayed.

        Args:
            group: one of `channel_groups` of the old model.

        Returns:
            A sorted int array, empty where all its layers went.
        """
        for member in group.members:
            if self.variable(member.variable) is not None:
                places = self.positions(member.variable, member.axis)
                found = np.unique(member.channels[places])
                return found[found >= 0]
        return np.zeros(0, np.int64)


def shrink_recorded(
    model: keras.Model,
    multiple_of: int = 1,
    *,
    verify: bool = True,
    carry_optimizer: bool = True,
) -> Shrunk:
    """`shrink`, with the record of how the smaller model was made.

    Args:
        model: as in `shrink`.
        multiple_of: as in `shrink`. Defaults to 1.
        verify: as in `shrink`. Defaults to True.
        carry_optimizer: as in `shrink`. Defaults to True.

    Returns:
        A `Shrunk`.

    Raises:
        TypeError, ValueError, VerificationError: as `shrink`.
    """
    multiple_of = whole("multiple_of", multiple_of)
    groups = channel_groups(model)
    model = groups.model
    steps: list[Rebuild] = []
    # Branches first. The channels of a branch's last layer are those of the residual
    # stream. They cannot be removed while another layer fills the stream, although they
    # add nothing but zeros. The branch as a whole can.
    for name in _dead_branches(groups):
        try:
            # Compared with the model as it is: the branch must really be zero.
            steps.append(_drop(model, [name], (), verify, carry_optimizer))
        except ValueError:
            continue  # no skip connection around it: channel by channel, below
        model = steps[-1].model
    # Classes and variables belong to one model object: the copy is analyzed anew.
    if steps:
        groups = channel_groups(model)
    removed = zero_classes(groups)
    _spare(groups, removed)
    removed = _round(groups, removed, multiple_of)
    steps.append(_cut(model, groups, removed, removed, verify, carry_optimizer))
    return Shrunk(steps[-1].model, tuple(steps))


def resize(
    model: keras.Model,
    widths: Mapping[str, int],
    *,
    weights: str = "inherit",
    seed: int | None = None,
    verify: bool = True,
    carry_optimizer: bool = True,
) -> keras.Model:
    """A copy of `model` with other layer widths.

    Args:
        model: a built Functional or Sequential model. It is not modified.
        widths: layer or group name -> number of channels, from 1 to the present
            number.
        weights: "inherit" keeps the channels with the largest L1 norm of their
            filters, with their weights; "random" initializes the whole model
            anew, except what layers adapted to data. Defaults to "inherit".
        seed: makes "random" reproducible. Defaults to None.
        verify: as in `remove_channels`, for "inherit". Defaults to True.
        carry_optimizer: whether "inherit" carries the optimizer's slots over, so
            that training goes on; otherwise it starts anew. Defaults to True.

    Returns:
        A new model.

    Raises:
        TypeError: if a width is not an integer.
        ValueError: for unknown names, widths out of range, layers that cannot
            be resized (with the reason), and coupled layers with two widths.
    """
    if weights not in ("inherit", "random"):
        raise ValueError(
            'Invalid value for argument `weights`. Expected "inherit" or "random". '
            f"Received: weights={weights!r}"
        )
    groups = channel_groups(model)
    model = groups.model
    removed = _narrow(groups, widths)
    if weights == "inherit":
        return _cut(model, groups, removed, removed, verify, carry_optimizer).model
    state = random.getstate()
    try:
        # Keras draws the seeds of unseeded initializers from this generator.
        if seed is not None:
            random.seed(seed)
        rebuild = Rebuild(model, groups.analysis, removed, inherit=False)
    finally:
        random.setstate(state)
    carry_compile(model, rebuild, slots=False)
    return rebuild.model


def wrap(
    model: keras.Model,
    layers: Mapping[str, Callable[[keras.Layer], keras.Layer]],
    *,
    carry_optimizer: bool = True,
) -> keras.Model:
    """A copy of `model` in which some layers are replaced.

    Example:

    >>> tfc.structure.wrap(model, {"conv1": tfc.layers.MaskedKernel})

    Args:
        model: a built Functional or Sequential model. It is not modified.
        layers: layer name -> function that takes the layer's copy, built and
            with its weights, and returns the layer to call in its place. The
            result takes over the layer's name.
        carry_optimizer: whether optimizer slots are carried over to the
            variables of the copies. Defaults to True.

    Returns:
        A new model.

    Raises:
        ValueError: for unknown layers.
        TypeError: if a function does not return a layer.
    """
    model = _graph.edited(model)
    analysis = trace(model)
    chosen = {id(_find(analysis, name)): fn for name, fn in layers.items()}
    rebuild = Rebuild(model, analysis, wrap=chosen)
    carry_compile(model, rebuild, carry_optimizer)
    return rebuild.model


def insert_after(
    model: keras.Model,
    layers: Mapping[str, keras.Layer],
    *,
    carry_optimizer: bool = True,
) -> keras.Model:
    """A copy of `model` with new layers behind some layers.

    Args:
        model: a built Functional or Sequential model. It is not modified.
        layers: layer name -> layer to call on its output, wherever that output
            is read.
        carry_optimizer: as in `wrap`. Defaults to True.

    Returns:
        A new model.

    Raises:
        ValueError: for unknown layers.
        TypeError: for values that are not layers.
    """
    for name, layer in layers.items():
        if not isinstance(layer, keras.Layer):
            raise TypeError(
                "Invalid value for argument `layers`. Expected keras.layers.Layer "
                f"objects as values. Received: {layer!r} for {name!r}"
            )
    model = _graph.edited(model)
    analysis = trace(model)
    chosen = {id(_find(analysis, name)): layer for name, layer in layers.items()}
    rebuild = Rebuild(model, analysis, insert=chosen)
    carry_compile(model, rebuild, carry_optimizer)
    return rebuild.model


def rewire(
    model: keras.Model,
    edits: Sequence[Edit],
    *,
    carry_optimizer: bool = True,
) -> keras.Model:
    """A copy of `model` in which some tensors are replaced by others.

    Operations that nothing reads any more are dropped.

    Example:

    ```python
    add = model.get_layer("add")
    skip, branch = add.input
    half = tfc.structure.Edit(branch, (branch,), keras.layers.Rescaling(0.5))
    halved = tfc.structure.rewire(model, [half])
    ```

    Args:
        model: a built Functional or Sequential model. It is not modified. A
            Sequential model, or one inside, becomes a Functional where it is
            edited.
        edits: what to replace, by what, and who reads it.
        carry_optimizer: as in `wrap`. Defaults to True.

    Returns:
        A new model.

    Raises:
        ValueError: if an edit names a tensor that is not one of the model's, two
            edits replace the same tensor for the same reader, or a Functional copy
            would not have the `train_step` that the class of a Sequential one defines.
    """
    model = _graph.edited(model)
    analysis = trace(model)
    for edit in edits:
        for tensor in (edit.tensor, *edit.reads):
            if id(tensor) not in analysis.tensors:
                raise ValueError(
                    "Invalid value for argument `edits`. Expected symbolic tensors of "
                    f"{model.name!r}. Received: {tensor!r}"
                )
    places = {(id(edit.reader), id(edit.tensor)) for edit in edits}
    if len(places) < len(edits):
        raise ValueError(
            "Invalid value for argument `edits`. Expected one edit for each tensor "
            f"and reader. Received: {list(edits)}"
        )
    rebuild = Rebuild(model, analysis, edits=edits)
    carry_compile(model, rebuild, carry_optimizer)
    return rebuild.model


def bypass(
    model: keras.Model,
    layers: Sequence[str],
    *,
    verify: bool = True,
    carry_optimizer: bool = True,
) -> keras.Model:
    """A copy of `model` without some residual branches.

    The output of each named layer counts as zero; zeros vanish at additions, and
    everything that nothing reads any more is dropped.

    Args:
        model: a built Functional or Sequential model. It is not modified.
        layers: names of the last layers of the branches ("outer/inner" inside
            nested models).
        verify: whether to compare with the original on random input, with those
            outputs at zero. Defaults to True.
        carry_optimizer: whether optimizer slots of the remaining variables are
            carried over. Defaults to True.

    Returns:
        A new model.

    Raises:
        TypeError: if `layers` is a string.
        ValueError: for unknown layers, and where zero does not simplify: it
            names the operation.
        VerificationError: if the two models disagree.
    """
    if isinstance(layers, str):
        raise TypeError(
            "Invalid value for argument `layers`. Expected a list of layer names. "
            f"Received: layers={layers!r}"
        )
    return _drop(model, layers, layers, verify, carry_optimizer).model


def fold_batch_norm(
    model: keras.Model,
    *,
    verify: bool = True,
    carry_optimizer: bool = True,
) -> keras.Model:
    """A copy of `model` whose batch normalizations are part of the layers before.

    A normalization goes into the kernel and the bias of a convolution (plain,
    transposed, depthwise, separable), a `Dense` or an `EinsumDense` layer, which
    gets a bias if it has none: with f = gamma / sqrt(variance + epsilon), the
    kernel becomes f · kernel and the bias f · (bias - mean) + beta. At inference
    the result computes what `model` computes, up to rounding. In training it does
    not, because nothing is normalized anymore.

    A normalization stays where it is if the layer before it has an activation
    function, an activity regularizer or another reader, is quantized, of another
    dtype, or a wrapper; if either of the two is used several times; if it
    normalizes another axis than that of the channels, or always with the
    statistics of the batch; or if it makes one of several outputs of the model.

    Example:

    >>> folded = tfc.structure.fold_batch_norm(tfc.zoo.resnet20())

    Args:
        model: a built Functional or Sequential model. It is not modified.
        verify: whether to compare both models on random input. Defaults to
            True.
        carry_optimizer: as in `wrap`; the slots of the folded layers start anew.
            Defaults to True.

    Returns:
        A new model. The layers keep their names, dtypes and trainable flags, the
        model its compile state.

    Raises:
        TypeError, ValueError: for what is not a built Keras 3 graph.
        VerificationError: if the two models disagree.
    """
    model = _graph.edited(model)
    analysis = trace(model)
    rebuild = Rebuild(model, analysis, fold=foldings(model))
    if verify:
        check(model, rebuild)
    carry_compile(model, rebuild, carry_optimizer)
    return rebuild.model


# Helpers --------------------------------------------------------------------


def _cut(
    model: keras.Model,
    groups: ChannelGroups,
    masked: np.ndarray,
    removed: np.ndarray,
    verify: bool,
    carry_optimizer: bool,
) -> Rebuild:
    """Removes the classes of `removed`, and zeroes those of `masked`."""
    # What is masked may be more than what is removed: `multiple_of` keeps some channels
    # to reach a round width. These are zeroed in the copy, so that it still computes
    # what the masked original does. The check compares with exactly that original, and
    # the optimizer's slots are cut by the same labels as the weights.
    rebuild = Rebuild(model, groups.analysis, removed)
    masks = masks_of(groups, masked)
    if (masked != removed).any():
        _assign(rebuild, masks)
    if verify:
        check(model, rebuild, masks)
    carry_compile(model, rebuild, carry_optimizer)
    return rebuild


def _drop(
    model: keras.Model,
    layers: Sequence[str],
    silenced: Sequence[str],
    verify: bool,
    carry_optimizer: bool,
) -> Rebuild:
    """Drops branches; the result is checked against a model with `silenced` at zero."""
    model = _graph.edited(model)
    analysis = trace(model)
    absent = [id(_find(analysis, name)) for name in layers]
    rebuild = Rebuild(model, analysis, absent=absent)
    if verify:
        check(model, rebuild, absent=[id(_find(analysis, name)) for name in silenced])
    carry_compile(model, rebuild, carry_optimizer)
    return rebuild


def _assign(
    rebuild: Rebuild, masks: Sequence[tuple[keras.Variable, np.ndarray]]
) -> None:
    for variable, mask in masks:
        # The copy's own value: its bias may have taken in the constants of inputs.
        target = rebuild.variables[id(variable)][1]
        value = keras.ops.convert_to_numpy(target)
        keep = rebuild.cut(variable, np.broadcast_to(mask, tuple(variable.shape)))
        # NaN * 0 is NaN.
        target.assign(np.where(keep, value, np.zeros((), value.dtype)))


def _find(analysis: Trace, name: str) -> keras.Layer:
    return analysis.layers[resolve_name("layers", name, analysis.layers)]


def _emptied(groups: ChannelGroups, removed: np.ndarray) -> list[str]:
    """Layers that would lose every channel of a variable or an output."""
    root = groups.analysis.solution.root
    return sorted(
        {name for name, labels in _extents(groups) if removed[root[labels]].all()}
    )


def _spare(groups: ChannelGroups, removed: np.ndarray) -> None:
    """Keeps one channel where all would go."""
    root = groups.analysis.solution.root
    # Keras has no layers without channels. One channel of zeros stays instead: it
    # computes nothing, and what reads it adds nothing.
    for _, labels in _extents(groups):
        classes = root[labels].ravel()
        if removed[classes].all():
            removed[classes[0]] = False


def _extents(groups: ChannelGroups) -> Iterator[tuple[str, np.ndarray]]:
    """Everything that must keep a channel: variable axes and tensors."""
    analysis = groups.analysis
    for axis in analysis.axes.values():
        yield analysis.key(axis.layer), axis.labels
    for name, tensor in analysis.named_tensors():
        yield name, tensor.labels


def _round(groups: ChannelGroups, removed: np.ndarray, multiple_of: int) -> np.ndarray:
    """`removed`, with the kept channels of each group rounded up."""
    removed = removed.copy()
    if multiple_of == 1:
        return removed
    # If 13 of 40 channels stay and `multiple_of` is 8, three of the 27 others stay as
    # well. They are zero already, or `_cut` makes them zero.
    for group in groups:
        gone = np.flatnonzero(removed[group.classes])
        spare = min(gone.size, -(group.size - gone.size) % multiple_of)
        removed[group.classes[gone[:spare]]] = False
    return removed


def _narrow(groups: ChannelGroups, widths: Mapping[str, int]) -> np.ndarray:
    solution = groups.analysis.solution
    removed = np.zeros(solution.frozen.size, bool)
    asked: dict[str, tuple[str, int]] = {}
    for key, width in widths.items():
        found = groups.named("widths", key)
        group = found if isinstance(found, ChannelGroup) else groups.of(key)
        if isinstance(width, bool) or not isinstance(width, int | np.integer):
            raise TypeError(
                f"Invalid value for argument `widths`. Expected an integer for "
                f"{key!r}. Received: {width!r}"
            )
        if not 1 <= width <= group.size:
            raise ValueError(
                f"Invalid value for argument `widths`. Expected 1 to {group.size} for "
                f"{key!r}. Received: {width}"
            )
        if width < group.size and not group.prunable:
            raise ValueError(
                f"Invalid value for argument `widths`. {key!r} cannot be resized: "
                f"{group.reason}."
            )
        before = asked.setdefault(group.name, (key, int(width)))
        if before[1] != width:
            raise ValueError(
                f"Invalid value for argument `widths`. {before[0]!r} and {key!r} are "
                f"coupled and must get one width. Received: {before[1]} and {width}"
            )
        order = np.argsort(_norms(group), kind="stable")
        removed[group.classes[order[: group.size - int(width)]]] = True
    return removed


def _norms(group: ChannelGroup) -> np.ndarray:
    """L1 norm of the filters of each channel, over all producers."""
    norms = np.zeros(group.size)
    for member in group.members:
        if member.role != "kernel":
            continue
        value = np.abs(keras.ops.convert_to_numpy(member.variable).astype("float64"))
        others = tuple(i for i in range(value.ndim) if i != member.axis)
        inside = member.channels >= 0
        np.add.at(norms, member.channels[inside], value.sum(others)[inside])
    return norms


def _dead_branches(groups: ChannelGroups) -> list[str]:
    """Layers that provably give nothing but zeros, into additions only.

    Their filters (or the scale of a normalization) are all zero, and so are
    their biases; a zero bias alone proves nothing. Their activation keeps zero.
    """
    # With a normalization last in the branch, its own variables decide. The kernels
    # before it may be anything, because 0 · x + 0 is 0.
    analysis = groups.analysis
    zero: dict[int, bool] = {}
    makes: set[int] = set()
    for axis in analysis.axes.values():
        if axis.zero:
            dead = not _nonzero(axis.variable)
            zero[id(axis.layer)] = zero.get(id(axis.layer), True) and dead
            if axis.role in ("kernel", "scale"):
                makes.add(id(axis.layer))
    # A bias that channels share has no label, and adds something all the same.
    bound = {key for key, _ in analysis.axes}
    for layer in analysis.layers.values():
        if id(layer) in makes:
            rest = [v for v in layer.weights if id(v) not in bound]
            zero[id(layer)] &= not any(map(_nonzero, rest))
    return [
        key
        for key, layer in analysis.layers.items()
        if id(layer) in makes and zero[id(layer)] and _only_added(groups, layer)
    ]


def _nonzero(variable: keras.Variable) -> bool:
    return bool(keras.ops.convert_to_numpy(variable).any())


def _only_added(groups: ChannelGroups, layer: keras.Layer) -> bool:
    """Whether a layer without weights would add zero wherever it is read."""
    outputs: set[int] = set()
    readers: list[str] = []
    for _, call in _graph.walk(groups.model):
        if call.operation is layer:
            outputs.update(map(id, call.outputs))
        elif outputs & set(map(id, call.inputs)):
            readers.append(type(call.operation).__name__)
    tensors = groups.analysis.tensors
    silent = all((tensors[key].constant == 0).all() for key in outputs)
    return silent and bool(readers) and set(readers) <= {"Add"}
