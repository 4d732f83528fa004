import dataclasses
import functools
import json
import subprocess
import sys

import pytest

import tfcompress as tfc


@pytest.fixture(scope="module")
def recipe(load_recipe):
    return load_recipe("cross_stack")


@pytest.fixture
def settings(recipe):
    return dataclasses.replace(
        recipe.PRESETS["quick"],
        width=0.2,
        dense_epochs=2,
        surgery_epochs=2,
        approximation_epochs=2,
        iterations=2,
    )


def test_settings_can_be_given_as_flags(recipe):
    run = subprocess.run(
        [sys.executable, recipe.__file__, "--help"], capture_output=True, text=True
    )
    fixed = {"learning_rate", "augment", "surgery_fraction", "bits"}
    for field in dataclasses.fields(recipe.Settings):
        assert (f"--{field.name}:" in run.stdout) == (field.name not in fixed)


def test_every_scheme_has_the_same_number_of_epochs(recipe):
    jobs = recipe.plan(recipe.PRESETS["paper"], recipe.SCHEMES, recipe.MODES, 1)
    epochs = {job.name: job.epochs for job in jobs}
    both = epochs["pruned-aggressive"] + epochs["proposed-aggressive"]
    for name in ("baseline-aggressive", "pruning", "incremental"):
        assert epochs[name] == both
    sources = {job.key: job.source for job in jobs}
    assert sources["dense-seed1"] is None
    assert sources["proposed-intermediate-seed1"] == "pruned-intermediate-seed1"
    order = [job.key for job in jobs]
    assert all(order.index(s) < order.index(n) for n, s in sources.items() if s)


def test_all_seeds_may_start_from_one_dense_network(recipe):
    settings = dataclasses.replace(recipe.PRESETS["paper"], dense_seed=0)
    dense, *others = recipe.plan(settings, recipe.SCHEMES, ["aggressive"], 2)
    assert dense == recipe.plan(settings, [], [], 1)[0]
    assert dense.key == "dense-seed0"
    sources = {job.name: job.source for job in others}
    assert sources.pop("proposed-aggressive") == "pruned-aggressive-seed2"
    assert set(sources.values()) == {"dense-seed0"}
    assert {job.seed for job in others} == {2}


def test_the_rate_is_steady_until_a_network_is_handed_over(recipe):
    settings = dataclasses.replace(
        recipe.PRESETS["quick"],
        surgery_epochs=4,
        approximation_epochs=4,
        settling_epochs=1,
        approximation_rate=5e-3,
    )
    for job in recipe.plan(settings, recipe.SCHEMES, ["aggressive"], 0):
        steps = 100 * job.epochs
        rate = recipe.rate(job, settings, steps)
        initial = settings.fine_tuning_rate if job.source else settings.learning_rate
        incremental = job.name in ("proposed-aggressive", "incremental")
        steady = steps - 100 if incremental else 0
        initial = 5e-3 if incremental else initial
        assert float(rate(0)) == pytest.approx(initial)
        assert float(rate(steady)) == pytest.approx(initial)
        assert float(rate((steady + steps) // 2)) == pytest.approx(initial / 2)
        assert float(rate(steps)) == pytest.approx(0, abs=1e-9)
        for callback in recipe.callbacks(job, settings, steps):
            if isinstance(callback, tfc.callbacks.IncrementalApproximation):
                assert callback.epochs == job.epochs - 1


def test_a_comparison_goes_on_where_it_was(recipe, settings, tmp_path, monkeypatch):
    trained = []
    train = recipe.train

    def logged(job, *rest):
        trained.append(job.name)
        train(job, *rest)

    monkeypatch.setattr(recipe, "train", logged)
    monkeypatch.setattr(recipe, "SENSITIVITY_IMAGES", 40)
    # Other processes take long to start.
    here = functools.partial(tfc.analysis.sensitivity, workers=1)
    monkeypatch.setattr(tfc.analysis, "sensitivity", here)

    def run(schemes, **kwargs):
        return recipe.run(
            settings, schemes=schemes, modes=["aggressive"], seeds=[0],
            out=tmp_path, **kwargs,
        )  # fmt: skip

    assert run(["proposed"], with_report=False) is None
    report = run(recipe.SCHEMES)
    assert trained == [
        "dense",
        "pruned-aggressive",
        "proposed-aggressive",
        "baseline-aggressive",
        "pruning",
        "incremental",
    ]
    results = json.loads((tmp_path / "results.json").read_text())
    joules = {r["name"]: r["joules"] for r in results}
    macs = {r["name"]: r["macs"] for r in results}
    effective = {r["name"]: r["effective_macs"] for r in results}
    # 320 pJ a product at (1, 5) and 961 pJ at (5, 5), none where a weight is pruned.
    for name in ("proposed-aggressive", "baseline-aggressive", "incremental"):
        assert joules[name] == pytest.approx(320e-12 * effective[name], rel=1e-3)
    for name in ("dense", "pruned-aggressive", "pruning"):
        assert joules[name] == pytest.approx(961e-12 * effective[name], rel=1e-3)
    assert effective["incremental"] > 0.99 * macs["incremental"]
    assert effective["pruning"] < effective["pruned-aggressive"] < 0.5 * macs["dense"]
    assert effective["proposed-aggressive"] == effective["pruned-aggressive"]
    assert "| aggressive |" in recipe.figure_4(results)
    assert "| incremental | 1 |" in recipe.table_2(results)
    assert [h.title for h in report.heatmaps][-1] == "Energy of the layers"
    assert (tmp_path / "report.html").exists()


def test_a_new_process_goes_on_from_a_pruned_network(recipe, tmp_path):
    model = tfc.layers.wrap(tfc.zoo.lenet5(width=0.2), tfc.layers.MaskedKernel)
    model.save(tmp_path / "pruned-aggressive-seed0.keras")
    code = f"""
import importlib.util
from pathlib import Path
spec = importlib.util.spec_from_file_location("recipe", {recipe.__file__!r})
recipe = importlib.util.module_from_spec(spec)
spec.loader.exec_module(recipe)
recipe.load_model(Path({str(tmp_path)!r}) / "pruned-aggressive-seed0.keras")
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_folder_holds_one_comparison(recipe, settings, tmp_path):
    recipe.open_folder(tmp_path, settings)
    recipe.open_folder(tmp_path, settings)
    other = dataclasses.replace(settings, width=0.5)
    with pytest.raises(ValueError, match=r"argument `out`.*other settings"):
        recipe.open_folder(tmp_path, other)
