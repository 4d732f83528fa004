import dataclasses
import json
from types import SimpleNamespace

import keras
import numpy as np
import pytest


@pytest.fixture(scope="module")
def recipe(load_recipe):
    return load_recipe("activation_density")


def two_convolutions(width=1.0, widths=None, classes=10, input_shape=(8, 8, 1)):
    """A network in seconds, with what the recipe uses of the zoo's."""
    first, second = widths or (round(16 * width), round(32 * width))
    model = keras.Sequential([keras.Input(input_shape)])
    for name, filters in (("conv1", first), ("conv2", second)):
        model.add(keras.layers.Conv2D(filters, 3, activation="relu", name=name))
    model.add(keras.layers.GlobalAveragePooling2D())
    model.add(keras.layers.Dense(classes, activation="softmax"))
    return model


@pytest.fixture
def settings(recipe, monkeypatch):
    monkeypatch.setattr(recipe.tfc.zoo, "resnet18", two_convolutions)
    return dataclasses.replace(
        recipe.PRESETS["quick"],
        limit=64,
        epochs=2,
        round_epochs=1,
        decay_at=(1,),
        width=1.0,
        model="resnet18",
    )


def test_the_papers_convolutions_are_those_of_the_zoo(recipe):
    for model, count in (("vgg19", 16), ("resnet18", 17)):
        widths = list(range(3, 3 + count))
        if model == "resnet18":  # the zoo's network has widths of their own, too
            assert len(recipe.sized_layers(recipe.tfc.zoo.resnet18(width=0.1))) == 17
        network = getattr(recipe.tfc.zoo, model)(widths=widths)
        assert recipe.channels(network) == widths


def test_the_paper_preset_is_sgd_in_steps(recipe):
    paper = recipe.PRESETS["paper"]
    optimizer = recipe.sgd(paper, steps=10)
    assert (paper.batch_size, paper.momentum) == (128, 0.9)
    rates = [float(optimizer._learning_rate(10 * e + 5)) for e in (0, 104, 105, 158)]
    np.testing.assert_allclose(rates, [0.1, 0.1, 0.01, 0.001], rtol=1e-5)
    late = dataclasses.replace(paper, epochs=60)
    with pytest.raises(ValueError, match=r"`decay_at`.*before the last, 60"):
        recipe.sgd(late, steps=10)


def test_networks_are_sized_and_controls_are_as_large(recipe, settings, tmp_path):
    recipe.run(
        settings, variants=["dense", "density-inherit"], seeds=[0], out=tmp_path,
        report=False,
    )  # fmt: skip
    *variants, shallow = recipe.VARIANTS  # which is for VGG-19
    assert shallow == "shallow"
    report = recipe.run(settings, variants=variants, seeds=[0], out=tmp_path)
    assert [model.name for model in report.models] == [
        "dense",
        "density-random net 1",
        "density-inherit net 1",
        "uniform",
        "uniform-inherit",
    ]
    results = json.loads((tmp_path / "results.json").read_text())
    by_name = {record["name"]: record for record in results}
    dense, random = by_name["dense"], by_name["density-random"]
    first, last = random["nets"]
    assert first["widths"] == dense["nets"][0]["widths"]
    density = [values[-1] for values in first["densities"].values()]
    assert last["widths"] == [
        max(1, int(d * w + 0.5)) for d, w in zip(density, first["widths"], strict=True)
    ]
    # The next narrower network would have fewer operations than the sized one.
    assert by_name["uniform"]["nets"][0]["ops"] >= last["ops"]
    inherited = by_name["density-inherit"]["nets"]
    assert by_name["uniform-inherit"]["nets"][0]["ops"] >= inherited[-1]["ops"]
    assert len(first["history"]["val_accuracy"]) == first["epochs"] == 1
    titles = [curves.title for curves in report.curves]
    assert "Accuracy over OPS reduction" in titles
    assert "Accuracy over epochs: density-random" in titles


