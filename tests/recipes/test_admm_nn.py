import dataclasses
import json

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


@pytest.mark.parametrize("preset", ["quick", "mnist", "cifar10-resnet20"])
def test_rows_prune_further_and_further(recipe, preset):
    settings = recipe.PRESETS[preset]
    rounds = [round_ for row in settings.rows.values() for round_ in row]
    kept = [
        sum(r.keep.values()) if isinstance(r.keep, dict) else r.keep for r in rounds
    ]
    assert kept == sorted(kept, reverse=True)


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


@pytest.mark.slow
def test_a_run_goes_on_with_the_rows_that_are_missing(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(recipe, "_VERBOSE", type("Flag", (), {"value": 0}))
    quick = recipe.PRESETS["quick"]
    settings = dataclasses.replace(
        quick,
        rows={"first": [recipe.Round(0.2, 1, 1)], "second": [recipe.Round(0.1, 1, 1)]},
        quantise=(1, 1),
        dense_epochs=1,
    )
    data = tfc.data.load("digits", validation=1 / 12)
    table = recipe.run(settings, data, 0, tmp_path)
    assert list(table) == ["dense", "first", "second", "joint"]
    assert table["first"]["nonzero"] > table["second"]["nonzero"]
    assert table["joint"]["data_bytes"] < table["second"]["data_bytes"]
    assert json.loads((tmp_path / "results.json").read_text()) == table
    (tmp_path / "joint.keras").unlink()
    again = recipe.run(settings, data, 0, tmp_path)
    assert again["second"]["test"] == table["second"]["test"]
    assert again["dense"]["seconds"] is None and again["joint"]["seconds"] > 0
    assert not (tmp_path / "backup").exists()
