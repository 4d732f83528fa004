"""One tensor of a packed file: where it is not zero, and what it is there.

`encode` picks the shortest of the codes that reproduce the tensor exactly;
`decode` reads any of them. docs/tfcz.md describes the bytes.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from tfcompress.export import _bits, _entropy

__all__ = ["Coded", "Reader", "decode", "encode", "varint"]

_DTYPES = {
    0: np.dtype("float32"),
    1: np.dtype("float16"),
    2: np.dtype(ml_dtypes.bfloat16),
    3: np.dtype("float64"),
    4: np.dtype("int8"),
    5: np.dtype("int16"),
    6: np.dtype("int32"),
    7: np.dtype("int64"),
    8: np.dtype("uint8"),
    9: np.dtype("uint16"),
    10: np.dtype("uint32"),
    11: np.dtype("uint64"),
    12: np.dtype("bool"),
}
_MAX_RANK = 16

# Where a tensor is not zero.
_EVERYWHERE, _NOWHERE, _BITMAP, _GAPS, _RICE_GAPS = range(5)
# What it is there.
_RAW, _HALF, _LEVELS, _RICE_LEVELS, _TABLE = range(5)
_SUPPORTS = ("everywhere", "nowhere", "bitmap", "gaps", "rice gaps")
_VALUES = ("raw", "float16", "levels", "rice levels", "table")

# Most levels on either side of zero: 8-bit codes.
_MAX_LEVEL = 128


@dataclass(frozen=True)
class Coded:
    """How one tensor is stored.

    Attributes:
        shape: its shape.
        nonzero: number of entries that are not zero.
        support: name of the code for the places of the non-zero entries.
        values: name of the code for their values.
        bits: width of a value in bits where it is fixed: of a level code, or of
            a number.
        index_bytes: size of the places.
        value_bytes: size of the values.
        data: the record, with its own header.
    """

    shape: tuple[int, ...]
    nonzero: int
    support: str
    values: str
    bits: int
    index_bytes: int
    value_bytes: int
    data: bytes


class Reader:
    """Reads a byte string from front to back and never beyond its end."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self._place = 0

    def take(self, size: int) -> bytes:
        """The next `size` bytes.

        Raises:
            ValueError: if fewer are left.
        """
        if size > len(self._data) - self._place:
            left = len(self._data) - self._place
            raise ValueError(f"{size} bytes are announced where {left} are left")
        self._place += size
        return bytes(self._data[self._place - size : self._place])

    def byte(self) -> int:
        """The next byte."""
        return self.take(1)[0]

    def varint(self) -> int:
        """The next unsigned integer in base 128, lowest digit first, below 2^63."""
        value = 0
        for shift in range(0, 63, 7):
            digit = self.byte()
            value |= (digit & 127) << shift
            if digit < 128:
                return value
        raise ValueError("a number has more than 63 bits")

    def at_end(self) -> bool:
        """Whether everything has been read."""
        return self._place == len(self._data)


def varint(value: int) -> bytes:
    """An unsigned integer in base 128, lowest digit first."""
    digits = []
    while value > 127:
        digits.append(value & 127 | 128)
        value >>= 7
    return bytes([*digits, value])


