"""Writes the examples as Jupyter notebooks, without outputs.

A line `# %%` in an example begins a cell; the text above the code is the first one.
Jupyter opens the examples themselves, too, where jupytext is installed.

Usage: python scripts/make_notebooks.py [--out build/notebooks]
"""

import argparse
from pathlib import Path
from typing import Any

import jupytext
import nbformat

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"


def examples() -> list[Path]:
    """The scripts that become notebooks."""
    return sorted([*EXAMPLES.glob("*.py"), *EXAMPLES.glob("reports/*.py")])


def notebook(script: Path) -> Any:
    """The notebook of a script: an `nbformat` version 4 node.

    Cells are numbered, so that the same script gives the same file.
    """
    made = jupytext.reads(script.read_text(encoding="utf-8"), fmt="py:percent")
    for number, cell in enumerate(made.cells):
        cell["id"] = f"{script.stem}-{number}"
    made.metadata = nbformat.from_dict(
        {
            "kernelspec": {
                "display_name": "Python 3",
                "language": "python",
                "name": "python3",
            },
            "language_info": {"name": "python"},
        }
    )
    nbformat.validate(made)
    return made


def name(script: Path) -> str:
    """The notebook's file: `reports/classifier.py` is `report_classifier.ipynb`."""
    prefix = "report_" if script.parent != EXAMPLES else ""
    return f"{prefix}{script.stem}.ipynb"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "notebooks")
    folder = parser.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)
    for script in examples():
        nbformat.write(notebook(script), folder / name(script))
        print(folder / name(script))


if __name__ == "__main__":
    main()
