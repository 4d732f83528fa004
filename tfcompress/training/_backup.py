"""A model and the state of its training run on disk, complete or absent."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import tempfile
import uuid
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfcompress import _made, _processes
from tfcompress._files import check_writable, lock, replacing
from tfcompress._own import check_readable, lambdas_allowed, with_own
from tfcompress.callbacks._state import no_weights
from tfcompress.structure._graph import scope_of

__all__ = ["Backup", "Saved", "owned"]

_CONFIG = "config.json"
_STATE = "tfcompress/state.json"
_ARRAYS = "tfcompress/arrays.npz"
_ARRAY = "__array__"


@dataclass(frozen=True)
class Saved:
    """What a backup holds.

    Attributes:
        model: the model, compiled, with the optimizer's state.
        state: what was saved beside it.
    """

    model: keras.Model
    state: dict[str, Any]


class Backup:
    """One file that holds a model and the state of the run that trains it.

    It is a Keras model file with two more members: the state as JSON, and the
    arrays of the state. One file is replaced in one step, so that there is no
    moment at which model and state do not fit. A run that is killed while it saves
    leaves either the backup before or the new one.

        backup.keras
        ├── config.json, metadata.json, model.weights.h5   Keras' own
        ├── tfcompress/state.json    {"run": {…}, "seeds": [{"__array__": "a0"}], …}
        └── tfcompress/arrays.npz    a0, a1, …

    Beside the model and the state that it is given, it keeps what a run draws
    from: the states of the model's seed generators (of dropout, for example),
    which a Keras model file does not hold, and those of Python's and NumPy's
    global generators.

    Of several processes that train together the first writes, and all read.

    Args:
        folder: the folder of the file. Whoever makes a backup locks it first, see
            `tfcompress._files.lock`.
        name: name of the file, without its ending. Defaults to `"backup"`.
    """

    def __init__(self, folder: str | os.PathLike[str], name: str = "backup") -> None:
        self.path = check_writable(
            Path(folder) / f"{name}.keras", argument="backup_dir"
        )

    def state(self) -> dict[str, Any] | None:
        """What was saved beside the model; `None` if nothing was saved."""
        found = self.path.exists()
        if not _processes.alike(int(found)):
            raise ValueError(
                "Invalid value for argument `backup_dir`. Expected a folder that all "
                "processes see, as on a network file system. Received: "
                f"{str(self.path.parent)!r}, in which only some find a backup."
            )
        if not found:
            return None
        with zipfile.ZipFile(self.path) as file:
            members = set(file.namelist())
            if not {_STATE, _ARRAYS} <= members:
                raise ValueError(
                    "Invalid value for argument `backup_dir`. Expected a folder for "
                    f"backups. Received: {str(self.path.parent)!r}, in which "
                    f"{self.path.name!r} is no backup."
                )
            with np.load(BytesIO(file.read(_ARRAYS)), allow_pickle=False) as stored:
                arrays = dict(stored)
            state = json.loads(file.read(_STATE))
        return _joined(state, arrays)

    def load(self, like: keras.Model | None = None) -> Saved | None:
        """What was saved last, if anything was.

        Args:
            like: the model of the caller, from which the saved one came. The
                saved model is made under its distribution strategy. Layers that
                have other names in it, because automatic names count on in a
                process that builds a model again, get these names, by position.
                Functions of the user's are those that it holds. Defaults to `None`.

        Raises:
            ValueError: if nothing was saved, and what `like` holds could not be read
                back; if there is a file that is no backup of such a model.
        """
        state = self.state()
        if state is None:
            if like is not None:
                check_readable(like)
            return None
        names = {} if like is None else _new_names(state["layers"], _layers(like))
        with zipfile.ZipFile(self.path) as file:
            config = json.loads(file.read(_CONFIG))
        if like is None:
            model = _load(self.path, config)
        else:
            config, own = with_own(_renamed_config(config, names), like)
            with scope_of(like), keras.saving.custom_object_scope(own):
                model = _load(self.path, config)
        _made.carry(self.path, model)
        state = _renamed(state, names)
        _check_optimizer(model, state["iterations"])
        for variable, value in zip(_generators(model), state["seeds"], strict=True):
            variable.assign(value)
        # Last, because loading a model draws from Python's generator: seeds of
        # initializers and of dropout.
        version, numbers, gauss = state["python_random"]
        random.setstate((version, tuple(numbers), gauss))
        np.random.set_state(tuple(state["numpy_random"]))
        return Saved(model, state["run"])

    def save(self, model: keras.Model, state: Mapping[str, Any]) -> None:
        """Replaces what was saved.

        Args:
            model: the model.
            state: a dict of JSON-compatible values and NumPy arrays, nested or
                not.
        """
        optimizer = model.optimizer
        arrays: dict[str, np.ndarray] = {}
        stored = _split(
            {
                "run": state,
                "layers": _layers(model),
                "iterations": None if optimizer is None else int(_step(optimizer)),
                "seeds": [_numpy(variable) for variable in _generators(model)],
                "python_random": random.getstate(),
                "numpy_random": np.random.get_state(),
            },
            arrays,
        )
        packed = BytesIO()
        np.savez(packed, allow_pickle=False, **arrays)
        with self._file() as temporary:
            with lambdas_allowed():
                model.save(temporary)
            with zipfile.ZipFile(temporary, "a") as file:
                file.writestr(_STATE, json.dumps(stored))
                file.writestr(_ARRAYS, packed.getvalue())

    @contextlib.contextmanager
    def _file(self) -> Iterator[Path]:
        """The name under which this process saves.

        Saving a model is a thing of all processes: numbers travel between their
        devices. What the others write is thrown away.
        """
        if _processes.is_first():
            with replacing(self.path) as temporary:
                yield temporary
        else:
            with tempfile.TemporaryDirectory() as folder:
                yield Path(folder) / self.path.name

    def delete(self) -> None:
        """Deletes what was saved."""
        if _processes.is_first():
            self.path.unlink(missing_ok=True)


def owned(
    backup_dir: str | os.PathLike[str] | None,
) -> AbstractContextManager[Any]:
    """Locks a folder for backups while a run is at work, if there is one."""
    if backup_dir is None or not _processes.is_first():
        return nullcontext()
    return lock(backup_dir, argument="backup_dir")


# The state -----------------------------------------------------------------------


def _split(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """`value` as JSON has it; arrays are put into `arrays` and named there."""
    if isinstance(value, np.ndarray):
        name = f"a{len(arrays)}"
        if value.dtype.kind not in "biufcU":  # bfloat16, for example
            arrays[name] = value.astype("float32")
            return {_ARRAY: name, "dtype": value.dtype.name}
        arrays[name] = value
        return {_ARRAY: name}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {str(key): _split(each, arrays) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_split(each, arrays) for each in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    # A tensor among the logs: a number, or one for each class.
    array = np.asarray(keras.ops.convert_to_numpy(value))
    return _split(array, arrays) if array.ndim else float(array)


def _joined(value: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    if isinstance(value, dict):
        if _ARRAY in value:
            array = arrays[value[_ARRAY]]
            return array.astype(value["dtype"]) if "dtype" in value else array
        return {key: _joined(each, arrays) for key, each in value.items()}
    if isinstance(value, list):
        return [_joined(each, arrays) for each in value]
    return value


def _generators(model: keras.Model) -> list[keras.Variable]:
    """The states of the seed generators of a model.

    Among the variables of a model these are the ones that are neither weights
    nor metrics, nor what a method has added while it trains.
    """
    others = (*model.weights, *model.metrics_variables, *no_weights(model))
    known = {id(v) for v in others}
    return [v for v in model.variables if id(v) not in known]


def _check_optimizer(model: keras.Model, iterations: int | None) -> None:
    if iterations is None:
        return
    # Keras only warns if the state of an optimizer does not fit.
    if model.optimizer is None or int(_step(model.optimizer)) != iterations:
        raise ValueError(
            "Invalid value for argument `backup_dir`. Expected the backup of a model "
            "whose optimizer can be restored from a Keras model file. Received: a "
            f"backup after {iterations} updates, of which Keras has restored none. "
            "Delete the folder to begin anew."
        )


def _step(optimizer: keras.optimizers.Optimizer) -> np.ndarray:
    return _numpy(optimizer.iterations)


def _numpy(variable: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(variable))


# Names ---------------------------------------------------------------------------


def _layers(model: keras.Model) -> list[list[str]]:
    """Class and name of each layer, in order, those inside of others included."""
    # A process that builds the same model twice gets `conv2d` and `conv2d_1`. If a run
    # is resumed by a second `build()` in one notebook, its layers have other names than
    # in the backup, though they are the same layers in the same order.
    layers = model._flatten_layers(include_self=False)
    return [[type(layer).__name__, layer.name] for layer in layers]


def _new_names(saved: list[list[str]], given: list[list[str]]) -> dict[str, str]:
    """Saved name -> given name, where they differ; empty if layers do not match."""
    if [kind for kind, _ in saved] != [kind for kind, _ in given]:
        return {}
    pairs = {(old, new) for (_, old), (_, new) in zip(saved, given, strict=True) if old}
    names = dict(pairs)
    if len(names) < len(pairs) or len(set(names.values())) < len(names):
        return {}  # one name inside of several models
    return {old: new for old, new in names.items() if old != new}


def _load(path: Path, config: Any) -> keras.Model:
    """The model of a Keras file, by another description."""
    with zipfile.ZipFile(path) as old:
        if config == json.loads(old.read(_CONFIG)):
            return keras.saving.load_model(path)
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp.keras")
    try:
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(temporary, "w") as new:
            for member in old.namelist():
                text = json.dumps(config) if member == _CONFIG else old.read(member)
                new.writestr(member, text)
        return keras.saving.load_model(temporary)
    finally:
        temporary.unlink(missing_ok=True)


def _renamed_config(value: Any, names: Mapping[str, str], keys: bool = False) -> Any:
    """The configuration of a model with other names for its layers.

    A layer is named where it is described ("name"), where its output is used (the
    first of the three entries of a "keras_history", or of "input_layers" and
    "output_layers"), and as a key of the losses and metrics of several outputs.
    """
    if isinstance(value, dict):
        return {
            names.get(key, key) if keys else key: names.get(each, each)
            if key == "name" and isinstance(each, str)
            else _renamed_config(each, names, keys or key == "compile_config")
            for key, each in value.items()
        }
    if isinstance(value, list):
        if len(value) == 3 and isinstance(value[0], str) and isinstance(value[1], int):
            return [names.get(value[0], value[0]), *value[1:]]
        return [_renamed_config(each, names, keys) for each in value]
    return value


def _renamed(state: Any, names: Mapping[str, str]) -> Any:
    """The state of a run with other names for the layers that its keys name."""
    if not names:
        return state
    # A name counts where it is a whole part of a key: between the start, "/" or "_" and
    # the end, "/", "#" or "_". With conv2d -> conv2d_5:
    #     "density/conv2d", "conv2d#2", "val_conv2d_loss"   are renamed
    # Longest names first, or conv2d_1 -> conv2d_6 would be taken for conv2d; and those
    # that stay as they are, too, or the layer conv2d_out would become conv2d_5_out.
    names = {**{name: name for _, name in state["layers"]}, **names}
    longest = sorted(map(re.escape, names), key=len, reverse=True)
    pattern = re.compile(rf"(?<![^/_])({'|'.join(longest)})(?=$|[/#_])")

    def rename(value: Any) -> Any:
        if isinstance(value, dict):
            return {new(key): rename(each) for key, each in value.items()}
        if isinstance(value, list):
            return [rename(each) for each in value]
        return new(value) if isinstance(value, str) else value

    def new(text: str) -> str:
        return pattern.sub(lambda match: names[match[1]], text)

    run = {key: rename(value) for key, value in state["run"].items()}
    return {**state, "run": run}
