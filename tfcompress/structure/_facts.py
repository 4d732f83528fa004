"""What holds for operations, in one table that every part of the package reads.

Names are those of the operation classes of `keras.ops`, such as `"LeakyRelu"`;
the function `keras.activations.leaky_relu` is found by the same entry.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

__all__ = [
    "ACTIVATION_LAYERS",
    "IDENTITY_LAYERS",
    "KERNELS",
    "UNARY",
    "UNKNOWN",
    "Facts",
    "applied_function",
    "at_zero",
    "facts",
    "is_elementwise",
    "kernels",
    "makes_zeros",
    "preserves_zero",
    "unwrapped",
]

_L = keras.layers


@dataclass(frozen=True)
class Facts:
    """What holds for a function of one tensor, whatever its settings.

    Attributes:
        elementwise: whether each element of the result depends on the same
            element of the tensor alone.
        zero: whether it maps 0 to 0; `None` where that depends on settings.
        activation: whether it serves as an activation function.
        sparse: whether it maps whole intervals to exact zeros; `None` where that
            depends on settings.
    """

    elementwise: bool = False
    zero: bool | None = False
    activation: bool = False
    sparse: bool | None = False


UNKNOWN = Facts()


def _rows(names: str, **what: Any) -> dict[str, Facts]:
    return dict.fromkeys(names.split(), Facts(**what))


# Elementwise functions of one tensor, and the activation functions that are not.
_FACTS: dict[str, Facts] = {
    **_rows(
        "Abs Absolute Fabs Negative Square Sqrt Cbrt Expm1 Log1p Sin Tan Arcsin "
        "Arctan Sinh Arcsinh Arctanh Erf Erfinv Sign Floor Ceil Round Trunc "
        "Deg2rad Rad2deg NanToNum",
        elementwise=True,
        zero=True,
    ),
    **_rows(
        "Rsqrt Reciprocal Exp Exp2 Log Log2 Log10 Cos Arccos Cosh Arccosh Erfc Sinc",
        elementwise=True,
    ),
    **_rows("Clip", elementwise=True, zero=None),
    **_rows(
        "Linear LeakyRelu Elu Selu Celu Gelu Silu Mish Tanh HardTanh Softsign "
        "TanhShrink",
        elementwise=True,
        zero=True,
        activation=True,
    ),
    **_rows(
        "Relu Relu6 HardSilu SoftShrink HardShrink",
        elementwise=True,
        zero=True,
        activation=True,
        sparse=True,
    ),
    **_rows(
        "Sigmoid Softplus Squareplus LogSigmoid Exponential",
        elementwise=True,
        activation=True,
    ),
    **_rows(
        "HardSigmoid SparseSigmoid SparsePlus",
        elementwise=True,
        activation=True,
        sparse=True,
    ),
    # "ReLU" is what `keras.activations.relu` makes of a tensor of a graph.
    **_rows(
        "ReLU Threshold", elementwise=True, zero=None, activation=True, sparse=None
    ),
    **_rows("Softmax LogSoftmax", activation=True),
    **_rows("Sparsemax", activation=True, sparse=True),
}

# Elementwise operations of one tensor, by class name.
UNARY = frozenset(
    name
    for name, row in _FACTS.items()
    if row.elementwise and name not in ("Linear", "Mish", "Exponential")
)

# Layers that apply an activation function.
ACTIVATION_LAYERS = (
    _L.Activation,
    _L.ReLU,
    _L.LeakyReLU,
    _L.PReLU,
    _L.ELU,
    _L.Softmax,
)

# Layers that leave every value in its place at inference.
IDENTITY_LAYERS = (
    _L.Dropout,
    _L.SpatialDropout1D,
    _L.SpatialDropout2D,
    _L.SpatialDropout3D,
    _L.GaussianNoise,
    _L.GaussianDropout,
    _L.AlphaDropout,
    _L.ActivityRegularization,
    _L.Identity,
)

# Layers that multiply their input with kernels, and how those are called.
KERNELS: dict[type, tuple[str, ...]] = {
    **dict.fromkeys(
        (
            *(_L.Conv1D, _L.Conv2D, _L.Conv3D),
            *(_L.Conv1DTranspose, _L.Conv2DTranspose, _L.Conv3DTranspose),
            *(_L.DepthwiseConv1D, _L.DepthwiseConv2D),
            *(_L.Dense, _L.EinsumDense),
        ),
        ("kernel",),
    ),
    **dict.fromkeys(
        (_L.SeparableConv1D, _L.SeparableConv2D),
        ("depthwise_kernel", "pointwise_kernel"),
    ),
}

_ALIASES = {"Swish": "Silu", "HardSwish": "HardSilu"}


def facts(thing: Any) -> Facts:
    """What is known of an operation, a layer or an activation function.

    A layer is judged by the function that it applies. Functions that are not of
    Keras are unknown, whatever their names.

    Args:
        thing: a `keras.Operation`, a layer, or a function.

    Returns:
        A `Facts`; `UNKNOWN` where nothing is known.
    """
    if isinstance(thing, keras.Layer):
        thing = applied_function(thing)
    if isinstance(thing, keras.Operation):
        return _FACTS.get(type(thing).__name__, UNKNOWN)
    name = getattr(thing, "__name__", "")
    if not str(getattr(thing, "__module__", "")).startswith("keras."):
        return UNKNOWN
    name = "".join(part.capitalize() for part in name.split("_"))
    return _FACTS.get(_ALIASES.get(name, name), UNKNOWN)


def unwrapped(operation: Any) -> Any:
    """The layer inside of all wrappers."""
    while isinstance(operation, _L.Wrapper):
        operation = operation.layer
    return operation


def applied_function(operation: Any) -> Callable[[Any], Any] | None:
    """The activation function that an operation applies, if it applies one.

    It may be all that the operation does, or come last in it.
    """
    operation = unwrapped(operation)
    if isinstance(operation, ACTIVATION_LAYERS):
        inner = getattr(operation, "activation", None)
        return inner or type(operation).call.__get__(operation)
    if not isinstance(operation, keras.Layer):
        known = _FACTS.get(type(operation).__name__, UNKNOWN)
        return type(operation).call.__get__(operation) if known.activation else None
    activation = getattr(operation, "activation", None)
    return None if activation is keras.activations.linear else activation


def is_elementwise(function: Any) -> bool:
    """Whether a function acts on every element by itself; tried if unknown."""
    known = facts(function)
    if known is not UNKNOWN:
        return known.elementwise
    # A function of single elements does not mind how they are arranged, nor which
    # others are there. One that looks along an axis, such as a softmax, gives other
    # values for the flattened array or for a part of the channels.
    x = np.random.default_rng(0).normal(size=(3, 5, 7)).astype("float32")
    try:
        whole, flat, part = (
            np.asarray(keras.ops.convert_to_numpy(function(keras.ops.array(value))))
            for value in (x, x.ravel(), x[..., [0, 2, 3, 6]])
        )
    except Exception:  # whatever error it raises for a shape that it does not support
        return False
    return (
        whole.shape == x.shape
        and np.allclose(whole.ravel(), flat, atol=1e-6)
        and np.allclose(whole[..., [0, 2, 3, 6]], part, atol=1e-6)
    )


def preserves_zero(function: Any) -> bool:
    """Whether an elementwise function maps 0 to 0; tried if unknown."""
    known = facts(function).zero if facts(function) is not UNKNOWN else None
    return abs(at_zero(function)) < 1e-6 if known is None else known


def at_zero(function: Any) -> float:
    """The value of a function at 0."""
    return float(_at(function, [0.0, -1.0])[0])


def summed_axes(layer: keras.Layer, kernel: keras.Variable) -> tuple[int, ...]:
    """The axes of a kernel that products sum over, the input channels last.

    Args:
        layer: a built layer, or one that holds the layer of the kernel.
        kernel: one of `kernels(layer)`.
    """
    rank = len(kernel.shape)
    owner = next(
        each
        for each in reversed(layer._flatten_layers())
        if any(kernel is variable for variable in each._trainable_variables)
        or any(kernel is variable for variable in each._non_trainable_variables)
    )
    if isinstance(owner, keras.layers.EinsumDense):
        left, output = owner.equation.replace(" ", "").split("->")
        letters = left.split(",")[1]
        return tuple(i for i, letter in enumerate(letters) if letter not in output)
    if type(owner).__name__.endswith("Transpose"):
        return (*range(rank - 2), rank - 1)
    return tuple(range(rank - 1))


def makes_zeros(function: Any) -> bool:
    """Whether a function maps negative values to exact zeros; tried if unknown."""
    known = facts(function).sparse if facts(function) is not UNKNOWN else None
    # Values at which GELU and swish are still far from underflow.
    below = np.linspace(-4.0, -0.05, 80)
    return bool((_at(function, below) == 0).any()) if known is None else known


def _at(function: Any, values: Any) -> np.ndarray:
    given = keras.ops.convert_to_tensor(np.reshape(values, (1, -1)), "float32")
    return np.ravel(keras.ops.convert_to_numpy(function(given)))


def kernels(layer: Any, *, trainable: bool = False) -> list[keras.Variable]:
    """The kernels of a layer: weights that multiply its input.

    Biases, the parameters of normalizations, embedding tables and the adapters of
    LoRA, which add to a kernel, are not among them.

    Args:
        layer: a built layer.
        trainable: whether to leave out those that are not trained. Defaults to
            False.
    """
    named = KERNELS.get(type(layer))
    own = [getattr(layer, name, None) for name in named or ()]
    return [
        variable
        for variable in (layer.trainable_variables if trainable else layer.weights)
        if len(variable.shape) > 1
        and not variable.name.startswith("lora_")
        and ("kernel" in variable.name or any(variable is kernel for kernel in own))
    ]
