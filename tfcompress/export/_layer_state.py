"""State that the layers of a packed model keep beside its variables.

Keras saves a model's state layer by layer: a layer may add arrays
(`save_own_variables`) and files (`save_assets`), and its random generators have
states that are not among `model.weights`. All three are parts of a packed file:
see docs/tfcz.md. Layers are counted in the order in which Keras flattens a model,
which is the same for a model and its copy.
"""

from __future__ import annotations

import os
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import keras
import numpy as np

from tfcompress.export import _tensors
from tfcompress.structure._state import overrides, sublayers

__all__ = ["INFLATION", "Part", "decode", "encode", "gather", "restore"]

# Kinds of parts.
GENERATOR, ARRAY, WEIGHT, FILE = range(4)

_MAX_PARTS = 1 << 16
_MAX_NAME = 1000
_MAX_FILES = 1 << 26
# What deflated bytes of a packed file may grow to: a floor and a factor. Text and
# JSON shrink to a twentieth; a bomb to a thousandth.
INFLATION = (1 << 20, 100)


@dataclass(frozen=True)
class Part:
    """One piece of a layer's state.

    Attributes:
        layer: number of the layer.
        kind: state of a random generator, an array, an array that is one of the
            model's weights, or a file.
        name: number of the generator, key of the array or path of the file.
        value: the array, the number of the weight, or the file's bytes.
    """

    layer: int
    kind: int
    name: str
    value: Any


# Writing ------------------------------------------------------------------------


def gather(model: keras.Model) -> list[Part]:
    """The parts of a model's state that `model.weights` does not hold.

    Raises:
        ValueError: naming the layer whose state cannot be read.
    """
    weights = [(v, np.asarray(keras.ops.convert_to_numpy(v))) for v in model.weights]
    parts: list[Part] = []
    for number, layer in enumerate(sublayers(model)):
        try:
            parts += _parts(number, layer, weights)
        except Exception as error:  # whatever a method of a layer raises
            raise ValueError(
                "Invalid value for argument `model`. Expected layers whose state can "
                f"be saved. Received: layer {layer.name!r} of class "
                f"{type(layer).__name__}: {error}"
            ) from error
    return parts


def _parts(number: int, layer: Any, weights: Sequence[Any]) -> Iterator[Part]:
    for place, generator in enumerate(_generators(layer)):
        value = np.asarray(keras.ops.convert_to_numpy(generator.state))
        yield Part(number, GENERATOR, str(place), value)
    if _has_own_variables(layer):
        store: dict[str, Any] = {}
        layer.save_own_variables(store)
        for name, value in store.items():
            array = np.asarray(keras.ops.convert_to_numpy(value))
            same = _place(array, layer, weights)
            if same is None:
                yield Part(number, ARRAY, str(name), array)
            else:
                yield Part(number, WEIGHT, str(name), same)
    if _has_assets(layer):
        with tempfile.TemporaryDirectory() as folder:
            layer.save_assets(folder)
            for path in sorted(Path(folder).rglob("*")):
                if path.is_file():
                    name = path.relative_to(folder).as_posix()
                    yield Part(number, FILE, name, path.read_bytes())


def _generators(layer: Any) -> list[Any]:
    return list(getattr(layer, "_seed_generators", ()))


def _has_own_variables(layer: Any) -> bool:
    # Keras' own layers save nothing but their variables, which `model.weights` holds.
    # There is one exception: the tf-idf weights of a vocabulary are a plain tensor.
    if getattr(layer, "output_mode", None) == "tf_idf":
        return isinstance(layer, _LOOKUPS)
    return overrides(layer, "save_own_variables", "load_own_variables")


def _has_assets(layer: Any) -> bool:
    if isinstance(layer, keras.Model):
        # Records of how a model was made are its attribute, and no state.
        return hasattr(type(layer), "save_assets") and overrides(layer, "save_assets")
    if isinstance(layer, keras.layers.TextVectorization):
        return overrides(layer, "save_assets")  # its lookup has the words
    if isinstance(layer, _LOOKUPS) and not overrides(layer, "save_assets"):
        # Without words there is nothing to save, and loading would fail.
        return bool(len(layer.get_vocabulary(include_special_tokens=False)))
    return hasattr(layer, "save_assets")


_LOOKUPS = (keras.layers.StringLookup, keras.layers.IntegerLookup)


def _place(array: np.ndarray, layer: Any, weights: Sequence[Any]) -> int | None:
    """The number of the layer's weight that equals this array, if there is one."""
    # `save_own_variables` of most classes stores weights as well. They are in the
    # file already, and a reference to one takes a few bytes.
    own = {id(variable) for variable in layer.weights}
    for place, (variable, value) in enumerate(weights):
        alike = (value.dtype, value.shape) == (array.dtype, array.shape)
        if id(variable) in own and alike and value.tobytes() == array.tobytes():
            return place
    return None


