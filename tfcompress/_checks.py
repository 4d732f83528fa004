"""Checks of arguments that many functions have in common.

One rule for the kind of the error: `TypeError` where the value is of another
kind (text for a number, one name for a list of names), `ValueError` where it is
of the right kind but not allowed (a fraction above 1, 1.5 for a whole number, an
unknown name). Numbers of NumPy are numbers; `True` and `False` are not.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import keras
import numpy as np

__all__ = [
    "callback_list",
    "flag",
    "fraction",
    "invalid",
    "name_list",
    "number",
    "one_of",
    "positive",
    "whole",
]


def invalid(name: str, expected: str, received: Any) -> str:
    """The message about a value that does not fit.

    Args:
        name: name of the caller's argument.
        expected: what would fit.
        received: what was passed for it.
    """
    return (
        f"Invalid value for argument `{name}`. Expected {expected}. "
        f"Received: {name}={received!r}"
    )


def whole(name: str, value: Any, least: int | None = 1) -> int:
    """Returns `value`, a whole number, as an int.

    Args:
        name: name of the caller's argument, for the message.
        value: what was passed for it.
        least: the smallest number that is accepted; `None` for any. Defaults to
            `1`.

    Raises:
        TypeError: if `value` is no number.
        ValueError: if it is not whole, or smaller.
    """
    expected = "an int" if least is None else f"an int of at least {least}"
    if not _is_number(value):
        raise TypeError(invalid(name, expected, value))
    if not isinstance(value, Integral) or (least is not None and value < least):
        raise ValueError(invalid(name, expected, value))
    return int(value)


def number(name: str, value: Any, least: float | None = 0.0) -> float:
    """Returns `value`, a finite number, as a float.

    Args:
        name: name of the caller's argument, for the message.
        value: what was passed for it.
        least: the smallest number that is accepted; `None` for any. Defaults to
            `0.0`.

    Raises:
        TypeError: if `value` is no number.
        ValueError: if it is smaller or not finite.
    """
    return _within(
        name,
        value,
        "a finite number" if least is None else f"a number of at least {least:g}",
        -math.inf if least is None else least,
        math.inf,
    )


def positive(name: str, value: Any) -> float:
    """Returns `value`, a finite number above 0, as a float.

    Args:
        name: name of the caller's argument, for the message.
        value: what was passed for it.

    Raises:
        TypeError: if `value` is no number.
        ValueError: if it is not positive or not finite.
    """
    return _within(name, value, "a number above 0", math.ulp(0.0), math.inf)


def fraction(
    name: str, value: Any, *, zero: bool = False, one: bool = True, what: str = ""
) -> float:
    """Returns `value`, a number between 0 and 1, as a float.

    Args:
        name: name of the caller's argument, for the message.
        value: what was passed for it.
        zero: whether 0 is accepted. Defaults to `False`.
        one: whether 1 is accepted. Defaults to `True`.
        what: what else is accepted, for the message, such as `" or None"`.
            Defaults to none.

    Raises:
        TypeError: if `value` is no number.
        ValueError: if it lies outside.
    """
    low, high = "[" if zero else "(", "]" if one else ")"
    expected = f"a fraction in {low}0, 1{high}{what}"
    return _within(
        name,
        value,
        expected,
        0.0 if zero else math.ulp(0.0),
        1.0 if one else math.nextafter(1.0, 0.0),
    )


def one_of(name: str, value: Any, allowed: Sequence[Any]) -> Any:
    """Returns `value`, one of the texts (and perhaps `None`) in `allowed`.

    Args:
        name: name of the caller's argument, for the message.
        value: what was passed for it.
        allowed: what is accepted.

    Raises:
        TypeError: if `value` is no text.
        ValueError: if it is another one.
    """
    if value is None and None in allowed:
        return value
    expected = f"one of {', '.join(map(repr, allowed))}"
    if not isinstance(value, str):
        raise TypeError(invalid(name, expected, value))
    if value not in allowed:
        raise ValueError(invalid(name, expected, value))
    return value


def flag(name: str, value: Any) -> bool:
    """Returns `value`, `True` or `False`.

    Args:
        name: name of the caller's argument, for the message.
        value: what was passed for it.

    Raises:
        TypeError: if `value` is neither: `"False"` would count as true.
    """
    if not isinstance(value, bool | np.bool_):
        raise TypeError(invalid(name, "True or False", value))
    return bool(value)


def name_list(name: str, value: Any) -> tuple[str, ...]:
    """Returns `value`, a collection of names, as a tuple.

    Args:
        name: name of the caller's argument, for the message.
        value: what was passed for it.

    Raises:
        TypeError: if `value` is one name, or holds something that is no name.
    """
    if isinstance(value, Iterable) and not isinstance(value, str):
        listed = tuple(value)
        if all(isinstance(entry, str) for entry in listed):
            return listed
    raise TypeError(invalid(name, "a list of names", value))


def callback_list(name: str, value: Any) -> list[keras.callbacks.Callback]:
    """Returns `value`, a collection of Keras callbacks, as a list.

    Args:
        name: name of the caller's argument, for the message.
        value: what was passed for it.

    Raises:
        TypeError: if `value` is one callback, or holds something that is none.
    """
    if not isinstance(value, Iterable) or isinstance(value, str | Mapping):
        raise TypeError(invalid(name, "a list of callbacks", value))
    value = list(value)
    if not all(isinstance(entry, keras.callbacks.Callback) for entry in value):
        raise TypeError(invalid(name, "a list of callbacks", value))
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _within(name: str, value: Any, expected: str, low: float, high: float) -> float:
    """Returns `value` as a float if it is finite and in [low, high]."""
    if not _is_number(value):
        raise TypeError(invalid(name, expected, value))
    try:
        converted = float(value)
    except OverflowError:  # an int beyond the largest float
        converted = math.inf
    # Written so that NaN fails, too.
    if not (low <= converted <= high and math.isfinite(converted)):
        raise ValueError(invalid(name, expected, value))
    return converted
