import json

import keras
import numpy as np
import pytest


@pytest.fixture(scope="module")
def combine(load_recipe):
    return load_recipe("combine")


def row(name, accuracy, size, energy):
    return {"name": name, "validation": accuracy, "bytes": size, "energy": energy}


def test_the_plan_goes_every_way_through_the_steps(combine):
    presets = combine.PRESETS
    jobs = combine.plan(presets["quick"], [0, 1])
    names = [job.name for job in jobs if job.seed == 0]
    # Two ways to be narrower, one to have fewer weights, two to be simpler, and
    # each of the three may be left out; the dense network trained on is one more.
    assert len(names) == len(set(names)) == 3 * 2 * 3 + 1
    assert "filters 0.5 + weights 0.2 + bits 4" in names
    assert "density 1 + weights 0.2 + drum 1" in names
    order = {"dense": 0, "dense,": 0, "filters": 1, "density": 1, "gates": 1}
    order |= {"weights": 2, "surgery": 2, "bits": 3, "drum": 3}
    mnist = combine.plan(presets["mnist"], [0])
    for job in [*jobs, *mnist]:
        places = [order[part.split()[0]] for part in job.name.split(" + ")]
        assert places == sorted(set(places))
    # Every step comes after the one that it goes on from.
    keys = [job.key for job in jobs]
    for place, job in enumerate(jobs):
        assert job.source is None or keys.index(job.source) < place
    assert any("gates" in j.name for j in combine.plan(presets["cifar10"], [0]))
    # Three ways to have fewer weights there: two fractions, and surgery.
    names = [job.name for job in mnist]
    assert len(names) == len(set(names)) == 3 * 4 * 3 + 1
    assert {"surgery 0.8", "filters 0.5 + surgery 0.8 + bits 3"} < set(names)


def test_the_plan_refuses_what_cannot_be_trained(combine):
    def plan(**changes):
        quick = combine.PRESETS["quick"]
        return combine.plan(combine.dataclasses.replace(quick, **changes), [0])

    with pytest.raises(ValueError, match="argument `gates`"):
        plan(gates=(0.5,))
    with pytest.raises(ValueError, match="argument `surgery`"):
        plan(surgery=(0.8, float("nan")))
    # A factor of 0 is a factor, too.
    assert {"surgery 0", "dense, trained on"} < {j.name for j in plan(surgery=(0.0,))}


def test_to_dominate_is_to_be_better_in_all_respects(combine):
    one = row("one", 0.9, 100, 1.0)
    assert combine.dominates(row("two", 0.9, 50, 0.5), one)
    assert not combine.dominates(row("two", 0.9, 50, 2.0), one)
    assert not combine.dominates(row("two", 0.8, 50, 0.5), one)
    assert not combine.dominates(one, one)


def test_all_methods_make_the_network_smaller(combine, tmp_path, monkeypatch):
    settings = combine.dataclasses.replace(
        combine.PRESETS["quick"], epochs=2, batch_size=128
    )
    everything = combine.plan(settings, [0])
    some = {
        "dense",
        "density 1",
        "filters 0.5",
        "filters 0.5 + weights 0.2",
        "filters 0.5 + weights 0.2 + bits 4",
        "filters 0.5 + drum 1",
    }
    jobs = [job for job in everything if job.name in some]
    monkeypatch.setattr(combine, "plan", lambda settings, seeds: jobs)
    options = {"out": tmp_path, "data_dir": None, "report": False}
    rows = combine.run(settings, seeds=[0], **options)
    assert {row["name"] for row in rows} == some
    size, joules = (
        {row["name"]: row[quantity] for row in rows} for quantity in ("bytes", "energy")
    )
    assert size["filters 0.5"] < 0.5 * size["dense"]
    assert size["filters 0.5 + weights 0.2"] < 0.5 * size["filters 0.5"]
    assert size["filters 0.5 + weights 0.2 + bits 4"] == min(size.values())
    assert size["density 1"] <= size["dense"]
    # The profile: 159.74 pJ and 32.045 for each product of bits, 5 · 5 or 1 · 5.
    ratio = (159.74 + 32.045 * 5) / (159.74 + 32.045 * 25)
    assert joules["filters 0.5 + drum 1"] == pytest.approx(
        ratio * joules["filters 0.5"]
    )
    # A multiplier at rest takes 204.6 pJ, about a fifth.
    assert joules["filters 0.5 + weights 0.2"] < 0.5 * joules["filters 0.5"]
    assert all((row["flash"] is None) == ("drum" in row["name"]) for row in rows)
    assert json.loads((tmp_path / "results.json").read_text())
    # The levels: at most 2^4 values and zero, in every kernel.
    (last,) = (job for job in jobs if "bits" in job.name)
    small = keras.saving.load_model(tmp_path / f"{last.key}.keras", compile=False)
    kernel = keras.ops.convert_to_numpy(small.get_layer("fc1").kernel)
    assert len(set(kernel.ravel().tolist())) <= 17
    # A second run finds everything.
    assert combine.run(settings, seeds=[0], **options) == rows


def test_weights_that_surgery_removed_stay_zero(combine, tmp_path, monkeypatch):
    settings = combine.dataclasses.replace(
        combine.PRESETS["quick"], epochs=2, limit=512, surgery=(0.8,)
    )
    some = ("dense", "surgery 0.8", "surgery 0.8 + bits 4", "surgery 0.8 + drum 1")
    jobs = [job for job in combine.plan(settings, [0]) if job.name in some]
    monkeypatch.setattr(combine, "plan", lambda settings, seeds: jobs)
    combine.run(settings, seeds=[0], out=tmp_path, data_dir=None, report=False)
    keys = {job.name: job.key for job in jobs}

    def kernels(name):
        model = combine.load_model(tmp_path / f"{keys[name]}.keras")
        selected = combine.tfc.policy.select_kernels(model)
        return {n: keras.ops.convert_to_numpy(own) for n, (own,) in selected.items()}

    pruned = kernels("surgery 0.8")
    first, *middle, last = pruned
    for name in middle:
        # 75 % of normally distributed weights are below μ + 0.8 σ.
        assert 0.6 < np.mean(pruned[name] == 0) < 0.9
    for name in (first, last):
        assert np.all(pruned[name] != 0)
    for later in (kernels("surgery 0.8 + bits 4"), kernels("surgery 0.8 + drum 1")):
        for name, before in pruned.items():
            after = later[name]
            np.testing.assert_array_equal(after == 0, before == 0)
            # The step did train, or round, what was left.
            assert np.any(after != before)
