import dataclasses
import json

import pytest

from tfcompress.schedules import Linear, OneShot


@pytest.fixture(scope="module")
def recipe(load_recipe):
    return load_recipe("prune_while_training")


@pytest.fixture
def settings(recipe):
    quick = recipe.PRESETS["quick"]
    return dataclasses.replace(quick, epochs=2, shrink_every=1, width=0.2)


def test_the_plan_is_the_papers(recipe):
    jobs = list(recipe.plan(recipe.PRESETS["paper"], recipe.VARIANTS, [0.8, 0.5], 1))
    schedules = {job.key: job.schedule for job in jobs}
    assert schedules["dense-0-seed1"] is None
    assert schedules["pwt-l1-0.8-seed1"] == Linear(0.0, 0.8, begin=0, end=79)
    assert schedules["prt-0.8-seed1"] == OneShot(0.8, at=55)
    assert schedules["pwt-l1-mod2-0.8-seed1"].every == 2
    assert schedules["pwt-l1-0.5-seed1"].final == 0.5
    assert len(jobs) == len(recipe.VARIANTS) + 1


def test_a_comparison_goes_on_where_it_was(recipe, settings, tmp_path, monkeypatch):
    trained = []
    train = recipe.train

    def logged(job, *rest):
        trained.append(job.variant)
        train(job, *rest)

    monkeypatch.setattr(recipe, "train", logged)
    both = ["dense", "pwt-l1"]
    for variants in (["dense"], both):
        report = recipe.run(
            settings, variants=variants, rates=[0.5], seeds=[0], out=tmp_path
        )
    assert trained == both
    assert [model.name for model in report.models] == ["dense", "pwt-l1 50%"]
    results = json.loads((tmp_path / "results.json").read_text())
    dense, pruned = results
    assert pruned["parameters"] < dense["parameters"]
    assert pruned["training_macs"] < dense["training_macs"]
    titles = [curves.title for curves in report.curves]
    assert "Parameters while training" in titles


def test_a_folder_holds_one_comparison(recipe, settings, tmp_path):
    recipe.open_folder(tmp_path, settings)
    recipe.open_folder(tmp_path, settings)
    other = dataclasses.replace(settings, width=0.5)
    with pytest.raises(ValueError, match=r"argument `out`.*other settings"):
        recipe.open_folder(tmp_path, other)
