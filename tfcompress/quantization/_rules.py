"""What an integer file makes of each operation.

One table for all layers and `keras.ops` operations that LiteRT computes on
integers, with the grid that its output gets. All else stays in float, with a
reason.

LiteRT stores a tensor as integers q with real = scale · (q - zero point):

- activations: int8 with one scale and one zero point for the tensor, so that the
  range need not be symmetric; int16 with zero point 0;
- kernels: int8 or int4 in [-127, 127] or [-7, 7] with zero point 0 and one scale for
  each output channel of a convolution, one for the whole kernel of a `Dense` layer;
- biases: int32 (int64 with int16) with scale = scale of the input · scale of the
  kernel, the scale of the products, so that they add to their sum as they are.

Each operator then rounds its sum once, to the grid of its output. An operator that
moves or compares values has no such step: its output has the grid of its input. And
for some outputs the grid is fixed: softmax and sigmoid have the scale 1/256 and the
zero point -128, tanh has 1/128 and 0. The kinds of `Decision` are these cases.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import keras
import numpy as np
from keras import layers, ops

from tfcompress.layers import ClusteredKernel, KernelWrapper, QuantizedKernel
from tfcompress.structure._graph import Call

__all__ = ["Decision", "Maker", "activation", "decide", "is_relu"]

Kind = Literal["kernel", "own", "unit", "signed", "pass", "same", "float", "instead"]
# Puts a tensor on a grid of its own, or on the fixed one that is named.
Maker = Callable[..., Any]


@dataclass(frozen=True)
class Decision:
    """What becomes of an operation.

    Attributes:
        kind: `"kernel"` and `"own"`: its output gets a grid of its own, and its
            kernel one, too; `"unit"` and `"signed"`: the grid that TFLite fixes;
            `"pass"`: the output lies on the grid of the input; `"same"`: it is
            rounded to that grid; `"instead"`: other operations take its place;
            `"float"`: it stays in float.
        reason: why it stays in float, or what takes its place.
        build: for `"instead"`: function of a `Maker` and of the inputs that
            returns the output, on no grid yet.
        activation: for `"kernel"`: the name of an activation function that needs
            a step of its own, and a grid before it.
        fusable: whether a ReLU behind it becomes part of it.
    """

    kind: Kind
    reason: str = ""
    build: Callable[..., Any] | None = None
    activation: str | None = None
    fusable: bool = False


def decide(call: Call, bits: int) -> Decision:
    """The `Decision` on a call.

    Args:
        call: a call of a layer or an operation, with inputs in float.
        bits: 8 or 16, the width of activations.
    """
    operation = call.operation
    if isinstance(operation, ClusteredKernel):
        operation = operation.layer  # the kernel is rounded inside
    reason = _refused(operation)
    if reason:
        return _float(reason)
    if isinstance(operation, layers.Layer):
        return _layer(operation, call, bits)
    return _operation(operation, call, bits)


def is_relu(call: Call) -> bool:
    """Whether a call is a ReLU that LiteRT computes as part of what is before."""
    operation = call.operation
    if isinstance(operation, layers.Activation):
        return _name(operation.activation) in ("relu", "relu6")
    if isinstance(operation, layers.ReLU):
        return _is_fused_relu(operation)
    return _is_keras(operation) and type(operation).__name__ in ("Relu", "Relu6")


# Layers ---------------------------------------------------------------------

_FUSED = ("linear", "relu", "relu6")

_KERNELS = (
    layers.Conv1D,
    layers.Conv2D,
    layers.Conv1DTranspose,
    layers.Conv2DTranspose,
    layers.DepthwiseConv1D,
    layers.DepthwiseConv2D,
    layers.SeparableConv1D,
    layers.SeparableConv2D,
    layers.Dense,
)

# The output holds values of the input, and nothing else (or zeros, which lie on every
# grid, because a range always includes 0): nothing has to be rounded again.
_PASSING = [
    "Flatten",
    "Reshape",
    "Permute",
    "Cropping1D",
    "Cropping2D",
    "Cropping3D",
    "ZeroPadding1D",
    "ZeroPadding2D",
    "ZeroPadding3D",
    "MaxPooling1D",
    "MaxPooling2D",
    "GlobalMaxPooling1D",
    "GlobalMaxPooling2D",
    "RepeatVector",
    "Identity",
    "Dropout",
    "SpatialDropout1D",
    "SpatialDropout2D",
    "SpatialDropout3D",
    "GaussianNoise",
    "GaussianDropout",
    "ActivityRegularization",
    "UpSampling1D",
    "UpSampling3D",
    "AlphaDropout",
]
# Augmentation, which is done in training only.
_PASSING += [
    "RandomBrightness",
    "RandomColorDegeneration",
    "RandomColorJitter",
    "RandomContrast",
    "RandomElasticTransform",
    "RandomErasing",
    "RandomFlip",
    "RandomGaussianBlur",
    "RandomGrayscale",
    "RandomHue",
    "RandomInvert",
    "RandomPerspective",
    "RandomPosterization",
    "RandomRotation",
    "RandomSaturation",
    "RandomSharpness",
    "RandomShear",
    "RandomTranslation",
    "RandomZoom",
]
_POOLING = ("AveragePooling1D", "AveragePooling2D")
_MEANS = ("GlobalAveragePooling1D", "GlobalAveragePooling2D")
_MERGING = ("Add", "Subtract", "Multiply", "Maximum", "Minimum", "Concatenate")

_IN_FLOAT = {
    "Conv3D": "LiteRT computes convolutions in three dimensions in float",
    "Conv3DTranspose": "LiteRT computes convolutions in three dimensions in float",
    "MaxPooling3D": "LiteRT has no pooling in three dimensions for integers",
    "AveragePooling3D": "LiteRT has no pooling in three dimensions for integers",
    "GlobalAveragePooling3D": "LiteRT has no pooling in three dimensions for integers",
    "GlobalMaxPooling3D": "LiteRT has no pooling in three dimensions for integers",
    **dict.fromkeys(
        ("MultiHeadAttention", "GroupQueryAttention", "Attention", "AdditiveAttention"),
        "its products of queries, keys and values lie inside the layer, where no "
        "ranges are learned",
    ),
    "EinsumDense": "LiteRT has no product of its form with a kernel on a grid",
    "LayerNormalization": "its statistics need more than 8 bits",
    "GroupNormalization": "its statistics need more than 8 bits",
    "RMSNormalization": "its statistics need more than 8 bits",
    "UnitNormalization": "its statistics need more than 8 bits",
    **dict.fromkeys(
        (
            *("LSTM", "GRU", "SimpleRNN", "RNN", "Bidirectional"),
            *("ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D"),
        ),
        "recurrent layers are computed in float",
    ),
    "Lambda": "what a Lambda layer computes is not known",
}


def _layer(layer: Any, call: Call, bits: int) -> Decision:
    kind = type(layer).__name__
    if isinstance(layer, _KERNELS):
        return _kernel(layer, bits)
    if isinstance(layer, layers.Activation):
        return activation(_name(layer.activation), bits)
    if isinstance(layer, layers.ReLU):
        return _relu(layer)
    if isinstance(layer, layers.Softmax):
        if layer.axis in (-1, len(call.inputs[0].shape) - 1) and len(call.inputs) == 1:
            return Decision("unit")
        return _float("its softmax has a mask or another axis than the last")
    if isinstance(layer, layers.PReLU):
        return Decision("own") if bits == 8 else _float(_SIXTEEN)
    if isinstance(layer, layers.LeakyReLU):
        return Decision("own")
    if isinstance(layer, layers.ELU):
        return _float("LiteRT computes elu in float here")
    if isinstance(layer, layers.BatchNormalization):
        return _batch_norm(layer, call)
    if isinstance(layer, layers.Normalization):
        return _normalization(layer, call)
    if isinstance(layer, layers.Rescaling):
        return _rescaling(layer, call)
    if isinstance(layer, layers.Embedding):
        return Decision("own")
    if isinstance(layer, layers.UpSampling2D):
        nearest = layer.interpolation == "nearest"
        return Decision("pass" if nearest else "same")
    if kind in _PASSING:
        return Decision("pass")
    if kind in _POOLING:
        return Decision("same")
    if kind in _MEANS and len(call.inputs) == 1:
        return Decision("own")
    if kind in _MERGING:
        return _merge(kind, call)
    if kind == "Average":
        return _average()
    reason = _IN_FLOAT.get(kind)
    return _float(reason or f"there is no rule for layers of class {kind}")


def _refused(operation: Any) -> str | None:
    if not isinstance(operation, layers.Layer):
        return None if _is_keras(operation) else "it is an operation of your own"
    if isinstance(operation, KernelWrapper):
        return f"it is wrapped in {type(operation).__name__}: finalize the model first"
    if getattr(operation, "refuses_quantization", None):
        return str(operation.refuses_quantization)
    if getattr(operation, "quantization_mode", None):
        return "Keras has quantized it"
    if getattr(operation, "lora_enabled", False):
        return "it is adapted with LoRA"
    if not _is_keras(operation):
        return f"class {type(operation).__name__} is not known"
    if getattr(operation, "data_format", None) == "channels_first":
        return "its channels come first"
    return None


def _kernel(layer: Any, bits: int) -> Decision:
    # LiteRT's products clamp their result, so that ReLU and ReLU6 are part of them:
    # one rounding, behind the activation. Any other activation is an operator of its
    # own, which reads integers: there is a grid before it, and one behind.
    try:
        QuantizedKernel(layer)
    except ValueError:
        return _float("it does not compute with the kernel that it stores")
    if isinstance(layer, layers.Conv1DTranspose | layers.Conv2DTranspose):
        if any(rate != 1 for rate in layer.dilation_rate):
            return _float("LiteRT has no dilated transposed convolution")
        if bits == 16:
            return _float(_SIXTEEN)
    name = _name(layer.activation)
    if name in _FUSED:
        return Decision("kernel", fusable=name == "linear")
    then = activation(name, bits)
    if then.kind == "float":
        return Decision(
            "kernel", f"but for its activation {name}: {then.reason}", activation=name
        )
    return Decision("kernel", activation=name)


def _relu(layer: Any) -> Decision:
    if _is_fused_relu(layer):
        return Decision("own")
    if layer.threshold == 0 and layer.max_value is None:
        return Decision("own")  # a leaky ReLU
    return _float("LiteRT has only ReLU and ReLU6 for integers")


def _is_fused_relu(layer: Any) -> bool:
    return (
        layer.negative_slope == 0
        and layer.threshold == 0
        and layer.max_value in (None, 6)
    )


_SIXTEEN = "LiteRT computes it with 8 bits only"


def activation(name: str, bits: int) -> Decision:
    """The `Decision` on an activation function of Keras, "own" for others."""
    if name == "linear":
        return Decision("pass")
    if name in ("relu", "relu6", "leaky_relu"):
        return Decision("own")
    if name in ("sigmoid", "softmax"):
        return Decision("unit")
    if name == "tanh":
        return Decision("signed")
    if name in ("gelu", "hard_silu", "hard_swish") and bits == 8:
        return Decision("own")
    if name in ("silu", "swish"):
        return Decision("instead", "x · sigmoid(x)", _silu)
    if name == "hard_sigmoid":
        return Decision("instead", "relu6(x + 3) / 6", _hard_sigmoid)
    if name == "own":
        return _float("its activation is a function of your own")
    return _float(f"LiteRT computes {name} in float here")


# What LiteRT computes with several operators is taken apart here, because each of them
# stores a tensor, and that tensor needs a grid whose range is learned, too.


def _silu(grid: Maker, x: Any) -> Any:
    return layers.Multiply()([x, grid(layers.Activation("sigmoid")(x), "unit")])


def _hard_sigmoid(grid: Maker, x: Any) -> Any:
    shifted = layers.ReLU(6.0)(layers.Rescaling(1.0, 3.0)(x))
    return layers.Rescaling(1 / 6)(grid(shifted))


def _merge(kind: str, call: Call) -> Decision:
    if len(call.inputs) == 1:
        return Decision("pass")
    fusable = kind in ("Add", "Subtract", "Multiply")
    if kind == "Concatenate" or len(call.inputs) == 2:
        return Decision("own", fusable=fusable)
    return Decision("instead", "two operands at a time", _chain(getattr(layers, kind)))


def _chain(merge: type) -> Maker:
    """A layer of each two operands, with a grid behind all but the last."""

    def chained(grid: Maker, first: Any, *rest: Any) -> Any:
        for number, other in enumerate(rest, 1):
            first = merge()([first, other])
            if number < len(rest):
                first = grid(first)
        return first

    return chained


def _average() -> Decision:
    add = _chain(layers.Add)

    def mean(grid: Maker, *values: Any) -> Any:
        # Each call of a shared layer may have another number of operands.
        return layers.Rescaling(1 / len(values))(grid(add(grid, *values)))

    return Decision("instead", "a sum and a factor", mean)


def _rescaling(layer: Any, call: Call) -> Decision:
    scale, offset = np.asarray(layer.scale), np.asarray(layer.offset)
    if scale.size > 1 or offset.size > 1:
        shape = call.inputs[0].shape
        channels = np.ones(shape[-1])
        return _affine(layer, shape, scale * channels, offset * channels)
    if not offset.any():
        return Decision("own")

    def steps(grid: Maker, x: Any) -> Any:
        if scale != 1:
            x = grid(layers.Rescaling(float(scale))(x))
        return layers.Rescaling(1.0, float(offset))(x)

    return Decision("instead", "a factor and a sum", steps)


def _normalization(layer: Any, call: Call) -> Decision:
    shape = call.inputs[0].shape
    if layer.axis not in ((-1,), (len(shape) - 1,), ()) or layer.invert:
        return _float("it normalizes another axis than that of the channels")
    mean, variance = (
        np.broadcast_to(ops.convert_to_numpy(v).reshape(-1), (shape[-1],))
        for v in (layer.mean, layer.variance)
    )
    factor = 1 / np.maximum(np.sqrt(variance), keras.config.epsilon())
    return _affine(layer, shape, factor, -mean * factor)


def _batch_norm(layer: Any, call: Call) -> Decision:
    shape = call.inputs[0].shape
    if layer.axis not in (-1, len(shape) - 1) or len(call.inputs) > 1:
        return _float("it normalizes another axis than that of the channels")
    variance = ops.convert_to_numpy(layer.moving_variance).astype("float64")
    factor = 1 / np.sqrt(variance + layer.epsilon)
    if layer.scale:
        factor = factor * ops.convert_to_numpy(layer.gamma)
    shift = -ops.convert_to_numpy(layer.moving_mean) * factor
    if layer.center:
        shift = shift + ops.convert_to_numpy(layer.beta)
    return _affine(layer, shape, factor, shift)


def _affine(
    layer: Any, shape: tuple[int | None, ...], factor: Any, shift: Any
) -> Decision:
    """f · x + s for each channel, as a depthwise convolution of size 1.

    One product and one sum with 32 bits between; as two operations, the product
    would be rounded. A kernel of one weight for each channel is exact.
    """
    if None in shape[1:] or len(shape) not in (2, 3, 4):
        return _float("only inputs of two to four fixed axes have it as a convolution")

    made: list[QuantizedKernel] = []  # one, however often the layer is called

    def convolution(grid: Maker, x: Any) -> Any:
        if not made:
            depthwise = layers.DepthwiseConv2D(
                1, name=f"{layer.name}_depthwise", dtype=layer.dtype_policy
            )
            depthwise.build((None, 1, 1, shape[-1]))
            depthwise.kernel.assign(np.reshape(factor, depthwise.kernel.shape))
            depthwise.bias.assign(shift)
            depthwise.trainable = layer.trainable
            made.append(QuantizedKernel(depthwise, trainable=layer.trainable))
        if "float" not in keras.backend.standardize_dtype(x.dtype):
            # The layer casts pictures of integers; a convolution does not.
            x = grid(ops.cast(x, layer.compute_dtype))
        if len(shape) == 4:
            return made[0](x)
        # Not `shape`: another call of the layer may be on another length.
        width = 1 if len(shape) == 2 else x.shape[1]
        inner = made[0](layers.Reshape((1, width, shape[-1]))(x))
        return layers.Reshape(x.shape[1:])(inner)

    fusable = len(shape) == 4
    return Decision(
        "instead", "a depthwise convolution of size 1", convolution, fusable=fusable
    )


# Operations -----------------------------------------------------------------

_PASSING_OPERATIONS = [
    "Reshape",
    "Transpose",
    "Squeeze",
    "ExpandDims",
    "Split",
    "GetItem",
    "Flip",
    "Identity",
    "SwapAxes",
    "Moveaxis",
    "Ravel",
    "Unstack",
    "BroadcastTo",
    "Repeat",
    "Tile",
    "Max",
    "Amax",
]
_SUMS = ("Add", "Subtract", "Multiply")


def _operation(operation: Any, call: Call, bits: int) -> Decision:
    kind = type(operation).__name__
    if kind in _PASSING_OPERATIONS and len(call.inputs) == 1:
        return Decision("pass")
    if kind in (*_SUMS, "Maximum", "Minimum") and not _has_array(call):
        return Decision("own", fusable=kind in _SUMS)
    if kind in ("Concatenate", "Stack", "Matmul", "Mean"):
        if kind == "Matmul" and (len(call.inputs) < 2 or bits == 16):
            return _float("one of its factors is a constant" if bits == 8 else _SIXTEEN)
        return Decision("own")
    names = {
        "HardSilu": "hard_silu",
        "HardSigmoid": "hard_sigmoid",
        "LeakyRelu": "leaky_relu",
    }
    if kind in ("Relu", "Relu6", "Sigmoid", "Tanh", "Silu", "Gelu", *names):
        return activation(names.get(kind, kind.lower()), bits)
    if kind == "Softmax" and operation.axis in (-1, len(call.inputs[0].shape) - 1):
        return Decision("unit")
    return _float(f"there is no rule for the operation {kind}")


def _has_array(call: Call) -> bool:
    """Whether an operand is an array of several constants."""
    # LiteRT would need a grid for the array as well, and nothing learns one.
    return any(np.size(ops.convert_to_numpy(array)) > 1 for array in call.arrays)


# Helpers --------------------------------------------------------------------


def _float(reason: str) -> Decision:
    return Decision("float", reason)


def _name(function: Any) -> str:
    """The name of an activation function of Keras; "own" for others."""
    if isinstance(function, layers.Layer):
        return _name_of_layer(function)
    name = getattr(function, "__name__", "")
    return name if getattr(keras.activations, name, None) is function else "own"


def _name_of_layer(layer: Any) -> str:
    """The name of the function that a layer computes, given as an activation."""
    kind = type(layer)
    if kind is layers.Activation:
        return _name(layer.activation)
    if kind is layers.ReLU and _is_fused_relu(layer):
        return "relu6" if layer.max_value == 6 else "relu"
    if kind is layers.ReLU and layer.threshold == 0 and layer.max_value is None:
        return "leaky_relu"
    if kind is layers.Softmax and layer.axis == -1:
        return "softmax"
    return "leaky_relu" if kind is layers.LeakyReLU else "own"


def _is_keras(operation: Any) -> bool:
    return type(operation).__module__.startswith("keras.")
