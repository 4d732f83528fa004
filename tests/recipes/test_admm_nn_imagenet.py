import importlib
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfcompress import zoo

# Sizes of VGG-16 for ImageNet.
VGG16 = {
    "block1_conv1": 3 * 3 * 3 * 64,
    "others": 14_710_464 - 3 * 3 * 3 * 64,
    "fc1": 25_088 * 4096,
    "fc2": 4096 * 4096,
    "predictions": 4096 * 1000,
}


def resnet50():
    """Kernels of ResNet-50: four stages of bottlenecks, between two single layers."""
    sizes = {"conv1_conv": 7 * 7 * 3 * 64, "predictions": 2048 * 1000}
    inputs = 64
    for stage, (middle, blocks) in enumerate(
        ((64, 3), (128, 4), (256, 6), (512, 3)), start=2
    ):
        outputs = 4 * middle
        for block in range(1, blocks + 1):
            name = f"conv{stage}_block{block}_"
            if block == 1:
                sizes[f"{name}0_conv"] = inputs * outputs
            sizes[f"{name}1_conv"] = inputs * middle
            sizes[f"{name}2_conv"] = 9 * middle * middle
            sizes[f"{name}3_conv"] = middle * outputs
            inputs = outputs
    return sizes


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


class Pictures:
    """What the recipe uses of a stream."""

    def pipeline(self, split, *, batch_size, augment, seed):
        batches = importlib.import_module("_streams").batches
        train = split == "train"
        return batches(
            examples(16), 16, batch_size, lambda x: x / 255, shuffle=train, crop=train
        )


@pytest.mark.parametrize("training", [False, True])
def test_images_of_any_size_become_batches(recipe, training):
    streams = importlib.import_module("_streams")
    batches = list(
        streams.batches(
            examples(10), 16, 4, lambda x: x / 255, shuffle=training, crop=training
        )
    )
    assert [tuple(images.shape) for images, _ in batches] == [
        (4, 16, 16, 3),
        (4, 16, 16, 3),
        (2, 16, 16, 3),
    ]
    assert max(float(tf.reduce_max(images)) for images, _ in batches) <= 1


@pytest.mark.parametrize(("plan", "ratio"), [("21x", 21), ("24x", 24.4), ("30x", 29.7)])
def test_alexnet_is_pruned_as_in_tables_2_and_7(recipe, plan, ratio):
    sizes = recipe.kernels(zoo.alexnet())
    fraction = recipe.NETWORKS["alexnet"].plans[plan].fraction
    assert list(sizes) == list(recipe.ALEXNET)
    kept = sum(fraction(name) * size for name, size in sizes.items())
    assert sum(sizes.values()) / kept == pytest.approx(ratio, rel=0.01)


def test_the_plan_for_convolutions_is_table_8(recipe):
    plan = recipe.NETWORKS["alexnet"].plans["convolutions"]
    operations = {"conv1": 211, "conv2": 448, "conv3": 299, "conv4": 224, "conv5": 150}
    left = {name: plan.fraction(name) * count for name, count in operations.items()}
    assert sum(left.values()) == pytest.approx(209)
    by_bits = {name: count * plan.bits(name) for name, count in left.items()}
    assert by_bits == pytest.approx(
        {"conv1": 931, "conv2": 155, "conv3": 90, "conv4": 80, "conv5": 55}
    )
    assert sum(by_bits.values()) == pytest.approx(1311)


@pytest.mark.parametrize(
    ("plan", "ratio", "others"),
    [("hardware", 13.1, None), ("hardware-25x", 25.5, 40.5)],
)
def test_the_plans_for_hardware_are_table_9(recipe, plan, ratio, others):
    fraction = recipe.NETWORKS["alexnet"].plans[plan].fraction
    sizes = {n: s for n, s in recipe.kernels(zoo.alexnet()).items() if n[:4] == "conv"}
    kept = {name: fraction(name) * size for name, size in sizes.items()}
    assert kept["conv1"] == sizes["conv1"]
    assert sum(sizes.values()) / sum(kept.values()) == pytest.approx(ratio, rel=0.01)
    if others:
        assert 1 / fraction("conv2") == pytest.approx(others, rel=0.02)


@pytest.mark.parametrize(("plan", "ratio"), [("26x", 26), ("20x", 20)])
def test_vgg16_is_pruned_as_in_table_3(recipe, plan, ratio):
    fraction = recipe.NETWORKS["vgg16"].plans[plan].fraction
    kept = sum(fraction(name) * size for name, size in VGG16.items())
    assert sum(VGG16.values()) / kept == pytest.approx(ratio, rel=0.02)


@pytest.mark.parametrize(
    ("plan", "millions", "bits", "megabytes"),
    [
        ("7x", 3.6, 6, 2.7),
        ("9.2x", 2.8, None, None),
        ("17.4x", 1.47, 4, 0.73),
    ],
)
def test_resnet50_is_pruned_as_in_tables_4_and_6(
    recipe, plan, millions, bits, megabytes
):
    sizes = resnet50()
    assert len(sizes) == 54 and sum(sizes.values()) == pytest.approx(25.5e6, rel=1e-3)
    plan = recipe.NETWORKS["resnet50"].plans[plan]
    kept = {name: plan.fraction(name) * size for name, size in sizes.items()}
    assert sum(kept.values()) / 1e6 == pytest.approx(millions, rel=0.015)
    if bits:
        assert {plan.bits(name) for name in sizes} == {bits}
        data = sum(plan.bits(name) * count for name, count in kept.items()) / 8e6
        assert data == pytest.approx(megabytes, rel=0.015)


def test_a_run_ends_with_a_packed_model(recipe, tmp_path):
    def make(settings):
        layers = keras.layers
        return keras.Sequential(
            [
                keras.Input((16, 16, 3)),
                layers.Conv2D(4, 3, name="conv"),
                layers.GlobalMaxPooling2D(),
                layers.Dense(4, activation="softmax", name="fc"),
            ]
        )

    plans = {"a quarter": recipe.Plan(lambda name: 0.25, lambda name: 3)}
    network = recipe.Network(make, lambda x: x, 16, plans)
    settings = recipe.Settings(
        network="vgg16", epochs=1, batch_size=4, learning_rate=0.01
    )
    jobs = [recipe.Job(name="a quarter", seed=0)]
    (record,) = recipe.run(settings, network, Pictures(), jobs, tmp_path)
    assert record["nonzero"] == 27 + 4
    packed = tmp_path / "seed0-a-quarter.tfcz"
    assert packed.stat().st_size == record["file_bytes"]
    assert json.loads((tmp_path / "results.json").read_text()) == [record]


def test_alexnet_needs_weights(recipe):
    with pytest.raises(ValueError, match="argument `weights`"):
        recipe.alexnet(recipe.PRESETS["alexnet"])
