"""Packed files: a model's architecture, and its weights in as few bytes as they need.

The format is described byte by byte in docs/tfcz.md. Reading one runs no code
from the file: the architecture is JSON, and weights are numbers.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
from keras import ops

from tfcompress._checks import whole
from tfcompress._files import check_writable, write_atomic
from tfcompress._models import at_most
from tfcompress.export import _layer_state, _tensors
from tfcompress.structure._graph import evaluate, has_graph
from tfcompress.structure._state import sublayers
from tfcompress.structure._verify import random_inputs

__all__ = ["InvalidFileError", "PackedFile", "PackedTensor", "pack", "unpack"]

_MAGIC = b"TFCZ"
_VERSION = 2
_HEAD = struct.Struct("<4sBI")
_MAX_ARCHITECTURE = 1 << 24
_MAX_TENSORS = 1 << 20
# Variables that are not stored, such as those of random generators that a layer
# makes in its constructor and does not use: how many, and how large together.
_SPARE_VARIABLES, _SPARE_ENTRIES = 64, 1 << 16
# Objects in an architecture: this many, and more for each variable that is stored.
# Keras needs some milliseconds for each.
_SPARE_OBJECTS, _OBJECTS_PER_VARIABLE = 2000, 64
# Keras builds a Sequential model anew for each layer that it adds, so that the time
# grows with the square of their number: layers of one, and sum of the squares.
_MAX_SEQUENTIAL, _MAX_SQUARES = 256, 1 << 16


class InvalidFileError(ValueError):
    """A file is not a packed model, is damaged, or asks for more than is allowed."""


@dataclass(frozen=True)
class PackedTensor:
    """One variable in a packed file.

    Attributes:
        name: path of the variable.
        shape: its shape.
        nonzero: number of entries that are not zero.
        places: how the places of non-zero entries are coded: `"everywhere"`,
            `"nowhere"`, `"bitmap"`, `"gaps"` (of fixed width) or `"rice gaps"`.
        values: how their values are coded: `"raw"`, `"float16"`, `"levels"` (of
            fixed width), `"rice levels"` or `"table"`, of few values with zero
            perhaps among them.
        bits: width of a level code, of a place in a table, or of a number, in bits.
        index_bytes: bytes of the places.
        value_bytes: bytes of the values.
        record_bytes: bytes of both and of the header of the record.
    """

    name: str
    shape: tuple[int, ...]
    nonzero: int
    places: str
    values: str
    bits: int
    index_bytes: int
    value_bytes: int
    record_bytes: int

    @property
    def is_kernel(self) -> bool:
        """Whether this is a weight proper, not a bias or a normalization."""
        return len(self.shape) > 1

    @property
    def data_bits(self) -> int:
        """Bits of the non-zero values at their fixed width, without places."""
        return self.nonzero * self.bits


@dataclass(frozen=True)
class PackedFile:
    """What `pack` wrote, and how large each part is.

    The paper's tables count weights only: "data" is the number of non-zero
    weights times the width of a code, "model" adds what locates them. Biases
    and normalizations, which are vectors, and the architecture are listed
    beside them.

    Attributes:
        path: the file.
        bytes: its size.
        architecture_bytes: size of the architecture.
        tensors: one entry for each variable.
        state_bytes: size of the state that layers keep beside their variables: states
            of random generators, vocabularies, and what classes of your own save.
    """

    path: Path
    bytes: int
    architecture_bytes: int
    tensors: tuple[PackedTensor, ...]
    state_bytes: int = 0

    @property
    def nonzero(self) -> int:
        """Number of weights that are not zero; biases not counted."""
        return sum(tensor.nonzero for tensor in self.kernels)

    @property
    def kernels(self) -> tuple[PackedTensor, ...]:
        """The weights proper: tensors of at least two axes."""
        return tuple(tensor for tensor in self.tensors if tensor.is_kernel)

    @property
    def data_bytes(self) -> float:
        """Weight data only: non-zero weights times the width of their code."""
        return sum(tensor.data_bits for tensor in self.kernels) / 8

    @property
    def weight_bytes(self) -> int:
        """Weights and indices as they lie in the file, record headers included."""
        return sum(tensor.record_bytes for tensor in self.kernels)

    @property
    def vector_bytes(self) -> int:
        """Biases and normalizations as they lie in the file."""
        return sum(t.record_bytes for t in self.tensors if not t.is_kernel)

    def data_compression(self, weights: int | None = None) -> float:
        """32-bit weights of the original network, over weight data only.

        Args:
            weights: number of weights of the original network. Defaults to
                `None`: those of the packed model, zeros included.
        """
        return self._original(weights) / (self.data_bytes or math.inf)

    def model_compression(self, weights: int | None = None) -> float:
        """32-bit weights of the original network, over weights and indices.

        Args:
            weights: as for `data_compression`.
        """
        return self._original(weights) / self.weight_bytes

    def _original(self, weights: int | None) -> float:
        if weights is None:
            weights = sum(math.prod(tensor.shape) for tensor in self.kernels)
        return 4.0 * weights

    def __str__(self) -> str:
        rows = [("variable", "shape", "non-zero", "places", "values", "bytes")]
        for t in self.tensors:
            shape = "×".join(map(str, t.shape)) or "scalar"
            values = f"{t.values} {t.bits} bit" if t.nonzero else "-"
            rows.append(
                (t.name, shape, f"{t.nonzero}", t.places, values, f"{t.record_bytes}")
            )
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                cell.ljust(width) for cell, width in zip(row, widths, strict=True)
            )
            for row in rows
        ]
        lines += [
            f"weight data {self.data_bytes:.0f} bytes, weights and indices "
            f"{self.weight_bytes} bytes",
            f"biases and normalizations {self.vector_bytes} bytes, architecture "
            f"{self.architecture_bytes} bytes, state of layers {self.state_bytes} "
            f"bytes, file {self.bytes} bytes",
        ]
        return "\n".join(line.rstrip() for line in lines)


def pack(
    model: keras.Model,
    path: str | os.PathLike[str],
    *,
    vectors: Literal["float32", "float16"] = "float32",
) -> PackedFile:
    """Writes a model to a packed file.

    Pruned weights cost nothing but the places of those that remain, and weights
    on equidistant levels, or of a few values, cost a few bits. For each variable
    the shortest code that reproduces it exactly is chosen: `unpack` returns the same
    numbers, bit by bit (a negative zero, which masks leave behind, becomes a zero).
    State that layers keep beside their variables is stored, too: vocabularies, states
    of random generators, and what classes of your own write in `save_own_variables`
    and `save_assets`. Compile state, optimizer state and the memory of stateful layers
    are not stored.

    The file is read back before it gets its name: weights are compared, and the
    output of every layer on random input. If a layer computes something else, an
    error names it, and nothing is written.

    Example:

    ```python
    packed = tfc.export.pack(model, "lenet5.tfcz", vectors="float16")
    print(packed)
    model = tfc.export.unpack("lenet5.tfcz")
    ```

    Args:
        model: a built Keras model that can be rebuilt from its configuration.
        path: file ending in `.tfcz`.
        vectors: `"float16"` rounds float32 variables of less than two axes
            (biases, normalizations) to half precision, the one thing that is not
            exact. Defaults to `"float32"`: no rounding.

    Returns:
        A `PackedFile` with the size of every part.

    Raises:
        TypeError: if `model` is not a Keras model.
        ValueError: if `path` cannot be written, the model is not built, has no
            complete configuration or a variable of an unknown type, has a layer
            with state that cannot be carried, or a value is too large for half
            precision.
        RuntimeError: if a variable does not read back as it was written.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(
            "Invalid value for argument `model`. Expected a `keras.Model`. "
            f"Received: {type(model).__name__}"
        )
    target = check_writable(path, suffixes=(".tfcz",))
    if vectors not in ("float32", "float16"):
        raise ValueError(
            "Invalid value for argument `vectors`. Expected 'float32' or 'float16'. "
            f"Received: vectors={vectors!r}"
        )
    if not model.built:
        raise ValueError(
            "Invalid value for argument `model`. Expected a built model: call it on "
            f"data once. Received: {model.name!r}, which has no weights yet"
        )
    arrays = [_array(variable, vectors) for variable in model.weights]
    architecture = _architecture(model)
    coded = [_coded(v, a) for v, a in zip(model.weights, arrays, strict=True)]
    state = _layer_state.encode(_layer_state.gather(model))
    content = _assemble(architecture, [tensor.data for tensor in coded], state)
    _check_readable(model, content, arrays)
    write_atomic(target, content)
    return PackedFile(
        path=target,
        bytes=len(content),
        architecture_bytes=len(architecture),
        tensors=tuple(
            PackedTensor(
                name=variable.path,
                shape=tensor.shape,
                nonzero=tensor.nonzero,
                places=tensor.support,
                values=tensor.values,
                bits=tensor.bits,
                index_bytes=tensor.index_bytes,
                value_bytes=tensor.value_bytes,
                record_bytes=len(tensor.data),
            )
            for variable, tensor in zip(model.weights, coded, strict=True)
        ),
        state_bytes=len(state),
    )


