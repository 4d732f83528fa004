"""Every example runs, in a folder of its own, for an epoch, as a notebook does."""

import ast
import importlib.util
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="module")
def make_notebooks():
    pytest.importorskip("jupytext")
    script = ROOT / "scripts" / "make_notebooks.py"
    spec = importlib.util.spec_from_file_location("make_notebooks", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def code_of(notebook):
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda p: p.stem)
def test_the_example_runs(path, make_notebooks, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("EPOCHS", "1")
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    # Cell by cell. Next to each other they are the script, as the next test says.
    for number, cell in enumerate(code_of(make_notebooks.notebook(path))):
        exec(compile(cell, f"{path.name}, cell {number}", "exec"), names)
    printed = capsys.readouterr().out
    assert "accuracy" in printed or "%" in printed


def test_every_example_is_a_notebook_of_the_same_code(make_notebooks):
    scripts = make_notebooks.examples()
    assert len({make_notebooks.name(script) for script in scripts}) == len(scripts)
    for script in scripts:
        notebook = make_notebooks.notebook(script)
        text, *code = notebook.cells
        tree = ast.parse(script.read_text(encoding="utf-8"))
        assert text.cell_type == "markdown"
        assert text.source == ast.get_docstring(tree)
        assert len(code) >= 3, f"{script.name} is one long cell"
        # Each cell stands by itself, and together they are the script.
        cells = [node for cell in code_of(notebook) for node in ast.parse(cell).body]
        assert [ast.dump(n) for n in cells] == [ast.dump(n) for n in tree.body[1:]]


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda p: p.stem)
def test_the_example_is_short_and_says_what_it_is(path):
    text = path.read_text(encoding="utf-8")
    assert text.startswith('# %% [markdown]\n"""')
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
