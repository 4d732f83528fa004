"""Numbers and names as words: prefixes, units, names that fit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

__all__ = ["prefix", "quantity", "short_names", "shorten", "spoken", "step"]

_INITIALS = ("auc", "iou", "mae", "mape", "mse", "msle", "psnr", "rmse", "ssim")


def prefix(value: float, unit: str = "") -> tuple[int, str]:
    """Power of ten and SI prefix that suit `value`; never below one for counts."""
    symbols = {
        -15: "f", -12: "p", -9: "n", -6: "µ", -3: "m",
        0: "", 3: "k", 6: "M", 9: "G", 12: "T", 15: "P",
    }  # fmt: skip
    if value == 0:
        return 0, ""
    # Rounding first: 999.9 shows as 1000, which belongs to the next prefix.
    exponent = 3 * math.floor(math.log10(float(f"{abs(value):.2e}")) / 3)
    exponent = min(max(exponent, -15 if unit else 0), 15)
    return exponent, symbols[exponent]


def quantity(value: float, unit: str = "") -> str:
    """Three significant digits with an SI prefix: `quantity(4.3e-7, "J")`."""
    exponent, symbol = prefix(value, unit)
    return f"{value / 10**exponent:.3g} {symbol}{unit}".rstrip()


def shorten(text: str, limit: int) -> str:
    """`text` on one line, with its middle left out where it is too long."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    if len(line) <= limit:
        return line
    head = (limit - 1) * 2 // 3
    return line[:head] + "…" + line[len(line) - (limit - 1 - head) :]


def spoken(name: str) -> str:
    """Name of a metric as words: `"val_mae"` is `"val MAE"`."""
    words = name.split("_")
    return " ".join(word.upper() if word in _INITIALS else word for word in words)


def short_names(names: list[str], limit: int) -> dict[str, str]:
    """A short and still unique name for each of `names`."""
    result: dict[str, str] = {}
    for name in names:
        short, number = shorten(name, limit) or "(unnamed)", 1
        while short in result.values():
            number += 1
            mark = f" ({number})"
            short = shorten(name, limit - len(mark)) + mark
        result[name] = short
    return result


def step(record: Mapping[str, Any]) -> str:
    """One step of how a model was made: `"Pruning(rate=0.6), epochs: 30"`."""
    text = str(record.get("method", "step"))
    config = record.get("config")
    if config:
        text += f"({_words(config)})" if isinstance(config, Mapping) else f"({config})"
    details = [
        f"{key}: {_words(value)}"
        for key, value in record.items()
        if key not in ("method", "config") and value not in (None, "", {}, [])
    ]
    return shorten(", ".join([text, *details]), 1000)


def _words(value: Any) -> str:
    """A value of a configuration, objects as they would be written in Python."""
    if isinstance(value, Mapping):
        if "class_name" in value:  # an object as Keras serializes it
            inner = value.get("config") or {}
            arguments = _words(inner) if isinstance(inner, Mapping) else str(inner)
            return f"{value['class_name']}({arguments})"
        given = {k: v for k, v in value.items() if v is not None and v != []}
        return ", ".join(f"{key}={_words(item)}" for key, item in given.items())
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_words, value))}]"
    return str(value)
