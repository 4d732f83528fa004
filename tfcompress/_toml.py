"""TOML files of users, read within bounds."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

__all__ = ["parse", "read"]

_MOST_BYTES = 1 << 16
# The time for a dotted key grows with the square of its parts.
_LONGEST_LINE = 2000


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads a TOML file that a person may have written.

    Args:
        path: the file.

    Returns:
        The table.

    Raises:
        OSError: if it cannot be read.
        ValueError: saying what is wrong; if it is no TOML, or too large, too wide
            or too deep.
    """
    with Path(path).open("rb") as file:
        return parse(file.read(_MOST_BYTES + 1).decode("utf-8"))


def parse(text: str) -> dict[str, Any]:
    """Reads TOML, as `read` does.

    Args:
        text: the content of a file.
    """
    if len(text) > _MOST_BYTES:
        raise ValueError(f"there are more than {_MOST_BYTES} characters")
    if max(map(len, text.splitlines()), default=0) > _LONGEST_LINE:
        raise ValueError(f"a line has more than {_LONGEST_LINE} characters")
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("tables or lists are nested too deeply") from error
