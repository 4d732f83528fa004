"""Every example runs, in a folder of its own, for an epoch."""

import os
import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda p: p.stem)
def test_the_example_runs(path, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("EPOCHS", "1")
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(path), run_name="__main__")
    printed = capsys.readouterr().out
    assert "accuracy" in printed or "%" in printed


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda p: p.stem)
def test_the_example_is_short_and_says_what_it_is(path):
    text = path.read_text(encoding="utf-8")
    assert text.startswith('"""')
    assert len(text.splitlines()) <= 50
    # People copy it: public names only.
    assert "tfc._" not in text and "tfcompress._" not in text


def test_every_method_has_an_example():
    import tfcompress as tfc

    methods = {name for name in tfc.callbacks.__all__ if name != "CompressionMetrics"}
    used = "".join(path.read_text(encoding="utf-8") for path in EXAMPLES.glob("*.py"))
    # Of these the drivers are what people use.
    drivers = {"ADMM": "admm_compress", "ActivationDensity": "resize_by_density"}
    missing = {name for name in methods if drivers.get(name, name) not in used}
    assert not missing, f"no example uses {missing}"
    assert os.environ.get("EPOCHS") is None
