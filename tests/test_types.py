"""What a type checker knows of the package in a user's script."""

import subprocess
import sys
from pathlib import Path

import pytest

import tfcompress

ROOT = Path(__file__).resolve().parents[1]

SCRIPT = """
import keras

import tfcompress as tfc

model: keras.Model = tfc.zoo.lenet5()
schedule = tfc.schedules.Linear(0.0, 0.6, begin=0, end=20)
good = tfc.callbacks.FilterPruning(schedule, criterion="l2", multiple_of=8)
misspelled = tfc.callbacks.FilterPruning(schedule, criterium="l2")
artifact = tfc.export.to_tflite(tfc.finalize(model), "m.tflite", quantization=8)
budget = tfc.Budget(sice="100kB")
absent = tfc.prune
reveal_type(artifact.bytes)
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """What mypy says of lines of the script, by their left-hand sides."""
    pytest.importorskip("mypy")
    script = tmp_path_factory.mktemp("types") / "script.py"
    script.write_text(SCRIPT)
    # Run where the package is checked itself, whose cache makes this fast.
    command = [sys.executable, "-m", "mypy", "--no-error-summary", str(script)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert not result.stderr
    found: dict[str, str] = {}
    for line in result.stdout.splitlines():
        place, _, message = line.partition(": ")
        assert "script.py" in place, line
        left = SCRIPT.splitlines()[int(place.rsplit(":", 1)[1]) - 1].split(" =")[0]
        found[left] = found.get(left, "") + message
    return found


def test_right_calls_pass(answers):
    assert set(answers) == {
        "misspelled",
        "artifact",
        "budget",
        "absent",
        "reveal_type(artifact.bytes)",
    }


def test_misspelled_arguments_are_errors(answers):
    assert 'Unexpected keyword argument "criterium"' in answers["misspelled"]
    assert 'Unexpected keyword argument "sice"' in answers["budget"]


def test_wrong_types_and_unknown_names_are_errors(answers):
    assert "incompatible type" in answers["artifact"]
    assert 'has no attribute "prune"' in answers["absent"]


def test_results_have_types(answers):
    assert '"int"' in answers["reveal_type(artifact.bytes)"]


def test_every_lazy_name_is_imported_for_type_checkers():
    source = Path(tfcompress.__file__).read_text(encoding="utf-8")
    for name in tfcompress._SUBMODULES:
        assert f"        {name},\n" in source
