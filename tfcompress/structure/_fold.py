"""Batch normalizations that fold into the layer before them.

At inference a batch normalization is an affine map of each channel,
`y = f * x + s` with `f = gamma / sqrt(variance + epsilon)` and
`s = beta - f * mean`. A convolution or a dense layer is linear in its kernel and
its bias, so that `f * (W x + b) + s` is the same layer with the kernel `f * W`
and the bias `f * b + s`, for every padding, stride and dilation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import keras
import numpy as np

from tfcompress.structure import _graph
from tfcompress.structure._graph import Call

__all__ = ["Folding", "foldings"]


@dataclasses.dataclass(frozen=True)
class Folding:
    """A normalization that can go into the layer before it.

    Attributes:
        layer: the layer that takes it in.
        norm: the normalization that vanishes.
        kernel: name of the kernel that is scaled.
        axis: axis of that kernel along which the normalized channels lie.
        bias_axis: axis of the bias along which they lie.
        config: what changes in the config of the layer.
        pairs: whether the channels lie on `axis` and the next one together, as
            in the kernels of depthwise convolutions.
    """

    layer: keras.Layer
    norm: keras.layers.BatchNormalization
    kernel: str = "kernel"
    axis: int = -1
    bias_axis: int = 0
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    pairs: bool = False

    def configure(self, config: dict[str, Any]) -> None:
        """Edits the config of the layer in place: it has a bias."""
        config.update(self.config)

    def assign(self, new: Any) -> None:
        """Gives a built copy of the layer the folded kernel and bias.

        All other variables are copied.
        """
        # f · (W x + b) + s = (f · W) x + (f · b + s). The new kernel and bias are
        # computed in float64 and rounded once, on assignment.
        factor, shift = self._affine()
        kernel, bias = getattr(self.layer, self.kernel), self.layer.bias
        for source, target in _attributes(self.layer, new):
            if source is not kernel and source is not bias:
                target.assign(source)
        getattr(new, self.kernel).assign(self._scaled(kernel, factor))
        shape = [1] * len(new.bias.shape)
        shape[self.bias_axis] = -1
        value = np.zeros(new.bias.shape)
        if bias is not None:
            value = _array(bias) * factor.reshape(shape)
        new.bias.assign(value + shift.reshape(shape))

    def finite(self) -> bool:
        """Whether the folded weights are numbers of the kernel's type."""
        # A variance of 0 without an epsilon gives an infinite factor, and a large
        # factor may exceed the range of float16. Such a normalization stays where it
        # is.
        kernel = getattr(self.layer, self.kernel)
        factor, shift = self._affine()
        with np.errstate(over="ignore"):
            scaled = self._scaled(kernel, factor).astype(_storage(kernel))
        return bool(np.isfinite(scaled).all() and np.isfinite(shift).all())

    def _affine(self) -> tuple[np.ndarray, np.ndarray]:
        norm = self.norm
        with np.errstate(divide="ignore", invalid="ignore"):
            factor = 1.0 / np.sqrt(_array(norm.moving_variance) + norm.epsilon)
            if norm.scale:
                factor = factor * _array(norm.gamma)
            shift = -factor * _array(norm.moving_mean)
        if norm.center:
            shift = shift + _array(norm.beta)
        return factor, shift

    def _scaled(self, kernel: keras.Variable, factor: np.ndarray) -> np.ndarray:
        # Output c · m + j of a depthwise convolution is made by kernel[..., c, j], with
        # m the depth multiplier: the factors in this order are a matrix (channels, m).
        value = _array(kernel)
        if self.pairs:
            return value * factor.reshape(value.shape[-2:])
        shape = [1] * value.ndim
        shape[self.axis] = -1
        return value * factor.reshape(shape)


def foldings(model: keras.Model) -> dict[int, Folding]:
    """The normalizations of a model that can be folded, by id of the layer.

    Args:
        model: a built Functional or Sequential model.

    Returns:
        id of the layer before -> `Folding`, in order of execution.
    """
    found: dict[int, Folding] = {}
    uses: dict[int, int] = {}
    for _, call in _graph.walk(model):
        uses[id(call.operation)] = uses.get(id(call.operation), 0) + 1
    several = len(_graph.functional(model).outputs) > 1
    for _, graph in _graph.graphs(model):
        # With several outputs, losses and metrics may go by the layers' names.
        named = _outputs(graph) if several and graph is model else set()
        for first, norm in _pairs(graph):
            if uses[id(first.operation)] > 1 or uses[id(norm.operation)] > 1:
                continue  # shared: the other uses are not normalized alike
            folding = None if id(norm.outputs[0]) in named else _folding(first, norm)
            if folding is not None and folding.finite():
                found[id(first.operation)] = folding
    return found


