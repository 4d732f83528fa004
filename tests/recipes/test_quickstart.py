import json
import subprocess
import sys

import keras
import pytest

import tfcompress as tfc

RESULTS = {
    "compressed.keras",
    "compressed_float32.tflite",
    "compressed_int8.tflite",
    "dense.keras",
    "report.html",
    "report.json",
}


@pytest.fixture(scope="module")
def quickstart(load_recipe):
    return load_recipe("quickstart")


def run(quickstart, out, **changes):
    arguments = {
        "dataset": "digits",
        "network": "lenet5",
        "rate": 0.5,
        "epochs": 2,
        "out": str(out),
        "data_dir": None,
        "seed": 3,
    }
    return quickstart.run(**{**arguments, **changes})


def figures(folder):
    """What a seed determines, that is everything but the time it took."""
    models = json.loads((folder / "report.json").read_text())["models"]
    return [
        (m["name"], m["metrics"]["accuracy"]["value"], m["parameters"], m["macs"])
        for m in models
    ]


def test_the_job_leaves_its_results_and_repeats_for_a_seed(quickstart, tmp_path):
    report = run(quickstart, tmp_path / "first")
    run(quickstart, tmp_path / "second")
    assert {path.name for path in (tmp_path / "first").iterdir()} == RESULTS
    assert figures(tmp_path / "first") == figures(tmp_path / "second")
    dense, compressed = report.models
    loaded = keras.saving.load_model(tmp_path / "first" / "compressed.keras")
    assert loaded.count_params() == compressed.parameters
    assert compressed.parameters < 0.4 * dense.parameters


def test_what_is_finished_stays_when_a_step_fails(quickstart, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("no converter")

    monkeypatch.setattr(tfc.export, "to_tflite", fail)
    with pytest.raises(RuntimeError, match="no converter"):
        run(quickstart, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "dense.keras",
        "compressed.keras",
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rate": 1.0}, "argument `schedule`"),
        ({"dataset": "no such set"}, "argument `name`"),
        ({"out": "/proc/no/folder"}, "argument `out`"),
    ],
)
def test_bad_input_is_refused_before_training(
    quickstart, tmp_path, change, message, monkeypatch
):
    monkeypatch.setattr(quickstart, "train", lambda *args: pytest.fail("trained"))
    with pytest.raises(ValueError, match=message):
        run(quickstart, **{"out": tmp_path, **change})


def test_the_script_refuses_what_it_cannot_read_in_one_line(quickstart, tmp_path):
    # As a user starts it: flags, and what surrounds every recipe, are there.
    result = subprocess.run(
        [sys.executable, quickstart.__file__, "--dataset=npz:nothing.npz",
         f"--out={tmp_path}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 1
    assert "quickstart.py: Invalid value for argument `name`" in result.stderr
    assert "Traceback" not in result.stderr
