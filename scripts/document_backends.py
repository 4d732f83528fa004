"""Writes the table of backends and devices in docs/scaling.md from the tests.

A cell stands for tests that `tests.callbacks.contract.proves` marks, one for each
method at least. A cell without a test is an error.

Usage: python scripts/document_backends.py [--check]

With --check nothing is written; the exit status says whether the page is up to date.
"""

import importlib
import inspect
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

PAGE = ROOT / "docs" / "scaling.md"
START, END = "<!-- methods: generated -->", "<!-- end of generated part -->"
MODULES = ("test_contract", "test_devices", "test_backends")
# Method, place -> outcome and number of tests.
Cells = dict[tuple[str, str], tuple[str, int]]


def marked() -> Iterator[object]:
    """The tests that prove something."""
    for name in MODULES:
        module = importlib.import_module(f"tests.callbacks.{name}")
        for _, test in inspect.getmembers(module, inspect.isfunction):
            if hasattr(test, "proves"):
                yield test


def cells() -> Cells:
    """What each test proves, for each value of its parameter `case`."""
    found: Cells = {}
    for test in marked():
        values = {
            mark.args[0]: list(mark.args[1])
            for mark in test.pytestmark
            if mark.name == "parametrize"
        }
        cases = values.pop("case")
        number = math.prod(map(len, values.values()))
        places, outcome = test.proves
        for case in cases:
            for place in places:
                known, before = found.get((case, place), (outcome, 0))
                assert known == outcome, f"{case}, {place}: {known} and {outcome}"
                found[case, place] = (outcome, before + number)
    return found


def generated() -> str:
    """The generated part of the page."""
    contract = importlib.import_module("tests.callbacks.contract")
    methods, places = list(contract.CASES), contract.PLACES
    found = cells()
    missing = [(m, p) for m in methods for p in places if (m, p) not in found]
    if missing:
        raise ValueError(f"These cells have no test: {missing}")
    lines = [
        "| method | " + " | ".join(places) + " |",
        "|---" * (1 + len(places)) + "|",
    ]
    for method in methods:
        row = []
        for place in places:
            outcome, number = found[method, place]
            plural = "s" if number > 1 else ""
            row.append(outcome if outcome == "refused" else f"{number} test{plural}")
        lines.append(f"| `{method}` | " + " | ".join(row) + " |")
    return "\n".join(["", *lines, ""])


def page(text: str) -> str:
    """The whole page with its generated part renewed."""
    before, rest = text.split(START)
    _, after = rest.split(END)
    return f"{before}{START}\n{generated()}\n{END}{after}"


def main() -> int:
    """Writes or checks the page."""
    text = PAGE.read_text(encoding="utf-8")
    renewed = page(text)
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(renewed, encoding="utf-8")
    elif text != renewed:
        print(f"{PAGE.name} is out of date: run scripts/document_backends.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
