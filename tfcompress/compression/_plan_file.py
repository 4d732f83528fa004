"""A plan as a TOML file, to repeat a run with."""

from __future__ import annotations

import difflib
import inspect
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tfcompress import _toml
from tfcompress._checks import invalid
from tfcompress._files import write_atomic
from tfcompress.compression._budget import Budget

__all__ = ["read_plan", "write_plan"]

# Arguments that a plan cannot hold: objects, and where a run takes place.
_NO_KEYS = {
    "model",
    "train",
    "validation",
    "teacher",
    "callbacks",
    "out",
    "storage",
    "engine",
}


def write_plan(path: Path, plan: Mapping[str, Any]) -> None:
    """Writes arguments of `compress` as TOML.

    Args:
        path: the file.
        plan: numbers, texts, lists of texts, and the budget as a dict; `None`
            leaves an argument out.
    """
    lines = ["# tfcompress compress MODEL --data DATA --plan plan.toml"]
    tables = []
    for name, value in plan.items():
        if isinstance(value, Mapping):
            tables.append(f"\n[{name}]")
            tables += [f"{key} = {_value(v)}" for key, v in value.items()]
        elif value is not None:
            lines.append(f"{name} = {_value(value)}")
    write_atomic(path, "\n".join([*lines, *tables]) + "\n")


def read_plan(
    path: str | os.PathLike[str], function: Callable[..., Any]
) -> dict[str, Any]:
    """Reads a plan as keyword arguments of `compress`.

    Args:
        path: the file.
        function: `compress`.

    Returns:
        Arguments by name, with a `Budget`.

    Raises:
        ValueError: if the file cannot be read, is no TOML, or has keys that
            `compress` does not have.
    """
    file = Path(path)
    try:
        plan = _toml.read(file)
    except OSError as error:
        raise ValueError(
            invalid("plan", "a TOML file", str(path)) + f" ({error.strerror})"
        ) from error
    except ValueError as error:
        raise ValueError(
            invalid("plan", "a TOML file", str(path)) + f" ({error})"
        ) from error
    known = [
        name for name in inspect.signature(function).parameters if name not in _NO_KEYS
    ]
    for name in plan:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ValueError(
                f"Invalid value for argument `plan`. Expected keys among "
                f"{', '.join(known)}. Received: {name!r} in {str(path)!r}.{hint}"
            )
    if "budget" in plan:
        if not isinstance(plan["budget"], dict):
            raise ValueError(invalid("plan", "a table [budget]", plan["budget"]))
        plan["budget"] = Budget.from_config(plan["budget"])
    return plan


def _value(value: Any) -> str:
    # JSON's texts, numbers, booleans and lists of them are TOML, too.
    return json.dumps(value, ensure_ascii=False)
