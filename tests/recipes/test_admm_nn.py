import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest

import tfcompress as tfc


@pytest.fixture(scope="module")
def recipe(load_recipe):
    return load_recipe("admm_nn")


class Says:
    """A teacher whose opinion is five pixels of the image it sees."""

    def predict(self, images, **_):
        return images[:, 3, 2:7, 0]


def pictures(count=40):
    images = np.random.default_rng(0).random((count, 9, 9, 1)).astype("float32")
    return tfc.data.Split(images, (np.arange(count) % 5).astype("int32"))


def test_shifted_images_move_by_whole_pixels(recipe):
    image = np.arange(9.0).reshape(1, 3, 3, 1)
    moved = recipe.shifted(image, 1, -1)[0, :, :, 0]
    assert moved.tolist() == [[0, 0, 0], [1, 2, 0], [4, 5, 0]]


def test_every_image_comes_with_what_the_teacher_says_about_its_position(recipe):
    split = pictures()
    data = tfc.data.Dataset("pictures", 5, split, split, split)
    settings = recipe.PRESETS["mnist"]
    size, targets = recipe.lessons(settings, data, Says())
    seen = list(recipe.batches(split.images, targets, size, 8, seed=1))
    assert len(seen) == 5
    moved = 0
    for images, target in seen:
        images, target = images.numpy(), target.numpy()
        np.testing.assert_allclose(target[:, 0], Says().predict(images))
        for image, label in zip(images, target[:, 1].argmax(axis=1), strict=True):
            assert label in range(5)
            moved += not (split.images == image).all(axis=(1, 2, 3)).any()
    assert moved > 20


def test_the_loss_is_plain_cross_entropy_where_teacher_and_label_agree(recipe):
    # With a one-hot teacher, and temperature 1, both terms are the same.
    recipe_temperature, recipe.TEMPERATURE = recipe.TEMPERATURE, 1.0
    label = np.eye(3, dtype="float32")[None, 1]
    target = np.stack([label, label], axis=1)
    said = np.array([[0.2, 0.5, 0.3]], "float32")
    loss = recipe.Distillation()(target, said)
    recipe.TEMPERATURE = recipe_temperature
    assert float(loss) == pytest.approx(-np.log(0.5), rel=1e-5)


@pytest.mark.parametrize(
    "preset", ["quick", "mnist", "cifar10-resnet20", "cifar10-vgg16"]
)
def test_a_row_is_pruned_as_far_as_its_name_says(recipe, preset):
    settings = recipe.PRESETS[preset]
    side = 8 if settings.dataset == "digits" else 28 if preset == "mnist" else 32
    data = SimpleNamespace(input_shape=(side, side, 3 if side == 32 else 1), classes=10)
    model = recipe.build(settings, data)
    sizes = {
        x.name: int(np.prod(x.kernel.shape))
        for x in model.layers
        if hasattr(x, "kernel")
    }
    before = float("inf")
    for name, rounds in settings.rows.items():
        for round_ in rounds:
            constraints = recipe.phase(round_, model).constraints
            kept = sum(
                constraints[n].count if n in constraints else size
                for n, size in sizes.items()
            )
            assert kept < before
            before = kept
        assert sum(sizes.values()) / kept >= int(name.split()[1].rstrip("x"))


def test_the_mnist_preset_reaches_the_papers_ratios(recipe):
    rows = recipe.PRESETS["mnist"].rows
    for name, ratio in {
        "pruned 85x": 85,
        "pruned 167x": 167,
        "pruned 220x": 220,
    }.items():
        assert 430_500 / sum(rows[name][-1].keep.values()) >= ratio
    # 3 bits in convolutions and 2 in dense layers: 1 910 times smaller than float32.
    keep, bits = rows["pruned 167x"][-1].keep, recipe.PRESETS["mnist"].bits
    assert 32 * 430_500 / sum(keep[name] * bits[name] for name in keep) >= 1910


@pytest.fixture
def settings(recipe):
    return dataclasses.replace(
        recipe.PRESETS["quick"],
        rows={
            "pruned 5x": [recipe.Round(0.2, 1, 1)],
            "pruned 10x": [recipe.Round(0.1, 1, 1)],
        },
        quantise=(1, 1),
        dense_epochs=1,
        search_epochs=1,
        drop=1.0,
    )


def test_rows_lead_to_each_other_and_a_half_row_is_made_again(
    recipe, settings, tmp_path
):
    data = tfc.data.load("digits", validation=1 / 12, limit=200)
    records = recipe.run(settings, data, 0, tmp_path)
    table = {record["name"]: record for record in records}
    assert list(table) == ["dense", "pruned 5x", "pruned 10x", "joint"]
    assert table["pruned 5x"]["pruning"] >= 5 and table["pruned 10x"]["pruning"] >= 10
    assert table["joint"]["data_bytes"] < table["pruned 10x"]["data_bytes"]
    assert json.loads((tmp_path / "results.json").read_text()) == records
    # Killed while it wrote the row: what a resumed run does is what a whole one does.
    path = tmp_path / "seed0-joint.keras"
    path.write_bytes(path.read_bytes()[:1000])
    again = {r["name"]: r for r in recipe.run(settings, data, 0, tmp_path)}
    for record in (*again.values(), *table.values()):
        del record["seconds"]
    assert again == table
    assert not list(tmp_path.glob("*.backup"))


@pytest.mark.slow
def test_a_search_ends_in_a_plan_that_is_used(recipe, settings, tmp_path):
    data = tfc.data.load("digits", validation=1 / 12, limit=64)
    plain = dataclasses.replace(settings, rows={}, plain=True)
    records = recipe.run(plain, data, 0, tmp_path, search=True)
    table = {record["name"]: record for record in records}
    # Any accuracy will do, so that the search goes as far as it may.
    fractions = table["search"]["fractions"]
    assert fractions["conv2"] == 0.01 and table["search"]["speedup"] > 1
    assert set(fractions) == {"conv1", "conv2", "fc1", "classifier"}
    sizes = {"conv1": 500, "conv2": 25_000, "fc1": 100_000, "classifier": 5000}
    most = sum(fractions[name] * size for name, size in sizes.items())
    assert 0 < table["for hardware"]["nonzero"] <= most + 4


def test_plain_means_labels_only(recipe, settings):
    data = tfc.data.load("digits", limit=64)
    plain = dataclasses.replace(settings, plain=True, shift=2, dropout=0.5)
    model = recipe.build(plain, data)
    taught = lambda: pytest.fail("asked the teacher")  # noqa: E731
    training = recipe.compile_student(plain, data, model, 0, taught)
    images, labels = next(iter(training))
    assert labels.shape == (plain.batch_size,)
    assert model.loss == "sparse_categorical_crossentropy"
    known = {image.tobytes() for image in data.train.images}
    assert all(image.tobytes() in known for image in images.numpy())