def _pairs(graph: keras.Model) -> Iterator[tuple[Call, Call]]:
    """Calls of layers with the normalization that alone reads their output."""
    listed = list(_graph.calls(graph))
    readers: dict[int, list[Call]] = {}
    for call in listed:
        for tensor in call.inputs:
            readers.setdefault(id(tensor), []).append(call)
    outputs = _outputs(graph)
    for call in listed:
        if len(call.outputs) != 1 or id(call.outputs[0]) in outputs:
            continue
        following = readers.get(id(call.outputs[0]), [])
        if len(following) == 1 and _is_at_inference(following[0]):
            yield call, following[0]


def _outputs(graph: keras.Model) -> set[int]:
    return set(map(id, _graph.functional(graph).outputs))


def _is_at_inference(call: Call) -> bool:
    """Whether a call is of a normalization that uses its moving statistics."""
    if type(call.operation) is not keras.layers.BatchNormalization:
        return False
    arguments = call.node.arguments
    options = [*arguments.args[1:], *arguments.kwargs.values()]
    options = [x for x in options if not isinstance(x, keras.KerasTensor)]
    return len(call.inputs) == 1 and not any(x for x in options)


def _folding(call: Call, following: Call) -> Folding | None:
    """How a normalization folds into the layer of `call`; None if it does not."""
    layer, norm = call.operation, following.operation
    make = _KINDS.get(type(layer))
    if (
        make is None
        or getattr(layer, "quantization_mode", None)
        or getattr(layer, "lora_enabled", False)
        or layer.activation not in (None, keras.activations.linear)
        or layer.activity_regularizer is not None
        or call.outputs[0].dtype != following.outputs[0].dtype
    ):
        return None
    axis = norm.axis
    if isinstance(axis, list | tuple):
        if len(axis) != 1:
            return None
        axis = axis[0]
    return make(layer, norm, axis % len(call.outputs[0].shape), call)


def _conv(
    layer: Any, norm: Any, position: int, call: Call, **how: Any
) -> Folding | None:
    channels_first = getattr(layer, "data_format", None) == "channels_first"
    if position != (1 if channels_first else len(call.outputs[0].shape) - 1):
        return None
    return Folding(layer, norm, config={"use_bias": True}, **how)


def _einsum(layer: Any, norm: Any, position: int, call: Call) -> Folding | None:
    """EinsumDense, where kernel and bias have the axis of the channels."""
    left, output = layer.equation.replace(" ", "").split("->")
    kernel = left.split(",")[1]
    if "..." in layer.equation or output[position] not in kernel:
        return None
    letter = output[position]
    axes = layer.bias_axes or letter
    if letter not in axes:
        return None
    # A bias has the axes of the output from the first of `axes` on: in "abc,cde->abde"
    # with `bias_axes="de"` it has the axes d, e, and d is the first of them.
    first = min(map(output.index, axes))
    return Folding(
        layer,
        norm,
        axis=kernel.index(letter),
        bias_axis=position - first,
        config={"bias_axes": axes},
    )


def _with(**how: Any) -> Callable[..., Folding | None]:
    return partial(_conv, **how)


_L = keras.layers

# Transposed kernels are (..., filters, inputs). A separable convolution is linear in
# its pointwise kernel, which comes last, so that kernel alone takes the factors.
_KINDS: dict[type, Callable[[Any, Any, int, Call], Folding | None]] = {
    **dict.fromkeys((_L.Conv1D, _L.Conv2D, _L.Conv3D, _L.Dense), _with()),
    **dict.fromkeys(
        (_L.Conv1DTranspose, _L.Conv2DTranspose, _L.Conv3DTranspose), _with(axis=-2)
    ),
    **dict.fromkeys(
        (_L.SeparableConv1D, _L.SeparableConv2D), _with(kernel="pointwise_kernel")
    ),
    **dict.fromkeys((_L.DepthwiseConv1D, _L.DepthwiseConv2D), _with(pairs=True)),
    _L.EinsumDense: _einsum,
}


def _array(variable: keras.Variable) -> np.ndarray:
    return keras.ops.convert_to_numpy(variable).astype("float64")


def _storage(variable: keras.Variable) -> Any:
    return keras.ops.convert_to_numpy(variable).dtype


def _attributes(old: Any, new: Any) -> Iterator[tuple[Any, Any]]:
    """Variables of two layers that have the same name."""
    named = {variable.name: variable for variable in new.variables}
    for variable in old.variables:
        if variable.name in named:
            yield variable, named[variable.name]