def unpack(
    path: str | os.PathLike[str],
    *,
    max_entries: int = 1 << 28,
    safe_mode: bool = True,
) -> keras.Model:
    """Reads a model from a packed file.

    Every size in the file is checked against what is left of the file and
    against `max_entries` before memory is taken, and the number of layers and of
    their variables before they are built. So a damaged or hostile file raises an
    exception. It takes little time, and no more memory than its own size and
    `max_entries` account for.

    Args:
        path: file that `pack` wrote.
        max_entries: number of weights that the model may have at most. Defaults
            to `2**28`, 1 GiB of float32.
        safe_mode: whether to refuse architectures that contain Python code
            (`Lambda` layers), as `keras.models.load_model` does. Defaults to
            `True`.

    Returns:
        The model, not compiled.

    Raises:
        InvalidFileError: if the file is not a packed model, is damaged or too
            large.
        FileNotFoundError: if there is no such file.
        TypeError: if `path` is not a path.
        ValueError: if it cannot be one.
    """
    max_entries = whole("max_entries", max_entries, least=None)
    try:
        content = Path(path).read_bytes()
    except ValueError as error:
        raise ValueError(
            "Invalid value for argument `path`. Expected the path of a file. "
            f"Received: path={path!r} ({error})"
        ) from error
    return _rebuild(_parse(content, max_entries), safe_mode)


