import json

import keras
import pytest


@pytest.fixture(scope="module")
def combine(load_recipe):
    return load_recipe("combine")


def row(name, accuracy, size, energy):
    return {"name": name, "accuracy": accuracy, "bytes": size, "energy": energy}


def test_the_plan_orders_filters_before_weights_before_bits(combine):
    jobs = combine.plan(combine.PRESETS["quick"], [0, 1])
    names = [job.name for job in jobs if job.seed == 0]
    assert len(names) == len(set(names)) >= 12
    assert "filters 0.4 + weights 0.2 + bits 4" in names
    for job in jobs:
        order = [part.split()[0] for part in job.name.split(" + ")]
        assert order == sorted(
            order, key=["dense", "dense,", "filters", "weights", "bits"].index
        )
    # Every step comes after the one that it goes on from.
    keys = [job.key for job in jobs]
    for place, job in enumerate(jobs):
        assert job.source is None or keys.index(job.source) < place


def test_to_dominate_is_to_be_better_in_all_respects(combine):
    one = row("one", 0.9, 100, 1.0)
    assert combine.dominates(row("two", 0.9, 50, 0.5), one)
    assert not combine.dominates(row("two", 0.9, 50, 2.0), one)
    assert not combine.dominates(row("two", 0.8, 50, 0.5), one)
    assert not combine.dominates(one, one)


def test_all_methods_make_the_network_smaller(combine, tmp_path):
    settings = combine.dataclasses.replace(
        combine.PRESETS["quick"],
        epochs=2,
        batch_size=128,
        rates=(0.5,),
        keep=(0.2,),
        bits=(4,),
    )
    options = {"out": tmp_path, "data_dir": None, "report": False}
    rows = combine.run(settings, seeds=[0], **options)
    size = {row["name"]: row["bytes"] for row in rows}
    assert size["filters 0.5"] < 0.5 * size["dense"]
    assert size["weights 0.2"] < 0.5 * size["dense"]
    assert size["bits 4"] < 0.3 * size["dense"]
    assert size["filters 0.5 + weights 0.2 + bits 4"] == min(size.values())
    assert json.loads((tmp_path / "results.json").read_text())
    # The levels: at most 2^4 values and zero, in every kernel.
    last = combine.Step(name="filters 0.5 + weights 0.2 + bits 4", seed=0)
    small = keras.saving.load_model(tmp_path / f"{last.key}.keras", compile=False)
    kernel = keras.ops.convert_to_numpy(small.get_layer("fc1").kernel)
    assert len(set(kernel.ravel().tolist())) <= 17
    # A second run finds everything.
    assert combine.run(settings, seeds=[0], **options) == rows
