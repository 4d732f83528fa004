"""Fake quantization: floats that lie where integers of few bits would.

A model is trained with what its integer file will compute: kernels are rounded
to the grid of few bits, and every tensor between layers to that of 8 or 16. The
gradient passes the rounding as if it were not there (straight-through, Bengio et
al. 2013; Jacob et al. 2018, "Quantization and Training of Neural Networks for
Efficient Integer-Arithmetic-Only Inference").
"""

from __future__ import annotations

from typing import Any, Literal

import keras
import numpy as np
from keras import ops

from tfcompress import _checks
from tfcompress.layers._kernel_wrapper import KernelWrapper, Operation

__all__ = ["CLIPPING", "FakeQuantize", "InFloat", "QuantizedKernel", "grid_of"]

# Half the range of the symmetric grid of 2^b - 1 levels with the smallest mean
# squared error for normally distributed values, in standard deviations (found by
# minimizing the integral; Max 1960 has the principle).
CLIPPING = {2: 1.224, 3: 1.952, 4: 2.474, 5: 2.899, 6: 3.270, 7: 3.608}

# A narrower range would not survive the converter, which widens it.
_LEAST_RANGE = 1e-5
# The range of a tensor that is zero everywhere, behind ReLUs that let nothing pass. It
# is not the least range: the runtime multiplies by quotients of steps, and refuses
# those of 256 or more, to which so small a step leads.
_RANGE_OF_ZEROS = 1.0

# What TFLite fixes for the outputs of sigmoid and softmax, and of tanh.
_FIXED = {
    ("unit", 8): (0.0, 255 / 256),
    ("signed", 8): (-1.0, 127 / 128),
    ("unit", 16): (-32767 / 32768, 32767 / 32768),
    ("signed", 16): (-32767 / 32768, 32767 / 32768),
}


