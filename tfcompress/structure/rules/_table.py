"""Which rule holds for which operation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from tfcompress.structure._facts import IDENTITY_LAYERS, UNARY
from tfcompress.structure._graph import Call
from tfcompress.structure._labels import Abstract
from tfcompress.structure._trace import Trace
from tfcompress.structure.rules._attention import Attention, GroupedAttention
from tfcompress.structure.rules._base import Frozen, Rule, Weighted, shape_of
from tfcompress.structure.rules._channelwise import (
    Activation,
    BatchNorm,
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
    like_itself,
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
    Recurrent,
    SeparableConv,
)

__all__ = ["register_channelwise", "rule_for", "rules"]


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
    _K.GroupNormalization: Frozen("normalises over groups of channels"),
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
    **dict.fromkeys(
        ("Cast", "SaturateCast", "StopGradient", "Copy", "ConvertToTensor"), Identity()
    ),
    "Sum": Reduce(additive=True),
    **dict.fromkeys(
        ("Mean", "Max", "Min", "Amax", "Amin", "Prod", "Std", "Var", "Any", "All"),
        Reduce(),
    ),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Normalize"), Softmax()),
    **dict.fromkeys(("MaxPool", "AveragePool", "Resize"), Spatial()),
    "Reshape": Reshape(),
    "Transpose": Move(transpose),
    "Swapaxes": Move(with_numpy("swapaxes", "axis1", "axis2")),
    "Moveaxis": Move(with_numpy("moveaxis", "source", "destination")),
    "ExpandDims": Move(with_numpy("expand_dims", "axis")),
    "Squeeze": Move(like_itself),
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
    rule = _LAYERS.get(type(operation))
    if rule is None and not isinstance(operation, keras.Layer):
        rule = _OPS.get(type(operation).__name__)
    weights = isinstance(operation, keras.Layer) and bool(operation.weights)
    if not (isinstance(rule, Weighted) or weights or any(t.labelled for t in inputs)):
        return _UNLABELLED
    return rule or _PROBE


class _Unlabelled(Rule):
    """Nothing to follow: no input carries a label."""

    def trace(
        self, trace: Trace, op: Any, call: Call, inputs: list[Abstract]
    ) -> list[Abstract]:
        return [Abstract.frozen(shape_of(tensor)) for tensor in call.outputs]


_UNLABELLED = _Unlabelled()


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
