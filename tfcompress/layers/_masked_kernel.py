"""Kernels of which single weights are switched off, and may come back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
from keras import ops

from tfcompress.layers._kernel_wrapper import KernelWrapper

__all__ = ["KernelMask", "MaskedKernel"]


@dataclass(frozen=True)
class KernelMask:
    """The mask of one kernel.

    Attributes:
        kernel: the variable that is masked.
        mask: bool variable of its shape, False where a weight is switched off.
        statistics: float variable of shape (2,): mean and standard deviation of
            the magnitudes by which weights are judged; zeros until a method
            takes them.
    """

    kernel: keras.Variable
    mask: keras.Variable
    statistics: keras.Variable


@keras.saving.register_keras_serializable(package="tfcompress")
class MaskedKernel(KernelWrapper):
    """Computes what a layer computes, with some weights of its kernel at zero.

    Gradients pass the mask as if it were not there (straight-through), so that a
    weight that is masked goes on learning: dL/dW = dL/d(W ⊙ M), in all entries.
    Should it turn out to be needed after all, it comes back with the value it has
    by then. This is what `callbacks.DynamicSurgery`, which sets the masks, is
    about.

    Masks are non-trainable weights of the layer, True everywhere to begin with;
    they are saved and loaded with it. `finalize`, or `bake()`, leaves the plain
    layer with zeros in its kernel.

    Example:

    ```python
    layer = tfc.layers.MaskedKernel(keras.layers.Conv2D(64, 3))
    model = tfc.layers.wrap_kernels(dense, tfc.layers.MaskedKernel, exclude=["logits"])
    ```

    Args:
        layer: a convolution (1D, 2D, 3D, depthwise or separable) or `Dense`
            layer.
        name: defaults to the name of `layer`.
        trainable: whether the layer's variables are trained. Defaults to True.

    Attributes:
        masks: one `KernelMask` for each kernel, once the layer is built.

    Raises:
        TypeError: if `layer` is not a layer.
        ValueError: if `layer` is of another kind.
    """

    def build(self, input_shape: Any = None) -> None:
        """Builds the inner layer and creates the masks."""
        super().build(input_shape)
        self.masks = tuple(self._mask(kernel) for kernel in self.kernels)

    def effective_kernel(self, variable: keras.Variable, value: Any) -> Any:
        """The kernel with zeros, and with the gradient of one without."""
        mask = next(own.mask for own in self.masks if own.kernel is variable)
        mask = ops.convert_to_tensor(mask)
        masked = ops.where(mask, value, ops.zeros_like(value))
        # The derivative of this sum with respect to `value` is 1 everywhere, because
        # what is inside `stop_gradient` counts as a constant. The value is exact: it is
        # value + (value - value) where the mask is True, and value + (0 - value)
        # elsewhere.
        return value + ops.stop_gradient(masked - value)

    def _mask(self, kernel: keras.Variable) -> KernelMask:
        mask = self.add_weight(
            shape=kernel.shape,
            initializer="ones",
            dtype="bool",
            trainable=False,
            name=f"{kernel.name}_mask",
        )
        statistics = self.add_weight(
            shape=(2,),
            initializer="zeros",
            trainable=False,
            name=f"{kernel.name}_statistics",
        )
        return KernelMask(kernel, mask, statistics)
