import dataclasses
import json
from types import SimpleNamespace

import keras
import pytest

from tfcompress.schedules import Linear, OneShot

DIGITS = SimpleNamespace(input_shape=(8, 8, 1), classes=10)


@pytest.fixture(scope="module")
def recipe(load_recipe):
    return load_recipe("prune_while_training")


@pytest.fixture
def settings(recipe):
    quick = recipe.PRESETS["quick"]
    return dataclasses.replace(quick, epochs=2, shrink_every=1, width=0.2)


def test_the_plan_is_the_papers(recipe):
    jobs = list(recipe.plan(recipe.PRESETS["paper"], recipe.VARIANTS, [0.8, 0.5], 1))
    schedules = {job.key: job.schedule and job.schedule(job.rate) for job in jobs}
    assert schedules["dense-0-seed1"] is None
    assert schedules["pwt-l1-0.8-seed1"] == Linear(0.0, 0.8, begin=0, end=79)
    assert schedules["prt-0.8-seed1"] == OneShot(0.8, at=55)
    assert schedules["pwt-l1-mod2-0.8-seed1"].every == 2
    assert schedules["pwt-l1-0.5-seed1"].final == 0.5
    assert len(jobs) == len(recipe.VARIANTS) + 1


def test_rates_of_layers_and_the_global_ranking(recipe):
    paper = recipe.PRESETS["paper"]
    names = ["conv1_1", "conv4_1", "conv4_2", "conv5_1"]
    model = keras.Sequential([keras.Input((8, 8, 3))])
    for name in names:
        model.add(keras.layers.Conv2D(10, 3, padding="same", name=name))
    (job,) = recipe.plan(paper, ["prt"], ["conv4:0.5+conv4_2:0.8+conv5:0.7"], 0)
    assert job.key == "prt-conv4at0.5_conv4_2at0.8_conv5at0.7-seed0"
    assert job.name == "prt conv4 50% conv4_2 80% conv5 70%"
    (callback,) = recipe.pruning(job, paper, model)
    assert callback.schedule == {
        "conv4_1": OneShot(0.5, at=55),
        "conv4_2": OneShot(0.8, at=55),
        "conv5_1": OneShot(0.7, at=55),
    }
    (job,) = recipe.plan(paper, ["pwt-l1"], ["0.6"], 0, "global")
    assert (job.key, job.name) == ("pwt-l1-0.6-global-seed0", "pwt-l1 60% global")
    (callback,) = recipe.pruning(job, paper, model)
    assert (callback.ranking, callback.layers) == ("global", tuple(names))
    assert callback.schedule == Linear(0.0, 0.6, begin=0, end=79)


@pytest.mark.parametrize("rates", ["0", "1", "half", "conv1:", "conv1:0.5+0.5"])
def test_rates_that_are_none_are_refused(recipe, rates):
    with pytest.raises(ValueError, match="argument `rates`"):
        list(recipe.plan(recipe.PRESETS["quick"], ["pwt-l1"], [rates], 0))


def test_wrong_layers_are_refused_before_anything_trains(recipe, settings, tmp_path):
    options = {"variants": ["dense", "pwt-l1"], "seeds": [0], "out": tmp_path}
    with pytest.raises(ValueError, match=r"`rates`.*conv1.*'block1'"):
        recipe.run(settings, rates=["block1:0.5"], **options)
    with pytest.raises(ValueError, match=r"`rates`.*global"):
        recipe.run(settings, rates=["conv1:0.5"], ranking="global", **options)
    assert not list(tmp_path.glob("dense*"))


def test_a_comparison_goes_on_where_it_was(recipe, settings, tmp_path, monkeypatch):
    trained = []
    train = recipe.train

    def logged(job, *rest):
        trained.append(job.variant)
        train(job, *rest)

    monkeypatch.setattr(recipe, "train", logged)
    both = ["dense", "pwt-l1"]
    for variants, rates in ((["dense"], ["0.5"]), (both, ["0.5", "conv2:0.75"])):
        report = recipe.run(
            settings, variants=variants, rates=rates, seeds=[0], out=tmp_path
        )
    assert trained == [*both, "pwt-l1"]
    assert {model.name for model in report.models} == {
        "dense",
        "pwt-l1 50%",
        "pwt-l1 conv2 75%",
    }
    results = {
        r["name"]: r for r in json.loads((tmp_path / "results.json").read_text())
    }
    dense, pruned = results["dense"], results["pwt-l1 50%"]
    assert pruned["parameters"] < dense["parameters"]
    assert pruned["training_macs"] < dense["training_macs"]
    small = keras.saving.load_model(tmp_path / "pwt-l1-conv2at0.75-seed0.keras")
    before, after = (
        {c.name: c.filters for c in m.layers if isinstance(c, keras.layers.Conv2D)}
        for m in (recipe.network(settings, DIGITS), small)
    )
    assert after == {
        "conv1": before["conv1"],
        "conv2": before["conv2"] - round(0.75 * before["conv2"]),
    }
    assert results["pwt-l1 conv2 75%"]["pruned"] == pytest.approx(
        1 - sum(after.values()) / sum(before.values())
    )
    titles = [curves.title for curves in report.curves]
    assert "Parameters while training" in titles


def test_a_folder_holds_one_comparison(recipe, settings, tmp_path):
    recipe.open_folder(tmp_path, settings)
    recipe.open_folder(tmp_path, settings)
    other = dataclasses.replace(settings, width=0.5)
    with pytest.raises(ValueError, match=r"argument `out`.*other settings"):
        recipe.open_folder(tmp_path, other)
