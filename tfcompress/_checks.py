"""Checks of arguments that many functions have in common."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["number", "whole"]


def whole(name: str, value: Any, least: int = 1) -> int:
    """Returns `value`, an int.

    Args:
        name: name of the caller's argument, for the message.
        value: what was passed for it.
        least: the smallest int that is accepted. Defaults to `1`.

    Raises:
        ValueError: if `value` is no int, or smaller.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected an int of at least "
            f"{least}. Received: {name}={value!r}"
        )
    return value


def number(name: str, value: Any) -> float:
    """Returns `value`, a finite number that is not negative, as a float.

    Args:
        name: name of the caller's argument, for the message.
        value: what was passed for it.

    Raises:
        TypeError: if `value` is no number.
        ValueError: if it is negative or not finite.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(
            f"Invalid value for argument `{name}`. Expected a number. "
            f"Received: {name}={value!r}"
        )
    if not 0 <= value < math.inf:
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected a number of at least 0. "
            f"Received: {name}={value!r}"
        )
    return float(value)
