"""The arithmetic of the DRUM approximate multiplier, with gradients."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any, Literal

import tensorflow as tf

from tfcompress.ops import _native, _tensorflow
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


def drum_truncate(x: Any, bits: int, fraction_bits: int | None = None) -> tf.Tensor:
    r"""The operand that a DRUM multiplier with `bits` bits makes of `x`.

    Hashemi, Bahar and Reda, "DRUM: a dynamic range unbiased multiplier for
    approximate applications" (ICCAD 2015). Of the magnitude the k = `bits` bits
    from the leading one are kept, the last of them is set to one, and the rest is
    zero; with u = 2^(⌊log₂|x|⌋ − k + 1), the weight of the last bit kept,

    $$T_k(x) = \operatorname{sign}(x) \cdot
      \left(\lfloor |x| / u \rfloor \mathbin{|} 1\right) \cdot u, \qquad
      T_1(x) = \operatorname{sign}(x) \cdot 2^{\lfloor \log_2 |x| \rfloor}.$$

    Integers below 2^k in magnitude pass unchanged; so does the lowest integer of a
    dtype, whose truncation would not fit. Floats have no such size, so that
    T_5(1.0) = 1.0625, unless they stand for fixed-point numbers n · 2^-f: then
    those below 2^(k-f) pass, and the result is that of the integers n. Zeros,
    infinities and NaN pass; other subnormal floats become zeros of their sign.

    The gradient is straight-through, that of `x`.

    Example:

    >>> tfc.ops.drum_truncate(1.0, 5)  # 1.0625
    >>> tfc.ops.drum_truncate(tf.constant([-1000, 7]), 4)  # -960, 7

    Args:
        x: tensor of any shape; float16, bfloat16, float32, float64, int8, int16,
            int32 or int64.
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
    x = tf.convert_to_tensor(x)
    kind = number_format(x.dtype.name)
    check_bits(bits, kind)
    check_fraction_bits(fraction_bits, kind)
    return _truncate(x, bits, fraction_bits)


def drum_multiply(
    a: Any,
    b: Any,
    bits: tuple[int, int],
    fraction_bits: int | None = None,
    *,
    gradient: Gradient = "exact",
) -> tf.Tensor:
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
    if not tf.is_tensor(a) and tf.is_tensor(b):
        a = tf.convert_to_tensor(a, b.dtype)
    a = tf.convert_to_tensor(a)
    b = b if tf.is_tensor(b) else tf.convert_to_tensor(b, a.dtype)
    if a.dtype != b.dtype:
        raise TypeError(
            "Invalid value for argument `b`. Expected the dtype of `a`, "
            f"{a.dtype.name}. Received: {b.dtype.name}"
        )
    first = drum_truncate(a, bits[0], fraction_bits)
    second = drum_truncate(b, bits[1], fraction_bits)
    if not a.dtype.is_floating:
        wide = _PRODUCT.get(a.dtype.name, a.dtype.name)
        return tf.cast(first, wide) * tf.cast(second, wide)
    if gradient == "approximate":
        return first * second
    return _product_with_exact_gradient(a, b, first, second)


def implementation() -> str:
    """Which form of the operation is used here: `"c++"` or `"tensorflow"`.

    The compiled operation runs on processors only. TensorFlow's own operations,
    with the same results, take its place where it was not built, where there is a
    GPU, in what XLA compiles and inside `portable()`. It is decided when a function
    is traced, so inside a `tf.function` ask there.
    """
    return "c++" if _compiled() is not None else "tensorflow"


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
    """Raises unless `gradient` is one that there is."""
    if gradient not in ("exact", "approximate"):
        raise ValueError(
            "Invalid value for argument `gradient`. Expected 'exact' or 'approximate'. "
            f"Received: gradient={gradient!r}"
        )
    return gradient


# Helpers --------------------------------------------------------------------


def _truncate(x: tf.Tensor, bits: int, fraction_bits: int | None) -> tf.Tensor:
    compiled = _compiled()
    if compiled is not None:
        return compiled.tfcompress_drum_truncate(
            x,
            bits=bits,
            fixed_point=fraction_bits is not None,
            fraction_bits=fraction_bits or 0,
        )

    @tf.custom_gradient
    def straight_through(x: tf.Tensor) -> Any:
        result = _tensorflow.drum_truncate(x, bits, fraction_bits)
        return result, lambda upstream: upstream

    return straight_through(x)


def _compiled() -> Any | None:
    """The module with the compiled operation, if it can be used here."""
    if _PORTABLE.get() or _native.inside_xla() or tf.config.get_visible_devices("GPU"):
        return None
    module, _ = _native.library()
    if module is None:
        _native.warn_missing()
    return module


def _product_with_exact_gradient(
    a: tf.Tensor, b: tf.Tensor, first: tf.Tensor, second: tf.Tensor
) -> tf.Tensor:
    @tf.custom_gradient
    def product(a: tf.Tensor, b: tf.Tensor) -> Any:
        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return _sum_to(upstream * b, a), _sum_to(upstream * a, b)

        return tf.stop_gradient(first) * tf.stop_gradient(second), gradient

    return product(a, b)


def _sum_to(gradient: tf.Tensor, operand: tf.Tensor) -> tf.Tensor:
    """Sums over the axes that `operand` was broadcast along."""
    shape = tf.shape(operand)
    axes, _ = tf.raw_ops.BroadcastGradientArgs(s0=shape, s1=tf.shape(gradient))
    return tf.reshape(tf.reduce_sum(gradient, axes), shape)
