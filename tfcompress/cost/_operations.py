"""What `keras.ops` operations in a graph take."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras

from tfcompress.cost._uses import Use, elements
from tfcompress.cost._work import SOFTMAX_OPERATIONS, Product, Work, spatial_size
from tfcompress.structure._facts import UNARY

__all__ = ["operation_work"]


def operation_work(use: Use) -> Work:
    """What a `keras.ops` operation takes."""
    name = type(use.operation).__name__
    rule = _PRODUCTS.get(name)
    if rule is not None:
        return rule(use.operation, use)
    made = sum(map(elements, use.outputs))
    if name in _VIEWS:
        return Work(writes=False)
    if name in _COPIES:
        return Work()
    if name in _ELEMENTWISE:
        return Work(operations=made)
    if name in _REDUCTIONS:
        return Work(operations=_REDUCTIONS[name] * sum(map(elements, use.inputs)))
    if name in _PER_ELEMENT:
        return Work(operations=_PER_ELEMENT[name] * made)
    if name in ("MaxPool", "AveragePool"):
        return Work(operations=_window(use) * made)
    return Work(reason=f"no rule for keras.ops {name}")


def _window(use: Use) -> int:
    """Operations for each output of a pooling."""
    size = use.operation.pool_size
    rank = len(use.inputs[0].shape) - 2
    window = size**rank if isinstance(size, int) else math.prod(size)
    return window - 1 if type(use.operation).__name__ == "MaxPool" else window


# Products -------------------------------------------------------------------


def _product(macs: int, *operands: Any) -> Work:
    """`macs` products of operands, of which one may be a variable."""
    weights = [x for x in operands if isinstance(x, keras.Variable)]
    return Work((Product(macs, weights[0] if len(weights) == 1 else None),))


def _operands(use: Use) -> tuple[Any, Any]:
    """The first two tensors of a call, constants included."""
    given = [x for x in (*use.args, *use.kwargs.values()) if hasattr(x, "shape")]
    return given[0], given[1]


def _matmul(op: Any, use: Use) -> Work:
    left, right = _operands(use)
    return _product(elements(use.outputs[0]) * left.shape[-1], left, right)


def _dot(op: Any, use: Use) -> Work:
    """numpy's dot and inner: a sum over the last axis, unless one is a scalar."""
    left, right = _operands(use)
    length = left.shape[-1] if left.shape and right.shape else 1
    return _product(elements(use.outputs[0]) * length, left, right)


def _vdot(op: Any, use: Use) -> Work:
    left, right = _operands(use)
    return _product(elements(left), left, right)


def _outer(op: Any, use: Use) -> Work:
    left, right = _operands(use)
    return _product(elements(left) * elements(right), left, right)


def _tensordot(op: Any, use: Use) -> Work:
    left, right = _operands(use)
    axes = op.axes
    if isinstance(axes, int):
        summed = left.shape[len(left.shape) - axes :]
    else:
        first = axes[0]
        first = [first] if isinstance(first, int) else first
        summed = [left.shape[axis] for axis in first]
    return _product(elements(use.outputs[0]) * math.prod(summed), left, right)


def _einsum(op: Any, use: Use) -> Work:
    """One multiply-accumulate for each combination of all the letters.

    With more than two operands a contraction in pairs takes fewer, depending on
    the order; that is not counted.
    """
    given = [x for x in (*use.args, *use.kwargs.values()) if hasattr(x, "shape")]
    if len(given) > 2:
        return Work(reason="einsum of more than two operands depends on the order")
    left = op.subscripts.replace(" ", "").partition("->")[0]
    sizes: dict[str, int] = {}
    for letters, tensor in zip(left.split(","), given, strict=True):
        head, dots, tail = letters.partition("...")
        shape = tuple(tensor.shape)
        sizes |= dict(zip(head, shape, strict=False))
        if tail:
            sizes |= dict(zip(tail, shape[-len(tail) :], strict=True))
        if dots:
            wide = math.prod(shape[len(head) : len(shape) - len(tail)])
            sizes["..."] = max(sizes.get("...", 1), wide)
    return _product(math.prod(sizes.values()), *given)


def _conv(op: Any, use: Use) -> Work:
    data, kernel = _operands(use)
    positions = spatial_size(use.outputs[0], _data_format(op))
    return _product(positions * elements(kernel), data, kernel)


def _conv_transpose(op: Any, use: Use) -> Work:
    data, kernel = _operands(use)
    positions = spatial_size(data, _data_format(op))
    return _product(positions * elements(kernel), data, kernel)


