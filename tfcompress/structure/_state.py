"""What a layer knows in addition to its config and its variables."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import keras
import numpy as np
from keras import KerasTensor

from tfcompress.structure._graph import is_of_keras

__all__ = [
    "builds_itself",
    "carry_state",
    "carry_statistics",
    "overrides",
    "prepare_state",
    "sublayers",
]


def prepare_state(old: keras.Layer, new: keras.Layer, whole: bool) -> None:
    """Gives a copy of a layer the state that it may need to be called at all.

    That is vocabularies, on which the shapes of outputs depend, and, for layers
    that are not of Keras, attributes that their configs do not describe: plain
    values and tensors are copied, other objects shared.

    Args:
        old: the original, built.
        new: its copy, built or not.
        whole: whether the copy reads and makes tensors of the same shapes.
    """
    # Only Keras' own classes are known to keep everything in configs and variables.
    # Attributes of other classes are carried if the copy has the same sizes: an array
    # of one value for each channel could not be cut, because nothing says that it is
    # one.
    sources, targets = sublayers(old), sublayers(new)
    if len(sources) != len(targets):  # some are made when a layer is built
        sources, targets = [old], [new]
    for source, target in zip(sources, targets, strict=True):
        if isinstance(source, _LOOKUPS):
            _carry_vocabulary(source, target)
        if whole and not type(source).__module__.startswith("keras."):
            _carry_attributes(source, target)


def carry_state(old: keras.Layer, new: keras.Layer, whole: bool) -> None:
    """Gives a copy of a layer the state that is not in its config and variables.

    Statistics, and what layers that are not of Keras save by methods of their own,
    beside what `prepare_state` gives.

    Args:
        old: the original, built.
        new: its copy, built and with its variables.
        whole: whether the copy reads and makes tensors of the same shapes.

    Raises:
        ValueError: if the state does not fit the copy.
    """
    prepare_state(old, new, whole)
    for source, target in zip(sublayers(old), sublayers(new), strict=True):
        if isinstance(source, keras.layers.Normalization) and source.built:
            target.finalize_state()
        if overrides(source, "save_own_variables", "load_own_variables"):
            _carry_own_variables(source, target, whole)
        if hasattr(source, "save_assets") and overrides(source, "save_assets"):
            with tempfile.TemporaryDirectory() as folder:
                source.save_assets(folder)
                target.load_assets(folder)


def carry_statistics(
    old: keras.Layer,
    new: keras.Layer,
    cut: Callable[[keras.Variable, np.ndarray], np.ndarray],
) -> None:
    """Gives a copy with new weights what the original's `Normalization` adapted to.

    Training does not learn it, so that new weights would never find it again.

    Args:
        old: the original, built.
        new: its copy, built and with its variables.
        cut: function of an old variable and its value that leaves out the removed
            channels.
    """
    for source, target in zip(sublayers(old), sublayers(new), strict=True):
        if isinstance(source, keras.layers.Normalization) and source.built:
            for given, taken in zip(source.variables, target.variables, strict=True):
                taken.assign(cut(given, keras.ops.convert_to_numpy(given)))
            target.finalize_state()


_LOOKUPS = (keras.layers.StringLookup, keras.layers.IntegerLookup)


def _carry_vocabulary(old: Any, new: Any) -> None:
    words = old.get_vocabulary(include_special_tokens=False)
    if old.input_vocabulary is not None or not len(words):
        return  # the config has it, or there is none yet
    weights = None
    if old.output_mode == "tf_idf":
        start = old._token_start_index()
        weights = old.idf_weights_const.numpy()[start : start + len(words)]
    new.set_vocabulary(words, weights)


def builds_itself(layer: keras.Layer) -> bool:
    """Whether a class that is not of Keras has its own `build_from_config`."""
    return overrides(layer, "build_from_config")


def sublayers(layer: keras.Layer) -> list[keras.Layer]:
    """A layer and all that are inside of it."""
    return list(layer._flatten_layers(include_self=True, recursive=True))


def overrides(layer: keras.Layer, *names: str) -> bool:
    """Whether a layer's class, if not of Keras, overrides a method of Keras."""
    return not all(is_of_keras(type(layer), name) for name in names)


def _carry_own_variables(old: keras.Layer, new: keras.Layer, whole: bool) -> None:
    store: dict[str, Any] = {}
    old.save_own_variables(store)
    problem: object = "it has fewer channels"
    if whole:
        try:
            new.load_own_variables({k: np.asarray(v) for k, v in store.items()})
            return
        except Exception as error:  # whatever the method raises
            problem = error
    raise ValueError(
        f"Layer {old.name!r} of class {type(old).__name__} saves its variables by a "
        f"method of its own, and the edited copy could not load them: {problem}."
    )


def _carry_attributes(old: keras.Layer, new: keras.Layer) -> None:
    for name, value in _attributes(old):
        if name not in vars(new) or (
            _is_plain(value) and not _equal(value, vars(new)[name])
        ):
            setattr(new, name, value)


def _attributes(layer: keras.Layer) -> Iterator[tuple[str, Any]]:
    """Attributes that hold neither what Keras puts there nor parts of a model."""
    usual = _usual_attributes()
    for name, value in list(vars(layer).items()):
        if name in usual or name.startswith("_self_"):  # TensorFlow's bookkeeping
            continue
        if not any(isinstance(part, _PARTS) for part in _parts(value)):
            yield name, value


def _parts(value: Any) -> Iterator[Any]:
    """What a value is made of: the leaves of collections and of small records.

    A tuple or a record that holds a variable is made anew when a copy is built;
    shared, it would make the original's variable one of the copy. `keras.tree`
    does not look into the tuples that TensorFlow wraps when a layer is given one.
    """
    if isinstance(value, dict):
        inner = list(value.values())
    elif _is_collection(value):
        inner = list(value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        inner = [getattr(value, field.name) for field in dataclasses.fields(value)]
    else:
        yield value
        return
    for each in inner:
        yield from _parts(each)


@cache
def _usual_attributes() -> frozenset[str]:
    """What Keras and its backend put into every layer that is built and called."""

    # Found out with a layer that does nothing, since the list differs between versions
    # and backends.
    class Bare(keras.Layer):
        def build(self, shape: Any) -> None:
            self.add_weight(shape=())

        def call(self, x: Any) -> Any:
            return x

    layer = Bare()
    layer(np.zeros((1, 1), "float32"))
    return frozenset(vars(layer))


_PARTS = (keras.Layer, keras.Variable, KerasTensor, keras.random.SeedGenerator)


def _is_collection(value: Any) -> bool:
    return isinstance(value, list | tuple | dict | set)


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    return (
        value is None
        or isinstance(value, bool | int | float | str | np.generic | np.ndarray)
        or keras.ops.is_tensor(value)
    )


def _equal(first: Any, second: Any) -> bool:
    if first is second:
        return True
    if isinstance(first, dict) and isinstance(second, dict):
        return list(first) == list(second) and all(
            _equal(first[key], second[key]) for key in first
        )
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        return len(first) == len(second) and all(map(_equal, first, second))
    if hasattr(first, "shape") or hasattr(second, "shape"):
        arrays = [
            keras.ops.convert_to_numpy(x) if keras.ops.is_tensor(x) else np.asarray(x)
            for x in (first, second)
        ]
        return bool(np.array_equal(arrays[0], arrays[1]))
    return type(first) is type(second) and bool(first == second)
