"""Which parts of a model a method may touch, and why not the others.

Every method selects by name in the same way: `layers=` lists what to touch
(`None`: everything that can be), `exclude=` what to leave alone. A name that
does not exist, or that stands for something the method cannot touch, is an
error; what is left out without having been named is kept with its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import keras

from tfcompress._checks import name_list
from tfcompress.structure import _facts
from tfcompress.structure._graph import is_nested_model
from tfcompress.structure._groups import resolve_name

__all__ = [
    "kernels",
    "select_groups",
    "select_kernels",
    "select_layers",
]

T = TypeVar("T")
NOT_TRAINABLE = "does not train (trainable=False)"


@dataclass(frozen=True)
class Selection(Generic[T]):
    """What a method works on.

    Attributes:
        chosen: name -> layer or channel group.
        skipped: name -> why the method leaves it alone.
    """

    chosen: Mapping[str, T]
    skipped: Mapping[str, str]

    def __str__(self) -> str:
        lines = [f"chosen: {', '.join(self.chosen) or 'nothing'}"]
        reasons: dict[str, list[str]] = {}
        for name, reason in self.skipped.items():
            reasons.setdefault(reason, []).append(name)
        lines += [f"skipped: {', '.join(n)}: {r}" for r, n in reasons.items()]
        return "\n".join(lines)


def named_layers(model: keras.Model) -> dict[str, keras.layers.Layer]:
    """Returns every layer of `model` by its name, layers of nested models too.

    A layer inside a nested model is called `"outer/inner"`; the nested model
    itself is not in the result.

    Args:
        model: a `keras.Model`.

    Returns:
        A dict in the order of `model.layers`.
    """
    return dict(_walk(model, ""))


def check_names(
    names: Iterable[str], known: Iterable[str], argument: str
) -> tuple[str, ...]:
    """Checks that all `names` are known.

    Args:
        names: an iterable of names. The last part of one, "c2" for "base/c2", will
            do where nothing else ends in it.
        known: the names that exist.
        argument: what the caller's argument is called, for the message.

    Returns:
        The names in full, as a tuple.

    Raises:
        TypeError: if `names` is not a list of strings.
        ValueError: if a name is not known, or stands for several; the message
            lists what exists.
    """
    existing = list(known)
    return tuple(
        resolve_name(argument, name, existing) for name in name_list(argument, names)
    )


def by_full_name(
    values: Mapping[str, T], known: Iterable[str], argument: str
) -> dict[str, T]:
    """A dict by the names of layers or groups, with the names in full.

    Args:
        values: a dict by names, see `check_names`.
        known: the names that exist.
        argument: what the caller's argument is called, for the message.

    Returns:
        The dict, in the same order.

    Raises:
        ValueError: if a name is not known, or two keys stand for the same name.
    """
    result: dict[str, T] = {}
    names = check_names(values, known, argument)
    for name, (key, value) in zip(names, values.items(), strict=True):
        if name in result:
            raise ValueError(
                f"Invalid value for argument `{argument}`. Expected one entry for each "
                f"layer. Received: {key!r} and another key for {name!r}"
            )
        result[name] = value
    return result


def select_layers(
    model: keras.Model,
    refuse: Callable[[keras.layers.Layer], str | None],
    *,
    layers: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    argument: str = "layers",
) -> Selection[keras.layers.Layer]:
    """Selects layers.

    Example:

    ```python
    def refuse(layer):
        return None if hasattr(layer, "kernel") else "has no kernel"

    selection = tfc.policy.select_layers(model, refuse, exclude=["logits"])
    ```

    Args:
        model: a `keras.Model`.
        refuse: returns why the method cannot work on a layer, or `None` if it
            can.
        layers: names of the layers to work on; `None` for all that the method
            can work on. Defaults to `None`. A name inside of a nested model is
            "outer/inner", or "inner" where nothing else ends in it.
        exclude: names of layers to leave alone. Defaults to `()`.
        argument: what the caller's argument for `layers` is called, for messages.
            Defaults to `"layers"`.

    Returns:
        A `Selection` of layers by name.

    Raises:
        TypeError: if `layers` or `exclude` is not a list of strings.
        ValueError: if a name is not known, is both wanted and excluded, or
            stands for a layer that the method cannot work on, or if nothing is
            left.
    """
    existing = named_layers(model)
    wanted = check_names(() if layers is None else layers, existing, argument)
    unwanted = check_names(exclude, existing, "exclude")
    _check_disjoint(wanted, unwanted, argument)
    chosen: dict[str, keras.layers.Layer] = {}
    skipped: dict[str, str] = {}
    for name, layer in existing.items():
        reason = refuse(layer)
        if name in wanted and reason:
            raise _refusal(name, reason, argument)
        if name in unwanted:
            skipped[name] = "excluded by name"
        elif reason:
            skipped[name] = reason
        elif layers is not None and name not in wanted:
            skipped[name] = "not among the named layers"
        else:
            chosen[name] = layer
    _check_any(chosen, skipped, argument)
    return Selection(chosen, skipped)


def select_groups(
    groups: Any,
    model: keras.Model,
    *,
    layers: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    argument: str = "layers",
    keep: Container[str] = (),
) -> Selection[Any]:
    """Selects channel groups.

    A name is that of a group or of a layer whose output channels belong to it.
    Channels that are coupled can only be removed together: naming one layer of
    a group selects, or excludes, the whole group. What a model returns is never
    removed, so its last layer is never selected. A group with a layer that does not
    train (`trainable=False`) is left alone unless it is named.

    Example:

    ```python
    groups = tfc.structure.channel_groups(model)
    selection = tfc.policy.select_groups(groups, model, exclude=["stem"])
    print(selection)
    ```

    Args:
        groups: the `ChannelGroups` of `model`.
        model: a `keras.Model`.
        layers: names of the layers or groups to prune; `None` for all that can
            be. Defaults to `None`.
        exclude: names of layers or groups to leave alone. Defaults to `()`.
        argument: what the caller's argument for `layers` is called, for messages.
            Defaults to `"layers"`.
        keep: names of groups that stay selected when a single channel is left of
            them, as a method that has begun with more goes on. Defaults to `()`.

    Returns:
        A `Selection` of `ChannelGroup`s by name.

    Raises:
        TypeError: if `layers` or `exclude` is not a list of strings.
        ValueError: if a name is not known, is both wanted and excluded, or
            stands for channels that cannot be removed, or if nothing is left.
    """
    by_name = named_layers(model)
    existing = [*by_name, *(group.name for group in groups)]
    wanted = check_names(() if layers is None else layers, existing, argument)
    unwanted = check_names(exclude, existing, "exclude")
    _check_disjoint(wanted, unwanted, argument)
    left = {group.name for group in groups if group.size == 1 and group.name in keep}
    picked = {
        group.name
        for name in wanted
        for group in groups_named(groups, name, argument, left)
    }
    left_out = {
        group.name for name in unwanted for group in groups if _is_named(group, name)
    }
    chosen: dict[str, Any] = {}
    skipped: dict[str, str] = {}
    for group in groups:
        if group.name in left_out:
            skipped[group.name] = "excluded by name"
        elif not (group.prunable or group.name in left):
            skipped[group.name] = group.reason
        elif layers is not None and group.name not in picked:
            skipped[group.name] = "not among the named layers"
        elif layers is None and _is_frozen(group, by_name):
            skipped[group.name] = NOT_TRAINABLE
        else:
            chosen[group.name] = group
    _check_any(chosen, skipped, argument)
    return Selection(chosen, skipped)


def kernels(layer: keras.layers.Layer) -> list[keras.Variable]:
    """The trainable kernels of a layer: weights that multiply its input.

    Biases, the parameters of normalizations and embedding tables are not among
    them.

    Args:
        layer: a layer that has been built.

    Returns:
        The `keras.Variable`s, in the layer's order.
    """
    return _facts.kernels(layer, trainable=True)


def select_kernels(
    model: keras.Model,
    layers: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    argument: str = "layers",
) -> dict[str, list[keras.Variable]]:
    """The kernels of the selected layers, by the name of the layer.

    Args:
        model: a `keras.Model`.
        layers: names of the layers to work on; `None` for all that have trainable
            kernels. Defaults to `None`.
        exclude: names of layers to leave alone. Defaults to `()`.
        argument: what the caller's argument for `layers` is called, for messages.
            Defaults to `"layers"`.

    Raises:
        TypeError: if `layers` or `exclude` is not a list of strings.
        ValueError: if a name is unknown, or nothing is left.
    """
    selection = select_layers(
        model, _without_kernel, layers=layers, exclude=exclude, argument=argument
    )
    result: dict[str, list[keras.Variable]] = {}
    seen: set[int] = set()
    for name, layer in selection.chosen.items():
        # A layer that a model holds twice is constrained once.
        own = [variable for variable in kernels(layer) if id(variable) not in seen]
        seen.update(map(id, own))
        if own:
            result[name] = own
    return result


def groups_named(
    groups: Any, name: str, argument: str = "layers", keep: Container[str] = ()
) -> list[Any]:
    """Returns the prunable groups that a layer's or a group's name stands for.

    Args:
        groups: the `ChannelGroups` of a model.
        name: a name that exists in the model.
        argument: what the caller's argument is called, for the message.
            Defaults to `"layers"`.
        keep: names of groups that count as prunable. Defaults to `()`.

    Returns:
        A list of `ChannelGroup`s, not empty.

    Raises:
        ValueError: if the name stands for nothing that can be removed.
    """
    named = [group for group in groups if _is_named(group, name)]
    prunable = [group for group in named if group.prunable or group.name in keep]
    if not prunable:
        reason = named[0].reason if named else "it creates no channels of its own"
        raise _refusal(name, reason, argument)
    return prunable


def _without_kernel(layer: keras.layers.Layer) -> str | None:
    if kernels(layer):
        return None
    return NOT_TRAINABLE if _facts.kernels(layer) else "has no trainable kernel"


def _is_frozen(group: Any, existing: Mapping[str, keras.layers.Layer]) -> bool:
    """Whether a layer that would have to be changed does not train."""
    names = {member.layer_name for member in group.members}
    return any(not existing[name].trainable for name in names if name in existing)


def _is_named(group: Any, name: str) -> bool:
    return name == group.name or name in group.producers


def _walk(model: keras.Model, prefix: str) -> Iterator[tuple[str, Any]]:
    for layer in model.layers:
        if is_nested_model(layer):
            yield from _walk(layer, f"{prefix}{layer.name}/")
        else:
            yield f"{prefix}{layer.name}", layer


def _check_disjoint(
    wanted: Sequence[str], unwanted: Sequence[str], argument: str
) -> None:
    both = sorted(set(wanted) & set(unwanted))
    if both:
        raise ValueError(
            "Invalid value for argument `exclude`. Expected names that are not in "
            f"`{argument}`. Received in both: {', '.join(both)}"
        )


def _check_any(
    chosen: Mapping[str, Any], skipped: Mapping[str, str], argument: str
) -> None:
    if not chosen:
        text = str(Selection({}, skipped)).partition("\n")[2].replace("\n", "; ")
        raise ValueError(
            f"Invalid value for argument `{argument}`. Expected at least one layer "
            "that the method can work on. Received none: "
            f"{text or 'a model without layers'}"
        )


def _refusal(name: str, reason: str, argument: str = "layers") -> ValueError:
    return ValueError(
        f"Invalid value for argument `{argument}`. Expected layers that the method "
        f"can work on. Received: {name!r}: {reason}"
    )