@keras.saving.register_keras_serializable(package="tfcompress")
class FakeQuantize(keras.Layer):
    """Rounds a tensor to the grid that an integer file stores it on.

    With 8 bits the grid covers [min, max], which includes 0, in 255 steps, and 0
    lies on it; with 16 bits it is symmetric, [-m, m] with m = max(-min, max) in
    65 534 steps. Gradients pass inside the range and are zero outside.

    The range is learned in training: min and max of the first batch, and then
    their moving averages r ← momentum · r + (1 - momentum) · batch. Batches that
    are not finite are left out. Until a first batch was seen, the layer passes
    its input on. The range is saved and loaded with the model; `finalize` drops
    the layer.

    Called with `observe=False`, the layer rounds to its range without learning
    from the tensor: for operations whose output shares the grid of their input.

    Attributes:
        calibrating: while True, calls extend the range by all that they see, and
            pass their input on.

    Example:

    ```python
    x = keras.layers.Conv2D(8, 3, activation="relu")(inputs)
    x = tfc.layers.FakeQuantize(bits=8)(x)
    ```

    Args:
        bits: 8 or 16. Defaults to `8`.
        momentum: weight of the past in the moving averages, in [0, 1). Defaults
            to `0.99`.
        fixed: `"unit"` or `"signed"` for the range that TFLite prescribes for
            sigmoid and softmax, or for tanh; `None` to learn one. Defaults to
            `None`.
        name: as in every layer.

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: if an argument is out of range.
    """

    # What `finalize` drops: a layer that only training needs.
    temporary = True

    def __init__(
        self,
        bits: int = 8,
        *,
        momentum: float = 0.99,
        fixed: Literal["unit", "signed"] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.bits = _width("bits", bits)
        self.momentum = _checks.fraction("momentum", momentum)
        self.fixed = _checks.one_of("fixed", fixed, (None, "unit", "signed"))
        self.supports_masking = True
        self.frozen: tuple[float, float] | None = None
        self.calibrating = False

    def build(self, input_shape: Any = None) -> None:
        """Creates the range."""
        if self.fixed is None:
            # Each replica of a strategy sees its own batch; they take the mean.
            self.low, self.high, self.seen = (
                self.add_weight(
                    shape=(),
                    initializer="zeros",
                    dtype="float32",
                    trainable=False,
                    aggregation="mean",
                    autocast=False,
                    name=name,
                )
                for name in ("low", "high", "seen")
            )
        self.built = True

    def call(self, inputs: Any, training: bool = False, observe: bool = True) -> Any:
        """The inputs on the grid."""
        if self.frozen is not None and self.bits == 16:
            # The converter knows 8 bits only; `export` widens what it makes. The
            # step is that of 16 bits, what lies beyond the range is cut off.
            step = self.step
            assert step is not None
            return _on_grid(inputs, -128 * step, 127 * step, 8, least=0.0)
        if self.fixed is not None or self.frozen is not None:
            low, high = self.frozen or _FIXED[str(self.fixed), self.bits]
            return _on_grid(inputs, low, high, self.bits)
        if observe and self.calibrating:
            self._extend(inputs)
            return inputs
        if observe and training:
            self._observe(ops.stop_gradient(inputs))
        outputs = _on_grid(inputs, self.low.value, self.high.value, self.bits)
        return ops.where(ops.greater(self.seen.value, 0.0), outputs, inputs)

    @property
    def range(self) -> tuple[float, float] | None:
        """(min, max) of the grid; `None` until the layer has seen a batch."""
        if self.frozen is not None:
            return self.frozen
        if self.fixed is not None:
            return _FIXED[self.fixed, self.bits]
        if not float(ops.convert_to_numpy(self.seen)):
            return None
        low, high = (float(ops.convert_to_numpy(v)) for v in (self.low, self.high))
        return low, high

    @property
    def step(self) -> float | None:
        """Distance of two values of the grid; `None` without a range."""
        if self.range is None:
            return None
        low, high = self.range
        if low == high:
            high = _RANGE_OF_ZEROS
        if self.bits == 16:
            return max(-low, high, _LEAST_RANGE) / 32767
        return max(high - low, _LEAST_RANGE) / 255

    def freeze(self) -> FakeQuantize:
        """Makes the present range a constant, as files need it. Returns itself."""
        self.frozen = self.range
        return self

    def compute_output_shape(self, input_shape: Any) -> Any:
        """That of the input."""
        return input_shape

    def cost_macs(self, input_shapes: Any, output_shapes: Any) -> int:
        """No product: the rounding is part of the operation before."""
        return 0

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        own = {name: getattr(self, name) for name in ("bits", "momentum", "fixed")}
        return {**super().get_config(), **own}

    # Helpers ----------------------------------------------------------------

    def _observe(self, inputs: Any) -> None:
        """Moves the range toward that of a batch."""
        low, high, finite = _extremes(inputs)
        # `seen` is 0 before the first batch: the weight of the past is 0, and the range
        # becomes that of the batch.
        weight = self.momentum * self.seen.value
        for variable, value in ((self.low, low), (self.high, high)):
            moved = weight * variable.value + (1.0 - weight) * value
            variable.assign(ops.where(finite, moved, variable.value))
        self.seen.assign(ops.where(finite, 1.0, self.seen.value))

    def _extend(self, inputs: Any) -> None:
        """Makes the range include that of a batch."""
        low, high, finite = _extremes(inputs)
        if not bool(ops.convert_to_numpy(finite)):
            raise ValueError(
                "Invalid value for argument `data`. Expected inputs on which the model "
                f"computes finite numbers. Received: NaN or infinity at {self.name!r}"
            )
        self.low.assign(ops.minimum(self.low.value, low))
        self.high.assign(ops.maximum(self.high.value, high))
        self.seen.assign(1.0)


@keras.saving.register_keras_serializable(package="tfcompress")
class InFloat(keras.Layer):
    """Passes a tensor on, to or from an operation that stays in float.

    `quantization.prepare` puts it around everything that an integer file computes
    in float, so that the file does so as well: converters would otherwise quantize
    the parts of such an operation by ranges that they make up. `finalize` drops
    the layer.
    """

    temporary = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True
        self.frozen = False

    def call(self, inputs: Any) -> Any:
        """The inputs."""
        if not self.frozen:
            return inputs
        import tensorflow as tf

        # The same number, by a way that no converter can quantize or fold.
        bits = tf.bitwise.right_shift(tf.bitcast(inputs, tf.int32), 0)
        return tf.bitcast(bits, tf.float32)

    def cost_macs(self, input_shapes: Any, output_shapes: Any) -> int:
        """No product."""
        return 0

    def freeze(self) -> InFloat:
        """Keeps converters from looking through. Returns itself."""
        self.frozen = True
        return self

    def compute_output_shape(self, input_shape: Any) -> Any:
        """That of the input."""
        return input_shape


@keras.saving.register_keras_serializable(package="tfcompress")
class QuantizedKernel(KernelWrapper):
    """Computes what a layer computes, with its kernel on the grid of few bits.

    The grid is symmetric, {-L, …, 0, …, L} · step with L = 2^(bits - 1) - 1, and
    follows the kernel: L · step = max |w| with 8 bits; below, the smaller of that
    and c · RMS(w) over the weights that are not zero, where c gives the smallest
    squared error for normally distributed weights (2.47 at 4 bits). Gradients
    pass the rounding as if it were not there, also for weights that are clipped.
    Zeros stay zero.

    Convolutions have one step for each output channel, the others one for the
    kernel, as LiteRT computes them. `finalize`, or `bake()`, leaves the plain
    layer with its kernel on the grid.

    Example:

    ```python
    layer = tfc.layers.QuantizedKernel(keras.layers.Conv2D(64, 3), bits=4)
    ```

    Args:
        layer: a convolution (1D, 2D, 3D, depthwise, separable or transposed) or
            `Dense` layer.
        bits: from 2 to 8. Defaults to `8`.
        per_channel: whether each output channel has a step of its own; `None`
            for what LiteRT computes for the kind of layer. Defaults to `None`.
        activation_bits: 8 or 16: the grid of what a separable convolution has
            between its two products. Defaults to `8`.
        name: defaults to the name of `layer`.
        trainable: whether the layer's variables are trained. Defaults to True.

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: if `layer` is of another kind or `bits` is out of range.
    """

    def __init__(
        self,
        layer: keras.Layer,
        bits: int = 8,
        *,
        per_channel: bool | None = None,
        activation_bits: int = 8,
        **kwargs: Any,
    ) -> None:
        super().__init__(layer, **kwargs)
        self.bits = _checks.whole("bits", bits, 2)
        if self.bits > 8:
            raise ValueError(_checks.invalid("bits", "an integer from 2 to 8", bits))
        if per_channel is not None:
            _checks.flag("per_channel", per_channel)
        if per_channel and not _has_channel_steps(self.core):
            raise ValueError(
                _checks.invalid(
                    "per_channel",
                    f"False or None for a {type(self.core).__name__} layer, whose "
                    "kernel LiteRT computes with one step",
                    per_channel,
                )
            )
        self.per_channel = per_channel
        self.activation_bits = _width("activation_bits", activation_bits)
        self.between: FakeQuantize | None = None
        if isinstance(
            self.core, keras.layers.SeparableConv1D | keras.layers.SeparableConv2D
        ):
            self.between = FakeQuantize(activation_bits, name="between")
        self._grids: dict[int, tuple[np.ndarray, np.ndarray]] | None = None

    def build(self, input_shape: Any = None) -> None:
        """Builds the inner layer."""
        super().build(input_shape)
        if self.between is not None and not self.between.built:
            self.between.build()

    def effective_kernel(self, variable: keras.Variable, value: Any) -> Any:
        """The kernel on its grid, with the gradient of one that is not."""
        # An example with 4 bits, so L = 7, and a step of 0.1: 0.234 becomes round(2.34)
        # = 2 steps, 0.2; 0.9 would be 9 steps, and is clipped to 7. In the backward
        # pass the kernel is `value` itself: the derivative of rounding, 0 nearly
        # everywhere, would stop all learning.
        exact = ops.cast(ops.stop_gradient(value), "float32")
        step = self._step(variable, exact)
        levels = self._levels
        rounded = ops.clip(ops.round(exact / step), -levels, levels) * step
        # value - value is exactly 0, and brings the gradient.
        value = value - ops.stop_gradient(value)
        return value + ops.cast(rounded, value.dtype)

    def product(
        self, operation: Operation, inputs: Any, variable: keras.Variable, value: Any
    ) -> Any:
        """The product with the kernel on its grid."""
        if self._grids is not None:
            outputs = self._frozen_product(operation, inputs, variable)
        else:
            outputs = super().product(operation, inputs, variable, value)
        last = variable is self.kernels[-1]
        return outputs if self.between is None or last else self.between(outputs)

    def grid(
        self, variable: keras.Variable, value: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        """The integers and the step of a kernel.

        Args:
            variable: one of `kernels`.
            value: its value, or what the wrappers around this one make of it.

        Returns:
            Integers of the kernel's shape, and the step of the whole kernel, a
            scalar, or of each channel, in the shape of the kernel with 1 for the
            other axes.
        """
        value = ops.cast(ops.convert_to_tensor(value), "float32")
        step = ops.convert_to_numpy(self._step(variable, value))
        rounded = np.rint(ops.convert_to_numpy(value) / step)
        return np.clip(rounded, -self._levels, self._levels).astype("int8"), step

    def freeze(
        self,
        values: Any = None,
        recover: bool = False,
        input_step: float | None = None,
    ) -> QuantizedKernel:
        """Makes the kernels constants on their grids, as files need them.

        Args:
            values: function of a kernel that returns its value, where wrappers
                around this one change it. Defaults to `None`.
            recover: whether a kernel that lies on a grid of at most 8 steps on
                either side keeps it, whatever its range. Defaults to False.
            input_step: the step of the layer's inputs, so that biases fit the
                integers of the file. Defaults to `None`: they are not looked at.

        Returns:
            Itself.
        """
        found = {}
        for kernel in self.kernels:
            value = kernel.value if values is None else values(kernel)
            known = None
            if recover:
                array = ops.convert_to_numpy(ops.cast(value, "float32"))
                known = grid_of(array, self._axes(kernel))
            found[id(kernel)] = known or self.grid(kernel, value)
        self._grids = found
        if self.between is not None:
            self.between.freeze()
            input_step = self.between.step  # of the product that the bias is added to
        if input_step is not None and self.core.bias is not None:
            self._make_room(input_step, values)
        return self

    def cost_layer(self) -> tuple[keras.Layer, dict[str, Any]]:
        """The inner layer, and of how many bits its operands are."""
        layer, details = super().cost_layer()
        bits = {"weight_bits": self.bits, "activation_bits": self.activation_bits}
        return layer, {**details, **bits}

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        own = ("bits", "per_channel", "activation_bits")
        return {**super().get_config(), **{name: getattr(self, name) for name in own}}

    # Helpers ----------------------------------------------------------------

    @property
    def _levels(self) -> int:
        return 2 ** (self.bits - 1) - 1

    def _step(self, variable: keras.Variable, value: Any) -> Any:
        """The step of each channel, or of the kernel, to broadcast with it."""
        axes = self._axes(variable)
        value = ops.cast(value, "float32")
        largest = ops.max(ops.abs(value), axis=axes, keepdims=True)
        if self.bits in CLIPPING:
            count = ops.sum(ops.cast(value != 0, value.dtype), axes, keepdims=True)
            power = ops.sum(ops.square(value), axes, keepdims=True)
            spread = ops.sqrt(power / ops.maximum(count, 1.0))
            largest = ops.minimum(largest, CLIPPING[self.bits] * spread)
        # A channel of zeros is zero on every grid.
        largest = ops.where(largest > 0, largest, ops.ones_like(largest))
        return largest / self._levels

    def _make_room(self, input_step: float, values: Any) -> None:
        """Widens the steps of the last kernel where a bias would overflow."""
        # A file has biases as integers of 32 bits with the step s · t, that of inputs
        # times that of the kernel, and cuts off what does not fit. Where pruning,
        # weight decay or a small gamma has left a channel weights that are nothing
        # beside its bias b, that would change the output: so t >= |b| / (s · 2^30).
        # What the wider step does to the weights is far below the bias: with n weights
        # the sum moves by 128 s · n · t / 2 = n |b| · 6e-8 at most, and with inputs of
        # 16 bits by n |b| · 1.6e-5, half of a step of the output for each weight.
        assert self._grids is not None
        kernel = self.kernels[-1]
        levels, step = self._grids[id(kernel)]
        bias = np.abs(ops.convert_to_numpy(self.core.bias).astype("float64"))
        if step.size == 1:
            bias = bias.max(initial=0.0)
        least = (bias / (input_step * 2**30)).reshape(step.shape).astype("float32")
        if not (least > step).any():
            return
        value = kernel.value if values is None else values(kernel)
        value = ops.convert_to_numpy(ops.cast(value, "float32"))
        wider = np.where(least > step, least, step)
        # Other channels keep their integers, also those that were recovered.
        levels = np.where(least > step, np.rint(value / wider).astype("int8"), levels)
        self._grids[id(kernel)] = levels, wider

    def _axes(self, variable: keras.Variable) -> tuple[int, ...]:
        """The axes that share a step."""
        rank = len(variable.shape)
        each = self.per_channel
        if each is None:
            each = _has_channel_steps(self.core)
        if not each:
            return tuple(range(rank))
        return tuple(range(rank - 1 - self._is_depthwise(variable)))

    def _frozen_product(
        self, operation: Operation, inputs: Any, variable: keras.Variable
    ) -> Any:
        """The product in the form that the converter of TFLite understands.

        It takes the step of a constant from the range of a fake quantization
        right before the product, as range / (2^8 - 2), or / (2^4 - 2) where it
        is to store 4 bits. Ranges of 127 and 7 steps make it keep every grid.
        """
        assert self._grids is not None
        levels, step = self._grids[id(variable)]
        kernel, axis = levels * step, levels.ndim - 1
        depthwise, grouped = self._is_depthwise(variable), False
        if depthwise and step.size > 1:
            grouped = kernel.shape[-1] > 1
            if grouped:  # one step for each pair, which the converter wants in a row
                kernel = kernel.reshape(*kernel.shape[:-2], 1, -1)
            else:
                axis -= 1
        flat = levels.ndim == 3 and _is_convolution(self.core)
        if flat:
            # As a convolution in two dimensions, one of them of size 1: the
            # converter loses track of the channels when it does that itself.
            kernel, axis = kernel[None], axis + 1
        if flat or grouped:
            pointwise = self.between is not None and not depthwise
            operation = _convolution(
                self.core, depthwise and not grouped, pointwise, flat
            )
        # LiteRT has no transposed convolution with 4 bits, nor products of 4 and 16.
        few = np.abs(levels).max(initial=0) <= 7 and self.bits <= 4
        few = few and self.activation_bits == 8
        few = few and not isinstance(self.core, _TRANSPOSED)
        bits = 4 if few else 8
        limit = step.reshape(-1) * np.float32(2 ** (bits - 1) - 1)
        if step.size == 1:
            limit = limit[0]
        constant = keras.quantizers.fake_quant_with_min_max_vars(
            ops.convert_to_tensor(kernel.astype("float32")),
            -limit,
            limit,
            num_bits=bits,
            narrow_range=True,
            axis=None if step.size == 1 else axis,
        )
        return operation(inputs, constant)

    def _is_depthwise(self, variable: keras.Variable) -> bool:
        """Whether a kernel ends in (channels, multiplier), both of the output."""
        if self.between is not None:
            return variable is self.kernels[0]
        kinds = keras.layers.DepthwiseConv1D | keras.layers.DepthwiseConv2D
        return isinstance(self.core, kinds)


# Helpers --------------------------------------------------------------------


def grid_of(
    values: np.ndarray, axes: tuple[int, ...], most: int = 8
) -> tuple[np.ndarray, np.ndarray] | None:
    """The grid on which weights lie already, if it has few steps.

    Args:
        values: the weights.
        axes: the axes that share a step.
        most: the most steps on either side of 0. Defaults to `8`.

    Returns:
        Integers, and the step in the shape of `values` with 1 for `axes`, or
        `None`.
    """
    # The largest weight of a group that lies on a grid is a whole number of steps: 1,
    # 2, … or `most`. Each number is tried, and the first whose step makes all weights
    # of the group whole numbers is taken. A step for each group, hence the arrays.
    values = values.astype("float64")
    largest = np.abs(values).max(axis=axes, keepdims=True)
    step = np.full(largest.shape, np.nan)
    step[largest == 0] = 1.0
    for count in range(1, most + 1):
        quotient = values / np.where(largest > 0, largest / count, 1.0)
        error = np.abs(quotient - np.rint(quotient)).max(axis=axes, keepdims=True)
        # What float32 leaves of a product of integer and step.
        fits = np.isnan(step) & (error < 1e-5 * count)
        step = np.where(fits, largest / count, step)
    if np.isnan(step).any():
        return None
    return np.rint(values / step).astype("int8"), step.astype("float32")


def _extremes(inputs: Any) -> tuple[Any, Any, Any]:
    """Min and max of a batch and of 0, and whether they are finite."""
    values = ops.cast(inputs, "float32")
    low = ops.minimum(ops.min(values), 0.0)
    high = ops.maximum(ops.max(values), 0.0)
    return low, high, ops.logical_and(ops.isfinite(low), ops.isfinite(high))


def _on_grid(
    inputs: Any, low: Any, high: Any, bits: int, least: float = _LEAST_RANGE
) -> Any:
    """A tensor on the grid of an integer type."""
    low, high = (ops.cast(value, "float32") for value in (low, high))
    zeros = ops.equal(low, high)  # both include 0
    high = ops.where(zeros, _RANGE_OF_ZEROS, ops.maximum(high, low + least))
    if bits == 16:
        high = ops.maximum(-low, high)
        low = -high
    return keras.quantizers.fake_quant_with_min_max_vars(
        inputs, low, high, num_bits=bits, narrow_range=bits == 16
    )


def _width(name: str, value: Any) -> int:
    """Returns `value`, the bits of an activation."""
    if _checks.whole(name, value) not in (8, 16):
        raise ValueError(_checks.invalid(name, "8 or 16", value))
    return int(value)


_TRANSPOSED = (
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
)


def _is_convolution(layer: keras.Layer) -> bool:
    return not isinstance(layer, keras.layers.Dense)


def _has_channel_steps(layer: keras.Layer) -> bool:
    """Whether LiteRT computes the kind of layer with a step for each channel."""
    return _is_convolution(layer) and not isinstance(layer, _TRANSPOSED)


def _convolution(layer: Any, depthwise: bool, pointwise: bool, flat: bool) -> Operation:
    """The product of a convolution with a kernel of another form.

    Args:
        layer: the convolution.
        depthwise: whether the product is depthwise; a kernel of one input channel
            makes a grouped convolution of it.
        pointwise: whether it is the second one of a separable convolution.
        flat: whether a convolution in one dimension is made one in two.
    """
    strides, dilation = tuple(layer.strides), tuple(layer.dilation_rate)
    padding = "valid" if layer.padding == "causal" else layer.padding
    if pointwise:
        strides, dilation, padding = (1,) * len(strides), (1,) * len(dilation), "valid"
    if flat:  # TensorFlow has only equal strides of depthwise convolutions
        strides = strides * 2 if depthwise else (1, *strides)
        dilation = (1, *dilation)
    more: dict[str, Any] = {}
    product = ops.depthwise_conv if depthwise else ops.conv
    if isinstance(layer, _TRANSPOSED):
        product = ops.conv_transpose
        if layer.output_padding is not None:
            more["output_padding"] = (0,) * flat + tuple(layer.output_padding)

    def operation(x: Any, kernel: Any) -> Any:
        outputs = product(
            ops.expand_dims(x, 1) if flat else x,
            kernel,
            strides=strides,
            padding=padding,
            dilation_rate=dilation,
            **more,
        )
        return ops.squeeze(outputs, 1) if flat else outputs

    return operation
