"""VGG-16 and VGG-19 for images of 32×32 pixels."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import layers

from tfcompress._checks import invalid, whole
from tfcompress.zoo._building import (
    check,
    classifier,
    convolution,
    normalization,
    resolved_widths,
    scaled,
)

_BLOCK_CHANNELS = (64, 128, 256, 512, 512)
# Five times 2×2 pooling.
_SMALLEST = 32


def vgg16(
    width: float = 1.0,
    classes: int = 10,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    *,
    widths: Sequence[int] | None = None,
) -> keras.Model:
    """VGG-16: 13 convolutions and 3 dense layers, each batch-normalized.

    The network of "Pruning Filters while Training for Efficiently Optimizing
    Deep Learning Networks". The paper leaves the size of the two hidden dense
    layers open; here both have 512 units, as is usual at 32×32.

    Example:

    ```python
    model = tfc.zoo.vgg16(width=0.25, classes=100)
    ```

    Args:
        width: factor on the number of filters and hidden units. Defaults to
            1.0.
        classes: number of classes. Defaults to 10.
        input_shape: (height, width, channels), at least 32×32. Defaults to
            (32, 32, 3).
        widths: filters of each of the 13 convolutions, in place of `width`.
            Defaults to `None`.

    Returns:
        A `keras.Model` from (batch, *input_shape) to probabilities
        (batch, classes).

    Raises:
        ValueError: if an argument is out of range.
    """
    hidden = (512, 512)
    return _vgg("vgg16", (2, 2, 3, 3, 3), hidden, width, classes, input_shape, widths)


def vgg19(
    width: float = 1.0,
    classes: int = 10,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    *,
    widths: Sequence[int] | None = None,
    depth: int = 16,
) -> keras.Model:
    """VGG-19: 16 batch-normalized convolutions and the classifier.

    The network of "Activation Density driven Energy-Efficient Pruning in
    Training", which has no hidden dense layers. `widths` takes the paper's
    configurations (Table I).

    Example:

    ```python
    model = tfc.zoo.vgg19(
        widths=[18, 23, 47, 25, 54, 51, 62, 61, 197, 258, 378, 322, 402, 383, 259, 134]
    )
    ```

    Args:
        width: factor on the number of filters. Defaults to 1.0.
        classes: number of classes. Defaults to 10.
        input_shape: (height, width, channels), at least 32×32. Defaults to
            (32, 32, 3).
        widths: filters of each of the `depth` convolutions, in place of `width`.
            Defaults to `None`.
        depth: how many of the 16 convolutions the network has: the first ones. All
            five poolings stay. The paper's network of reduced depth has 8. Defaults
            to 16.

    Returns:
        A `keras.Model` from (batch, *input_shape) to probabilities
        (batch, classes).

    Raises:
        ValueError: if an argument is out of range.
    """
    if whole("depth", depth) > 16:
        raise ValueError(invalid("depth", "at most 16 convolutions", depth))
    blocks = (2, 2, 4, 4, 4)
    before = (0, 2, 4, 8, 12)
    present = [
        min(size, max(0, depth - start))
        for size, start in zip(blocks, before, strict=True)
    ]
    return _vgg("vgg19", present, (), width, classes, input_shape, widths)


def _vgg(
    name: str,
    block_depths: Sequence[int],
    hidden: Sequence[int],
    width: float,
    classes: int,
    input_shape: tuple[int, int, int],
    widths: Sequence[int] | None,
) -> keras.Model:
    check(width, classes, input_shape, minimum=_SMALLEST)
    default = [
        channels
        for channels, depth in zip(_BLOCK_CHANNELS, block_depths, strict=True)
        for _ in range(depth)
    ]
    filters = iter(resolved_widths(widths, width, default))
    x = inputs = keras.Input(input_shape)
    for block, depth in enumerate(block_depths, start=1):
        for index in range(1, depth + 1):
            x = convolution(x, next(filters), f"{block}_{index}")
        x = layers.MaxPooling2D(2, name=f"pool{block}")(x)
    x = layers.Flatten(name="flatten")(x)
    for index, units in enumerate(hidden, start=1):
        x = layers.Dense(
            scaled(units, width),
            use_bias=False,
            kernel_initializer="he_normal",
            name=f"fc{index}",
        )(x)
        x = normalization(x, f"bn_fc{index}")
        x = layers.ReLU(name=f"relu_fc{index}")(x)
    return keras.Model(inputs, classifier(x, classes), name=name)