def encode(tensor: np.ndarray) -> Coded:
    """The record of a tensor.

    Raises:
        ValueError: if its dtype or rank has no place in the format.
    """
    codes = {dtype: code for code, dtype in _DTYPES.items()}
    if tensor.dtype not in codes or tensor.ndim > _MAX_RANK:
        raise ValueError(f"cannot store a {tensor.dtype} tensor of rank {tensor.ndim}")
    # A record has two parts with a code each: where the tensor is not zero, and which
    # values it has there. Example: [0, 0, 1.5, 0, -3] has the places [2, 4], or the
    # gaps [2, 1], the numbers of zeros before each place; and the values [1.5, -3], or
    # the levels [1, -2] with the step 1.5. The size of every code is computed, and the
    # shortest one is written, so that the caller has nothing to choose.
    flat = np.ascontiguousarray(tensor).reshape(-1)
    # Compared as bits: a negative zero is kept, and NaN is a value like others.
    places = np.flatnonzero(_as_bits(flat))
    support, index_parts = _encode_support(places, flat.size)
    values, bits, value_parts = _encode_values(flat[places])
    if 0 < places.size < flat.size:
        # In a table of few values zero can be one of them, and needs no place. The
        # range code then spends less than a bit on a zero where most weights are zero.
        together = _encode_table(flat)
        if together and _size(together[2]) < _size(index_parts) + _size(value_parts):
            support, index_parts = _EVERYWHERE, []
            values, bits, value_parts = together
    header = bytes([codes[tensor.dtype], tensor.ndim])
    header += b"".join(map(varint, tensor.shape))
    index, data = b"".join(index_parts), b"".join(value_parts)
    return Coded(
        shape=tensor.shape,
        nonzero=places.size,
        support=_SUPPORTS[support],
        values=_VALUES[values],
        bits=bits,
        index_bytes=len(index),
        value_bytes=len(data),
        data=header + bytes([support << 4 | values]) + index + data,
    )


def decode(reader: Reader, budget: int) -> np.ndarray:
    """Reads one record.

    Args:
        reader: the bytes.
        budget: number of entries that the tensor may have at most.

    Raises:
        ValueError: if the record is not valid, or larger than the budget.
    """
    dtype = _DTYPES.get(reader.byte())
    if dtype is None:
        raise ValueError("a tensor has an unknown dtype")
    rank = reader.byte()
    if rank > _MAX_RANK:
        raise ValueError(f"a tensor has rank {rank}")
    shape = tuple(reader.varint() for _ in range(rank))
    size = math.prod(shape)
    if size > budget:
        raise ValueError(f"a tensor of shape {shape} exceeds the limit of entries")
    support, values = divmod(reader.byte(), 16)
    places = _decode_support(reader, support, size)
    count = size if places is None else places.size
    nonzero = _decode_values(reader, values, count, dtype)
    if places is None:
        return nonzero.reshape(shape)
    flat = np.zeros(size, dtype)
    flat[places] = nonzero
    return flat.reshape(shape)


def _encode_support(places: np.ndarray, size: int) -> tuple[int, list[bytes]]:
    if not places.size:
        return _NOWHERE, []
    if places.size == size:
        return _EVERYWHERE, []
    gaps = np.diff(places, prepend=-1) - 1
    count = varint(places.size)
    width = _bits.width_of(gaps.max())
    k, rice = _bits.best_rice(gaps)
    sizes = {
        _RICE_GAPS: len(count) + 2 + (rice + 7) // 8,
        _GAPS: len(count) + 1 + (width * gaps.size + 7) // 8,
        _BITMAP: (size + 7) // 8,
    }
    best = min(sizes, key=lambda code: sizes[code])
    if best == _BITMAP:
        marks = np.zeros(size, np.uint8)
        marks[places] = 1
        return best, [np.packbits(marks).tobytes()]
    if best == _GAPS:
        return best, [count, bytes([width]), _bits.to_fixed(gaps, width)]
    return best, [count, *_rice_parts(gaps, k)]


