"""Writes the table of operations in docs/structure.md from the engine's rules.

Usage: python scripts/document_structure.py [--check]

With --check nothing is written; the exit status says whether the page is up to
date.
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras

from tfcompress.structure.rules import rules

PAGE = Path(__file__).resolve().parents[1] / "docs" / "structure.md"
START, END = "<!-- operations: generated -->", "<!-- end of generated part -->"
PROBED = "probed"
PROBE_LAYER = "no rule: channel-wise if it has no weights and the probe proves it"
PROBE_OP = "no rule: channel-wise if it takes one tensor and the probe proves it"


def layer_names() -> list[str]:
    """Every public layer class, without bases and preprocessing utilities."""
    found: dict[type, str] = {}
    for name in sorted(dir(keras.layers)):
        value = getattr(keras.layers, name)
        if isinstance(value, type) and issubclass(value, keras.Layer):
            # Aliases (Convolution2D) give the class' own name.
            found.setdefault(value, value.__name__)
    skipped = {"Layer", "Wrapper", "InputLayer"}
    return sorted(set(found.values()) - skipped)


def operation_names() -> list[str]:
    """Every operation class behind `keras.ops`."""
    found: set[str] = set()
    pending = [keras.Operation]
    while pending:
        for cls in pending.pop().__subclasses__():
            if issubclass(cls, keras.Layer):
                continue
            pending.append(cls)
            if cls.__module__.startswith("keras.src.ops."):
                found.add(cls.__name__)
    return sorted(found - {"Function"})


def table(title: str, names: list[str], prefix: str, fallback: str) -> list[str]:
    """Markdown rows for `names`."""
    known = rules()
    lines = [f"| {title} | channels are | how |", "| --- | --- | --- |"]
    for name in names:
        rule = known.get(prefix + name)
        kind, note = (rule.kind, rule.note) if rule else (PROBED, fallback)
        lines.append(f"| `{name}` | {kind} | {note} |")
    return lines


def generated() -> str:
    """The generated part of the page."""
    version = ".".join(keras.__version__.split(".")[:2])
    lines = ["", f"As of Keras {version}.", "", "### Layers", ""]
    lines += table("layer", layer_names(), "keras.layers.", PROBE_LAYER)
    lines += ["", "### Operations of `keras.ops`", ""]
    lines += table("operation", operation_names(), "keras.ops: ", PROBE_OP)
    return "\n".join([*lines, ""])


def page(text: str) -> str:
    """The whole page with its generated part renewed."""
    before, rest = text.split(START)
    _, after = rest.split(END)
    return f"{before}{START}\n{generated()}\n{END}{after}"


def main() -> int:
    """Writes or checks the page."""
    text = PAGE.read_text()
    renewed = page(text)
    if "--check" in sys.argv[1:]:
        if text != renewed:
            print(f"{PAGE.name} is out of date: run scripts/document_structure.py")
            return 1
        return 0
    PAGE.write_text(renewed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