def _array(variable: keras.Variable, vectors: str) -> np.ndarray:
    array = np.asarray(ops.convert_to_numpy(variable))
    if array.dtype.kind not in "biu":
        # A mask leaves negative zeros behind; adding zero makes them plain.
        array = array + array.dtype.type(0)
    if vectors == "float32" or array.ndim > 1 or array.dtype != np.float32:
        return array
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    if not np.array_equal(np.isfinite(half), np.isfinite(array)):
        raise ValueError(
            "Invalid value for argument `vectors`. Expected 'float32' for values "
            f"beyond 65504. Received: vectors={vectors!r} with {variable.path!r} up to "
            f"{np.abs(array).max():.3g}"
        )
    return half.astype(np.float32) + np.float32(0)


def _coded(variable: keras.Variable, array: np.ndarray) -> _tensors.Coded:
    try:
        return _tensors.encode(array)
    except ValueError as error:
        raise ValueError(
            "Invalid value for argument `model`. Expected variables of plain numbers. "
            f"Received: {variable.path!r}: {error}"
        ) from error


def _architecture(model: keras.Model) -> bytes:
    config = keras.saving.serialize_keras_object(model)
    config.pop("compile_config", None)
    text = json.dumps(config, separators=(",", ":"), sort_keys=True).encode()
    if len(text) > _MAX_ARCHITECTURE:
        raise ValueError(
            "Invalid value for argument `model`. Expected a configuration of at most "
            f"{_MAX_ARCHITECTURE} bytes. Received: {len(text)} bytes"
        )
    return zlib.compress(text, 9)


def _assemble(architecture: bytes, records: list[bytes], state: bytes) -> bytes:
    body = b"".join(
        [
            _tensors.varint(len(architecture)),
            architecture,
            _tensors.varint(len(records)),
            *records,
            state,
        ]
    )
    return _HEAD.pack(_MAGIC, _VERSION, zlib.crc32(body)) + body


# Checking what is written ---------------------------------------------------------


def _check_readable(
    model: keras.Model, content: bytes, arrays: list[np.ndarray]
) -> None:
    """Makes sure that what is about to be written is the model that was given."""
    # Three checks, each of which finds what the one before cannot find: the bytes hold
    # the same arrays; a model can be built from them; and its layers compute the same,
    # which may also depend on attributes that are in neither config nor variables.
    try:
        contents = _parse(content, sum(array.size for array in arrays) + _SPARE_ENTRIES)
    except InvalidFileError as error:
        raise ValueError(
            "Invalid value for argument `model`. Expected a model within the bounds of "
            f"packed files. Received: {model.name!r}. {error}"
        ) from error
    for before, after in zip(arrays, contents.arrays, strict=True):
        same = before.dtype == after.dtype and before.shape == after.shape
        if not same or before.tobytes() != after.tobytes():
            raise RuntimeError(
                "a packed variable did not read back; please report this"
            )
    try:
        rebuilt = _rebuild(contents, safe_mode=False)
    except InvalidFileError as error:
        raise ValueError(
            "Invalid value for argument `model`. Expected a model that can be rebuilt "
            "from its configuration; custom classes need `get_config` and "
            f"`keras.saving.register_keras_serializable`. {error}"
        ) from error
    _check_outputs(model, rebuilt, arrays)


