"""The seven networks of the cross-stack paper."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import keras
from keras import layers

from tfcompress.zoo import _alexnet
from tfcompress.zoo._building import check, classifier, convolution, scaled


@dataclass(frozen=True)
class _Stage:
    """A 3×3 convolution and the max-pooling (size, stride) before it."""

    filters: int
    pool: tuple[int, int] | None = None
    padding: str = "same"


_HALVE = (2, 2)
_CIFAR = {
    "regular": (
        _Stage(128),
        _Stage(128),
        _Stage(256, _HALVE),
        _Stage(256),
        _Stage(512, _HALVE),
        _Stage(512),
        _Stage(1024, _HALVE, "valid"),  # 8 to 4 pixels, then to 2
    ),
    "shallow": (
        _Stage(256),
        _Stage(256),
        _Stage(512, _HALVE),
        _Stage(1024, _HALVE),
        _Stage(2048, _HALVE, "valid"),
    ),
}
_STL10 = {
    "regular": (
        _Stage(32),
        _Stage(64, _HALVE),
        _Stage(128, _HALVE),
        _Stage(128, _HALVE),
        _Stage(256, _HALVE, "valid"),  # 12 to 6 pixels, then to 4
        _Stage(256, None, "valid"),  # 4 to 2 pixels
    ),
    "shallow": (
        _Stage(64),
        _Stage(128, _HALVE),
        _Stage(256, _HALVE),
        _Stage(512, _HALVE),
        _Stage(512, (3, 1), "valid"),  # 12 to 10 pixels, then to 8
    ),
}
_NETWORKS = {
    "cifar10": (_CIFAR, 10, (32, 32, 3)),
    "cifar100": (_CIFAR, 100, (32, 32, 3)),
    "stl10": (_STL10, 10, (96, 96, 3)),
}
_VARIANTS = {
    **{dataset: ("regular", "shallow") for dataset in _NETWORKS},
    "imagenet": ("regular",),
}


def cross_stack(
    dataset: Literal["cifar10", "cifar100", "stl10", "imagenet"],
    variant: Literal["regular", "shallow"] = "regular",
    *,
    width: float = 1.0,
    classes: int | None = None,
) -> keras.Model:
    """A network of the cross-stack pruning and approximation paper (Table I).

    "Cross-stack" combines network pruning with approximate multipliers. Its
    Table I lists the feature maps of seven networks; with 3×3 convolutions,
    whose output the listed sizes are, they give the layer energies of the
    paper and its totals: 626.4 M multiply–accumulates for the regular network
    on CIFAR-10 and 1 290.6 M for the shallow one. Every convolution is
    batch-normalized; how the maps shrink is not stated: here by 2×2
    max-pooling as far as that goes, and by an unpadded convolution where the
    listed size is 2 smaller (on the shallow STL-10 network, 12 to 8 pixels,
    after an unpadded 3×3 max-pooling of stride 1). `"imagenet"` is AlexNet in one
    column (64, 192, 384, 256, 256 filters on 224×224 pixels), without batch
    normalization.

    Example:

    ```python
    model = tfc.zoo.cross_stack("cifar10", "shallow", width=0.25)
    ```

    Args:
        dataset: `"cifar10"`, `"cifar100"`, `"stl10"` or `"imagenet"`; it sets
            the size of the images.
        variant: `"regular"` or, except for `"imagenet"`, `"shallow"`. Defaults
            to `"regular"`.
        width: factor on the number of filters and hidden units. Defaults to
            1.0.
        classes: number of classes. Defaults to `None`, those of the data set.

    Returns:
        A `keras.Model` from images (batch, height, width, 3) to probabilities
        (batch, classes).

    Raises:
        ValueError: if an argument is out of range.
    """
    if dataset not in _VARIANTS:
        raise ValueError(
            f"Invalid value for argument `dataset`. Expected one of "
            f"{tuple(_VARIANTS)}. Received: dataset={dataset!r}"
        )
    if variant not in _VARIANTS[dataset]:
        raise ValueError(
            f"Invalid value for argument `variant`. Expected one of "
            f"{_VARIANTS[dataset]} for {dataset!r}. Received: variant={variant!r}"
        )
    name = f"cross_stack_{dataset}_{variant}"
    if dataset == "imagenet":
        return _imagenet(name, width, 1000 if classes is None else classes)
    variants, default_classes, input_shape = _NETWORKS[dataset]
    classes = default_classes if classes is None else classes
    check(width, classes, input_shape, minimum=1)
    x = inputs = keras.Input(input_shape)
    for index, stage in enumerate(variants[variant], start=1):
        if stage.pool is not None:
            size, strides = stage.pool
            x = layers.MaxPooling2D(size, strides, name=f"pool{index - 1}")(x)
        filters = scaled(stage.filters, width)
        x = convolution(x, filters, str(index), padding=stage.padding)
    x = layers.Flatten(name="flatten")(x)
    return keras.Model(inputs, classifier(x, classes), name=name)


def _imagenet(name: str, width: float, classes: int) -> keras.Model:
    input_shape = (224, 224, 3)
    check(width, classes, input_shape, minimum=1)
    filters = [scaled(channels, width) for channels in (64, 192, 384, 256, 256)]
    return _alexnet.build(name, filters, 1, width, classes, input_shape, border=2)
