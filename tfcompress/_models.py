"""Saved models: read within bounds, written whole.

A file may be cut short, damaged or made to do harm. What can be wrong is looked at
before anything is built, the layers may not ask for more variables than the file
holds, and whatever Keras says about a file becomes one line.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import os
import re
import uuid
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfcompress import _made
from tfcompress._files import check_writable

__all__ = ["at_most", "load_model", "own_classes", "save_model"]

_SUFFIXES = (".keras", ".h5", ".hdf5")
_CONFIG, _WEIGHTS = "config.json", "model.weights.h5"
_MOST_CONFIG = 1 << 28  # bytes of JSON; the largest real models need a hundredth

# What a dataset in HDF5 may announce for each byte that it stores. Compression
# reaches about a thousand; below the floor no announcement can do harm.
_MOST_EXPANSION = 1000
_EXPANSION_FLOOR = 1 << 28

# Variables that a file need not hold, such as states of random generators.
_SPARE_ENTRIES = 1 << 16

# What an optimizer keeps for each weight; Adam has two, with AMSGrad three.
_SLOTS = 4

# Where classes live that saved models name. Importing registers them.
_REGISTERING = ("layers", "constraints")


def load_model(
    path: str | os.PathLike[str], *, compiled: bool = False, argument: str = "model"
) -> keras.Model:
    """Loads a saved model, whatever of this library it holds.

    Args:
        path: a `.keras` or an `.h5` file.
        compiled: whether to compile the model as it was. Otherwise loss, metrics
            and optimizer are not looked at, so that their classes need not be
            known. Defaults to `False`.
        argument: name of the caller's argument, for the message. Defaults to
            `"model"`.

    Returns:
        The model.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no saved model, is damaged, needs a class that is not
            registered, or asks for more memory than its size accounts for.
    """
    file = Path(path)
    if not file.exists():
        raise FileNotFoundError(
            f"Invalid value for argument `{argument}`. Expected a saved model. "
            f"Received: {argument}={str(path)!r}, which does not exist."
        )
    for name in _REGISTERING:
        importlib.import_module(f"tfcompress.{name}")
    try:
        # Compiled, the optimizer makes its slots, also where none were stored.
        slots = _SLOTS if compiled else 0
        with at_most(_SPARE_ENTRIES + (1 + slots) * _stored_entries(file)):
            model = keras.saving.load_model(file, compile=compiled)
    # The file is foreign data: anything may go wrong with it, in any layer's code.
    except (Exception, MemoryError) as error:
        raise ValueError(
            f"Invalid value for argument `{argument}`. Expected a saved model. "
            f"Received: {argument}={str(path)!r}, which cannot be loaded: "
            f"{_reason(error)}"
        ) from error
    if not isinstance(model, keras.Model):
        raise ValueError(
            f"Invalid value for argument `{argument}`. Expected a saved model. "
            f"Received: {argument}={str(path)!r}, which holds a "
            f"{type(model).__name__}."
        )
    _made.carry(file, model)
    return model


def save_model(
    model: keras.Model, path: str | os.PathLike[str], *, argument: str = "path"
) -> Path:
    """Saves a model so that nobody ever sees half a file.

    Args:
        model: the model.
        path: the `.keras` file to write. Missing folders are made.
        argument: name of the caller's argument, for the message. Defaults to
            `"path"`.

    Returns:
        `path`.

    Raises:
        ValueError: if nothing can be written there.
    """
    target = check_writable(path, argument=argument, suffixes=(".keras",))
    temporary = target.with_name(f".{uuid.uuid4().hex}.keras")
    try:
        model.save(temporary)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return target


def own_classes(model: keras.Model) -> dict[str, type]:
    """Classes of a model's layers that are the user's, by name.

    For `keras.saving.custom_object_scope`, in which a run that goes on reads what it
    has written itself, also where these classes are not registered.
    """
    return {
        type(layer).__name__: type(layer)
        for layer in model._flatten_layers()
        if not isinstance(layer, keras.Model)
        and type(layer).__module__.partition(".")[0] not in ("keras", "tfcompress")
    }


@contextlib.contextmanager
def at_most(entries: int, variables: int | None = None) -> Iterator[None]:
    """Refuses to create variables of more than `entries` entries in total.

    A hostile architecture may ask for a layer of any size. An initial value is
    first traced in a graph of its own, which tells its shape and takes no memory.
    Only TensorFlow asks before it creates a variable; on other backends nothing is
    refused here.

    Args:
        entries: how many numbers there may be.
        variables: how many variables there may be. Defaults to `None`: any number.

    Raises:
        ValueError: inside, as soon as there would be more.
    """
    if keras.backend.backend() != "tensorflow":
        yield
        return
    import tensorflow as tf

    left, created = entries, 0

    def create(next_creator: Any, **kwargs: Any) -> Any:
        nonlocal left, created
        created += 1
        if variables is not None and created > variables:
            raise ValueError(f"the layers ask for more than {variables} variables")
        initial = kwargs["initial_value"]
        if callable(initial):
            with tf.Graph().as_default():
                left -= math.prod(initial().shape)
        else:
            left -= int(np.size(initial))
        if left < 0:
            raise ValueError(
                f"the layers ask for more than the {entries} entries stored"
            )
        return next_creator(**kwargs)

    with tf.variable_creator_scope(create):
        yield


def _stored_entries(file: Path) -> int:
    """How many numbers a file stores; raises where it is no complete file."""
    if file.is_dir():
        raise ValueError("it is a folder")
    suffix = file.suffix.lower()
    if suffix not in _SUFFIXES:
        raise ValueError(f"its name does not end in {' or '.join(_SUFFIXES[:2])}")
    if suffix != ".keras":
        return _entries_in(file)
    if not zipfile.is_zipfile(file):
        raise ValueError("it is no .keras file, damaged or cut short")
    with zipfile.ZipFile(file) as archive:
        members = {member.filename: member for member in archive.infolist()}
        if _CONFIG not in members:
            raise ValueError(f"there is no {_CONFIG} in it")
        if members[_CONFIG].file_size > _MOST_CONFIG:
            raise ValueError(f"its {_CONFIG} is larger than any model's")
        if not isinstance(json.loads(archive.read(_CONFIG)), dict):
            raise ValueError(f"its {_CONFIG} is no description of a model")
        if _WEIGHTS not in members:
            # Other ways of storing weights take at least a byte for each.
            return sum(member.file_size for member in members.values())
        with archive.open(_WEIGHTS) as weights:
            return _entries_in(weights)


def _entries_in(file: Any) -> int:
    """How many numbers the arrays of an HDF5 file hold."""
    import h5py

    entries = 0

    def add(name: str, item: Any) -> None:
        nonlocal entries
        if not isinstance(item, h5py.Dataset) or item.shape is None:
            return
        size = math.prod(item.shape)
        announced = size * item.dtype.itemsize
        stored = item.id.get_storage_size()
        if announced > max(_EXPANSION_FLOOR, _MOST_EXPANSION * stored):
            raise ValueError(
                f"{name!r} announces {announced:,} bytes and stores {stored:,}"
            )
        entries += size

    try:
        with h5py.File(file, "r") as content:
            content.visititems(add)
    except OSError as error:
        raise ValueError("its weights are damaged or cut short") from error
    return entries


def _reason(error: BaseException) -> str:
    """What went wrong, in one line without a dump of the configuration."""
    text = str(error).strip()
    unknown = re.search(r"Could not (?:locate|deserialize) (\w+) '([^']+)'", text)
    if unknown and "requires" not in text:
        kind, name = unknown.groups()
        return (
            f"it needs the {kind} {name!r}, which is not known here. Import the file "
            "that defines it, where it is registered with "
            "keras.saving.register_keras_serializable."
        )
    if "Exception encountered:" in text:
        text = text.rpartition("Exception encountered:")[2].strip()
    if isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
        text = f"its {_CONFIG} is no JSON"
    if isinstance(error, KeyError):
        text = f"{text} is missing in it"
    line = text.partition("\n")[0].strip() or type(error).__name__
    return line if len(line) <= 300 else f"{line[:297]}…"
