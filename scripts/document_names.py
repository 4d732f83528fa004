"""Writes a table of all public names: what each does, and which page explains it.

The site's build adds it as reference/names.md; nothing is imported, so it is quick.

Usage: python scripts/document_names.py
"""

import functools
import re
from pathlib import Path

import griffe

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
# Pages that mention many names without explaining them.
LISTS = {
    "faq",
    "index",
    "results",
    "status",
    "examples",
    "licenses",
    "scaling",
    "choose",
}
# Where to look for names that no page has in so many words.
HOMES = {
    "compression": "compress.md",
    "cost": "cost.md",
    "criteria": "pruning_while_training.md",
    "export": "export.md",
    "gates": "green_ai_gating.md",
    "ops": "drum.md",
    "quantization": "quantization.md",
    "report": "report.md",
    "structure": "structure.md",
}
BEGINNING = """# All names

Every public function and class of `tfcompress`, with the page that says most about it.
Arguments, defaults and errors are in the reference, behind the name.

| name | what it is | explained in |
|---|---|---|
"""


@functools.cache
def pages() -> dict[str, str]:
    """Text of the pages that explain, by path below docs/."""
    found = [*DOCS.glob("*.md"), *DOCS.glob("guides/*.md")]
    return {
        str(path.relative_to(DOCS)): path.read_text(encoding="utf-8")
        for path in sorted(found)
        if path.stem not in LISTS
    }


def explained(part: str, name: str) -> str:
    """The page that names it most often, as a link; "" where none does.

    A guide uses many parts, so that it counts half.
    """
    # As code only: `count` alone is a word of English.
    exact = re.compile(rf"\b{part}\.{name}\b|`{name}[`(]|\b{name}\(")
    counts = {
        path: len(exact.findall(text)) / (2 if path.startswith("guides/") else 1)
        for path, text in pages().items()
    }
    best = max(counts, key=lambda path: counts[path])
    if not counts[best]:
        if part not in HOMES:
            return ""
        best = HOMES[part]
    title = pages()[best].splitlines()[0].removeprefix("# ").replace("`", "")
    return f"[{title}](../{best})"


def rows(package: griffe.Module, part: str) -> list[str]:
    """Lines of the table for the names of one part."""
    lines = []
    module = package[part]
    page = (DOCS / "reference" / f"{part}.md").read_text(encoding="utf-8")
    only = re.search(r"members: \[(.*)\]", page)
    listed = only[1].split(", ") if only else module.exports or ()
    for name in sorted(map(str, listed), key=str.lower):
        item = module[name]
        item = item.final_target if item.is_alias else item
        if not (item.is_class or item.is_function) or item.docstring is None:
            continue
        summary = " ".join(item.docstring.value.split("\n\n")[0].split())
        summary = summary.rstrip(".").replace("|", "\\|")
        link = f"[`{part}.{name}`]({part}.md#tfcompress.{part}.{name})"
        lines.append(f"| {link} | {summary} | {explained(part, name)} |")
    return lines


def table() -> str:
    """The page, in Markdown."""
    package = griffe.load("tfcompress", search_paths=[ROOT], allow_inspection=False)
    parts = sorted(
        path.stem for path in (DOCS / "reference").glob("*.md") if path.stem != "index"
    )
    lines = [line for part in parts for line in rows(package, part)]
    return BEGINNING + "\n".join(lines) + "\n"


def main() -> None:
    print(table())


if __name__ == "__main__":
    main()
