"""Which rule holds for which operation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from tfcompress.structure._facts import IDENTITY_LAYERS, KERNELS, UNARY
from tfcompress.structure._graph import Call
from tfcompress.structure._labels import Abstract
from tfcompress.structure._trace import Trace
from tfcompress.structure.rules._attention import Attention, GroupedAttention
from tfcompress.structure.rules._base import PRODUCER, Frozen, Rule, Weighted, shape_of
from tfcompress.structure.rules._channelwise import (
    Activation,
    BatchNorm,
    Cast,
    Elementwise,
    Identity,
    LayerNorm,
    Merge,
    PReLU,
    Reduce,
    Registered,
    Rescaling,
    Resizing,
    Softmax,
    Spatial,
    divide,
    multiply,
)
from tfcompress.structure.rules._movement import (
    GetItem,
    Join,
    Move,
    Reshape,
    Split,
    Squeeze,
    permute,
    transpose,
    with_numpy,
)
from tfcompress.structure.rules._probe import Probe
from tfcompress.structure.rules._producers import (
    Conv,
    ConvTranspose,
    Dense,
    DepthwiseConv,
    EinsumDense,
    Embedding,
    Macs,
    Recurrent,
    RegisteredProducer,
    SeparableConv,
)

__all__ = [
    "counts_as",
    "register_channelwise",
    "register_producer",
    "rule_for",
    "rules",
]


_K = keras.layers

_REFUSE_WRAPPER = "applies another layer; use that layer itself to prune it"

_LAYERS: dict[type, Rule] = {
    **dict.fromkeys((_K.Conv1D, _K.Conv2D, _K.Conv3D), Conv()),
    **dict.fromkeys(
        (_K.Conv1DTranspose, _K.Conv2DTranspose, _K.Conv3DTranspose), ConvTranspose()
    ),
    **dict.fromkeys((_K.SeparableConv1D, _K.SeparableConv2D), SeparableConv()),
    **dict.fromkeys((_K.DepthwiseConv1D, _K.DepthwiseConv2D), DepthwiseConv()),
    _K.Dense: Dense(),
    _K.EinsumDense: EinsumDense(),
    _K.Embedding: Embedding(),
    _K.SimpleRNN: Recurrent(1),
    _K.GRU: Recurrent(3),
    _K.LSTM: Recurrent(4),
    _K.MultiHeadAttention: Attention(),
    _K.GroupQueryAttention: GroupedAttention(),
    _K.BatchNormalization: BatchNorm(),
    _K.LayerNormalization: LayerNorm(),
    _K.RMSNormalization: LayerNorm(),
    _K.GroupNormalization: Frozen("normalizes over groups of channels"),
    _K.SpectralNormalization: Frozen(_REFUSE_WRAPPER),
    _K.TimeDistributed: Frozen(_REFUSE_WRAPPER),
    _K.Bidirectional: Frozen(_REFUSE_WRAPPER),
    _K.RNN: Frozen("runs a custom cell"),
    _K.StackedRNNCells: Frozen("runs custom cells"),
    _K.ConvLSTM1D: Frozen("has no rule for its convolutional gates"),
    _K.ConvLSTM2D: Frozen("has no rule for its convolutional gates"),
    _K.ConvLSTM3D: Frozen("has no rule for its convolutional gates"),
    _K.Attention: Frozen("mixes positions by products of its inputs"),
    _K.AdditiveAttention: Frozen("mixes positions by products of its inputs"),
    _K.Dot: Frozen("sums products of its inputs"),
    _K.Masking: Frozen("compares all channels with the mask value"),
    _K.Normalization: Frozen("scales inputs by fixed statistics"),
    _K.PReLU: PReLU(),
    _K.Activation: Activation(),
    **dict.fromkeys((_K.ReLU, _K.LeakyReLU, _K.ELU), Activation()),
    _K.Softmax: Softmax(),
    **dict.fromkeys(IDENTITY_LAYERS, Identity()),
    _K.Rescaling: Rescaling(),
    _K.Add: Merge(np.add),
    _K.Subtract: Merge(np.subtract),
    _K.Multiply: Merge(multiply),
    _K.Average: Merge(lambda a, b: np.where((a == 0) & (b == 0), 0.0, np.nan)),
    _K.Maximum: Merge(np.maximum),
    _K.Minimum: Merge(np.minimum),
    **dict.fromkeys(
        (
            _K.MaxPooling1D,
            _K.MaxPooling2D,
            _K.MaxPooling3D,
            _K.AveragePooling1D,
            _K.AveragePooling2D,
            _K.AveragePooling3D,
            _K.GlobalAveragePooling1D,
            _K.GlobalAveragePooling2D,
            _K.GlobalAveragePooling3D,
            _K.GlobalMaxPooling1D,
            _K.GlobalMaxPooling2D,
            _K.GlobalMaxPooling3D,
            _K.UpSampling1D,
            _K.UpSampling2D,
            _K.UpSampling3D,
            _K.Cropping1D,
            _K.Cropping2D,
            _K.Cropping3D,
            _K.CenterCrop,
        ),
        Spatial(),
    ),
    **dict.fromkeys(
        (_K.ZeroPadding1D, _K.ZeroPadding2D, _K.ZeroPadding3D), Spatial(pads=True)
    ),
    _K.Resizing: Resizing(),
    _K.Flatten: Reshape(),
    _K.Reshape: Reshape(),
    _K.Permute: Move(permute),
    _K.RepeatVector: Move(lambda op, call: lambda x: np.repeat(x[:, None], op.n, 1)),
    _K.Concatenate: Join(),
}

# Operations of `keras.ops`, by class name.
_OPS: dict[str, Rule] = {
    "Add": Merge(np.add),
    "Subtract": Merge(np.subtract),
    "Multiply": Merge(multiply),
    "Maximum": Merge(np.maximum),
    "Minimum": Merge(np.minimum),
    **dict.fromkeys(
        ("Divide", "TrueDivide", "FloorDivide", "Mod", "Power", "DivideNoNan"),
        Merge(divide),
    ),
    **dict.fromkeys(sorted(UNARY), Elementwise()),
    **dict.fromkeys(("Cast", "SaturateCast", "ConvertToTensor"), Cast()),
    **dict.fromkeys(("StopGradient", "Copy"), Identity()),
    "Sum": Reduce(additive=True),
    **dict.fromkeys(
        ("Mean", "Max", "Min", "Amax", "Amin", "Prod", "Std", "Var", "Any", "All"),
        Reduce(),
    ),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Normalize"), Softmax()),
    **dict.fromkeys(("MaxPool", "AveragePool"), Spatial()),
    "Resize": Resizing(),
    "Reshape": Reshape(),
    "Transpose": Move(transpose),
    "Swapaxes": Move(with_numpy("swapaxes", "axis1", "axis2")),
    "Moveaxis": Move(with_numpy("moveaxis", "source", "destination")),
    "ExpandDims": Move(with_numpy("expand_dims", "axis")),
    "Squeeze": Squeeze(),
    "Flip": Move(with_numpy("flip", "axis")),
    "Concatenate": Join(),
    "Stack": Join(stack=True),
    "Split": Split(),
    "GetItem": GetItem(),
    **dict.fromkeys(
        ("Matmul", "Dot", "Einsum", "Tensordot", "Inner", "Outer", "Vdot"),
        Frozen("multiplies tensors of the graph with each other"),
    ),
}

_PROBE = Probe()
_INPUT = Identity()


def rules() -> dict[str, Rule]:
    """Every known layer and operation by name, for the documentation."""
    named = {f"keras.layers.{cls.__name__}": rule for cls, rule in _LAYERS.items()}
    return named | {f"keras.ops: {name}": rule for name, rule in _OPS.items()}


def rule_for(operation: Any, inputs: Sequence[Abstract]) -> Rule:
    """The rule of `operation`, or the probe."""
    # Layers are found by their exact class, because a subclass may compute something
    # else (`register_producer(like=…)` is for those that do not). The classes of
    # operations of `keras.ops` are not public, so these are found by name. Where no
    # channel comes in, only layers with weights have something to say: they may create
    # channels.
    rule = _LAYERS.get(type(operation))
    if rule is None and not isinstance(operation, keras.Layer):
        rule = _OPS.get(type(operation).__name__)
    weights = isinstance(operation, keras.Layer) and bool(operation.weights)
    if not (isinstance(rule, Weighted) or weights or any(t.labeled for t in inputs)):
        return _UNLABELED
    return rule or _PROBE


class _Unlabeled(Rule):
    """Nothing to follow: no input carries a label."""

    def trace(
        self, trace: Trace, op: Any, call: Call, inputs: list[Abstract]
    ) -> list[Abstract]:
        return [Abstract.frozen(shape_of(tensor)) for tensor in call.outputs]


_UNLABELED = _Unlabeled()


def register_channelwise(
    layer: type, *variables: str, config: str | None = None
) -> None:
    """Tells the engine that a custom layer treats every channel by itself.

    The layer must map a channel of zeros to zeros, and act on the last axis.

    Example:

    >>> register_channelwise(LayerScale, "gamma", config="projection_dim")

    Args:
        layer: the layer class.
        variables: names of the attributes whose last axis runs over channels.
        config: name of the constructor argument that gives the number of
            channels, if there is one. Defaults to `None`.

    Raises:
        TypeError: if `layer` is not a layer class.
        ValueError: if `config` is given, and no variable.
    """
    if not (isinstance(layer, type) and issubclass(layer, keras.Layer)):
        raise TypeError(
            "Invalid value for argument `layer`. Expected a keras.layers.Layer "
            f"class. Received: layer={layer!r}"
        )
    if config is not None and not variables:
        raise ValueError(
            "Invalid value for argument `variables`. Expected at least one name "
            f"when `config` is given. Received: config={config!r}"
        )
    _LAYERS[layer] = Registered(variables, config)


def register_producer(
    layer: type,
    kernel: str = "kernel",
    bias: str | None = "bias",
    width: str = "units",
    *,
    axes: tuple[int, int] = (-2, -1),
    like: type | None = None,
    macs: Macs | None = None,
) -> None:
    """Tells the engine that a custom layer creates channels, and `cost` its work.

    The layer must multiply the last axis of its one input with a kernel, add a
    bias if it has one, and apply the function in its attribute `activation` if it
    has that; the channels lie on the last axis of its output. A channel whose
    slices of kernel and bias are zero must be zero before the activation. Every
    edit checks that on random input.

    A subclass of a Keras layer that computes as that layer does is registered with
    `like`, and nothing else.

    Example:

    ```python
    class Projection(keras.layers.Layer):  # y = x @ w + b
        def __init__(self, size, **kwargs): ...

    tfc.structure.register_producer(Projection, "w", "b", width="size")
    tfc.structure.register_producer(MyConv2D, like=keras.layers.Conv2D)
    ```

    Args:
        layer: the layer class; its subclasses need their own registration.
        kernel: name of the attribute that is the kernel. Defaults to `"kernel"`.
        bias: name of the attribute that is the bias, whose last axis runs over the
            channels, or is None; `None` for a layer that has none. Defaults to
            `"bias"`.
        width: name of the constructor argument that gives the number of channels.
            Defaults to `"units"`.
        axes: axes of the kernel along which the channels of the input and of the
            output lie. Defaults to `(-2, -1)`, those of a convolution or a dense
            layer.
        like: Keras layer class that `layer` is a subclass of and computes as; the
            other arguments are then not used. Defaults to `None`.
        macs: function of the layer, the shapes of its inputs and those of its
            outputs, at batch 1, that returns the number of multiply-accumulates.
            Defaults to `None`: every value of the kernel is used once for each
            position of the output.

    Raises:
        TypeError: if `layer` is not a layer class, or `macs` is not callable.
        ValueError: if `layer` is not a subclass of `like`, or `like` creates no
            channels.
    """
    if not (isinstance(layer, type) and issubclass(layer, keras.Layer)):
        raise TypeError(
            "Invalid value for argument `layer`. Expected a keras.layers.Layer "
            f"class. Received: layer={layer!r}"
        )
    if macs is not None and not callable(macs):
        raise TypeError(
            "Invalid value for argument `macs`. Expected a function of the layer, its "
            f"input shapes and its output shapes. Received: macs={macs!r}"
        )
    if like is None:
        _LAYERS[layer] = RegisteredProducer(kernel, bias, width, axes, macs)
        KERNELS[layer] = (kernel,)
        return
    rule = _LAYERS.get(like)
    if rule is None or rule.kind != PRODUCER or not issubclass(layer, like):
        raise ValueError(
            "Invalid value for argument `like`. Expected a Keras layer class that "
            f"creates channels and that {layer.__name__} is a subclass of. Received: "
            f"like={like!r}"
        )
    _LAYERS[layer] = rule
    _LIKE[layer] = like
    if like in KERNELS:
        KERNELS[layer] = KERNELS[like]


def counts_as(layer: type) -> type:
    """The class that a layer class is counted as: the one it is registered like."""
    return _LIKE.get(layer, layer)


_LIKE: dict[type, type] = {}