def _decode_support(reader: Reader, code: int, size: int) -> np.ndarray | None:
    """Places of the non-zero entries, in order; None for all."""
    if code == _EVERYWHERE:
        return None
    if code == _NOWHERE:
        return np.zeros(0, np.int64)
    if code == _BITMAP:
        raw = np.frombuffer(reader.take((size + 7) // 8), np.uint8)
        return np.flatnonzero(np.unpackbits(raw, count=size))
    if code not in (_GAPS, _RICE_GAPS):
        raise ValueError(f"unknown code {code} for the places of a tensor")
    count = reader.varint()
    if not 0 < count <= size:
        raise ValueError(f"{count} non-zero entries are announced, of {size}")
    if code == _GAPS:
        gaps = _read_fixed(reader, count, 63)
    else:
        gaps = _read_rice(reader, count)
    # Sums of large gaps could pass 2^63 and come back into range. Each gap is below
    # `size` after this test, so that the sum of `count` of them cannot.
    if gaps.max() >= size:
        raise ValueError("a tensor has entries beyond its end")
    places = np.cumsum(gaps + 1) - 1
    if places[-1] >= size or places[-1] < 0:
        raise ValueError("a tensor has entries beyond its end")
    return places


def _encode_values(values: np.ndarray) -> tuple[int, int, list[bytes]]:
    """Code, width of a value in bits, and the parts of the record."""
    if not values.size:
        return _RAW, 0, []
    codes = [(_RAW, 8 * values.dtype.itemsize, [_little(values)])]
    if values.dtype == np.float32:
        with np.errstate(over="ignore", invalid="ignore"):
            half = values.astype(np.float16)
        if np.array_equal(_as_bits(half.astype(np.float32)), _as_bits(values)):
            codes.append((_HALF, 16, [_little(half)]))
        levels = _levels(values)
        if levels is not None:
            codes += _encode_levels(*levels)
    table = _encode_table(values)
    if table is not None:
        codes.append(table)
    return min(codes, key=lambda code: _size(code[2]))


def _decode_values(
    reader: Reader, code: int, count: int, dtype: np.dtype
) -> np.ndarray:
    if code == _RAW:
        return _read_raw(reader, count, dtype).copy()
    if code == _TABLE:
        return _decode_table(reader, count, dtype)
    if dtype != np.float32:
        raise ValueError(f"code {code} for the values of a {dtype} tensor")
    if code == _HALF:
        return _read_raw(reader, count, np.dtype("float16")).astype(np.float32)
    if code not in (_LEVELS, _RICE_LEVELS):
        raise ValueError(f"unknown code {code} for the values of a tensor")
    (step,) = struct.unpack("<f", reader.take(4))
    if code == _LEVELS:
        signed = _read_fixed(reader, count, 8)
    else:
        signed = _read_rice(reader, count)
        if count and signed.max() >= 2 * _MAX_LEVEL:
            raise ValueError("a level is out of range")
    magnitude = (signed >> 1) + 1
    return np.where(signed & 1, -magnitude, magnitude).astype(np.float32) * np.float32(
        step
    )


def _levels(values: np.ndarray) -> tuple[np.ndarray, np.float32] | None:
    """Level numbers and step, if every value is a whole multiple of one step.

    The product is the float32 one, so that `levels * step` is bit-exact.
    """
    # The smallest magnitude is a whole number of steps as well, `lowest`, and there
    # are 128 candidates for it. They are tried from 1 on, which is the largest step
    # and so the fewest bits: for {0.5, 0.75}, lowest = 1 fails (0.75 is not a multiple
    # of 0.5) and lowest = 2 gives the step 0.25 and the levels 2 and 3. A candidate
    # passes only if the product that the decoder computes is the weight, bit by bit.
    magnitude = np.unique(np.abs(values))
    # A negative zero and NaN are not levels.
    if magnitude.size > _MAX_LEVEL or not magnitude[0] > 0:
        return None
    if not np.isfinite(magnitude[-1]):
        return None
    for lowest in range(1, _MAX_LEVEL + 1):
        for step in _near(magnitude[0] / np.float32(lowest)):
            if not step or magnitude[-1] / step > _MAX_LEVEL + 0.5:
                continue
            level = np.rint(magnitude / step)
            if np.array_equal(level.astype(np.float32) * step, magnitude):
                return np.rint(values / step).astype(np.int64), step
    return None


def _near(value: np.float32) -> list[np.float32]:
    """A quotient, and its neighbors: rounding may have moved it."""
    infinity = np.float32(np.inf)
    return [value, np.nextafter(value, -infinity), np.nextafter(value, infinity)]


def _encode_levels(
    levels: np.ndarray, step: np.float32
) -> list[tuple[int, int, list[bytes]]]:
    # The sign is the lowest bit, so that small magnitudes are small numbers. No level
    # is 0, so that counting begins at 1: levels 1, -1, 2, -2 become 0, 1, 2, 3.
    magnitude = np.abs(levels) - 1
    signed = magnitude * 2 + (levels < 0)
    bits = _bits.width_of(int(magnitude.max())) + 1
    k, _ = _bits.best_rice(signed)
    head = struct.pack("<f", step)
    return [
        (_LEVELS, bits, [head, bytes([bits]), _bits.to_fixed(signed, bits)]),
        (_RICE_LEVELS, bits, [head, *_rice_parts(signed, k)]),
    ]


def _encode_table(values: np.ndarray) -> tuple[int, int, list[bytes]] | None:
    """The values that occur, and how often, and which of them is where."""
    most = _entropy.MAX_SYMBOLS
    bits = _as_bits(values)
    # The first entries of float weights already hold too many values: most tensors
    # are refused here, without sorting millions of weights.
    if np.unique(bits[: 2 * most]).size > most:
        return None
    _, first, symbols, counts = np.unique(
        bits, return_index=True, return_inverse=True, return_counts=True
    )
    if counts.size > most:
        return None
    table = values[first]
    width = _bits.width_of(max(int(np.count_nonzero(_as_bits(table))) - 1, 0))
    parts = [varint(counts.size), _little(table)]
    if counts.size > 1:
        frequency = _entropy.frequencies(counts)
        data = _entropy.to_ranges(symbols.reshape(-1), frequency)
        parts += [*map(varint, frequency.tolist()), varint(len(data)), data]
    return _TABLE, width, parts


def _decode_table(reader: Reader, count: int, dtype: np.dtype) -> np.ndarray:
    number = reader.varint()
    if not 0 < number <= _entropy.MAX_SYMBOLS:
        raise ValueError(f"a table has {number} values")
    table = _read_raw(reader, number, dtype)
    if number == 1:
        return np.repeat(table, count)
    if not count:
        raise ValueError("a table is announced for no values")
    frequency = np.array([reader.varint() for _ in range(number)])
    data = reader.take(reader.varint())
    return table[_entropy.from_ranges(data, count, frequency)]


def _size(parts: list[bytes]) -> int:
    return sum(map(len, parts))


def _rice_parts(values: np.ndarray, k: int) -> list[bytes]:
    unary, remainders = _bits.to_rice(values, k)
    return [bytes([k]), varint(len(unary)), unary, remainders]


def _read_rice(reader: Reader, count: int) -> np.ndarray:
    k = reader.byte()
    if k > 30:
        raise ValueError(f"a Rice parameter of {k} is out of range")
    unary = reader.take(reader.varint())
    return _bits.from_rice(unary, reader.take((count * k + 7) // 8), count, k)


def _read_fixed(reader: Reader, count: int, widest: int) -> np.ndarray:
    width = reader.byte()
    if width > widest:
        raise ValueError(f"numbers of {width} bits where {widest} are allowed")
    return _bits.from_fixed(reader.take((count * width + 7) // 8), count, width)


def _read_raw(reader: Reader, count: int, dtype: np.dtype) -> np.ndarray:
    raw = reader.take(count * dtype.itemsize)
    if dtype == np.bool_ and max(raw, default=0) > 1:
        raise ValueError("a truth value is neither 0 nor 1")
    little = np.frombuffer(raw, f"<u{dtype.itemsize}")
    return little.astype(little.dtype.newbyteorder("=")).view(dtype)


def _as_bits(values: np.ndarray) -> np.ndarray:
    return values.view(f"u{values.dtype.itemsize}")


def _little(values: np.ndarray) -> bytes:
    return _as_bits(values).astype(f"<u{values.dtype.itemsize}").tobytes()
