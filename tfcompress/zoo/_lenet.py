"""LeNet-5 in the variant that came with Caffe."""

from __future__ import annotations

import keras
from keras import layers

from tfcompress.zoo._building import check, classifier, scaled

# Two unpadded 5×5 convolutions, each followed by 2×2 pooling, need 16 pixels.
_SMALLEST_UNPADDED = 16


def lenet5(
    width: float = 1.0,
    classes: int = 10,
    input_shape: tuple[int, int, int] = (28, 28, 1),
) -> keras.Model:
    """LeNet-5: two convolutions and two dense layers, 430.5 K weights.

    20 and 50 filters of 5×5, each followed by 2×2 max-pooling, 500 hidden
    units and the classifier, as in Caffe's example and the ADMM-NN paper
    (430 500 weights and 580 biases at 28×28×1). ReLU follows every hidden
    layer. The convolutions are unpadded, except on images smaller than 16
    pixels (such as the 8×8 digits), where they are padded to keep the size.

    Example:

    ```python
    model = tfc.zoo.lenet5()
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    ```

    Args:
        width: factor on the number of filters and hidden units. Defaults to
            1.0.
        classes: number of classes. Defaults to 10.
        input_shape: (height, width, channels), at least 4×4. Defaults to
            (28, 28, 1).

    Returns:
        A `keras.Model` from (batch, *input_shape) to probabilities
        (batch, classes).

    Raises:
        ValueError: if an argument is out of range.
    """
    check(width, classes, input_shape, minimum=4)
    padding = "valid" if min(input_shape[:2]) >= _SMALLEST_UNPADDED else "same"
    x = inputs = keras.Input(input_shape)
    for index, filters in enumerate((20, 50), start=1):
        x = layers.Conv2D(
            scaled(filters, width), 5, padding=padding, name=f"conv{index}"
        )(x)
        x = layers.ReLU(name=f"relu{index}")(x)
        x = layers.MaxPooling2D(2, name=f"pool{index}")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(scaled(500, width), name="fc1")(x)
    x = layers.ReLU(name="relu_fc1")(x)
    return keras.Model(inputs, classifier(x, classes), name="lenet5")
