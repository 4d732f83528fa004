import dataclasses
import json
import re

import keras
import numpy as np
import pytest

import tfcompress as tfc
from tfcompress.schedules import Constant, Piecewise
from tfcompress.zoo._resnet import _resnet


@pytest.fixture(scope="module")
def recipe(load_recipe):
    return load_recipe("green_ai_gating")


def two_blocks(width, input_shape, classes):
    """A residual network in seconds."""
    return _resnet("two_blocks", [4] * 5, (1, 1), classes, input_shape)


@pytest.fixture
def settings(recipe):
    quick = recipe.PRESETS["quick"]
    return dataclasses.replace(quick, epochs=2, decay_at=(1,), width=0.15, limit=256)


def test_the_paper_presets_are_the_papers(recipe):
    paper, larger = recipe.PRESETS["paper"], recipe.PRESETS["cifar100"]
    assert (paper.model, paper.epochs, paper.batch_size) == ("resnet110", 350, 256)
    assert (larger.dataset, larger.batch_size) == ("cifar100", 64)
    for settings, epochs in ((paper, (60, 120, 160)), (larger, (125, 190, 250))):
        optimizer = recipe.sgd(settings, steps=10)
        places = [5, *(10 * epoch + 5 for epoch in epochs)]
        rates = [float(optimizer._learning_rate(place)) for place in places]
        np.testing.assert_allclose(rates, [0.1, 0.01, 0.001, 0.0001], rtol=1e-5)
    # The tables are trained with R_polar only, from gates that may close at once.
    assert recipe.PENALTIES["paper"] == ("3", ["0"]) and paper.open_bias == 0
    rising = recipe.schedule(recipe.PENALTIES["rising"][0])
    assert rising == Piecewise({0: 0.0, 125: 2.0, 190: 3.0})


def commands(recipe):
    """The flags of each command in the docstring, by the table it is for."""
    text = re.sub(r" *\\\n +", " ", recipe.__doc__)
    found = re.findall(r"python \S+ (.*?) +# (Table \d+.*)", text)
    return {table: dict(re.findall(r"--(\w+)=(\S+)", line)) for line, table in found}


def test_the_commands_for_the_tables_have_the_papers_settings(recipe):
    table = commands(recipe)
    # Section 5.3: λ_polar = 1, Gumbel-softmax, λ_act in [0, 1]; five trials.
    third = table["Table 3, Figure 5"]
    assert (third["model"], third["estimator"]) == ("resnet56", "gumbel")
    assert third["lambda_polar"] == "1" and len(third["seeds"].split(",")) == 5
    weights = list(map(float, third["lambda_act"].split(",")))
    assert weights[0] == 0 and weights[-1] == 1 and weights == sorted(weights)
    # Table 4: λ_polar = 3, which is the preset's.
    assert table["Table 4"] == {"preset": "paper", "estimator": "ste,gumbel,bernoulli"}
    assert recipe.PENALTIES["paper"][0] == "3"
    # Table 6: one and two dense layers, of which `depth` counts the hidden ones.
    sixth = table["Table 6"]
    assert (sixth["position"], sixth["depth"]) == ("before,middle,after", "0,1")


def test_weight_decay_acts_as_inside_the_gradient(recipe):
    # Without a loss, w falls by rate · λ / (1 - μ) each step once momentum is there.
    settings = dataclasses.replace(recipe.PRESETS["paper"], decay_at=())
    optimizer = recipe.sgd(settings, steps=10)
    w, inside, momentum = keras.Variable([1.0]), 1.0, 0.0
    optimizer.build([w])
    for _ in range(200):
        optimizer.apply([keras.ops.zeros((1,))], [w])
        momentum = 0.9 * momentum - 0.1 * 5e-4 * inside
        inside += momentum
    np.testing.assert_allclose(1 - float(w[0]), 1 - inside, rtol=0.06)


def test_a_plan_is_a_sweep(recipe):
    jobs = recipe.plan(epochs=5, activations=["0.5", "2"], seeds=[0, 1])
    assert [job.key for job in jobs[:3]] == [
        "seed0-dense",
        "seed0-layer-ste-polar-3-act-0.5",
        "seed0-layer-ste-polar-3-act-2",
    ]
    assert len(jobs) == 6
    table_6 = recipe.plan(
        epochs=5, gates="channel", positions=["before", "middle"], depths=["0", "2"],
        polar="0:0,5:2", dense=False,
    )  # fmt: skip
    assert [(job.position, job.depth) for job in table_6] == [
        ("before", 0), ("before", 2), ("middle", 0), ("middle", 2),
    ]  # fmt: skip
    assert len({job.key for job in table_6}) == 4
    table_4 = recipe.plan(epochs=5, estimators=recipe.ESTIMATORS, dense=False)
    assert [job.estimator for job in table_4] == ["ste", "gumbel", "bernoulli"]
    assert recipe.schedule("3") == Constant(3.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"polar": "rising"}, "`lambda_polar`"),
        ({"positions": ["behind"]}, "`position`"),
        ({"estimators": ["best"]}, "`estimator`"),
        ({"depths": ["3"]}, "`depth`"),
    ],
)
def test_what_is_wrong_is_refused(recipe, change, message):
    with pytest.raises(ValueError, match=message):
        recipe.plan(epochs=5, **change)


