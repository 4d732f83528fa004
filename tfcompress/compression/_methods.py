"""What the one call can do to a model, and in which order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tfcompress._checks import invalid

__all__ = ["FILES", "METHODS", "SINGLE", "STAGES", "STEERED", "WORDS", "check_methods"]

FILES = ("float16", "dynamic", "int8", "int4", "tfcz")

# What trains, in the order in which it is applied: whole blocks, whole channels,
# single weights, and then what they are multiplied with. Each keeps what the ones
# before it have removed.
STAGES = ("gates", "density", "filters", "weights", "admm", "drum")
SINGLE = ("weights", "admm")

# How far these go follows from the budget; how far the others go, from the data.
STEERED = ("filters", *SINGLE, "drum")

# Rounding comes last: zeros stay zeros on every grid.
METHODS = (*STAGES, "qat", *FILES)

WORDS = {
    "gates": "gates on residual branches",
    "density": "widths by activation density",
    "filters": "filters",
    "weights": "single weights",
    "admm": "single weights by ADMM",
    "drum": "approximate multipliers",
}


def check_methods(methods: Any) -> tuple[str, ...] | str:
    """Returns `methods` in the order of `METHODS`, or "auto".

    Raises:
        TypeError: if it is neither that nor a list.
        ValueError: if a name is unknown or there twice, or methods exclude each
            other.
    """
    if isinstance(methods, str) and methods == "auto":
        return "auto"
    expected = f"'auto' or a list of {', '.join(METHODS)}"
    if isinstance(methods, str) or not isinstance(methods, Sequence):
        raise TypeError(invalid("methods", expected, methods))
    unknown = [name for name in methods if name not in METHODS]
    if unknown or not methods or len(set(methods)) != len(methods):
        raise ValueError(invalid("methods", expected, list(methods)))
    given = list(methods)
    kinds = [name for name in given if name in FILES]
    if len(kinds) > 1:
        raise ValueError(invalid("methods", "at most one file format", given))
    if "qat" in given and "int8" not in given:
        raise ValueError(invalid("methods", "'int8' beside 'qat'", given))
    if set(SINGLE) <= set(given):
        raise ValueError(invalid("methods", "at most one of 'weights', 'admm'", given))
    if "drum" in given and set(kinds) - {"tfcz"}:
        raise ValueError(
            invalid(
                "methods",
                f"no {kinds[0]!r} beside 'drum', whose truncated weights rounding "
                "would change",
                given,
            )
        )
    return tuple(sorted(given, key=METHODS.index))
