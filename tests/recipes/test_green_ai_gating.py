import dataclasses
import json

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


def test_the_paper_preset_is_the_papers(recipe):
    paper = recipe.PRESETS["paper"]
    assert (paper.model, paper.epochs, paper.batch_size) == ("resnet110", 350, 256)
    optimizer = recipe.optimizer(paper, steps=10)
    rates = [
        optimizer._learning_rate(10 * epoch + 5) for epoch in (0, 59, 60, 120, 160)
    ]
    np.testing.assert_allclose(rates, [0.1, 0.1, 0.01, 0.001, 0.0001], rtol=1e-5)


def test_weight_decay_acts_as_inside_the_gradient(recipe):
    # Without a loss, w falls by rate · λ / (1 - μ) each step once momentum is there.
    settings = dataclasses.replace(recipe.PRESETS["paper"], decay_at=())
    optimizer = recipe.optimizer(settings, steps=10)
    w, inside, momentum = keras.Variable([1.0]), 1.0, 0.0
    optimizer.build([w])
    for _ in range(200):
        optimizer.apply([keras.ops.zeros((1,))], [w])
        momentum = 0.9 * momentum - 0.1 * 5e-4 * inside
        inside += momentum
    np.testing.assert_allclose(1 - float(w[0]), 1 - inside, rtol=0.06)


def test_a_plan_is_a_sweep(recipe):
    jobs = recipe.plan(activations=["0.5", "2"], seeds=[0, 1])
    assert [job.key for job in jobs[:3]] == [
        "dense-seed0",
        "layer-ste-p3-a0.5-seed0",
        "layer-ste-p3-a2-seed0",
    ]
    assert len(jobs) == 6
    (job,) = recipe.plan(
        gates="channel", position="middle", depth=0, polar="0:0,5:2", dense=False
    )
    assert job.key == "channel-middle0-ste-p0from0_5from2-a0.5-seed0"
    assert recipe.schedule("0:0,5:2") == Piecewise({0: 0.0, 5: 2.0})
    assert recipe.schedule("3") == Constant(3.0)
    with pytest.raises(ValueError, match="`lambda_polar`"):
        recipe.plan(polar="rising")


def test_a_comparison_goes_on_where_it_was(recipe, settings, tmp_path, monkeypatch):
    monkeypatch.setattr(tfc.zoo, "resnet20", two_blocks)
    monkeypatch.setattr(recipe, "RANDOM_RATES", (0.5,))
    monkeypatch.setattr(recipe, "DRAWS", 1)
    trained = []
    train = recipe.train

    def logged(job, *rest):
        trained.append(job.key)
        train(job, *rest)

    monkeypatch.setattr(recipe, "train", logged)
    first = recipe.plan(activations=[2.0])
    with monkeypatch.context() as patch:
        patch.setattr(recipe, "write_report", lambda *_: None)
        recipe.run(settings, first[:1], out=tmp_path)
    report = recipe.run(settings, first, out=tmp_path)
    assert trained == [job.key for job in first]
    assert [model.name for model in report.models] == [job.name for job in first]
    dense, gated = json.loads((tmp_path / "results.json").read_text())
    assert gated["macs"] <= dense["macs"]
    assert set(gated["test"]) == {"r_polar", "r_act", "undecided", "ratios"}
    titles = [curves.title for curves in report.curves]
    assert titles[:2] == ["Accuracy over MACs", "Accuracy over the pruning rate"]
    frontier = report.curves[0].series
    assert set(frontier) == {"dense", "random layers", first[1].family}
    (heatmap,) = report.heatmaps
    assert len(heatmap.rows) == 2 and len(heatmap.columns) == 2
    small = keras.saving.load_model(tmp_path / f"{first[1].key}.keras")
    assert not tfc.gates.gates_of(small)


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


def test_a_folder_holds_one_comparison(recipe, settings, tmp_path):
    recipe.open_folder(tmp_path, settings)
    recipe.open_folder(tmp_path, settings)
    other = dataclasses.replace(settings, width=0.5)
    with pytest.raises(ValueError, match=r"argument `out`.*other settings"):
        recipe.open_folder(tmp_path, other)
