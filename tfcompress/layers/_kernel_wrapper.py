"""The base of layers that compute with a transformed kernel of another layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import keras
from keras import layers, ops

__all__ = ["KernelWrapper", "find_wrapper"]

W = TypeVar("W", bound="KernelWrapper")
Operation = Callable[[Any, Any], Any]
Product = Callable[[Operation, Any, keras.Variable], Any]


class KernelWrapper(keras.layers.Wrapper):
    """Computes what a layer computes, with another kernel.

    The layer's variables stay what they are; what its inputs are multiplied with
    is `effective_kernel` of them, and gradients flow through that to the
    variables. Subclasses override `effective_kernel`. Wrappers nest: the outer
    one is applied first, and the inner one to what it returns. A call of
    `QuantizedKernel(MaskedKernel(conv))` thus computes

        conv(x, mask(quantize(kernel))) + bias

    Why a wrapper, and not a subclass of `Conv2D`: weights that a subclass adds are
    saved, but Keras does not load them. A wrapper's are.

    The kernels are those of `Conv1D`, `Conv2D`, `Conv3D`, their transposed forms,
    `DepthwiseConv1D`, `DepthwiseConv2D` and `Dense`, and the depthwise and the
    pointwise one of `SeparableConv1D` and `SeparableConv2D`. Dtype policy, input
    checks, masks and the activity regularizer are those of the layer.

    Args:
        layer: one of these layers (or of a subclass that leaves `call` alone),
            built or not, or another `KernelWrapper`.
        name: defaults to the name of `layer`.
        trainable: whether the layer's variables are trained. Defaults to True.

    Raises:
        TypeError: if `layer` is not a layer.
        ValueError: if `layer` is of another kind, or its kernel is quantized or
            made of several variables (LoRA).
    """

    def __init__(
        self, layer: keras.Layer, *, name: str | None = None, trainable: bool = True
    ) -> None:
        _check(layer)
        super().__init__(
            layer,
            name=name or layer.name,
            trainable=trainable,
            dtype=layer.dtype_policy,
            activity_regularizer=layer.activity_regularizer,
        )
        self.supports_masking = layer.supports_masking

    def effective_kernel(self, variable: keras.Variable, value: Any) -> Any:
        """What takes the place of a kernel in the computation.

        Args:
            variable: the kernel, one of `kernels`.
            value: its value, or what a wrapper around this one makes of it; in
                `call`, in the compute dtype.

        Returns:
            A tensor of the shape and dtype of `value`.

        Raises:
            NotImplementedError: in this base class.
        """
        raise NotImplementedError

    @property
    def core(self) -> keras.Layer:
        """The layer inside all wrappers."""
        layer = self.layer
        while isinstance(layer, KernelWrapper):
            layer = layer.layer
        return layer

    @property
    def kernels(self) -> tuple[keras.Variable, ...]:
        """The kernels of `core`, which must be built."""
        return tuple(getattr(self.core, name) for name in _kind(self.core)[0])

    def build(self, input_shape: Any = None) -> None:
        """Builds the inner layer, if it is not yet."""
        super().build(input_shape)
        self.input_spec = self.layer.input_spec

    def call(self, inputs: Any) -> Any:
        """The inner layer's output with the effective kernels."""
        # The layer's own `call` is not used: it would multiply with the kernel that it
        # stores. `_KINDS` has what each kind computes, with the product left open.
        # `product` fills it in, and hands kernel and operation from wrapper to wrapper
        # inwards, until the innermost one multiplies.
        core = self.core
        _check(core)

        def product(operation: Operation, inputs: Any, variable: keras.Variable) -> Any:
            return self.product(operation, inputs, variable, variable.value)

        return _kind(core)[1](core, inputs, product)

    def product(
        self, operation: Operation, inputs: Any, variable: keras.Variable, value: Any
    ) -> Any:
        """The product of inputs and kernel, before bias and activation.

        Args:
            operation: linear function of inputs and kernel.
            inputs: what the kernel is multiplied with.
            variable: the kernel's variable.
            value: its value, or what a wrapper around this one makes of it.

        Returns:
            What `operation` makes of the inputs and the effective kernel.
        """
        return self.inward(
            operation, inputs, variable, self.effective_kernel(variable, value)
        )

    def inward(
        self, operation: Operation, inputs: Any, variable: keras.Variable, value: Any
    ) -> Any:
        """The product as the inner layer makes it; arguments as for `product`."""
        if isinstance(self.layer, KernelWrapper):
            return self.layer.product(operation, inputs, variable, value)
        return operation(inputs, value)

    def bake(self) -> keras.Layer:
        """Writes the effective kernels into the inner layer and returns that.

        The variables of the inner layer change, so this wrapper is used up.
        """
        for variable in self.kernels:
            variable.assign(self.effective_kernel(variable, variable.value))
        layer = self.layer
        return layer.bake() if isinstance(layer, KernelWrapper) else layer

    def cost_layer(self) -> tuple[keras.Layer, dict[str, Any]]:
        """The inner layer and what `tfcompress.cost` has to know beside it."""
        return self.layer, {"values": self.values}

    def values(self, variable: keras.Variable) -> Any:
        """What the computation uses in the place of a variable of `core`."""
        if not any(variable is kernel for kernel in self.kernels):
            return None
        value, layer = variable.value, self
        while isinstance(layer, KernelWrapper):
            value, layer = layer.effective_kernel(variable, value), layer.layer
        return value

    def compute_output_shape(self, input_shape: Any) -> Any:
        """That of the inner layer."""
        return self.layer.compute_output_shape(input_shape)

    def get_config(self) -> dict[str, Any]:
        """Config with the inner layer's; `dtype` is that of the inner layer."""
        config = super().get_config()
        return {key: config[key] for key in ("layer", "name", "trainable")}

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> KernelWrapper:
        """The layer of a config, which stays as it is."""
        return super().from_config(dict(config), custom_objects)


