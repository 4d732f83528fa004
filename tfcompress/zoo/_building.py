"""Argument checks and layer groups that several networks share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral

from keras import KerasTensor, layers

from tfcompress._checks import invalid, positive, whole


def check(
    width: float, classes: int, input_shape: tuple[int, int, int], minimum: int
) -> None:
    """Raises `ValueError` unless a network of this kind can be built.

    Args:
        width: factor on the number of channels; positive.
        classes: number of classes; at least 2.
        input_shape: (height, width, channels).
        minimum: smallest height and width that the network can take.
    """
    positive("width", width)
    whole("classes", classes, least=2)
    if (
        not isinstance(input_shape, (tuple, list))
        or len(input_shape) != 3
        or not all(isinstance(size, Integral) and size > 0 for size in input_shape)
        or min(input_shape[:2]) < minimum
    ):
        expected = f"(height, width, channels) with images of at least {minimum} pixels"
        raise ValueError(invalid("input_shape", expected, input_shape))


def scaled(channels: int, width: float, multiple_of: int = 1) -> int:
    """`channels * width` rounded to a multiple, never less than one multiple."""
    return multiple_of * max(1, math.floor(channels * width / multiple_of + 0.5))


def resolved_widths(
    widths: Sequence[int] | None, width: float, default: Sequence[int]
) -> list[int]:
    """The channels of each convolution: `widths`, or `default` times `width`."""
    if widths is None:
        return [scaled(channels, width) for channels in default]
    if (
        len(widths) != len(default)
        or not all(isinstance(channels, Integral) for channels in widths)
        or min(widths) < 1
    ):
        expected = f"{len(default)} positive integers, one for each convolution"
        raise ValueError(invalid("widths", expected, widths))
    if width != 1:
        raise ValueError(
            "Invalid value for argument `width`. Expected 1.0 where `widths` is "
            f"given. Received: width={width!r}"
        )
    return list(widths)


def convolution(
    x: KerasTensor,
    filters: int,
    label: str,
    *,
    kernel_size: int = 3,
    strides: int = 1,
    padding: str = "same",
    relu: bool = True,
) -> KerasTensor:
    """Convolution, batch normalization and, if wanted, ReLU, named by `label`."""
    # The offset of the normalization makes a bias redundant.
    x = layers.Conv2D(
        filters,
        kernel_size,
        strides=strides,
        padding=padding,
        use_bias=False,
        kernel_initializer="he_normal",
        name=f"conv{label}",
    )(x)
    x = normalization(x, f"bn{label}")
    return layers.ReLU(name=f"relu{label}")(x) if relu else x


def normalization(x: KerasTensor, name: str) -> KerasTensor:
    """Batch normalization that also settles within a short run."""
    return layers.BatchNormalization(momentum=0.9, name=name)(x)


def classifier(x: KerasTensor, classes: int) -> KerasTensor:
    """The softmax layer that every network ends in."""
    return layers.Dense(classes, activation="softmax", name="classifier")(x)