def test_the_inherited_control_keeps_weights(recipe, settings, tmp_path):
    with recipe.Experiment(tmp_path, settings) as experiment:
        data = recipe.tfc.data.load("digits", limit=64)
        dense = recipe.network(settings, data, 2)
        record = {"ops": recipe.convolutions(dense)[1] // 4, "history": {}}
        job = recipe.Job(name="density-inherit", seed=0)
        experiment.run(
            [job],
            lambda job: (
                {"nets": [record, record], "final": 1},
                {"-net0.keras": dense},
            ),
        )
        job = recipe.Job(name="uniform-inherit", seed=0)
        build = lambda widths=None: recipe.network(settings, data, 2, widths)  # noqa: E731
        narrow = recipe.start(settings, experiment, job, build)
    assert 0.25 <= recipe.convolutions(narrow)[1] / recipe.convolutions(dense)[1] < 0.6
    mine, full = (m.get_layer("conv1").kernel.numpy() for m in (narrow, dense))
    kept = {filter_.tobytes() for filter_ in np.moveaxis(full, -1, 0)}
    assert all(filter_.tobytes() in kept for filter_ in np.moveaxis(mine, -1, 0))


def test_a_control_is_as_small_as_a_network_that_is_narrower(
    recipe, settings, tmp_path
):
    """Where Algorithm 1 keeps the dense network, it is no measure for a control."""

    def sized(name, final, ops):
        job = recipe.Job(name=name, seed=0)
        record = {"nets": [{"ops": n} for n in ops], "final": final}
        return job, lambda job: (record, {})

    def measure():
        record, last = recipe.sized_record(
            experiment, recipe.Job(name="uniform", seed=0)
        )
        return record["name"], record["nets"][last]["ops"]

    with recipe.Experiment(tmp_path, settings) as experiment:
        job, work = sized("density-random", 0, [60, 20, 10])
        experiment.run([job], work)
        assert measure() == ("density-random", 10)
        job, work = sized("density-inherit", 1, [60, 30])
        experiment.run([job], work)
        assert measure() == ("density-inherit", 30)


def test_the_shallow_control_has_the_first_layers(recipe, settings, tmp_path):
    shallow = dataclasses.replace(settings, model="vgg19", width=0.05)
    with pytest.raises(ValueError, match=r"`variants`.*'shallow' with vgg19"):
        recipe.run(settings, variants=["shallow"], seeds=[0], out=tmp_path)
    with recipe.Experiment(tmp_path, shallow) as experiment:
        data = SimpleNamespace(input_shape=(32, 32, 3), classes=10)
        widths = list(range(2, 18))
        nets = [{"widths": [n + k for n in widths]} for k in (9, 0, 4)]
        sized = {"nets": nets, "final": 2}
        experiment.run(
            [recipe.Job(name="density-inherit", seed=0)], lambda job: (sized, {})
        )
        job = recipe.Job(name="shallow", seed=0)
        build = lambda widths=None: recipe.network(shallow, data, 2, widths)  # noqa: E731
        model = recipe.start(shallow, experiment, job, build)
    assert recipe.channels(model) == widths[:8]
    assert model.output_shape == (None, 10)
    assert len(recipe.channels(build())) == 16


def test_a_killed_run_goes_on_after_its_first_network(
    recipe, settings, tmp_path, monkeypatch
):
    options = {"variants": ["density-random"], "seeds": [0], "report": False}

    class Killed(BaseException):
        pass

    class Kill(keras.callbacks.Callback):
        """Ends the run when the second network begins."""

        begun = 0

        def on_train_begin(self, logs=None):
            Kill.begun += 1
            if Kill.begun == 2:
                raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(recipe, "Progress", Kill)
        recipe.run(settings, out=tmp_path, **options)
    assert (tmp_path / "seed0-density-random.backup").exists()
    recipe.run(settings, out=tmp_path, **options)
    (record,) = json.loads((tmp_path / "results.json").read_text())
    assert [net["epochs"] for net in record["nets"]] == [1, 2]
    assert not (tmp_path / "seed0-density-random.backup").exists()


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
        "name": "density-random",
        "seed": 0,
        "test_accuracy": 0.97,
        "final": 1,
        "nets": [net(60, 73, 100), net(10, 10, 210)],
    }
    assert recipe.reductions(record) == [(1.0, 1.0), (7.3, 6.0)]
    assert "135.0 (0.64×)" in recipe.table_2([record], recipe.PRESETS["paper"])
    assert "| 7.3× | 6.0× | 210 |" in recipe.table_1([record])
    # A control with inherited weights has the epochs of what it inherits from.
    sized = {**record, "name": "density-inherit", "nets": [net(60, 73, 100)] * 2}
    dense = {**record, "name": "dense", "nets": [net(60, 73, 210)], "final": 0}
    control = {**dense, "name": "uniform-inherit", "nets": [net(10, 10, 210)]}
    table = recipe.table_2([dense, sized, control], recipe.PRESETS["paper"])
    assert "| uniform-inherit, seed 0 | 135.0 (0.64×) |" in table


@pytest.mark.parametrize("control", ["uniform", "uniform-inherit"])
def test_a_control_needs_a_network_to_be_as_small_as(
    recipe, settings, tmp_path, control
):
    with pytest.raises(ValueError, match=r"argument `variants`.*density"):
        recipe.run(settings, variants=[control], seeds=[0], out=tmp_path)