def find_wrapper(layer: keras.Layer, kind: type[W]) -> W | None:
    """The wrapper of some kind around a kernel: `layer` itself or one inside it."""
    while isinstance(layer, KernelWrapper):
        if isinstance(layer, kind):
            return layer
        layer = layer.layer
    return None


# Helpers --------------------------------------------------------------------


def _check(layer: Any) -> None:
    if not isinstance(layer, keras.Layer):
        raise TypeError(
            "Invalid value for argument `layer`. Expected a keras.layers.Layer. "
            f"Received: layer={layer!r}"
        )
    if isinstance(layer, KernelWrapper):
        return
    _kind(layer)
    if getattr(layer, "lora_enabled", False) or layer.quantization_mode is not None:
        raise ValueError(
            "Invalid value for argument `layer`. Expected a layer that computes with "
            f"the kernel it stores. Received: {layer.name!r}, which is quantized or "
            "adapted with LoRA."
        )


def _kind(layer: keras.Layer) -> tuple[tuple[str, ...], Callable]:
    """The names of a layer's kernels and what it computes with them."""
    for kinds, names, forward in _KINDS:
        for kind in kinds:
            if isinstance(layer, kind) and type(layer).call is kind.call:
                return names, forward
    known = ", ".join(kind.__name__ for kinds, *_ in _KINDS for kind in kinds)
    raise ValueError(
        f"Invalid value for argument `layer`. Expected one of {known}, or a "
        f"subclass with the same `call`. Received: {layer.name!r} of class "
        f"{type(layer).__name__}"
    )


def _conv(layer: Any, inputs: Any, product: Product) -> Any:
    # "causal" is zeros on the left and no padding after that. `ops.conv` has no such
    # mode; Keras' Conv1D pads by itself, too.
    padding = layer.padding
    if padding == "causal":
        left = layer.dilation_rate[0] * (layer.kernel_size[0] - 1)
        time = [[left, 0], [0, 0]]
        if layer.data_format == "channels_first":
            time.reverse()
        inputs, padding = ops.pad(inputs, [[0, 0], *time]), "valid"

    def operation(x: Any, kernel: Any) -> Any:
        return ops.conv(
            x,
            kernel,
            strides=list(layer.strides),
            padding=padding,
            data_format=layer.data_format,
            dilation_rate=layer.dilation_rate,
        )

    return _finish(layer, product(operation, inputs, layer.kernel))


def _transposed(layer: Any, inputs: Any, product: Product) -> Any:
    def operation(x: Any, kernel: Any) -> Any:
        return ops.conv_transpose(
            x,
            kernel,
            strides=list(layer.strides),
            padding=layer.padding,
            output_padding=layer.output_padding,
            dilation_rate=layer.dilation_rate,
            data_format=layer.data_format,
        )

    return _finish(layer, product(operation, inputs, layer.kernel))


def _depthwise(layer: Any, inputs: Any, product: Product) -> Any:
    outputs = product(_depthwise_operation(layer), inputs, layer.kernel)
    return _finish(layer, outputs)


def _separable(layer: Any, inputs: Any, product: Product) -> Any:
    def pointwise(x: Any, kernel: Any) -> Any:
        return ops.conv(x, kernel, padding="valid", data_format=layer.data_format)

    depth = product(_depthwise_operation(layer), inputs, layer.depthwise_kernel)
    return _finish(layer, product(pointwise, depth, layer.pointwise_kernel))


def _depthwise_operation(layer: Any) -> Operation:
    return lambda x, kernel: ops.depthwise_conv(
        x,
        kernel,
        strides=layer.strides,
        padding=layer.padding,
        data_format=layer.data_format,
        dilation_rate=layer.dilation_rate,
    )


def _dense(layer: Any, inputs: Any, product: Product) -> Any:
    return _finish(layer, product(ops.matmul, inputs, layer.kernel), "channels_last")


def _finish(layer: Any, outputs: Any, data_format: str | None = None) -> Any:
    """Bias and activation."""
    if layer.bias is not None:
        shape = [1] * len(outputs.shape)
        last = (data_format or layer.data_format) == "channels_last"
        shape[-1 if last else 1] = -1
        outputs = ops.add(outputs, ops.reshape(layer.bias, shape))
    return outputs if layer.activation is None else layer.activation(outputs)


_KINDS: tuple[tuple[tuple[Any, ...], tuple[str, ...], Callable], ...] = (
    ((layers.Conv1D, layers.Conv2D, layers.Conv3D), ("kernel",), _conv),
    (
        (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose),
        ("kernel",),
        _transposed,
    ),
    ((layers.DepthwiseConv1D, layers.DepthwiseConv2D), ("kernel",), _depthwise),
    (
        (layers.SeparableConv1D, layers.SeparableConv2D),
        ("depthwise_kernel", "pointwise_kernel"),
        _separable,
    ),
    ((layers.Dense,), ("kernel",), _dense),
)
