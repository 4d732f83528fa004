"""The pages on quantization work as they are written."""

import re
from pathlib import Path

import numpy as np
import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"


def run(page, folder, monkeypatch):
    text = (DOCS / page).read_text(encoding="utf-8")
    code = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    monkeypatch.chdir(folder)
    names = {}
    exec("\n".join(code).replace("epochs=5", "epochs=2"), names)
    return names


def test_quantization(tmp_path, monkeypatch, capsys):
    names = run("quantization.md", tmp_path, monkeypatch)
    printed = capsys.readouterr().out
    assert "4 bits" in printed
    assert "max difference" in printed
    assert len(np.unique(names["kernel"])) <= 16
    assert (names["kernel"] == 0).mean() > 0.75
    assert {"model.tflite", "calibrated.tflite"} <= {p.name for p in tmp_path.iterdir()}


@pytest.mark.parametrize("page", ["migrate_from_tfmot.md"])
def test_migration(page, tmp_path, monkeypatch):
    names = run(page, tmp_path, monkeypatch)
    kernel = np.asarray(names["model"].get_layer("fc1").kernel)
    # 2:4 along the inputs, and the zeros of before.
    assert (kernel == 0).mean() >= 0.5
    assert {"model.tflite", "small.tflite"} <= {p.name for p in tmp_path.iterdir()}
