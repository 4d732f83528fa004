"""Layers on hardware with DRUM approximate multipliers."""

from __future__ import annotations

from typing import Any, Literal

import keras
from keras import ops

from tfcompress.layers._kernel_wrapper import KernelWrapper, Operation
from tfcompress.ops._drum import Gradient, check_gradient, drum_truncate
from tfcompress.ops._gradients import with_gradient_of
from tfcompress.ops._numbers import check_bits, check_fraction_bits, number_format

__all__ = ["DrumMultiply", "Partition"]

Partition = Literal["all", "mixed", "none"]
_PARTITIONS = ("all", "mixed", "none")


@keras.saving.register_keras_serializable(package="tfcompress")
class DrumMultiply(KernelWrapper):
    r"""Computes what a layer computes on DRUM approximate multipliers.

    A DRUM multiplier with k0 and k1 bits computes T_k0(a) · T_k1(b), see
    `tfcompress.ops.drum_truncate`. Sums of such products are exact sums of products
    of truncated operands, so that

    $$y = \phi(T_{k_1}(x) * T_{k_0}(W) + b)$$

    is one ordinary convolution or matrix product, whatever it approximates. The
    pointwise part of a separable convolution truncates its own input, too.

    While a network learns to live with the approximation, only some of its
    weights may be approximated (`partition="mixed"`): with A the mask of those,
    y = φ(x * W⊙(1 − A) + T(x) * T(W⊙A) + b).

    Unlike other wrappers it outlives `finalize`, because inference is approximate,
    too: what is inside it is baked, and its kernels are stored truncated.

    Example:

    ```python
    layer = tfc.layers.DrumMultiply(keras.layers.Conv2D(64, 3), 1, 5)
    model = tfc.layers.wrap_kernels(dense, lambda x: tfc.layers.DrumMultiply(x, 1, 5))
    ```

    Args:
        layer: a convolution (1D, 2D, 3D, depthwise or separable), a `Dense` layer,
            or a `MaskedKernel` around one.
        weight_bits: k0, the bits of a weight that count.
        activation_bits: k1, the bits of an activation that count.
        fraction_bits: f, if weights and activations stand for numbers on the
            fixed-point grid 2^-f. Defaults to `None`: floats.
        gradient: `"exact"` for the gradient of the layer itself, straight through
            the approximation; `"approximate"` for one in which an operand's
            gradient is multiplied with the truncated other operand. Defaults to
            `"exact"`.
        partition: which weights are multiplied approximately: `"all"`, `"none"`,
            or `"mixed"` for those in `approximations`. When it is set on a layer of
            a compiled model, its functions must be traced again
            (`model.make_train_function(force=True)`, ...). Defaults to `"all"`.
        truncate_kernel: False if the kernel is stored truncated and never trained,
            so that inference need not do it again; what `bake()` makes. Defaults
            to True.
        name: defaults to the name of `layer`.
        trainable: whether the layer's variables are trained. Defaults to True.

    Attributes:
        approximations: a bool variable for each of `kernels`, non-trainable, True
            where the weight is multiplied approximately in the mixed partition.

    Raises:
        TypeError: if `layer` is not a layer.
        ValueError: if an argument is not as described.
    """

    # What the exporters ask: rounding the weights again would undo the truncation.
    refuses_quantization = (
        "its weights are operands of an approximate multiplier, which quantization "
        "would round to others"
    )

    def __init__(
        self,
        layer: keras.Layer,
        weight_bits: int,
        activation_bits: int,
        *,
        fraction_bits: int | None = None,
        gradient: Gradient = "exact",
        partition: Partition = "all",
        truncate_kernel: bool = True,
        name: str | None = None,
        trainable: bool = True,
    ) -> None:
        super().__init__(layer, name=name, trainable=trainable)
        inner = layer
        while isinstance(inner, KernelWrapper):
            if isinstance(inner, DrumMultiply):
                raise ValueError(
                    "Invalid value for argument `layer`. Expected a layer that is not "
                    f"multiplied approximately yet. Received: {layer.name!r}"
                )
            inner = inner.layer
        kind = number_format(self.compute_dtype)
        self.weight_bits = check_bits(weight_bits, kind, "weight_bits")
        self.activation_bits = check_bits(activation_bits, kind, "activation_bits")
        self.fraction_bits = check_fraction_bits(fraction_bits, kind)
        self.gradient = check_gradient(gradient)
        self.partition = partition
        self.truncate_kernel = truncate_kernel

    @property
    def partition(self) -> Partition:
        """Which weights are multiplied approximately."""
        return self._partition

    @partition.setter
    def partition(self, partition: Partition) -> None:
        if partition not in _PARTITIONS:
            raise ValueError(
                f"Invalid value for argument `partition`. Expected one of "
                f"{_PARTITIONS}. Received: partition={partition!r}"
            )
        self._partition = partition

    @property
    def jump(self) -> float:
        """Largest relative change that a rounding error can cause in an operand.

        Truncation is a step function. Where an activation lies at a step, the order
        of a sum decides which of two neighbors it becomes, and these differ in the
        last of the bits that count.
        """
        return 0.0 if self.partition == "none" else 2.0 ** (1 - self.activation_bits)

    def truncated(self, inputs: Any) -> Any:
        """The operands that the multiplier makes of the layer's inputs."""
        return drum_truncate(inputs, self.activation_bits, self.fraction_bits)

    @property
    def approximated(self) -> keras.Variable:
        """The only one of `approximations`, for layers with one kernel."""
        (variable,) = self.approximations
        return variable

    def build(self, input_shape: Any = None) -> None:
        """Builds the inner layer and creates the masks of the mixed partition."""
        super().build(input_shape)
        self.approximations = tuple(
            self.add_weight(
                shape=kernel.shape,
                initializer="zeros",
                dtype="bool",
                trainable=False,
                name=f"{kernel.name}_approximated",
            )
            for kernel in self.kernels
        )

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """The inner layer's output as the multipliers compute it."""
        if training and not self.truncate_kernel and self.trainable_variables:
            raise ValueError(
                f"The kernel of {self.name!r} is stored truncated, and training would "
                "change that. Set `truncate_kernel = True` on the layer to train it, "
                "or `trainable = False` to leave it alone."
            )
        return super().call(inputs)

    def product(
        self, operation: Operation, inputs: Any, variable: keras.Variable, value: Any
    ) -> Any:
        """The product of inputs and kernel as the partition says."""
        # The multiplier is the last to see a weight, after the wrappers inside have
        # made of it what they do. So the truncation goes inwards with the operation,
        # and is not applied to `value` here.
        if self.partition == "none":
            return self.inward(operation, inputs, variable, value)
        mask = None if self.partition == "all" else self._mask(variable)
        return self.inward(self._approximate(operation, mask), inputs, variable, value)

    def effective_kernel(self, variable: keras.Variable, value: Any) -> Any:
        """The kernel of which the approximated weights are truncated."""
        if self.partition == "none":
            return value
        if self.partition == "all":
            return self._truncate_kernel(value)
        chosen, rest = _split(self._mask(variable), value)
        return rest + self._truncate_kernel(chosen)

    def bake(self) -> keras.Layer:
        """The layer for inference: with its kernels truncated, and nothing inside.

        The variables of the inner layer change, so this wrapper is used up.
        """
        layer = self.layer
        layer = layer.bake() if isinstance(layer, KernelWrapper) else layer
        for variable in self.kernels:
            variable.assign(self.effective_kernel(variable, variable.value))
        config = {**self.get_config(), "truncate_kernel": False}
        del config["layer"]
        baked = DrumMultiply(layer, **config)
        baked.build_from_config(self.get_build_config())
        for old, new in zip(self.approximations, baked.approximations, strict=True):
            new.assign(old)
        return baked

    def cost_layer(self) -> tuple[keras.Layer, dict[str, Any]]:
        """The inner layer; its multiplier counts as exact until all weights use it."""
        if self.partition != "all":
            return self.layer, {}
        bits = (self.weight_bits, self.activation_bits)
        return self.layer, {"multiplier_bits": bits}

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        names = (
            "weight_bits",
            "activation_bits",
            "fraction_bits",
            "gradient",
            "partition",
            "truncate_kernel",
        )
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}

    # Helpers ----------------------------------------------------------------

    def _approximate(self, operation: Operation, mask: Any) -> Operation:
        """`operation` of truncated operands; of exact ones where not `mask`."""

        def approximate(inputs: Any, kernel: Any) -> Any:
            truncated = self.truncated(inputs)
            if mask is None:
                return operation(truncated, self._truncate_kernel(kernel))
            chosen, rest = _split(mask, kernel)
            return operation(inputs, rest) + operation(
                truncated, self._truncate_kernel(chosen)
            )

        if self.gradient == "approximate":
            return approximate
        # One product for the gradient, also where the value takes two.
        return with_gradient_of(operation, approximate)

    def _truncate_kernel(self, value: Any) -> Any:
        if not self.truncate_kernel:
            return value
        # The multiplier sees weights in the dtype that the layer computes with.
        operand = ops.cast(value, self.compute_dtype)
        truncated = drum_truncate(operand, self.weight_bits, self.fraction_bits)
        return ops.cast(truncated, value.dtype)

    def _mask(self, variable: keras.Variable) -> Any:
        """Where a kernel is multiplied approximately in the mixed partition."""
        position = [kernel is variable for kernel in self.kernels].index(True)
        return ops.convert_to_tensor(self.approximations[position])


def _split(mask: Any, value: Any) -> tuple[Any, Any]:
    """What `mask` selects of a kernel and what it does not, zeros elsewhere.

    The mixed partition rests on this. A product is linear in its kernel, so
    x * W = x * W⊙(1−A) + x * W⊙A, and only the second part goes to the approximate
    multiplier, T(x) * T(W⊙A). Zeros are free on both sides: T(0) = 0, so a weight
    outside of the selection adds nothing to either product. The price is a second
    convolution in the forward pass. The exact gradient needs one only, that of x * W.
    """
    zeros = ops.zeros_like(value)
    return ops.where(mask, value, zeros), ops.where(mask, zeros, value)
