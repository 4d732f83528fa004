"""What a compressed model may take."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tfcompress._checks import invalid

__all__ = ["FIGURES", "HERE", "Budget", "Figure"]

HERE = "this computer"


@dataclass(frozen=True)
class Figure:
    """One kind of figure that a budget limits.

    Attributes:
        name: its name in a `Budget`.
        unit: the unit that it is shown in.
        scale: how many of the base unit (bytes, joules, milliseconds, …) one of
            each suffix is.
        of_file: whether it is a figure of the exported file, not of the model.
    """

    name: str
    unit: str
    scale: Mapping[str, float]
    of_file: bool

    def show(self, value: float) -> str:
        """`value` with a prefix and the unit."""
        if self.unit in ("ms",):
            return f"{value:.3g} ms"
        if self.unit == "J":
            for prefix, factor in (("", 1), ("m", 1e-3), ("µ", 1e-6), ("n", 1e-9)):
                if abs(value) >= factor:
                    return f"{value / factor:.3g} {prefix}J"
            return f"{value:.3g} J"
        for prefix, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
            if abs(value) >= 10 * factor:
                return f"{value / factor:.4g} {prefix}{self.unit}".rstrip()
        return f"{value:,.0f} {self.unit}".rstrip()


# One kB is 1000 bytes, as for files; one KiB is 1024 bytes, as for memory.
_BYTES = {
    "": 1,
    "b": 1,
    "kb": 1e3,
    "mb": 1e6,
    "gb": 1e9,
    "kib": 1024,
    "mib": 1024**2,
    "gib": 1024**3,
}
_COUNT = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9}
_SECONDS = {"": 1, "ms": 1, "us": 1e-3, "µs": 1e-3, "s": 1e3}
_JOULES = {"j": 1, "mj": 1e-3, "uj": 1e-6, "µj": 1e-6, "nj": 1e-9}

FIGURES = {
    figure.name: figure
    for figure in (
        Figure("size", "B", _BYTES, True),
        Figure("macs", "", _COUNT, False),
        Figure("parameters", "", _COUNT, False),
        Figure("latency", "ms", _SECONDS, True),
        Figure("energy", "J", _JOULES, False),
        Figure("flash", "B", _BYTES, True),
        Figure("ram", "B", _BYTES, True),
    )
}
# Commas part thousands only: "1,5MB" is one and a half in many countries.
_WHOLE = r"[0-9]{1,3}(?:,[0-9]{3})+|[0-9][0-9_]*"
_TEXT = re.compile(rf"\s*((?:{_WHOLE})(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?)\s*([a-zµ%]*)\s*")


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Limits for a compressed model, several at once.

    Every figure is absolute or a fraction of the original's: a number in (0, 1]
    or a text that ends in "%" is a fraction, anything else is absolute. A text may
    carry a unit: "100kB" (1000 bytes each; "KiB" are 1024), "5M", "2.5ms", "40uJ".

    Example:

    ```python
    tfc.Budget(size="100kB", macs=0.4)
    tfc.Budget(flash="256kB", ram="64kB", target="microcontroller")
    ```

    Args:
        size: bytes of the exported file; a fraction is of the original's float32
            TFLite file. Defaults to `None`, no limit.
        macs: multiply–accumulates of one inference. Defaults to `None`.
        parameters: parameters of the model. Defaults to `None`.
        latency: time of one inference of the exported file in milliseconds:
            measured on this computer (the median), or told by the tool of the
            `target`. Defaults to `None`.
        energy: modeled energy of one inference, in joules, with a unit if it is
            absolute. Defaults to `None`.
        flash: bytes of read-only memory on the `target`. Defaults to `None`.
        ram: bytes of working memory on the `target`. Defaults to `None`.
        target: the device that `flash`, `ram` and `latency` are told for:
            `"this computer"`, or what `tfcompress.export.target` knows, such as
            `"microcontroller"` and `"ethos-u55-128"`. Defaults to `None`.

    Raises:
        TypeError: if a figure is neither a number nor a text.
        ValueError: if a figure cannot be read, nothing is limited, or `flash` or
            `ram` come without a target that has them.
    """

    size: float | str | None = None
    macs: float | str | None = None
    parameters: float | str | None = None
    latency: float | str | None = None
    energy: float | str | None = None
    flash: float | str | None = None
    ram: float | str | None = None
    target: str | None = None

    def __post_init__(self) -> None:
        for name in FIGURES:
            if getattr(self, name) is not None:
                _amount(FIGURES[name], getattr(self, name))
        if self.target is not None and (
            not isinstance(self.target, str) or not self.target
        ):
            raise TypeError(invalid("target", "a name or None", self.target))
        if not self.limited:
            names = ", ".join(FIGURES)
            raise ValueError(
                f"A budget limits at least one of {names}. Received: none of them."
            )
        for name in ("flash", "ram"):
            if name in self.limited and self.target in (None, HERE):
                raise ValueError(
                    f"Invalid value for argument `target`. Expected the name of a "
                    f"device, on which `{name}` is counted, such as "
                    f"'microcontroller'. Received: target={self.target!r}"
                )

    @property
    def limited(self) -> tuple[str, ...]:
        """Names of the figures that have a limit."""
        return tuple(name for name in FIGURES if getattr(self, name) is not None)

    def limit(self, name: str, original: float) -> float:
        """The limit of one figure, absolute.

        Args:
            name: a name in `limited`.
            original: the original model's figure.

        Returns:
            The limit in bytes, counts, milliseconds or joules.
        """
        amount, is_fraction = _amount(FIGURES[name], getattr(self, name))
        return amount * original if is_fraction else amount

    @property
    def fractions(self) -> tuple[str, ...]:
        """Names of the figures that are limited relative to the original."""
        return tuple(
            name
            for name in self.limited
            if _amount(FIGURES[name], getattr(self, name))[1]
        )

    def get_config(self) -> dict[str, Any]:
        """Returns what is limited, as `Budget(**config)` takes it."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if getattr(self, field.name) is not None
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Budget:
        """Makes a budget of what `get_config` returned.

        Args:
            config: figures by name.

        Raises:
            ValueError: if a name is unknown, or as the constructor does.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        for name in config:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                hint = f" Did you mean {close[0]!r}?" if close else ""
                raise ValueError(
                    f"Invalid value for argument `budget`. Expected figures among "
                    f"{', '.join(known)}. Received: {name!r}.{hint}"
                )
        return cls(**config)