def test_gates_close_and_longer_sweeps_add(recipe, settings, tmp_path, monkeypatch):
    monkeypatch.setattr(tfc.zoo, "resnet20", two_blocks)
    settings = dataclasses.replace(settings, random_rates=(0.5,), draws=1)
    trained = []
    train = recipe.train

    def logged(settings, data, experiment, job):
        trained.append(job.key)
        return train(settings, data, experiment, job)

    monkeypatch.setattr(recipe, "train", logged)
    jobs = recipe.plan(epochs=settings.epochs, polar="0", activations=[8.0])
    recipe.run(settings, jobs[:1], out=tmp_path, report=False)
    report = recipe.run(settings, jobs, out=tmp_path)
    assert trained == [job.key for job in jobs]
    assert [model.name for model in report.models] == [job.name for job in jobs]
    dense, gated = json.loads((tmp_path / "results.json").read_text())
    # Nothing but a penalty on open gates: some have closed.
    assert gated["macs"] < dense["macs"]
    assert set(gated["test"]) == {"r_polar", "r_act", "undecided", "ratios"}
    titles = [curves.title for curves in report.curves]
    assert titles[:2] == ["Accuracy over MACs", "Accuracy over the pruning rate"]
    frontier = report.curves[0].series
    assert set(frontier) == {"dense", "random layers", jobs[1].family}
    (heatmap,) = report.heatmaps
    assert len(heatmap.rows) == 2 and len(heatmap.columns) == settings.epochs
    small = keras.saving.load_model(tmp_path / gated["models"][-1])
    assert not tfc.gates.gates_of(small)


def test_an_interrupted_run_ends_as_one_that_was_not(
    recipe, settings, tmp_path, monkeypatch, interrupted
):
    monkeypatch.setattr(tfc.zoo, "resnet20", two_blocks)
    jobs = recipe.plan(epochs=settings.epochs, activations=[0.5], dense=False)

    def run(out):
        recipe.run(settings, jobs, out=out, report=False)

    run(tmp_path / "whole")
    (whole,) = json.loads((tmp_path / "whole" / "results.json").read_text())
    del whole["seconds"]
    (again,) = interrupted(run, tmp_path / "stopped", epochs=settings.epochs)
    assert again == whole
    assert len(again["openings"]) == 2  # from before the interruption, too
    assert {len(ratios) for ratios in again["openings"].values()} == {settings.epochs}


def test_gates_are_added_to_a_trained_network(recipe, settings, tmp_path, monkeypatch):
    monkeypatch.setattr(tfc.zoo, "resnet20", two_blocks)
    data = tfc.data.load("digits", limit=64)
    dense = recipe.network(settings, data, warm=False)
    dense.save(tmp_path / "dense.keras")
    warm = dataclasses.replace(
        settings, warm_start=str(tmp_path / "dense.keras"), open_bias=0.0
    )
    (job,) = recipe.plan(epochs=2, dense=False)
    started = recipe.gated(job, warm, recipe.network(warm, data, warm=True))
    gates = tfc.gates.gates_of(started)
    assert len(gates) == 2
    for layer in dense.layers:
        for mine, theirs in zip(
            started.get_layer(layer.name).get_weights(),
            layer.get_weights(),
            strict=True,
        ):
            np.testing.assert_array_equal(mine, theirs)
    assert {gate.open_bias for gate in gates.values()} == {0.0}
    scratch = recipe.network(warm, data, warm=False)
    assert not all(
        (a == b).all()
        for a, b in zip(scratch.get_weights(), dense.get_weights(), strict=True)
    )


def test_random_pruning_prunes_at_its_rate(recipe):
    model = tfc.zoo.resnet20(width=0.15, input_shape=(8, 8, 1))
    rng = np.random.default_rng(0)
    shorter = recipe.without_layers(model, 4 / 9, rng)
    adds = [layer for layer in shorter.layers if isinstance(layer, keras.layers.Add)]
    assert len(adds) == 5
    sparse = recipe.without_parameters(model, 0.3, rng)
    kernels = [v.numpy() for v in sparse.trainable_variables if v.name == "kernel"]
    zeros = sum((k == 0).sum() for k in kernels) / sum(k.size for k in kernels)
    assert 0.28 < zeros < 0.32
    assert all((v.numpy() != 0).all() for v in model.weights if v.name == "kernel")


def test_without_gates_only_the_dense_network_is_trained(recipe):
    jobs = recipe.plan(epochs=2, gates="none", activations=(0.5, 1.0), seeds=(0, 1))
    assert [(job.name, job.seed) for job in jobs] == [("dense", 0), ("dense", 1)]