def _separable_conv(op: Any, use: Use) -> Work:
    given = [x for x in (*use.args, *use.kwargs.values()) if hasattr(x, "shape")]
    positions = spatial_size(use.outputs[0], _data_format(op))
    total = Work()
    for kernel in given[1:3]:
        total += _product(positions * elements(kernel), given[0], kernel)
    return total


def _attention(op: Any, use: Use) -> Work:
    """Query (batch, time, heads, dim), key and value (batch, source, …)."""
    query, key, value = use.inputs[:3]
    batch, time, heads, dim = query.shape
    pairs = batch * time * heads * key.shape[1]
    return Work(
        (Product(pairs * dim), Product(pairs * value.shape[-1])),
        (1 + SOFTMAX_OPERATIONS) * pairs,
    )


def _data_format(op: Any) -> str:
    return op.data_format or keras.config.image_data_format()


_PRODUCTS: dict[str, Callable[[Any, Use], Work]] = {
    "Matmul": _matmul,
    "Dot": _dot,
    "Inner": _dot,
    "Vdot": _vdot,
    "Outer": _outer,
    "Tensordot": _tensordot,
    "Einsum": _einsum,
    "Conv": _conv,
    "DepthwiseConv": _conv,
    "SeparableConv": _separable_conv,
    "ConvTranspose": _conv_transpose,
    "DotProductAttention": _attention,
}

# Everything else -------------------------------------------------------------

# The same numbers under another shape or type: nothing is computed, nothing is written.
_VIEWS = frozenset(
    {
        *("Reshape", "Ravel", "ExpandDims", "Squeeze", "Cast", "SaturateCast"),
        *("StopGradient", "ConvertToTensor", "View", "Size", "Ndim"),
    }
)

# Numbers that are moved: nothing is computed, but the output is written.
_COPIES = frozenset(
    {
        *("Transpose", "Swapaxes", "Moveaxis", "Rearrange", "Concatenate", "Stack"),
        *("Hstack", "Vstack", "Dstack", "Append", "Split", "Hsplit", "Vsplit"),
        *("Dsplit", "ArraySplit", "Unstack", "GetItem", "Slice", "SliceUpdate"),
        *("Take", "TakeAlongAxis", "Flip", "Fliplr", "Flipud", "Roll", "Rot90"),
        *("Pad", "Tile", "Repeat", "BroadcastTo", "Copy", "Diagonal", "Tril", "Triu"),
        *("ZerosLike", "OnesLike", "FullLike", "EmptyLike", "OneHot", "MultiHot"),
        *("DepthToSpace", "SpaceToDepth", "PadImages", "CropImages", "Meshgrid"),
        *("ExtractPatches", "Unfold"),
    }
)

# Elementwise operations of several tensors, and those that take about as much.
_ELEMENTWISE = UNARY | {
    *("Add", "Subtract", "Multiply", "Divide", "DivideNoNan", "TrueDivide"),
    *("FloorDivide", "Mod", "Fmod", "Power", "Maximum", "Minimum", "Fmax", "Fmin"),
    *("Where", "Select", "Logaddexp", "Logaddexp2", "Arctan2", "Hypot", "Heaviside"),
    *("Equal", "NotEqual", "Greater", "GreaterEqual", "Less", "LessEqual"),
    *("LogicalAnd", "LogicalOr", "LogicalXor", "LogicalNot", "Isnan", "Isinf"),
    *("Isfinite", "Signbit", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitwiseNot"),
    *("BitwiseInvert", "BitwiseLeftShift", "BitwiseRightShift", "LeftShift"),
    *("RightShift", "Glu", "Cumsum", "Cumprod", "Resize"),
}

# Operations for each element of the input.
_REDUCTIONS = {
    **dict.fromkeys(
        (
            *("Sum", "Mean", "Prod", "Max", "Min", "Amax", "Amin", "Any", "All"),
            *("Argmax", "Argmin", "CountNonzero", "Average", "Nansum", "Nanmean"),
            *("Nanmax", "Nanmin", "AdaptiveMaxPool", "AdaptiveAveragePool"),
        ),
        1,
    ),
    # Mean, centring, square, sum.
    **dict.fromkeys(("Var", "Std"), 4),
}

# Operations for each element of the output.
_PER_ELEMENT = {
    "Softmax": SOFTMAX_OPERATIONS,
    "LogSoftmax": SOFTMAX_OPERATIONS,
    "BatchNorm": 2,
    "LayerNorm": 7,
    "RMSNorm": 4,
    "Normalize": 3,
}
