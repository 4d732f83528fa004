"""The number formats that the DRUM operations work on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tfcompress._checks import whole

__all__ = ["FORMATS", "Format", "check_bits", "check_fraction_bits", "number_format"]


@dataclass(frozen=True)
class Format:
    """A number format.

    Attributes:
        name: the dtype's name.
        width: bits of a number.
        mantissa: stored bits of a float's significand, 0 for integers.
    """

    name: str
    width: int
    mantissa: int = 0

    @property
    def is_float(self) -> bool:
        """Whether it is a floating-point format."""
        return self.mantissa > 0

    @property
    def bias(self) -> int:
        """How much the stored exponent of a float exceeds the true exponent."""
        # Half the range of the stored exponent: 127 for the 8 bits of float32.
        return (1 << (self.width - self.mantissa - 2)) - 1

    @property
    def infinity(self) -> int:
        """The bits of infinity: those of all finite magnitudes are smaller."""
        # Magnitudes of floats, read as integers, have the same order as the floats. NaN
        # comes after infinity. That is why one comparison of integers finds both.
        return ((1 << (self.width - 1 - self.mantissa)) - 1) << self.mantissa

    @property
    def smallest(self) -> int:
        """The bits of the smallest normal magnitude."""
        return 1 << self.mantissa

    def power_of_two(self, exponent: int) -> int:
        """The bits of 2^exponent: of infinity if it is too large, of 0 if too small."""
        stored = exponent + self.bias
        if stored <= 0:
            return 0
        return min(stored << self.mantissa, self.infinity)


FORMATS = {
    known.name: known
    for known in (
        Format("float16", 16, 10),
        Format("bfloat16", 16, 7),
        Format("float32", 32, 23),
        Format("float64", 64, 52),
        Format("int8", 8),
        Format("int16", 16),
        Format("int32", 32),
        Format("int64", 64),
    )
}


def number_format(dtype: str) -> Format:
    """The format of a dtype.

    Raises:
        TypeError: for dtypes that the multiplier is not defined for.
    """
    if dtype not in FORMATS:
        raise TypeError(
            f"Invalid value for argument `x`. Expected one of the dtypes "
            f"{', '.join(FORMATS)}. Received: {dtype}"
        )
    return FORMATS[dtype]


def check_bits(bits: Any, kind: Format | None = None, argument: str = "bits") -> int:
    """Raises unless `bits` is a number of significant bits that `kind` can keep."""
    bits = whole(argument, bits)
    if kind is not None and kind.is_float and bits > kind.mantissa + 1:
        raise ValueError(
            f"Invalid value for argument `{argument}`. Expected at most "
            f"{kind.mantissa + 1}, the significant bits of {kind.name}. "
            f"Received: {argument}={bits}"
        )
    return bits


def check_fraction_bits(fraction_bits: Any, kind: Format | None = None) -> int | None:
    """Raises unless 2^-fraction_bits is a fixed-point grid in `kind`."""
    if fraction_bits is None:
        return None
    fraction_bits = whole("fraction_bits", fraction_bits, least=None)
    if kind is None:
        return fraction_bits
    if not kind.is_float and fraction_bits != 0:
        raise ValueError(
            "Invalid value for argument `fraction_bits`. Expected None or 0 for "
            f"integers. Received: fraction_bits={fraction_bits} for {kind.name}"
        )
    if kind.is_float and not -kind.bias <= fraction_bits < kind.bias:
        raise ValueError(
            "Invalid value for argument `fraction_bits`. Expected a grid "
            f"2^-fraction_bits in the normal range of {kind.name}, "
            f"{-kind.bias} to {kind.bias - 1}. Received: fraction_bits={fraction_bits}"
        )
    return fraction_bits