def encode(parts: Sequence[Part]) -> bytes:
    """The bytes of parts: their number, and one after the other."""
    pieces = [_tensors.varint(len(parts))]
    for part in parts:
        name = part.name.encode()
        pieces += [_tensors.varint(part.layer), bytes([part.kind])]
        pieces += [_tensors.varint(len(name)), name]
        if part.kind == WEIGHT:
            pieces.append(_tensors.varint(part.value))
        elif part.kind == FILE:
            data = zlib.compress(part.value, 9)
            pieces += [_tensors.varint(len(data)), data]
        else:
            pieces.append(_tensors.encode(part.value).data)
    return b"".join(pieces)


# Reading ------------------------------------------------------------------------


def decode(reader: _tensors.Reader, budget: int) -> list[Part]:
    """Reads parts.

    Args:
        reader: the bytes.
        budget: number of entries that arrays may have in total.

    Raises:
        ValueError: if they are not valid, or larger than the budget.
    """
    count = reader.varint()
    if count > _MAX_PARTS:
        raise ValueError(f"{count} parts of state are announced")
    parts, files = [], _MAX_FILES
    for _ in range(count):
        layer, kind = reader.varint(), reader.byte()
        size = reader.varint()
        if size > _MAX_NAME:
            raise ValueError("a name is too long")
        name = reader.take(size).decode()
        value: Any
        if kind == WEIGHT:
            value = reader.varint()
        elif kind == FILE:
            _check_inside(name)
            value = inflate(reader.take(reader.varint()), files, "a file")
            files -= len(value)
        elif kind in (GENERATOR, ARRAY):
            value = _tensors.decode(reader, budget)
            budget -= value.size
        else:
            raise ValueError(f"unknown kind {kind} of state")
        parts.append(Part(layer, kind, name, value))
    return parts


def inflate(data: bytes, most: int, what: str) -> bytes:
    """Inflates bytes, within bounds.

    Raises:
        ValueError: if they are damaged, or grow beyond `most` or `INFLATION`.
    """
    # Deflated data of a kilobyte may grow to a megabyte. The limit stops the inflater
    # before it takes the memory; if the end of the data was not reached then, the data
    # are refused. One byte more than allowed, because zlib takes 0 for no limit.
    floor, factor = INFLATION
    most = min(most, floor + factor * len(data))
    inflater = zlib.decompressobj()
    try:
        result = inflater.decompress(data, most + 1)
    except zlib.error as error:
        raise ValueError(f"{what} cannot be inflated ({error})") from error
    if not inflater.eof or inflater.unused_data or len(result) > most:
        raise ValueError(f"{what} is cut short, or larger than {most} bytes")
    return result


def _check_inside(name: str) -> None:
    """Makes sure that a file's name leads nowhere but into its folder."""
    parts = PurePosixPath(name).parts
    plain = bool(parts) and not any(c in name for c in '\0\\:"')
    if not plain or name.startswith("/") or ".." in parts:
        raise ValueError(f"{name!r} is no name of a file")


def restore(
    model: keras.Model, parts: Sequence[Part], weights: Sequence[np.ndarray]
) -> None:
    """Gives a copy of a model, with its weights, the state of the original.

    Raises:
        ValueError: if the parts do not fit the copy.
    """
    layers = sublayers(model)
    by_layer: dict[int, dict[int, dict[str, Any]]] = {}
    for part in parts:
        value = part.value
        if part.kind == WEIGHT:
            if value >= len(weights):
                raise ValueError("a part of state is a weight that is not there")
            value = weights[value]
        kind = ARRAY if part.kind == WEIGHT else part.kind
        by_layer.setdefault(part.layer, {}).setdefault(kind, {})[part.name] = value
    if any(number >= len(layers) for number in by_layer):
        raise ValueError("a part of state is of a layer that is not there")
    # As Keras does, files come after arrays: words are loaded with their weights.
    for step in (_restore_arrays, _restore_files):
        for number, layer in enumerate(layers):
            try:
                step(layer, by_layer.get(number, {}))
            except Exception as error:  # whatever a method of a layer raises
                raise ValueError(
                    f"the state of layer {layer.name!r} of class "
                    f"{type(layer).__name__} cannot be loaded: "
                    f"{type(error).__name__}: {error}"
                ) from error


def _restore_arrays(layer: Any, found: Mapping[int, Mapping[str, Any]]) -> None:
    generators = _generators(layer)
    if len(generators) != len(found.get(GENERATOR, ())):
        raise ValueError("it has another number of random generators")
    for place, generator in enumerate(generators):
        generator.state.assign(found[GENERATOR][str(place)])
    if ARRAY in found:
        if not _has_own_variables(layer):
            raise ValueError("it has no variables of its own")
        layer.load_own_variables(dict(found[ARRAY]))
    if isinstance(layer, keras.layers.Normalization) and layer.built:
        # The statistics that it computes with are made of its variables.
        layer.finalize_state()


def _restore_files(layer: Any, found: Mapping[int, Mapping[str, Any]]) -> None:
    if FILE in found:
        if not hasattr(type(layer), "load_assets"):
            raise ValueError("it has no files")
        with tempfile.TemporaryDirectory() as folder:
            for name, content in found.get(FILE, {}).items():
                path = Path(folder, name)
                os.makedirs(path.parent, exist_ok=True)
                path.write_bytes(content)
            layer.load_assets(folder)
