"""Packed files: a model's architecture, and its weights in as few bytes as they need.

The format is described byte by byte in docs/tfcz.md. Reading one runs no code
from the file: the architecture is JSON, and weights are numbers.
"""

from __future__ import annotations

import json
import math
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
from keras import ops

from tfcompress._checks import whole
from tfcompress._files import check_writable, write_atomic
from tfcompress._models import at_most
from tfcompress.export import _tensors

__all__ = ["InvalidFileError", "PackedFile", "PackedTensor", "pack", "unpack"]

_MAGIC = b"TFCZ"
_VERSION = 1
_HEAD = struct.Struct("<4sBI")
_MAX_ARCHITECTURE = 1 << 24
_MAX_TENSORS = 1 << 20
# Entries of variables that are not weights, such as the states of random generators.
_SPARE_ENTRIES = 1 << 16


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
            fixed width) or `"rice levels"`.
        bits: width of a level code, or of a number, in bits.
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
        """Whether this is a weight proper, not a bias or a normalisation."""
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
    and normalisations, which are vectors, and the architecture are listed
    beside them.

    Attributes:
        path: the file.
        bytes: its size.
        architecture_bytes: size of the architecture.
        tensors: one entry for each variable.
    """

    path: Path
    bytes: int
    architecture_bytes: int
    tensors: tuple[PackedTensor, ...]

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
        """Biases and normalisations as they lie in the file."""
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
            f"biases and normalisations {self.vector_bytes} bytes, architecture "
            f"{self.architecture_bytes} bytes, file {self.bytes} bytes",
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
    on equidistant levels cost a few bits. For each variable the shortest code
    that reproduces it exactly is chosen: `unpack` returns the same numbers, bit
    by bit (a negative zero, which masks leave behind, becomes a zero). The file is
    read back and compared before it gets its name. Compile and optimizer state
    is not stored.

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
            (biases, normalisations) to half precision, the one thing that is not
            exact. Defaults to `"float32"`: no rounding.

    Returns:
        A `PackedFile` with the size of every part.

    Raises:
        TypeError: if `model` is not a Keras model.
        ValueError: if `path` cannot be written, the model is not built, has no
            complete configuration or a variable of an unknown type, or a value
            is too large for half precision.
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
    content = _assemble(architecture, [tensor.data for tensor in coded])
    _check_readable(content, arrays)
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
    )


def unpack(
    path: str | os.PathLike[str],
    *,
    max_entries: int = 1 << 28,
    safe_mode: bool = True,
) -> keras.Model:
    """Reads a model from a packed file.

    Every size in the file is checked against what is left of the file and
    against `max_entries` before memory is taken, so a damaged or hostile file
    costs an exception, and no more memory than its own size and `max_entries`
    account for.

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
    """
    max_entries = whole("max_entries", max_entries, least=None)
    architecture, arrays = _parse(Path(path).read_bytes(), max_entries)
    return _rebuild(architecture, arrays, safe_mode)


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


def _assemble(architecture: bytes, records: list[bytes]) -> bytes:
    body = b"".join(
        [
            _tensors.varint(len(architecture)),
            architecture,
            _tensors.varint(len(records)),
            *records,
        ]
    )
    return _HEAD.pack(_MAGIC, _VERSION, zlib.crc32(body)) + body


def _check_readable(content: bytes, arrays: list[np.ndarray]) -> None:
    """Makes sure that what is about to be written is the model that was given."""
    limit = sum(array.size for array in arrays)
    architecture, read = _parse(content, limit)
    for before, after in zip(arrays, read, strict=True):
        same = before.dtype == after.dtype and before.shape == after.shape
        if not same or before.tobytes() != after.tobytes():
            raise RuntimeError(
                "a packed variable did not read back; please report this"
            )
    try:
        _rebuild(architecture, read, safe_mode=False)
    except InvalidFileError as error:
        raise ValueError(
            "Invalid value for argument `model`. Expected a model that can be rebuilt "
            "from its configuration; custom classes need `get_config` and "
            f"`keras.saving.register_keras_serializable`. {error}"
        ) from error


def _parse(content: bytes, max_entries: int) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Configuration and weights of a packed file."""
    try:
        body = _checked_body(content)
        reader = _tensors.Reader(body)
        architecture = _read_architecture(reader.take(reader.varint()))
        count = reader.varint()
        # Records have several bytes each, so this bounds the list as well.
        if count > min(_MAX_TENSORS, len(body)):
            raise ValueError(f"{count} variables are announced")
        arrays = []
        for _ in range(count):
            arrays.append(_tensors.decode(reader, max_entries))
            max_entries -= arrays[-1].size
        if not reader.at_end():
            raise ValueError("there is something behind the last variable")
    except ValueError as error:
        raise InvalidFileError(f"Not a valid packed model: {error}.") from error
    return architecture, arrays


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
    inflater = zlib.decompressobj()
    try:
        text = inflater.decompress(data, _MAX_ARCHITECTURE)
    except zlib.error as error:
        raise ValueError(f"its architecture cannot be inflated ({error})") from error
    if not inflater.eof or inflater.unused_data:
        raise ValueError(
            f"its architecture is cut short, or larger than {_MAX_ARCHITECTURE} bytes"
        )
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its architecture is no JSON ({error})") from error
    if not isinstance(config, dict):
        raise ValueError("its architecture is no JSON object")
    return config


def _rebuild(
    architecture: dict[str, Any], arrays: list[np.ndarray], safe_mode: bool
) -> keras.Model:
    limit = sum(array.size for array in arrays) + _SPARE_ENTRIES
    try:
        with at_most(limit):
            model = keras.saving.deserialize_keras_object(
                architecture, safe_mode=safe_mode
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
    return model
