import keras
import numpy as np
import pytest

L = keras.layers


def blobs(count=320, classes=4, size=8, seed=0):
    """Images with one bright quarter, which is the class."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    images = rng.normal(0.0, 0.3, (count, size, size, 1)).astype("float32")
    half = size // 2
    for image, label in zip(images, labels, strict=True):
        row, column = divmod(int(label), 2)
        image[row * half :, column * half :][:half, :half] += 1.0
    return images, labels.astype("int32")


def network(filters=16):
    x = inputs = keras.Input((8, 8, 1))
    x = L.Conv2D(filters, 3, padding="same", activation="relu", name="c1")(x)
    x = L.MaxPooling2D()(x)
    x = L.Conv2D(filters, 3, padding="same", activation="relu", name="c2")(x)
    x = L.Flatten()(x)
    return keras.Model(inputs, L.Dense(4, activation="softmax", name="out")(x))


@pytest.fixture(scope="session")
def data():
    return blobs()


@pytest.fixture(scope="session")
def trained(data):
    keras.utils.set_random_seed(0)
    model = network()
    model.compile(
        keras.optimizers.Adam(5e-3),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    model.fit(*data, epochs=3, verbose=0)
    return model
