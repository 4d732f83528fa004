"""DRUM's truncation as arithmetic, in NumPy: what the fast forms must agree with.

Slow, and without any trick on the bits of a number: the leading `k` bits of a
magnitude are ⌊|x| / u⌋ with u the weight of the last of them, u = 2^(⌊log₂|x|⌋ −
k + 1).
"""

from __future__ import annotations

import numpy as np

from tfcompress.ops._numbers import check_bits, check_fraction_bits, number_format

__all__ = ["drum_truncate"]


def drum_truncate(
    x: np.ndarray, bits: int, fraction_bits: int | None = None
) -> np.ndarray:
    """As `tfcompress.ops.drum_truncate`, on NumPy arrays.

    Args:
        x: array of any shape, floats (bfloat16 of `ml_dtypes`, too) or integers.
        bits: k, how many bits from the leading one are kept.
        fraction_bits: f of a fixed-point grid 2^-f, for floats. Defaults to
            `None`.

    Returns:
        An array of the shape and dtype of `x`.
    """
    x = np.asarray(x)
    kind = number_format(x.dtype.name)
    check_bits(bits, kind)
    check_fraction_bits(fraction_bits, kind)
    if kind.is_float:
        return _truncate_float(x, bits, fraction_bits)
    return _truncate_integer(x, bits)


def _truncate_float(x: np.ndarray, bits: int, fraction_bits: int | None) -> np.ndarray:
    kind = number_format(x.dtype.name)
    # Exact for every format. A subnormal keeps its sign only.
    with np.errstate(invalid="ignore"):  # signalling NaN
        wide = x.astype("float64")
    finite = np.isfinite(wide)
    magnitude = np.abs(np.where(finite, wide, 0))
    # frexp: magnitude = m · 2^exponent with 1/2 ≤ m < 1. Times 2^(k - exponent) it lies
    # in [2^(k-1), 2^k): its whole part is the k leading bits.
    _, exponent = np.frexp(magnitude)
    normal = finite & (exponent - 1 > -kind.bias) & (magnitude > 0)
    shift = np.where(normal, bits - exponent, 0)
    leading = np.floor(np.ldexp(magnitude, shift))
    truncated = np.ldexp(_set_last(leading, bits), -shift)
    result = np.copysign(np.where(normal, truncated, 0), wide)
    passes = ~finite
    if fraction_bits is not None:
        passes |= (magnitude < np.ldexp(1.0, bits - fraction_bits)) & finite
    # `x` itself, so that nothing happens to the payload of a NaN.
    return np.where(passes, x, result.astype(x.dtype))


def _truncate_integer(x: np.ndarray, bits: int) -> np.ndarray:
    magnitude = np.where(x < 0, -(x + 1), x).astype("uint64") + (x < 0)
    # The number of bits of a magnitude is the number of powers of two up to it.
    length = sum(
        (magnitude >= np.uint64(1 << place)).astype("uint64") for place in range(64)
    )
    fits = length <= bits
    unit = np.uint64(1) << np.where(fits, 0, length - bits).astype("uint64")
    kept = _set_last(magnitude // unit, bits) * unit
    # The lowest number has no counterpart to be truncated to.
    fits |= x == np.iinfo(x.dtype).min
    signed = np.where(x < 0, -kept.astype("int64"), kept.astype("int64"))
    return np.where(fits, x, signed.astype(x.dtype))


def _set_last(leading: np.ndarray, bits: int) -> np.ndarray:
    """Sets the last kept bit, which with one bit is the leading one."""
    return leading if bits == 1 else leading + (leading % 2 == 0)
