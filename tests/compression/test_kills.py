"""Processes that are killed, and processes that get in each other's way."""

import json
import random
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

import tfcompress as tfc

KILLS = 10

RUN = """
import sys

import keras

import tfcompress as tfc

model, out, trials, storage = sys.argv[1:]
data = tfc.data.load("digits")
result = tfc.compress(
    keras.saving.load_model(model),
    (data.train.images, data.train.labels),
    (data.validation.images, data.validation.labels),
    budget=tfc.Budget(size=0.12, energy=0.2),
    methods=["filters", "weights", "tfcz"],
    products="skipped",
    epochs=4,
    trials=int(trials),
    storage=storage or None,
    out=out,
)
"""


@pytest.fixture(scope="module")
def digits_model(tmp_path_factory):
    keras.utils.set_random_seed(0)
    data = tfc.data.load("digits")
    model = tfc.zoo.lenet5(width=0.3, input_shape=(8, 8, 1))
    model.compile(
        keras.optimizers.Adam(2e-3),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    model.fit(data.train.images, data.train.labels, epochs=4, verbose=0)
    path = tmp_path_factory.mktemp("model") / "model.keras"
    model.save(path)
    return path


def start(model, out, trials=1, storage=""):
    arguments = [sys.executable, "-c", RUN, *map(str, (model, out, trials, storage))]
    return subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finished(process):
    text, _ = process.communicate()
    assert process.returncode == 0, text
    return text


def trials_of(out):
    return json.loads((out / "trials.json").read_text())


def assert_same_result(one, other):
    assert trials_of(one) == trials_of(other)
    assert (one / "model.tfcz").read_bytes() == (other / "model.tfcz").read_bytes()
    weights = [
        keras.saving.load_model(folder / "model.keras", compile=False).get_weights()
        for folder in (one, other)
    ]
    for a, b in zip(*weights, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_a_run_that_is_killed_at_random_moments_ends_as_if_it_had_not_been(
    digits_model, tmp_path
):
    """Two trials, each with filters and then single weights."""
    pytest.importorskip("optuna")
    whole = tmp_path / "whole"
    begin = time.monotonic()
    finished(start(digits_model, whole, trials=2))
    length = time.monotonic() - begin
    seed = random.randrange(10**6)
    print(f"a run takes {length:.0f} s; moments from seed {seed}")
    moments = random.Random(seed)
    kills = ends = 0
    while kills < KILLS:
        out = tmp_path / f"killed{ends}"
        process = start(digits_model, out, trials=2)
        try:
            process.wait(moments.uniform(0.1, 1.0) * length)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            kills += 1
            continue
        finished(process)
        assert_same_result(out, whole)
        ends += 1
    out = tmp_path / f"killed{ends}"
    finished(start(digits_model, out, trials=2))
    assert_same_result(out, whole)


@pytest.mark.slow
def test_two_processes_cannot_use_one_folder_and_can_share_a_search(
    digits_model, tmp_path
):
    pytest.importorskip("optuna")
    storage = f"sqlite:///{tmp_path / 'search.db'}"
    outs = [tmp_path / "a", tmp_path / "b"]
    processes = [start(digits_model, out, 4, storage) for out in outs]
    while not (outs[0] / "run.json").exists():
        time.sleep(0.1)
    intruder = start(digits_model, outs[0], 4, storage)
    text, _ = intruder.communicate()
    assert intruder.returncode != 0 and "argument `out`" in text
    for process in processes:
        finished(process)
    numbers = [trial["number"] for out in outs for trial in trials_of(out)]
    assert sorted(numbers) == [0, 1, 2, 3]


@pytest.mark.slow
def test_trials_on_ray_are_those_of_their_settings(digits_model, tmp_path):
    ray = pytest.importorskip("ray")
    pytest.importorskip("optuna")
    data = tfc.data.load("digits")
    train = (data.train.images, data.train.labels)
    validation = (data.validation.images, data.validation.labels)
    model = keras.saving.load_model(digits_model)
    arguments = {"budget": {"macs": 0.5}, "methods": ["filters"], "epochs": 2}
    arguments |= {"trials": 3, "verbose": 0}
    stream = data.pipeline("train", batch_size=32)
    with pytest.raises(TypeError, match="arrays, which can be sent"):
        tfc.compress(model, stream, validation, engine="ray", **arguments)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        out = tmp_path / "ray"
        result = tfc.compress(
            model, train, validation, engine="ray", out=out, **arguments
        )
    finally:
        ray.shutdown()
    assert [trial.number for trial in result.trials] == [0, 1, 2]
    assert all(trial.in_budget for trial in result.trials)
    # The first trial has the default settings, as without a search.
    here = tfc.compress(model, train, validation, **{**arguments, "trials": 1})
    assert here.trials[0].settings == result.trials[0].settings
    assert here.trials[0].figures == result.trials[0].figures
    assert here.trials[0].drop == pytest.approx(result.trials[0].drop, abs=0.02)
    # What a finished search left is read, not run again.
    again = tfc.compress(model, train, validation, out=out, **arguments)
    assert again.trials == result.trials
