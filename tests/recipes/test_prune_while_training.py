import dataclasses
import json
import random
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfcompress.schedules import Linear, OneShot

DIGITS = SimpleNamespace(input_shape=(8, 8, 1), classes=10)


@pytest.fixture(scope="module")
def recipe(load_recipe):
    return load_recipe("prune_while_training")


@pytest.fixture
def settings(recipe):
    quick = recipe.PRESETS["quick"]
    return dataclasses.replace(
        quick, epochs=3, prt=(1,), shrink_every=1, width=0.2, limit=200
    )


def test_the_plan_is_the_papers(recipe):
    paper = dataclasses.replace(recipe.PRESETS["paper"], prt=(40, 55), mod=(2, 3))
    jobs = {job.name: job for job in recipe.plan(paper, recipe.VARIANTS, [0.8, 0.5], 1)}
    schedules = {n: j.schedule and j.schedule(j.rate) for n, j in jobs.items()}
    growing = Linear(0.0, 0.8, begin=0, end=79)
    assert schedules == {
        "dense": None,
        "pwt-l1 80%": growing,
        "pwt-mean-activation 80%": growing,
        "pwt-random 80%": growing,
        "prt40 80%": OneShot(0.8, at=40),
        "prt55 80%": OneShot(0.8, at=55),
        "pwt-l1-mod2 80%": dataclasses.replace(growing, every=2),
        "pwt-l1-mod3 80%": dataclasses.replace(growing, every=3),
        "pwt-l1 50%": Linear(0.0, 0.5, begin=0, end=79),
    }
    assert jobs["prt55 80%"].key == "seed1-prt55-80"


def test_rates_of_layers_and_rankings_over_layers(recipe):
    paper = recipe.PRESETS["paper"]
    names = ["conv1_1", "conv4_1", "conv4_2", "conv5_1"]
    model = keras.Sequential([keras.Input((8, 8, 3))])
    for name in names:
        model.add(keras.layers.Conv2D(10, 3, padding="same", name=name))
    (job,) = recipe.plan(paper, ["prt"], ["conv4:0.5+conv4_2:0.8+conv5:0.7"], 0)
    assert job.name == "prt55 conv4 50% conv4_2 80% conv5 70%"
    (callback,) = recipe.pruning(job, paper, model)
    assert callback.schedule == {
        "conv4_1": OneShot(0.5, at=55),
        "conv4_2": OneShot(0.8, at=55),
        "conv5_1": OneShot(0.7, at=55),
    }
    (job,) = recipe.plan(paper, ["pwt-l1"], ["0.6"], 0, "global", 0.25)
    assert job.name == "pwt-l1 60% global floor 0.25"
    (callback,) = recipe.pruning(job, paper, model)
    assert (callback.ranking, callback.layers) == ("global", tuple(names))
    assert callback.floor == 0.25
    assert callback.schedule == Linear(0.0, 0.6, begin=0, end=79)


def test_each_variant_has_the_papers_algorithm(recipe):
    jobs = recipe.plan(recipe.PRESETS["paper"], recipe.VARIANTS, ["0.8"], 0, "paper")
    assert {job.variant: job.ranking for job in jobs if job.rate} == {
        "pwt-l1": "network",
        "prt": "network",
        "pwt-mean-activation": "even",
        "pwt-random": "random",
        "pwt-l1-mod": "network",
    }


@pytest.mark.parametrize("rates", ["0", "1", "half", "conv1:", "conv1:0.5+0.5"])
def test_rates_that_are_none_are_refused(recipe, rates):
    with pytest.raises(ValueError, match="argument `rates`"):
        list(recipe.plan(recipe.PRESETS["quick"], ["pwt-l1"], [rates], 0))


def test_what_is_wrong_is_refused_before_anything_trains(recipe, settings, tmp_path):
    options = {"variants": ["dense", "pwt-l1"], "seeds": [0], "out": tmp_path}
    with pytest.raises(ValueError, match=r"`rates`.*conv1.*'block1'"):
        recipe.run(settings, rates=["block1:0.5"], **options)
    with pytest.raises(ValueError, match=r"`rates`.*finds the layers"):
        recipe.run(settings, rates=["conv1:0.5"], ranking="global", **options)
    late = dataclasses.replace(settings, prt=(3,))
    with pytest.raises(ValueError, match=r"`prt`.*between 0 and the last, 3"):
        recipe.run(late, rates=["0.5"], **options)
    assert not list(tmp_path.glob("seed*"))


def test_a_longer_comparison_adds_to_a_shorter_one(
    recipe, settings, tmp_path, monkeypatch
):
    trained = []
    train = recipe.train

    def logged(settings, data, experiment, job):
        trained.append(job.name)
        return train(settings, data, experiment, job)

    monkeypatch.setattr(recipe, "train", logged)
    both = ["dense", "pwt-l1"]
    for variants, rates, report in (
        (["dense"], ["0.5"], False),
        (both, ["0.5", "conv2:0.75"], True),
    ):
        report = recipe.run(
            settings,
            variants=variants,
            rates=rates,
            seeds=[0],
            out=tmp_path,
            report=report,
        )
    assert trained == ["dense", "pwt-l1 50%", "pwt-l1 conv2 75%"]
    assert {model.name for model in report.models} == set(trained)
    results = {
        r["name"]: r for r in json.loads((tmp_path / "results.json").read_text())
    }
    dense, pruned = results["dense"], results["pwt-l1 50%"]
    assert pruned["parameters"] < dense["parameters"]
    assert pruned["training_macs"] < dense["training_macs"]
    late = results["pwt-l1 conv2 75%"]
    before, after = dense["filters"], late["filters"]
    assert after == [before[0], before[1] - round(0.75 * before[1])]
    assert late["pruned"] == pytest.approx(1 - sum(after) / sum(before))
    small = keras.saving.load_model(tmp_path / late["models"][0])
    assert [layer.filters for layer in recipe.convolutions(small)] == after
    titles = [curves.title for curves in report.curves]
    assert "Parameters while training" in titles
    assert "Results are in" not in (tmp_path / "report.html").read_text()


