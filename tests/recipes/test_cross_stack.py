import dataclasses
import functools
import json
import subprocess
import sys
from pathlib import Path

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


def test_every_scheme_has_the_same_number_of_epochs(recipe):
    jobs = recipe.plan(recipe.PRESETS["paper"], recipe.SCHEMES, recipe.MODES, 1)
    epochs = {job.name: job.epochs for job in jobs}
    both = epochs["pruned-aggressive"] + epochs["proposed-aggressive"]
    for name in ("baseline-aggressive", "pruning", "incremental"):
        assert epochs[name] == both
    sources = {job.key: job.source for job in jobs}
    assert sources["seed1-dense"] is None
    assert sources["seed1-proposed-intermediate"] == "seed1-pruned-intermediate"
    order = [job.key for job in jobs]
    assert all(order.index(s) < order.index(n) for n, s in sources.items() if s)


def test_all_seeds_may_start_from_one_dense_network(recipe):
    settings = dataclasses.replace(recipe.PRESETS["paper"], dense_seed=0)
    dense, *others = recipe.plan(settings, recipe.SCHEMES, ["aggressive"], 2)
    assert dense == recipe.plan(settings, [], [], 1)[0]
    assert dense.key == "seed0-dense"
    sources = {job.name: job.source for job in others}
    assert sources.pop("proposed-aggressive") == "seed2-pruned-aggressive"
    assert set(sources.values()) == {"seed0-dense"}
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


@pytest.mark.parametrize(
    ("change", "message"),
    [({"bits": (1,)}, "`bits`"), ({"bits": (0, 5)}, "`bits`")],
)
def test_bad_settings_are_refused_before_any_work(
    recipe, settings, tmp_path, change, message
):
    bad = dataclasses.replace(settings, **change)
    with pytest.raises(ValueError, match=message):
        recipe.run(bad, schemes=["dense"], modes=[], seeds=[0], out=tmp_path)
    assert not list(tmp_path.iterdir())


def test_both_readings_of_the_bits_and_the_order_reach_the_callbacks(recipe, settings):
    other = dataclasses.replace(settings, bits=(2, 6), order="magnitude")
    jobs = {j.name: j for j in recipe.plan(other, recipe.SCHEMES, ["aggressive"], 0)}
    assert jobs["proposed-aggressive"].bits == jobs["incremental"].bits == (2, 6)
    assert jobs["pruning"].bits == (5, 5)
    (handover,) = recipe.callbacks(jobs["incremental"], other, 100)
    assert handover.order == "magnitude"


def test_every_class_is_divided_80_to_20(recipe):
    data = tfc.data.load("digits")
    again = recipe.redivided(data, 0.2)
    everything = [len(getattr(again, split)) for split in ("train", "validation")]
    assert sum(everything) + len(again.test) == 1797
    for label in range(10):
        held = (again.test.labels == label).sum()
        rest = sum(
            (getattr(again, split).labels == label).sum()
            for split in ("train", "validation")
        )
        assert held == round(0.2 * (held + rest))
    images = {image.tobytes() for image in data.test.images}
    assert 0 < sum(i.tobytes() in images for i in again.test.images) < len(again.test)


def test_the_presets_are_the_papers(recipe):
    stl10, imagenet = recipe.PRESETS["stl10"], recipe.PRESETS["imagenet"]
    assert stl10.test_fraction == 0.2
    data = dataclasses.replace(tfc.data.load("digits"), classes=1000)
    alexnet = recipe.network(dataclasses.replace(imagenet, width=0.1), data)
    assert alexnet.input_shape[1:] == (224, 224, 3)
    assert alexnet.output_shape == (None, 1000)


def test_all_schemes_and_their_energy(recipe, settings, tmp_path, monkeypatch):
    trained = []
    train = recipe.train

    def logged(settings, data, experiment, job):
        trained.append(job.name)
        return train(settings, data, experiment, job)

    monkeypatch.setattr(recipe, "train", logged)
    monkeypatch.setattr(recipe, "SENSITIVITY_IMAGES", 40)
    # Other processes take long to start.
    here = functools.partial(tfc.analysis.sensitivity, workers=1)
    monkeypatch.setattr(tfc.analysis, "sensitivity", here)
    settings = dataclasses.replace(settings, products="skipped")

    def run(schemes, **kwargs):
        return recipe.run(
            settings, schemes=schemes, modes=["aggressive"], seeds=[0],
            out=tmp_path, **kwargs,
        )  # fmt: skip

    assert run(["proposed"], report=False) is None
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


def test_an_interrupted_run_ends_as_one_that_was_not(
    recipe, settings, tmp_path, interrupted
):
    settings = dataclasses.replace(settings, limit=200, surgery_epochs=3)
    scheme = {"schemes": ["proposed"], "modes": ["aggressive"], "seeds": [1]}

    def run(out):
        recipe.run(settings, out=out, report=False, **scheme)

    run(tmp_path / "whole")
    whole = json.loads((tmp_path / "whole" / "results.json").read_text())
    for record in whole:
        del record["seconds"]
    # Two epochs dense, three of surgery, two of the hand-over.
    assert interrupted(run, tmp_path / "stopped", epochs=7) == whole


def test_a_new_process_goes_on_from_a_pruned_network(recipe, tmp_path):
    model = tfc.layers.wrap_kernels(tfc.zoo.lenet5(width=0.2), tfc.layers.MaskedKernel)
    model.save(tmp_path / "pruned.keras")
    code = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(Path(recipe.__file__).parent)!r})
from _experiment import load_model
load_model(Path({str(tmp_path)!r}) / "pruned.keras")
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
