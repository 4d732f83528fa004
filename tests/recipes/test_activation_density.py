import dataclasses
import json

import pytest


@pytest.fixture(scope="module")
def recipe(load_recipe):
    return load_recipe("activation_density")


@pytest.fixture
def settings(recipe):
    return dataclasses.replace(
        recipe.PRESETS["quick"], limit=64, epochs=1, max_rounds=1, width=0.05
    )


def test_the_papers_convolutions_are_those_of_the_zoo(recipe):
    for model, count in (("vgg19", 16), ("resnet18", 17)):
        names = recipe.CONVOLUTIONS[model]
        network = getattr(recipe.tfc.zoo, model)(width=0.05)
        assert len(names) == count
        assert all(hasattr(network.get_layer(name), "filters") for name in names)


def test_a_comparison_goes_on_where_it_was(recipe, settings, tmp_path, monkeypatch):
    trained = []
    train = recipe.train

    def logged(variant, *rest):
        trained.append(variant)
        train(variant, *rest)

    monkeypatch.setattr(recipe, "train", logged)
    some = ["dense", "density-random"]
    with monkeypatch.context() as patch:
        patch.setattr(recipe, "write_report", lambda *arguments: None)  # takes long
        recipe.run(settings, variants=some, seeds=[0], out=tmp_path)
    report = recipe.run(settings, variants=[*some, "uniform"], seeds=[0], out=tmp_path)
    assert trained == ["dense", "density-random", "uniform"]
    assert [model.name for model in report.models] == [
        "dense",
        "density-random net 1",
        "uniform",
    ]
    dense, sized, uniform = json.loads((tmp_path / "results.json").read_text())
    first, last = sized["nets"]
    assert first["widths"] == dense["nets"][0]["widths"]
    density = [first["densities"][n][-1] for n in recipe.CONVOLUTIONS["resnet18"]]
    expected = [
        max(1, int(d * w + 0.5)) for d, w in zip(density, first["widths"], strict=True)
    ]
    assert last["widths"] == expected
    # The next narrower network would have fewer operations than the sized one.
    assert uniform["nets"][0]["ops"] >= last["ops"]
    titles = [curves.title for curves in report.curves]
    assert "Accuracy over OPS reduction" in titles


def test_tables_have_the_papers_columns(recipe):
    def net(ops, weights, epochs):
        return {
            "widths": [8],
            "ops": ops,
            "weights": weights,
            "epochs": epochs,
            "val_accuracy": 0.5,
            "density": [0.4],
            "trend": "flat",
        }

    # ResNet18 on CIFAR-10 as published: 100 epochs, then 210 at 6.0 times fewer OPS.
    record = {
        "variant": "density-random",
        "seed": 0,
        "test_accuracy": 0.97,
        "nets": [net(60, 73, 100), net(10, 10, 210)],
    }
    assert recipe.reductions(record) == [(1.0, 1.0), (7.3, 6.0)]
    settings = dataclasses.replace(recipe.PRESETS["paper"], epochs=210)
    assert "135.0 (0.64×)" in recipe.table_2([record], settings)
    assert "| 7.3× | 6.0× | 210 |" in recipe.table_1([record])


def test_uniform_needs_a_network_to_be_as_small_as(recipe, settings, tmp_path):
    with pytest.raises(ValueError, match=r"argument `variants`.*density"):
        recipe.run(settings, variants=["uniform"], seeds=[0], out=tmp_path)
