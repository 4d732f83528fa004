"""The arithmetic of the DRUM approximate multiplier, with gradients."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any, Literal

import keras
from keras import ops

from tfcompress.ops._backend import drum
from tfcompress.ops._gradients import with_gradient_of
from tfcompress.ops._numbers import check_bits, check_fraction_bits, number_format

__all__ = [
    "Gradient",
    "check_gradient",
    "drum_multiply",
    "drum_truncate",
    "implementation",
    "portable",
]

Gradient = Literal["exact", "approximate"]

_PORTABLE = contextvars.ContextVar("portable", default=False)
# Widths of a product, so that none overflows.
_PRODUCT = {"int8": "int16", "int16": "int32", "int32": "int64"}


def drum_truncate(x: Any, bits: int, fraction_bits: int | None = None) -> Any:
    r"""The operand that a DRUM multiplier with `bits` bits makes of `x`.

    Hashemi, Bahar and Reda, "DRUM: a dynamic range unbiased multiplier for
    approximate applications" (ICCAD 2015). The multiplier keeps the k = `bits` bits
    of the magnitude from the leading one on. It sets the last of them to one, and the
    rest to zero. With u = 2^(⌊log₂|x|⌋ − k + 1), the weight of the last bit kept,

    $$T_k(x) = \operatorname{sign}(x) \cdot
      \left(\lfloor |x| / u \rfloor \mathbin{|} 1\right) \cdot u, \qquad
      T_1(x) = \operatorname{sign}(x) \cdot 2^{\lfloor \log_2 |x| \rfloor}.$$

    Integers below 2^k in magnitude pass unchanged. So does the lowest integer of a
    dtype, because its truncation would not fit. For floats no size is small enough
    to pass: T_5(1.0) = 1.0625. This is different if they stand for fixed-point
    numbers n · 2^-f: then those below 2^(k-f) pass, and the result is that of the
    integers n. Zeros, infinities and NaN pass; other subnormal floats become zeros
    of their sign.

    The gradient is straight-through, that of `x`.

    Example:

    >>> tfc.ops.drum_truncate(1.0, 5)  # 1.0625
    >>> tfc.ops.drum_truncate(np.array([-1000, 7]), 4)  # -960, 7

    Args:
        x: tensor of any shape; float16, bfloat16, float32, float64, int8, int16,
            int32 or int64. JAX has those of 64 bits where `jax_enable_x64` is on.
        bits: k, at least 1; for floats at most the bits of their significand.
        fraction_bits: f of a fixed-point grid 2^-f, for floats; what is not on
            the grid is not rounded to it. Defaults to `None`.

    Returns:
        A tensor of the shape and dtype of `x`. All implementations (see
        `implementation`) agree in every bit.

    Raises:
        TypeError: for other dtypes.
        ValueError: if `bits` or `fraction_bits` is out of range.
    """
    form = drum()
    x = form.tensor(x)
    kind = number_format(_dtype(x))
    check_bits(bits, kind)
    check_fraction_bits(fraction_bits, kind)
    return form.drum_truncate(x, bits, fraction_bits, portable=_PORTABLE.get())


def drum_multiply(
    a: Any,
    b: Any,
    bits: tuple[int, int],
    fraction_bits: int | None = None,
    *,
    gradient: Gradient = "exact",
) -> Any:
    """The product that a DRUM multiplier makes of `a` and `b`.

    That is `drum_truncate(a, k0) * drum_truncate(b, k1)`, bit by bit what the
    published hardware computes for integers.

    Example:

    >>> tfc.ops.drum_multiply(1.0, 3.0, bits=(5, 5))  # 1.0625 * 3.0625

    Args:
        a: tensor, as `drum_truncate` takes it.
        b: tensor of the dtype of `a`, of a shape that broadcasts with it.
        bits: (k0, k1), the bits of `a` and of `b` that count.
        fraction_bits: f of a fixed-point grid 2^-f of both, for floats. Defaults
            to `None`.
        gradient: `"exact"` for that of the product a · b, straight through the
            approximation; `"approximate"` for that of T(a) · T(b), in which an
            operand's gradient is multiplied with the other one as the hardware
            sees it. Defaults to `"exact"`.

    Returns:
        A tensor of the dtype of `a`; of int8, int16 and int32, which a product may
        exceed, of twice the width.

    Raises:
        TypeError: for other dtypes, or two different ones.
        ValueError: if another argument is not as described.
    """
    if not isinstance(bits, tuple | list) or len(bits) != 2:
        raise ValueError(
            "Invalid value for argument `bits`. Expected two ints, (k0, k1). "
            f"Received: bits={bits!r}"
        )
    check_gradient(gradient)
    a, b = _pair(a, b)
    if _dtype(a) != _dtype(b):
        raise TypeError(
            "Invalid value for argument `b`. Expected the dtype of `a`, "
            f"{_dtype(a)}. Received: {_dtype(b)}"
        )

    def approximate(a: Any, b: Any) -> Any:
        return drum_truncate(a, bits[0], fraction_bits) * drum_truncate(
            b, bits[1], fraction_bits
        )

    if not number_format(_dtype(a)).is_float:
        first = drum_truncate(a, bits[0], fraction_bits)
        second = drum_truncate(b, bits[1], fraction_bits)
        wide = _PRODUCT.get(_dtype(a), _dtype(a))
        return drum().widened(first, wide) * drum().widened(second, wide)
    if gradient == "approximate":
        return approximate(a, b)
    return with_gradient_of(ops.multiply, approximate)(a, b)


def implementation() -> str:
    """Which form of the operation is used here: `"c++"`, `"tensorflow"` or `"jax"`.

    The compiled operation is one of TensorFlow and runs on processors only.
    TensorFlow's own operations, with the same results, take its place where it was
    not built, where there is a GPU, in what XLA compiles and inside `portable()`. It
    is decided when a function is traced, so inside a `tf.function` ask there.
    """
    return drum().name(portable=_PORTABLE.get())


@contextlib.contextmanager
def portable() -> Iterator[None]:
    """What is traced inside uses TensorFlow's own operations only.

    A SavedModel with the compiled operation can be loaded only where
    `tfcompress.ops` is imported and the operation is built; elsewhere TensorFlow
    reports `Op type not registered 'Tfcompress>DrumTruncate'`. One without it
    loads everywhere:

    ```python
    with tfc.ops.portable():
        model.export("folder")
    ```
    """
    token = _PORTABLE.set(True)
    try:
        yield
    finally:
        _PORTABLE.reset(token)


def check_gradient(gradient: Any) -> Any:
    """Raises unless `gradient` is "exact" or "approximate"."""
    if gradient not in ("exact", "approximate"):
        raise ValueError(
            "Invalid value for argument `gradient`. Expected 'exact' or 'approximate'. "
            f"Received: gradient={gradient!r}"
        )
    return gradient


# Helpers --------------------------------------------------------------------


def _pair(a: Any, b: Any) -> tuple[Any, Any]:
    """Both operands as tensors; a number takes the dtype of the other one."""
    form = drum()
    if not form.is_tensor(a) and form.is_tensor(b):
        return form.tensor(a, _dtype(b)), b
    a = form.tensor(a)
    return a, b if form.is_tensor(b) else form.tensor(b, _dtype(a))


def _dtype(x: Any) -> str:
    return keras.backend.standardize_dtype(x.dtype)
