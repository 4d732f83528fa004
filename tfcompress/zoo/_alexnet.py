"""AlexNet for ImageNet."""

from __future__ import annotations

import keras
from keras import layers

from tfcompress.zoo._building import check, classifier, scaled

# The first convolution and three poolings leave one pixel of 67.
_SMALLEST = 67


def alexnet(
    grouped: bool = True,
    width: float = 1.0,
    classes: int = 1000,
    input_shape: tuple[int, int, int] = (227, 227, 3),
) -> keras.Model:
    """AlexNet: five convolutions and three dense layers, 61 M parameters.

    96, 256, 384, 384 and 256 filters; grouped, the second, fourth and fifth
    convolution work in two halves, as in the original network on two devices
    and in the ADMM-NN paper, whose operation counts (211, 448, 299, 224 and
    150 million for the convolutions, 75, 34 and 8 million for the dense layers,
    at two operations for each multiply–accumulate) these are. The local
    response normalization of the original is left out: it has no weights, and
    later networks found it of little use.

    Example:

    ```python
    model = tfc.zoo.alexnet(classes=100, width=0.5)
    ```

    Args:
        grouped: whether the second, fourth and fifth convolution are split in
            two groups. Defaults to `True`.
        width: factor on the number of filters and hidden units; filters are
            rounded to even numbers. Defaults to 1.0.
        classes: number of classes. Defaults to 1000.
        input_shape: (height, width, channels), at least 67×67. Defaults to
            (227, 227, 3).

    Returns:
        A `keras.Model` from (batch, *input_shape) to probabilities
        (batch, classes).

    Raises:
        ValueError: if an argument is out of range.
    """
    if not isinstance(grouped, bool):
        raise ValueError(
            "Invalid value for argument `grouped`. Expected a bool. "
            f"Received: grouped={grouped!r}"
        )
    check(width, classes, input_shape, minimum=_SMALLEST)
    groups = 2 if grouped else 1
    filters = [scaled(channels, width, 2) for channels in (96, 256, 384, 384, 256)]
    return build("alexnet", filters, groups, width, classes, input_shape)


def build(
    name: str,
    filters: list[int],
    groups: int,
    width: float,
    classes: int,
    input_shape: tuple[int, int, int],
    *,
    border: int = 0,
) -> keras.Model:
    """AlexNet with given filters, and `border` pixels of zeros around the image."""
    x = inputs = keras.Input(input_shape)
    if border:
        x = layers.ZeroPadding2D(border, name="border")(x)
    x = layers.Conv2D(filters[0], 11, strides=4, name="conv1")(x)
    x = layers.ReLU(name="relu1")(x)
    x = layers.MaxPooling2D(3, strides=2, name="pool1")(x)
    for index, kernel_size, split in (
        (2, 5, groups),
        (3, 3, 1),
        (4, 3, groups),
        (5, 3, groups),
    ):
        x = layers.Conv2D(
            filters[index - 1],
            kernel_size,
            padding="same",
            groups=split,
            name=f"conv{index}",
        )(x)
        x = layers.ReLU(name=f"relu{index}")(x)
        if index in (2, 5):
            x = layers.MaxPooling2D(3, strides=2, name=f"pool{index}")(x)
    x = layers.Flatten(name="flatten")(x)
    for index in (6, 7):
        x = layers.Dropout(0.5, name=f"drop{index}")(x)
        x = layers.Dense(scaled(4096, width), name=f"fc{index}")(x)
        x = layers.ReLU(name=f"relu{index}")(x)
    return keras.Model(inputs, classifier(x, classes), name=name)
