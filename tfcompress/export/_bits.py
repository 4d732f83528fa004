"""Integers as bit strings: fixed width, and Golomb-Rice codes.

Bits are written from the most significant bit of each byte on, and the last
byte is filled up with zeros.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

__all__ = [
    "best_rice",
    "from_fixed",
    "from_rice",
    "rice_bits",
    "to_fixed",
    "to_rice",
    "width_of",
]

# Values handled at a time. A multiple of 8, so that every part ends on a byte.
_CHUNK = 1 << 16
_MAX_RICE = 30


def width_of(largest: int) -> int:
    """Bits that every number from 0 to `largest` fits into."""
    return int(largest).bit_length()


def to_fixed(values: np.ndarray, width: int) -> bytes:
    """Writes unsigned integers with `width` bits each."""
    shifts = np.arange(width - 1, -1, -1, dtype=np.int64)
    parts = []
    for part in _parts(values.size):
        bits = (values[part, None].astype(np.int64) >> shifts) & 1
        parts.append(np.packbits(bits.astype(np.uint8)).tobytes())
    return b"".join(parts)


def from_fixed(data: bytes, count: int, width: int) -> np.ndarray:
    """Reads `count` integers of `width` bits.

    Raises:
        ValueError: if `data` does not have the size they take.
    """
    if len(data) != (count * width + 7) // 8:
        raise ValueError(
            f"{count} numbers of {width} bits do not take {len(data)} bytes"
        )
    out = np.zeros(count, np.int64)
    if not width:
        return out
    weights = np.left_shift(np.int64(1), np.arange(width - 1, -1, -1, dtype=np.int64))
    raw = np.frombuffer(data, np.uint8)
    for part in _parts(count):
        number = len(range(*part.indices(count)))
        start = part.start * width // 8
        stop = start + (number * width + 7) // 8
        bits = np.unpackbits(raw[start:stop], count=number * width)
        out[part] = bits.reshape(number, width) @ weights
    return out


def rice_bits(values: np.ndarray, k: int) -> int:
    """Size of the Rice code of `values` with parameter `k`, in bits."""
    return int(np.sum(values >> k)) + values.size * (k + 1)


def best_rice(values: np.ndarray) -> tuple[int, int]:
    """The parameter of the shortest Rice code, and its size in bits."""
    # Beyond the width of the largest value every quotient is 0, and a larger k only
    # adds bits.
    sizes = [
        rice_bits(values, k) for k in range(min(_MAX_RICE, width_of(values.max())) + 1)
    ]
    k = int(np.argmin(sizes))
    return k, sizes[k]


def to_rice(values: np.ndarray, k: int) -> tuple[bytes, bytes]:
    """Rice code of unsigned integers: quotients by 2^k in unary, then remainders.

    The unary part of a value is as many zeros as the quotient says, then a one: with
    k = 2, the value 11 = 2 · 4 + 3 is 001 there, and 11 among the remainders. Kept
    apart, both parts can be written and read without a loop over the values.
    """
    quotients = values.astype(np.int64) >> k
    ends = np.cumsum(quotients + 1) - 1
    unary = np.zeros(int(ends[-1]) + 1 if ends.size else 0, np.uint8)
    unary[ends] = 1
    return np.packbits(unary).tobytes(), to_fixed(values & ((1 << k) - 1), k)


def from_rice(unary: bytes, remainders: bytes, count: int, k: int) -> np.ndarray:
    """Reads `count` integers from their Rice code.

    Raises:
        ValueError: if the data holds more or fewer integers.
    """
    bits = np.unpackbits(np.frombuffer(unary, np.uint8))
    ends = np.flatnonzero(bits)
    # One 1 ends each value. The last byte may be filled up, no byte may follow.
    if ends.size != count or (bits.size - 1 - ends[-1] > 7 if count else bits.size):
        raise ValueError(f"a unary part does not hold {count} numbers")
    if not 0 <= k <= _MAX_RICE:
        raise ValueError(f"a Rice parameter of {k} is out of range")
    quotients = np.diff(ends, prepend=-1) - 1
    return (quotients << k) + from_fixed(remainders, count, k)


def _parts(size: int) -> Iterator[slice]:
    for start in range(0, size, _CHUNK):
        yield slice(start, start + _CHUNK)
