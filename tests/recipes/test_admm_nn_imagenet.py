import keras
import numpy as np
import pytest
import tensorflow as tf

from tfcompress import zoo


@pytest.fixture(scope="module")
def recipe(load_recipe):
    return load_recipe("admm_nn_imagenet")


def examples(count):
    rng = np.random.default_rng(0)

    def generate():
        for index in range(count):
            shape = (rng.integers(20, 60), rng.integers(20, 60), 3)
            yield rng.integers(0, 256, shape).astype("uint8"), index % 4

    signature = (
        tf.TensorSpec((None, None, 3), tf.uint8),
        tf.TensorSpec((), tf.int32),
    )
    return tf.data.Dataset.from_generator(generate, output_signature=signature)


@pytest.fixture
def small(recipe):
    def make():
        layers = keras.layers
        return keras.Sequential(
            [
                keras.Input((16, 16, 3)),
                layers.Conv2D(4, 3, name="conv"),
                layers.GlobalMaxPooling2D(),
                layers.Dense(4, activation="softmax", name="fc"),
            ]
        )

    return recipe.Network(make, lambda x: x / 255, 16, lambda name: 0.25, lambda _: 3)


@pytest.mark.parametrize("training", [False, True])
def test_images_of_any_size_become_batches(recipe, small, training):
    batches = list(recipe.stream(examples(10), small, 4, training))
    assert [tuple(images.shape) for images, _ in batches] == [
        (4, 16, 16, 3),
        (4, 16, 16, 3),
        (2, 16, 16, 3),
    ]
    assert max(float(tf.reduce_max(images)) for images, _ in batches) <= 1


def test_alexnet_keeps_what_table_7_keeps(recipe):
    model = zoo.alexnet()
    sizes = recipe.kernels(model)
    assert list(sizes) == list(recipe.ALEXNET)
    kept = sum(recipe.ALEXNET[name] * size for name, size in sizes.items())
    assert kept / sum(sizes.values()) == pytest.approx(0.0476, abs=0.0005)


def test_vgg16_keeps_a_26th(recipe):
    # Sizes of VGG-16 for ImageNet.
    convolutions = 14_710_464
    first = 3 * 3 * 3 * 64
    dense = {"fc1": 25_088 * 4096, "fc2": 4096 * 4096, "predictions": 4096 * 1000}
    kept = 0.2 * (convolutions - first) + recipe.vgg16_fraction("block1_conv1") * first
    kept += sum(recipe.vgg16_fraction(name) * size for name, size in dense.items())
    assert (convolutions + sum(dense.values())) / kept == pytest.approx(26, rel=0.02)


@pytest.mark.slow
def test_a_run_ends_with_a_packed_model(recipe, small, tmp_path, monkeypatch):
    monkeypatch.setattr(recipe, "_RATE", type("Flag", (), {"value": 0.01}))
    train = recipe.stream(examples(16), small, 4, training=True)
    test = recipe.stream(examples(16), small, 4, training=False)
    table = recipe.run(small, train, test, 1, tmp_path)
    assert table["nonzero"] == 27 + 4
    assert (tmp_path / "model.tfcz").stat().st_size == table["file_bytes"]
    assert (tmp_path / "results.json").exists()
