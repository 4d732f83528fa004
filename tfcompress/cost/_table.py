"""Plain-text tables and numbers with prefixes."""

from __future__ import annotations

from collections.abc import Sequence

from tfcompress.structure._text import printable

__all__ = ["quantity", "table"]

_PREFIXES = {4: "T", 3: "G", 2: "M", 1: "k", 0: "", -1: "m", -2: "µ", -3: "n", -4: "p"}


def quantity(number: float, digits: int = 3) -> str:
    """A number with an SI prefix, ready for its unit: 626.4e6 -> "626 M"."""
    if number == 0:
        return "0 "
    exponent = 0
    size = abs(number)
    while size >= 999.5 and exponent < 4:
        size, exponent = size / 1000, exponent + 1
    while size < 0.9995 and exponent > -4 and not isinstance(number, int):
        size, exponent = size * 1000, exponent - 1
    sign = "-" if number < 0 else ""
    return f"{sign}{size:.{digits}g} {_PREFIXES[exponent]}"


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    total: Sequence[str] | None = None,
    *,
    left: int = 1,
) -> str:
    """A table; the first `left` columns are text, the others numbers."""
    rows = [[printable(cell) for cell in row] for row in rows]
    every = [head, *rows, *([total] if total else [])]
    widths = [max(len(row[i]) for row in every) for i in range(len(head))]

    def line(row: Sequence[str]) -> str:
        cells = (
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        return "  ".join(cells).rstrip()

    rule = "  ".join("-" * width for width in widths)
    lines = [line(head), rule, *map(line, rows)]
    return "\n".join([*lines, rule, line(total)] if total else lines)
