"""What a model's first layers say about the range of its data."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfcompress.compression import data_for, range_fault

IMAGES = np.random.default_rng(0).random((32, 8, 8, 3), "float32")
L = keras.layers


def model_with(*first):
    x = inputs = keras.Input((8, 8, 3))
    for layer in first:
        x = layer(x)
    x = L.Conv2D(2, 3)(x)
    return keras.Model(inputs, L.GlobalAveragePooling2D()(x))


def normalization():
    layer = L.Normalization(mean=[128.0] * 3, variance=[74.0**2] * 3)
    layer.build((None, 8, 8, 3))
    return layer


@pytest.mark.parametrize(
    "first",
    [
        lambda: [L.Rescaling(1 / 255)],
        lambda: [L.Rescaling(1 / 127.5, -1)],
        lambda: [normalization()],
        lambda: [lambda x: x / 127.5 - 1.0],
        lambda: [L.Rescaling(1 / 255), L.Normalization(mean=0.5, variance=0.08)],
    ],
)
def test_preprocessing_for_bytes_refuses_fractions(first):
    model = model_with(*first())
    assert "vary by only" in range_fault(model, IMAGES)
    assert range_fault(model, 255 * IMAGES) is None


def test_preprocessing_for_fractions_refuses_bytes():
    model = model_with(L.Normalization(mean=0.5, variance=0.08))
    assert "reach" in range_fault(model, 255 * IMAGES)
    assert range_fault(model, IMAGES) is None


def test_a_rescaling_inside_of_a_nested_model_is_seen():
    inner = model_with(L.Rescaling(1 / 255))
    x = inputs = keras.Input((8, 8, 3))
    outer = keras.Model(inputs, L.Dense(2)(inner(x)))
    assert "vary by only" in range_fault(outer, IMAGES)
    frozen = keras.Model(inputs, L.Dense(2)(inner(x)))
    inner.trainable = False
    assert "vary by only" in range_fault(frozen, IMAGES)


def test_a_model_without_preprocessing_says_nothing():
    assert range_fault(model_with(), IMAGES) is None
    assert range_fault(model_with(), 255 * IMAGES) is None


def test_numbers_of_words_are_no_fractions():
    words = keras.Input((8,))
    model = keras.Model(words, L.Embedding(10, 2)(words))
    tokens = np.arange(32).reshape(4, 8) % 10
    assert range_fault(model, tokens.astype("float32")) is None
    assert "takes whole numbers" in range_fault(model, tokens / 255)


def test_photos_are_gray_for_a_model_of_one_channel(tmp_path):
    rng = np.random.default_rng(0)
    for label in "ab":
        (tmp_path / label).mkdir()
        for number in range(3):
            picture = tf.io.encode_png(rng.integers(0, 255, (4, 4, 1), "uint8"))
            tf.io.write_file(str(tmp_path / label / f"{number}.png"), picture)
    gray = keras.Sequential([keras.Input((4, 4, 1)), L.Flatten()])
    color = keras.Sequential([keras.Input((4, 4, 3)), L.Flatten()])
    ours, whole = (data_for(m, f"folder:{tmp_path}") for m in (gray, color))
    assert ours.input_shape == (4, 4, 1)
    np.testing.assert_allclose(ours.test.images, whole.test.images[..., :1], atol=1e-6)


def test_data_come_in_the_size_and_the_scale_of_the_model(tmp_path):
    x = inputs = keras.Input((12, 12, 1))
    model = keras.Model(inputs, L.Flatten()(x))
    assert data_for(model, "digits").input_shape == (12, 12, 1)
    assert data_for(model, "digits", scale="none").train.images.max() > 10
    np.savez(tmp_path / "d.npz", x=np.ones((20, 8, 8, 1)), y=np.arange(20) % 2)
    assert data_for(model, f"npz:{tmp_path / 'd.npz'}").input_shape == (8, 8, 1)