def _check_outputs(
    model: keras.Model, rebuilt: keras.Model, arrays: list[np.ndarray]
) -> None:
    """Makes sure, on random input, that every layer computes what it did."""
    # Weights may have been rounded; and what a call changes in either is undone.
    rounded = [
        (variable, keras.ops.convert_to_tensor(array, variable.dtype))
        for variable, array in zip(model.weights, arrays, strict=True)
        if np.asarray(ops.convert_to_numpy(variable)).tobytes() != array.tobytes()
    ]
    for inputs in _inputs(model):
        try:
            expected = _values(model, inputs, rounded)
        except Exception:  # a layer may refuse numbers of this kind
            continue
        break
    else:
        warnings.warn(
            f"pack: {model.name!r} could not be run on random input. Its weights were "
            "compared with those in the file, its outputs were not.",
            stacklevel=4,
        )
        return
    received = _values(rebuilt, inputs, [])
    for (name, before), (_, after) in zip(expected, received, strict=False):
        if not _same(before, after):
            raise _lost(model, name)
    if len(expected) != len(received):
        raise _lost(model, model.name)


def _inputs(model: keras.Model) -> Iterator[list[Any]]:
    """Random input: normal, then such that it can also be places in a table."""
    if has_graph(model):
        inputs = random_inputs(model)
    else:
        shape = (model.get_build_config() or {}).get("input_shape")
        if not isinstance(shape, list | tuple) or not shape:
            return
        if not all(size is None or isinstance(size, int) for size in shape):
            return
        shape = [size or 1 for size in shape]
        inputs = [
            keras.ops.cast(np.random.default_rng(0).normal(size=shape), "float32")
        ]
    yield inputs
    yield [keras.ops.abs(x) % 1 if "float" in str(x.dtype) else x for x in inputs]


def _values(
    model: keras.Model, inputs: list[Any], mapping: list[Any]
) -> list[tuple[str, Any]]:
    """Names of layers and values of their outputs, in the order of computation."""
    found: list[tuple[str, Any]] = []

    def note(tensor: Any, value: Any) -> None:
        found.append((tensor._keras_history.operation.name, value))

    # In the scope, variables read as the mapping says, and assignments (of seeds, of
    # states of recurrent layers) go into the scope and are dropped with it.
    with (
        keras.StatelessScope(state_mapping=mapping),
        _statistics(model, [variable for variable, _ in mapping]),
    ):
        for layer in sublayers(model):
            if getattr(layer, "stateful", False) and hasattr(layer, "reset_state"):
                layer.reset_state()
        if has_graph(model):
            evaluate(model, inputs, note)
        else:
            outputs = keras.tree.flatten(model(*inputs, training=False))
            found += [(model.name, value) for value in outputs]
    return found


@contextlib.contextmanager
def _statistics(model: keras.Model, rounded: list[keras.Variable]) -> Iterator[None]:
    """Lets normalizations compute with statistics of other values, for a while.

    They compute with tensors that `adapt` made of their variables, and would not see
    what the variables read as.
    """
    given = {id(variable) for variable in rounded}
    changed = [
        layer
        for layer in sublayers(model)
        if isinstance(layer, keras.layers.Normalization)
        and {id(variable) for variable in layer.weights} & given
    ]
    before = [(layer.mean, layer.variance) for layer in changed]
    try:
        for layer in changed:
            layer.finalize_state()
        yield
    finally:
        for layer, (mean, variance) in zip(changed, before, strict=True):
            layer.mean, layer.variance = mean, variance


def _same(before: Any, after: Any) -> bool:
    first, second = (_plain(value) for value in (before, after))
    if first.shape != second.shape or first.dtype != second.dtype:
        return False
    if first.dtype.kind != "f":
        return bool(np.array_equal(first, second))
    scale = np.abs(first[np.isfinite(first)]).max(initial=0.0)
    near = np.isclose(first, second, rtol=1e-4, atol=1e-5 * scale, equal_nan=True)
    return bool(near.all())


def _plain(value: Any) -> np.ndarray:
    array = np.asarray(keras.ops.convert_to_numpy(value))
    return array.astype("float64") if array.dtype.kind in "fV" else array


def _lost(model: keras.Model, name: str) -> ValueError:
    return ValueError(
        "Invalid value for argument `model`. Expected layers that are what their "
        "configurations, variables and saved state say. Received: "
        f"{model.name!r}, whose layer {name!r} would compute something else after "
        "`unpack`. Give its class `save_own_variables` and `load_own_variables`, or "
        "`save_assets` and `load_assets`, for what it has learned."
    )


# Reading --------------------------------------------------------------------------


