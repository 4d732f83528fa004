"""The four networks of MLPerf Tiny, the field's common task.

Banbury et al., "MLPerf Tiny Benchmark" (2021). Layers, parameters and operations
are those of the reference code, github.com/mlcommons/tiny; training settings are
not part of a network.
"""

from __future__ import annotations

import keras
from keras import KerasTensor, layers

from tfcompress.zoo._building import check, classifier, normalization, scaled

# Strides and channels of the thirteen separable convolutions.
_MOBILENET = (
    (1, 64),
    (2, 128),
    (1, 128),
    (2, 256),
    (1, 256),
    (2, 512),
    *((1, 512),) * 5,
    (2, 1024),
    (1, 1024),
)


def resnet8(
    width: float = 1.0,
    classes: int = 10,
    input_shape: tuple[int, int, int] = (32, 32, 3),
) -> keras.Model:
    """ResNet-8: MLPerf Tiny's network for image classification (CIFAR-10).

    Three residual blocks of 16, 32 and 64 filters; the convolutions have biases
    beside the normalization, the 1×1 convolutions on the shortcuts no
    normalization. 78,666 parameters, 12.5 M multiply–accumulates. The reference's
    int8 file of 98,496 bytes has to reach 85 % in the closed division.

    Example:

    ```python
    model = tfc.zoo.resnet8()
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
    check(width, classes, input_shape, minimum=4)
    x = inputs = keras.Input(input_shape)
    x = _convolution(x, scaled(16, width), "1")
    for stage, channels in enumerate((16, 32, 64), start=1):
        filters, strides = scaled(channels, width), 1 if stage == 1 else 2
        y = _convolution(x, filters, f"{stage}_1", strides=strides)
        y = _convolution(y, filters, f"{stage}_2", relu=False)
        if stage > 1:
            x = layers.Conv2D(
                filters,
                1,
                strides=strides,
                padding="same",
                kernel_initializer="he_normal",
                name=f"conv{stage}_shortcut",
            )(x)
        x = layers.Add(name=f"add{stage}")([x, y])
        x = layers.ReLU(name=f"relu{stage}_2")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, classifier(x, classes), name="resnet8")


def ds_cnn(
    width: float = 1.0,
    classes: int = 12,
    input_shape: tuple[int, int, int] = (49, 10, 1),
) -> keras.Model:
    """DS-CNN: MLPerf Tiny's network for keyword spotting (Speech Commands).

    A convolution of 10×4 and four separable convolutions of 64 filters (Zhang et
    al., "Hello Edge", 2017), on 49 frames of ten cepstral coefficients. 24,908
    parameters, 2.66 M multiply–accumulates.

    Example:

    ```python
    model = tfc.zoo.ds_cnn()
    ```

    Args:
        width: factor on the number of filters. Defaults to 1.0.
        classes: number of classes. Defaults to 12: ten words, silence, unknown.
        input_shape: (frames, coefficients, 1), at least 4×4. Defaults to
            (49, 10, 1).

    Returns:
        A `keras.Model` from (batch, *input_shape) to probabilities
        (batch, classes).

    Raises:
        ValueError: if an argument is out of range.
    """
    check(width, classes, input_shape, minimum=4)
    filters = scaled(64, width)
    x = inputs = keras.Input(input_shape)
    x = _convolution(x, filters, "1", kernel_size=(10, 4), strides=2)
    x = layers.Dropout(0.2, name="dropout1")(x)
    for block in range(2, 6):
        x = _separable(x, filters, str(block))
    x = layers.Dropout(0.4, name="dropout2")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, classifier(x, classes), name="ds_cnn")


def mobilenet_v1(
    width: float = 0.25,
    classes: int = 2,
    input_shape: tuple[int, int, int] = (96, 96, 3),
) -> keras.Model:
    """MobileNetV1: MLPerf Tiny's network for visual wake words at width 0.25.

    Howard et al., "MobileNets" (2017), with biases and plain ReLU as in the
    reference. 221,794 parameters, 7.49 M multiply–accumulates.

    Example:

    ```python
    model = tfc.zoo.mobilenet_v1()
    ```

    Args:
        width: factor on the number of filters. Defaults to 0.25.
        classes: number of classes. Defaults to 2: person, no person.
        input_shape: (height, width, channels), at least 4×4. Defaults to
            (96, 96, 3).

    Returns:
        A `keras.Model` from (batch, *input_shape) to probabilities
        (batch, classes).

    Raises:
        ValueError: if an argument is out of range.
    """
    check(width, classes, input_shape, minimum=4)
    x = inputs = keras.Input(input_shape)
    x = _convolution(x, scaled(32, width), "1", strides=2)
    for block, (strides, channels) in enumerate(_MOBILENET, start=2):
        x = _separable(x, scaled(channels, width), str(block), strides=strides)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, classifier(x, classes), name="mobilenet_v1")


def autoencoder(width: float = 1.0, features: int = 640) -> keras.Model:
    """Deep autoencoder: MLPerf Tiny's network for anomaly detection (ToyADMOS).

    Nine dense layers that squeeze five frames of 128 mel bands through eight
    values; all but the last with normalization and ReLU. It is trained to return
    its input, by the mean squared error, which then tells how unusual a sound
    is. 269,992 parameters, 0.264 M multiply–accumulates.

    Example:

    ```python
    model = tfc.zoo.autoencoder()
    model.compile("adam", "mse")
    ```

    Args:
        width: factor on the number of hidden units. Defaults to 1.0.
        features: size of what goes in and comes out. Defaults to 640.

    Returns:
        A `keras.Model` from (batch, features) to the same.

    Raises:
        ValueError: if an argument is out of range.
    """
    # A vector is checked as an image of one pixel.
    check(width, 2, (1, 1, features), minimum=1)
    x = inputs = keras.Input((features,))
    for number, units in enumerate((*(128,) * 4, 8, *(128,) * 4), start=1):
        x = layers.Dense(scaled(units, width), name=f"fc{number}")(x)
        x = normalization(x, f"bn{number}")
        x = layers.ReLU(name=f"relu{number}")(x)
    outputs = layers.Dense(features, name="reconstruction")(x)
    return keras.Model(inputs, outputs, name="autoencoder")


def _convolution(
    x: KerasTensor,
    filters: int,
    label: str,
    *,
    kernel_size: int | tuple[int, int] = 3,
    strides: int = 1,
    relu: bool = True,
) -> KerasTensor:
    """Convolution with a bias, normalization and, if wanted, ReLU."""
    x = layers.Conv2D(
        filters,
        kernel_size,
        strides=strides,
        padding="same",
        kernel_initializer="he_normal",
        name=f"conv{label}",
    )(x)
    x = normalization(x, f"bn{label}")
    return layers.ReLU(name=f"relu{label}")(x) if relu else x


def _separable(
    x: KerasTensor, filters: int, label: str, *, strides: int = 1
) -> KerasTensor:
    """Depthwise 3×3 and pointwise convolution, each with normalization and ReLU."""
    x = layers.DepthwiseConv2D(
        3,
        strides=strides,
        padding="same",
        depthwise_initializer="he_normal",
        name=f"depthwise{label}",
    )(x)
    x = normalization(x, f"bn_depthwise{label}")
    x = layers.ReLU(name=f"relu_depthwise{label}")(x)
    return _convolution(x, filters, label, kernel_size=1)
