"""DRUM's truncation on JAX, on the bits of numbers; bit by bit that of the others.

How it works is explained with examples in `_tensorflow`; this is the same arithmetic.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
from jax import lax

from tfcompress.ops._gradients import with_gradient_of
from tfcompress.ops._numbers import Format, number_format

__all__ = ["drum_truncate", "is_tensor", "name", "tensor", "widened"]


def tensor(x: Any, dtype: str | None = None) -> jax.Array:
    """`x` as an array.

    Raises:
        ValueError: if JAX would store its numbers of 64 bits in 32.
    """
    if dtype is None and isinstance(x, np.ndarray | np.generic):
        _check_wide(x.dtype.name)
    return keras.ops.convert_to_tensor(x, dtype)


def is_tensor(x: Any) -> bool:
    """Whether `x` has a dtype that it keeps."""
    return bool(keras.ops.is_tensor(x))


def widened(x: jax.Array, dtype: str) -> jax.Array:
    """Integers in a dtype that products fit in."""
    _check_wide(dtype)
    return x.astype(dtype)


def name(*, portable: bool) -> str:
    """Which form `drum_truncate` takes here: there is one."""
    return "jax"


def drum_truncate(
    x: jax.Array, bits: int, fraction_bits: int | None, *, portable: bool
) -> jax.Array:
    """The truncation of checked arguments, with a straight-through gradient."""
    kind = number_format(x.dtype.name)
    if not kind.is_float:
        return _truncate_integer(x, kind, bits)
    return with_gradient_of(
        lambda x: x, lambda x: _truncate_float(x, kind, bits, fraction_bits)
    )(x)


def _truncate_float(
    x: jax.Array, kind: Format, bits: int, fraction_bits: int | None
) -> jax.Array:
    whole = np.dtype(f"uint{kind.width}")

    def constant(value: int) -> jax.Array:
        return jnp.asarray(value, whole)

    number = lax.bitcast_convert_type(x, whole)
    everything = (1 << kind.width) - 1
    sign = number & constant(1 << (kind.width - 1))
    magnitude = number & constant(everything >> 1)
    drop = kind.mantissa + 1 - bits
    last = 0 if bits == 1 else 1 << drop  # with one bit, the leading one is implied
    cleared = everything >> (drop + (bits > 1)) << (drop + (bits > 1))
    truncated = (number & constant(cleared)) | constant(last)
    result = jnp.where(magnitude < constant(kind.smallest), sign, truncated)
    passes = magnitude >= constant(kind.infinity)
    if fraction_bits is not None:
        limit = kind.power_of_two(bits - fraction_bits)
        passes |= magnitude < constant(limit)
    return lax.bitcast_convert_type(jnp.where(passes, number, result), x.dtype)


def _truncate_integer(x: jax.Array, kind: Format, bits: int) -> jax.Array:
    if bits >= kind.width - 1:
        return x
    # The magnitude of the lowest number does not exist; it passes.
    lowest = x == jnp.iinfo(x.dtype).min
    magnitude = jnp.where(lowest, jnp.zeros_like(x), jnp.abs(x))
    ones = magnitude  # all bits from the leading one downwards
    for step in (1, 2, 4, 8, 16, 32):
        if step < kind.width:
            ones |= ones >> step
    dropped = ones >> bits  # those behind the k leading ones
    kept = ((magnitude | dropped) - dropped) | (dropped + 1)
    truncated = jnp.where(x < 0, -kept, kept)
    return jnp.where(lowest | (dropped == 0), x, truncated)


def _check_wide(dtype: str) -> None:
    if dtype in ("int64", "float64") and not jax.config.read("jax_enable_x64"):
        raise ValueError(
            "Invalid value for argument `x`. Expected numbers of at most 32 bits, also "
            "of products: JAX would cut those of 64 off. Switch `jax_enable_x64` on, "
            f"or cast them. Received: {dtype}"
        )
