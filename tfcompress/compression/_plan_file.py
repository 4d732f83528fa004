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

__all__ = ["add_command", "read_command", "read_plan", "write_plan"]

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
# Flags of the command line that decide a result, and are no arguments of `compress`.
_COMMAND = {"augment": str, "loss": str, "scale": str, "skip_broken": bool}


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


def add_command(path: Path, flags: Mapping[str, Any]) -> None:
    """Adds to a plan what the command line was told beside it.

    Args:
        path: the file, as `write_plan` leaves it.
        flags: values by name; `None` and `False` leave a flag out.
    """
    lines = [f"{name} = {_value(value)}" for name, value in flags.items() if value]
    if lines:
        text = path.read_text("utf-8")
        write_atomic(path, "\n".join([text, "[command]", *lines]) + "\n")


def read_command(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads what `add_command` has added to a plan.

    Args:
        path: the file.

    Returns:
        Values by name.

    Raises:
        ValueError: if the file cannot be read, is no TOML, or has other flags.
    """
    flags = _read(path).get("command", {})
    if not isinstance(flags, dict):
        raise ValueError(invalid("plan", "a table [command]", flags))
    for name, value in flags.items():
        if not isinstance(value, _COMMAND.get(name, ())):
            expected = ", ".join(f"{key} ({t.__name__})" for key, t in _COMMAND.items())
            raise ValueError(
                f"Invalid value for argument `plan`. Expected in [command] only "
                f"{expected}. Received: {name} = {value!r} in {str(path)!r}"
            )
    return flags


def read_plan(
    path: str | os.PathLike[str], function: Callable[..., Any]
) -> dict[str, Any]:
    """Reads a plan as keyword arguments of `compress`.

    A table `[command]` is left out: it tells the command line how the data were read.

    Args:
        path: the file.
        function: `compress`.

    Returns:
        Arguments by name, with a `Budget`.

    Raises:
        ValueError: if the file cannot be read, is no TOML, or has keys that
            `compress` does not have.
    """
    plan = _read(path)
    plan.pop("command", None)
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


def _read(path: str | os.PathLike[str]) -> dict[str, Any]:
    file = Path(path)
    try:
        return _toml.read(file)
    except OSError as error:
        raise ValueError(
            invalid("plan", "a TOML file", str(path)) + f" ({error.strerror})"
        ) from error
    except ValueError as error:
        raise ValueError(
            invalid("plan", "a TOML file", str(path)) + f" ({error})"
        ) from error


def _value(value: Any) -> str:
    # JSON's texts, numbers, booleans and lists of them are TOML, too.
    return json.dumps(value, ensure_ascii=False)
