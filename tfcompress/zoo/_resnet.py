"""Residual networks for images of 32×32 pixels."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import KerasTensor, layers

from tfcompress.zoo._building import (
    check,
    classifier,
    convolution,
    resolved_widths,
)

# The later stages halve the image two or three times.
_SMALLEST = 4


def resnet18(
    width: float = 1.0,
    classes: int = 10,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    *,
    widths: Sequence[int] | None = None,
) -> keras.Model:
    """ResNet18 for small images: 17 convolutions in four stages.

    The network of "Activation Density driven Energy-Efficient Pruning in
    Training": ResNet18 with a 3×3 stem of stride 1 and no first pooling.
    `widths` takes the paper's configurations (Table I): the stem, then two
    convolutions for each of the eight blocks. A 1×1 convolution on the shortcut
    joins blocks that change the size or the number of channels; the paper's
    figures leave these out.

    Example:

    ```python
    model = tfc.zoo.resnet18(width=0.5)
    ```

    Args:
        width: factor on the number of filters. Defaults to 1.0.
        classes: number of classes. Defaults to 10.
        input_shape: (height, width, channels), at least 4×4. Defaults to
            (32, 32, 3).
        widths: filters of the stem and of the 16 convolutions inside the
            blocks, in place of `width`. Defaults to `None`.

    Returns:
        A `keras.Model` from (batch, *input_shape) to probabilities
        (batch, classes).

    Raises:
        ValueError: if an argument is out of range.
    """
    check(width, classes, input_shape, minimum=_SMALLEST)
    default = [64] + [channels for channels in (64, 128, 256, 512) for _ in range(4)]
    filters = resolved_widths(widths, width, default)
    return _resnet("resnet18", filters, (2, 2, 2, 2), classes, input_shape)


def resnet20(
    width: float = 1.0,
    classes: int = 10,
    input_shape: tuple[int, int, int] = (32, 32, 3),
) -> keras.Model:
    """ResNet-20: nine residual blocks. See `resnet110` for the architecture.

    Args:
        width: factor on the number of filters. Defaults to 1.0.
        classes: number of classes. Defaults to 10.
        input_shape: (height, width, channels), at least 4×4. Defaults to
            (32, 32, 3).

    Returns:
        A `keras.Model` from (batch, *input_shape) to probabilities
        (batch, classes).

    Raises:
        ValueError: if an argument is out of range.
    """
    return _cifar_resnet(20, width, classes, input_shape)


def resnet32(
    width: float = 1.0,
    classes: int = 10,
    input_shape: tuple[int, int, int] = (32, 32, 3),
) -> keras.Model:
    """ResNet-32: 15 residual blocks. See `resnet110` for the architecture.

    Args:
        width: factor on the number of filters. Defaults to 1.0.
        classes: number of classes. Defaults to 10.
        input_shape: (height, width, channels), at least 4×4. Defaults to
            (32, 32, 3).

    Returns:
        A `keras.Model` from (batch, *input_shape) to probabilities
        (batch, classes).

    Raises:
        ValueError: if an argument is out of range.
    """
    return _cifar_resnet(32, width, classes, input_shape)


def resnet44(
    width: float = 1.0,
    classes: int = 10,
    input_shape: tuple[int, int, int] = (32, 32, 3),
) -> keras.Model:
    """ResNet-44: 21 residual blocks. See `resnet110` for the architecture.

    Args:
        width: factor on the number of filters. Defaults to 1.0.
        classes: number of classes. Defaults to 10.
        input_shape: (height, width, channels), at least 4×4. Defaults to
            (32, 32, 3).

    Returns:
        A `keras.Model` from (batch, *input_shape) to probabilities
        (batch, classes).

    Raises:
        ValueError: if an argument is out of range.
    """
    return _cifar_resnet(44, width, classes, input_shape)


def resnet56(
    width: float = 1.0,
    classes: int = 10,
    input_shape: tuple[int, int, int] = (32, 32, 3),
) -> keras.Model:
    """ResNet-56: 27 residual blocks. See `resnet110` for the architecture.

    Args:
        width: factor on the number of filters. Defaults to 1.0.
        classes: number of classes. Defaults to 10.
        input_shape: (height, width, channels), at least 4×4. Defaults to
            (32, 32, 3).

    Returns:
        A `keras.Model` from (batch, *input_shape) to probabilities
        (batch, classes).

    Raises:
        ValueError: if an argument is out of range.
    """
    return _cifar_resnet(56, width, classes, input_shape)


def resnet110(
    width: float = 1.0,
    classes: int = 10,
    input_shape: tuple[int, int, int] = (32, 32, 3),
) -> keras.Model:
    """ResNet-110: 54 residual blocks in three stages of 16, 32 and 64 filters.

    The CIFAR networks of He et al., "Deep Residual Learning for Image
    Recognition" (depth 6n + 2), as used by the GreenAI gating paper. Where the
    size changes the shortcut is a batch-normalized 1×1 convolution ("option
    B"). The convolutions and the classifier take 253.1 M multiply–accumulates;
    with two operations for each element that batch normalization touches this
    is the 255.3 M of the gating paper, which neither the parameter-free
    shortcut nor a count without normalization gives.

    Layers are named by stage and block: block 2 of stage 1 is "conv1_2_1" and
    "conv1_2_2", and ends in "add1_2".

    Example:

    ```python
    model = tfc.zoo.resnet110(classes=100)
    ```

    Args:
        width: factor on the number of filters. Defaults to 1.0.
        classes: number of classes. Defaults to 10.
        input_shape: (height, width, channels), at least 4×4. Defaults to
            (32, 32, 3).

    Returns:
        A `keras.Model` from (batch, *input_shape) to probabilities
        (batch, classes).

    Raises:
        ValueError: if an argument is out of range.
    """
    return _cifar_resnet(110, width, classes, input_shape)


def _cifar_resnet(
    depth: int, width: float, classes: int, input_shape: tuple[int, int, int]
) -> keras.Model:
    check(width, classes, input_shape, minimum=_SMALLEST)
    blocks = (depth - 2) // 6
    default = [16] + [channels for channels in (16, 32, 64) for _ in range(2 * blocks)]
    filters = resolved_widths(None, width, default)
    return _resnet(f"resnet{depth}", filters, (blocks,) * 3, classes, input_shape)


def _resnet(
    name: str,
    filters: Sequence[int],
    stages: Sequence[int],
    classes: int,
    input_shape: tuple[int, int, int],
) -> keras.Model:
    remaining = iter(filters)
    x = inputs = keras.Input(input_shape)
    x = convolution(x, next(remaining), "1")
    for stage, blocks in enumerate(stages, start=1):
        for block in range(1, blocks + 1):
            strides = 2 if stage > 1 and block == 1 else 1
            pair = next(remaining), next(remaining)
            x = _block(x, pair, strides, f"{stage}_{block}")
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, classifier(x, classes), name=name)


def _block(
    x: KerasTensor, filters: tuple[int, int], strides: int, label: str
) -> KerasTensor:
    """Two 3×3 convolutions beside a shortcut."""
    shortcut = x
    if strides != 1 or x.shape[-1] != filters[1]:
        shortcut = convolution(
            x,
            filters[1],
            f"{label}_shortcut",
            kernel_size=1,
            strides=strides,
            relu=False,
        )
    x = convolution(x, filters[0], f"{label}_1", strides=strides)
    x = convolution(x, filters[1], f"{label}_2", relu=False)
    x = layers.Add(name=f"add{label}")([x, shortcut])
    return layers.ReLU(name=f"relu{label}_2")(x)
