"""DRUM's truncation on TensorFlow: compiled, or from TensorFlow's own operations.

The latter are operations that XLA compiles and that TFLite has built in; their
results are those of the compiled operation, bit by bit.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfcompress.ops import _native
from tfcompress.ops._numbers import Format, number_format

__all__ = ["drum_truncate", "is_tensor", "name", "tensor", "widened"]


def tensor(x: Any, dtype: str | None = None) -> tf.Tensor:
    """`x` as a tensor."""
    return tf.convert_to_tensor(x, dtype)


def is_tensor(x: Any) -> bool:
    """Whether `x` has a dtype that it keeps."""
    return bool(tf.is_tensor(x))


def widened(x: tf.Tensor, dtype: str) -> tf.Tensor:
    """Integers in a dtype that products fit in."""
    return tf.cast(x, dtype)


def name(*, portable: bool) -> str:
    """Which form `drum_truncate` takes here."""
    return "tensorflow" if _compiled(portable) is None else "c++"


def drum_truncate(
    x: tf.Tensor, bits: int, fraction_bits: int | None, *, portable: bool
) -> tf.Tensor:
    """The truncation of checked arguments, with a straight-through gradient."""
    compiled = _compiled(portable)
    if compiled is not None:
        return compiled.tfcompress_drum_truncate(
            x,
            bits=bits,
            fixed_point=fraction_bits is not None,
            fraction_bits=fraction_bits or 0,
        )

    @tf.custom_gradient
    def straight_through(x: tf.Tensor) -> Any:
        return _truncate(x, bits, fraction_bits), lambda upstream: upstream

    return straight_through(x)


def _compiled(portable: bool) -> Any | None:
    """The module with the compiled operation, if it can be used here."""
    if portable or _native.inside_xla() or tf.config.get_visible_devices("GPU"):
        return None
    module, _ = _native.library()
    if module is None:
        _native.warn_missing()
    return module


def _truncate(x: tf.Tensor, bits: int, fraction_bits: int | None) -> tf.Tensor:
    kind = number_format(x.dtype.name)
    if kind.is_float:
        return _truncate_float(x, kind, bits, fraction_bits)
    return _truncate_integer(x, kind, bits)


def _truncate_float(
    x: tf.Tensor, kind: Format, bits: int, fraction_bits: int | None
) -> tf.Tensor:
    # The stored significand begins after the leading one, which is implied. So of k
    # bits that count, k - 1 are stored, and the last `drop` = stored + 1 - k are not
    # kept. float32 stores 23 bits. For k = 5, `drop` is 19:
    #
    #     0x3F800000   1.0      0 01111111 0000 0000000000000000000
    #     clear 20 bits, the 19 and the last of the kept ones
    #     set bit 19            0 01111111 0001 0000000000000000000
    #     0x3F880000   1.0625
    #
    # With k = 1 only the implied one is kept, and it is set already. Subnormals have no
    # implied one; they become zeros of their sign. A magnitude below 2^(k - f) is less
    # than 2^k steps of the grid 2^-f: it fits into k bits and passes.
    whole = tf.as_dtype(f"int{kind.width}")
    number = tf.bitcast(x, whole)
    # Not `number & mask`, which TFLite does not have.
    magnitude = tf.bitcast(tf.abs(x), whole)
    drop = kind.mantissa + 1 - bits
    if bits == 1:
        truncated = _clear(number, drop)
    else:
        truncated = _clear(number, drop + 1) + _constant(1 << drop, number)
    sign = _clear(number, kind.width - 1)
    result = tf.where(magnitude < _constant(kind.smallest, number), sign, truncated)
    passes = magnitude >= _constant(kind.infinity, number)
    if fraction_bits is not None:
        limit = kind.power_of_two(bits - fraction_bits)
        passes = tf.logical_or(passes, magnitude < _constant(limit, number))
    return tf.bitcast(tf.where(passes, number, result), x.dtype)


def _truncate_integer(x: tf.Tensor, kind: Format, bits: int) -> tf.Tensor:
    if bits >= kind.width - 1:
        return x
    # An example with k = 3, 37 = 0b100101:
    #     ones      0b111111   the leading one, copied into all places below
    #     dropped   0b000111   `ones` without its first k: the places that are cleared
    #     last      0b001000   the place above, which is set
    #     kept      0b101000   37 without `dropped`, with `last`: 40
    # If nothing is dropped, the number has at most k bits, and passes.
    # The magnitude of the lowest number does not exist; it passes, too.
    lowest = x == x.dtype.min
    magnitude = tf.where(lowest, tf.zeros_like(x), tf.abs(x))
    ones = magnitude  # all bits from the leading one downwards
    for step in (1, 2, 4, 8, 16, 32):
        if step < kind.width:
            ones = tf.bitwise.bitwise_or(ones, _shift(ones, step))
    dropped = _shift(ones, bits)  # those behind the k leading ones
    last = dropped + _constant(1, x)  # the weight of the last that is kept
    kept = tf.bitwise.bitwise_or(magnitude, dropped) - dropped  # magnitude & ~dropped
    kept = tf.bitwise.bitwise_or(kept, last)
    truncated = tf.where(x < _constant(0, x), -kept, kept)
    passes = tf.logical_or(lowest, dropped == _constant(0, x))
    return tf.where(passes, x, truncated)


def _shift(number: tf.Tensor, count: int) -> tf.Tensor:
    return tf.bitwise.right_shift(number, _constant(count, number))


def _clear(number: tf.Tensor, count: int) -> tf.Tensor:
    """`number` with its last `count` bits at zero."""
    if count == 0:
        return number
    return _shift(number, count) * _constant(1 << count, number)


def _constant(value: int, like: tf.Tensor) -> Any:
    width = like.dtype.size * 8
    value = (value + (1 << (width - 1))) % (1 << width) - (1 << (width - 1))
    return tf.constant(value, like.dtype)