@dataclass(frozen=True)
class _Contents:
    """What is in a packed file."""

    architecture: dict[str, Any]
    arrays: list[np.ndarray]
    state: list[_layer_state.Part]


def _parse(content: bytes, max_entries: int) -> _Contents:
    """Configuration, weights and state of a packed file."""
    try:
        body = _checked_body(content)
        reader = _tensors.Reader(body)
        architecture = _read_architecture(reader.take(reader.varint()))
        count = reader.varint()
        # Records have several bytes each, so this bounds the list as well.
        if count > min(_MAX_TENSORS, len(body)):
            raise ValueError(f"{count} variables are announced")
        _check_objects(architecture, count)
        arrays = []
        for _ in range(count):
            arrays.append(_tensors.decode(reader, max_entries))
            max_entries -= arrays[-1].size
        state = _layer_state.decode(reader, max_entries)
        if not reader.at_end():
            raise ValueError("bytes follow the last part")
    except ValueError as error:
        raise InvalidFileError(f"Not a valid packed model: {error}.") from error
    return _Contents(architecture, arrays, state)


def _checked_body(content: bytes) -> bytes:
    if len(content) < _HEAD.size or content[:4] != _MAGIC:
        raise ValueError("it does not begin like one")
    _, version, checksum = _HEAD.unpack_from(content)
    if version != _VERSION:
        raise ValueError(
            f"it has format version {version}, and this release reads {_VERSION}"
        )
    body = content[_HEAD.size :]
    if zlib.crc32(body) != checksum:
        raise ValueError("its checksum does not match: it is damaged or cut short")
    return body


def _read_architecture(data: bytes) -> dict[str, Any]:
    text = _layer_state.inflate(data, _MAX_ARCHITECTURE, "its architecture")
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its architecture is no JSON ({error})") from error
    if not isinstance(config, dict):
        raise ValueError("its architecture is no JSON object")
    return config


def _check_objects(architecture: dict[str, Any], variables: int) -> None:
    """Makes sure, before anything is built, that building takes bounded time."""
    # A file of a few kilobytes can name tens of thousands of layers, and Keras would
    # build all of them before it is seen that their weights are missing. The loop uses
    # a list instead of recursion, because the file also decides how deep JSON nests.
    objects = squares = 0
    pending: list[Any] = [architecture]
    while pending:
        value = pending.pop()
        if isinstance(value, list):
            pending += value
        elif isinstance(value, dict):
            pending += value.values()
            objects += "class_name" in value
            layers = _layers_in_sequence(value)
            squares += layers**2
            if layers > _MAX_SEQUENTIAL:
                raise ValueError(f"a Sequential model has {layers} layers")
    if squares > _MAX_SQUARES:
        raise ValueError("its Sequential models have too many layers")
    if objects > _SPARE_OBJECTS + _OBJECTS_PER_VARIABLE * variables:
        raise ValueError(f"{objects} objects are to be built for {variables} variables")


def _layers_in_sequence(value: dict[str, Any]) -> int:
    """How many layers Keras adds one by one to make the model that is described."""
    config = value.get("config")
    if not isinstance(config, dict) or not isinstance(config.get("layers"), list):
        return 0
    graph = "input_layers" in config and value.get("class_name") != "Sequential"
    return 0 if graph else len(config["layers"])


def _rebuild(contents: _Contents, safe_mode: bool) -> keras.Model:
    arrays = contents.arrays
    generators = sum(part.kind == _layer_state.GENERATOR for part in contents.state)
    limit = sum(array.size for array in arrays) + _SPARE_ENTRIES
    try:
        with at_most(limit, len(arrays) + generators + _SPARE_VARIABLES):
            model = keras.saving.deserialize_keras_object(
                contents.architecture, safe_mode=safe_mode
            )
    # The configuration is foreign data: constructors may fail in any way.
    except Exception as error:
        raise InvalidFileError(
            f"The architecture cannot be rebuilt: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(model, keras.Model):
        raise InvalidFileError(
            f"The architecture is that of a {type(model).__name__}, not of a model."
        )
    expected = [(tuple(v.shape), v.dtype) for v in model.weights]
    found = [(array.shape, array.dtype.name) for array in arrays]
    if expected != found:
        raise InvalidFileError(
            "The variables do not fit the architecture: "
            f"{len(found)} are stored and {len(expected)} expected, or shapes differ."
        )
    for variable, array in zip(model.weights, arrays, strict=True):
        variable.assign(array)
    try:
        _layer_state.restore(model, contents.state, arrays)
    except ValueError as error:
        raise InvalidFileError(f"Not a valid packed model: {error}.") from error
    return model