def _amount(figure: Figure, given: Any) -> tuple[float, bool]:
    """(value in the base unit, whether it is a fraction)."""
    expected = (
        "a fraction in (0, 1] of the original's, or an absolute figure such as "
        f"{_EXAMPLES[figure.name]}"
    )
    if isinstance(given, bool) or not isinstance(given, int | float | str):
        raise TypeError(invalid(figure.name, expected, given))
    if isinstance(given, str):
        match = _TEXT.fullmatch(given.lower().replace("\N{GREEK SMALL LETTER MU}", "µ"))
        if not match:
            raise ValueError(invalid(figure.name, expected, given))
        value, unit = float(match[1].replace(",", "").replace("_", "")), match[2]
        if unit == "%":
            value, unit = value / 100, ""
            if not 0 < value <= 1:
                raise ValueError(invalid(figure.name, expected, given))
            return value, True
        if unit:
            if unit not in figure.scale or value <= 0:
                raise ValueError(invalid(figure.name, expected, given))
            return value * figure.scale[unit], False
        given_number = value
    else:
        given_number = float(given)
    # A bare number up to 1 is a fraction: nobody limits a model to one byte or one MAC.
    # Joules are the exception, since an inference takes far less than one; so an
    # absolute energy needs its unit ("40uJ"), and a larger bare number is refused.
    if not 0 < given_number < math.inf:
        raise ValueError(invalid(figure.name, expected, given))
    if given_number <= 1:
        return given_number, True
    if "" not in figure.scale:
        raise ValueError(invalid(figure.name, expected, given))
    return given_number, False


_EXAMPLES = {
    "size": "'100kB'",
    "macs": "'5M'",
    "parameters": "50_000",
    "latency": "'2.5ms'",
    "energy": "'40uJ'",
    "flash": "'256kB'",
    "ram": "'64kB'",
}