def test_measured_times_may_decide_about_removals(recipe, settings, tmp_path):
    settings = dataclasses.replace(settings, shrink_every="auto")
    options = {"variants": ["pwt-l1"], "rates": ["0.5"], "seeds": [0]}
    recipe.run(settings, out=tmp_path, report=False, **options)
    (record,) = json.loads((tmp_path / "results.json").read_text())
    # Whenever it was removed, what is left does not hold a pruned filter.
    whole = recipe.count_filters(recipe.network(settings, DIGITS))
    assert sum(record["filters"]) == whole - round(record["pruned"] * whole)
    assert record["pruned"] == pytest.approx(0.5, abs=0.1)


def without_times(folder):
    records = json.loads((folder / "results.json").read_text())
    for record in records:
        del record["seconds"], record["history"]["seconds"]
    return records


def test_a_run_that_was_killed_ends_as_one_that_was_not(recipe, settings, tmp_path):
    """Killed at a moment that differs from test run to test run."""
    settings = dataclasses.replace(settings, epochs=8, prt=(6,))
    options = {
        "variants": ["dense", "pwt-l1"], "rates": ["0.5"], "seeds": [1],
        "report": False,
    }  # fmt: skip
    recipe.run(settings, out=tmp_path / "whole", **options)
    flags = [f"--out={tmp_path / 'killed'}", "--noreport", "--seeds=1", "--rates=0.5"]
    flags += ["--variants=dense", "--variants=pwt-l1"]
    flags += [f"--{name}={getattr(settings, name)}" for name in ("epochs", "width")]
    flags += ["--prt=6", "--limit=200", "--shrink_every=1"]
    process = subprocess.Popen(
        [sys.executable, recipe.__file__, *flags], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "[1/2]" in line:
            break
    time.sleep(random.uniform(0.0, 8.0))
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    recipe.run(settings, out=tmp_path / "killed", **options)
    assert without_times(tmp_path / "killed") == without_times(tmp_path / "whole")
    assert not list((tmp_path / "killed").glob("*.backup"))


def imagenet_like(folder):
    """A prepared set with images of several sizes, as ImageNet has."""
    import tensorflow_datasets as tfds

    def examples():
        rng = np.random.default_rng(0)
        for index in range(120):
            shape = (int(rng.integers(224, 300)), int(rng.integers(224, 300)), 3)
            image = np.full(shape, 25 * (index % 10), "uint8")
            yield {"image": image, "label": index % 10}

    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "label": tfds.features.ClassLabel(num_classes=10),
        }
    )
    signature = {
        "image": tf.TensorSpec((None, None, 3), tf.uint8),
        "label": tf.TensorSpec((), tf.int64),
    }
    splits = {
        name: tf.data.Dataset.from_generator(examples, output_signature=signature)
        for name in ("train", "validation")
    }
    tfds.dataset_builders.store_as_tfds_dataset(
        name="small_imagenet",
        version="1.0.0",
        features=features,
        split_datasets=splits,
        data_dir=folder,
    )


def test_large_sets_are_read_while_they_are_used(
    recipe, settings, tmp_path, monkeypatch
):
    imagenet_like(tmp_path / "data")
    monkeypatch.setattr(recipe.tfc.data, "load", lambda *a, **k: pytest.fail("loaded"))
    streamed = dataclasses.replace(
        settings, dataset="small_imagenet", stream=224, epochs=2, limit=None,
        batch_size=40, width=0.1, model="vgg16", convolutions_only=True,
        augment="standard",
    )  # fmt: skip
    with pytest.raises(ValueError, match="argument `limit`"):
        recipe.open_data(dataclasses.replace(streamed, limit=10), tmp_path / "data")
    data = recipe.open_data(streamed, tmp_path / "data")
    assert (len(data.train), len(data.test), data.classes) == (119, 120, 10)
    for split, count in (("train", 119), ("test", 120)):
        labels = []
        for images, own in data.pipeline(split, batch_size=50, augment="standard"):
            assert images.shape[1:] == (224, 224, 3)
            np.testing.assert_allclose(  # an image is of one color, its label's
                np.median(images, axis=(1, 2, 3)), 25 * own.numpy() / 255, atol=0.02
            )
            labels += own.numpy().tolist()
        assert len(labels) == count
    streamed = dataclasses.replace(streamed, stream=32)
    recipe.run(
        streamed, variants=["pwt-l1"], rates=["0.5"], seeds=[0],
        out=tmp_path / "out", data_dir=tmp_path / "data", report=False,
    )  # fmt: skip
    (record,) = without_times(tmp_path / "out")
    assert record["pruned"] > 0.4
    assert record["training_macs"] == 119 * sum(record["history"]["training_macs"])
