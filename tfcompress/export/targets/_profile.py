"""A target of the user's own: which tool, and how much there is."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any

from tfcompress import _toml
from tfcompress.export.targets._figures import COMPUTED, Check, TargetFigures
from tfcompress.export.targets._program import Operator, dominant

__all__ = ["TargetProfile", "load_profile"]

_NUMBERS = (
    "flash",
    "ram",
    "latency_ms",
    "energy_uj",
    "macs_per_second",
    "energy_pj_per_mac",
)


@dataclass(frozen=True)
class TargetProfile:
    """A board: how its figures are found, and what a model may take of it.

    Example:

    ```toml
    name = "sensor node"
    target = "microcontroller"
    flash = 131072             # bytes for the model
    ram = 32768                # bytes for the tensor arena
    latency_ms = 50
    macs_per_second = 2.0e7    # measured once, on the board
    ```

    Attributes:
        name: what to call it.
        target: the target that it is like, one of those of
            `tfcompress.export.target`.
        flash: bytes for the model. `None` for no limit.
        ram: bytes for what the model needs while it runs. `None` for no limit.
        latency_ms: milliseconds that an inference may take. `None` for no limit.
        energy_uj: microjoules that an inference may take. `None` for no limit.
        macs_per_second: multiply–accumulates that the board does in a second,
            from a measurement on it; gives the latency, in the place of the tool's.
            Defaults to `None`.
        energy_pj_per_mac: picojoules of one of them, with everything around it,
            from a measurement; gives the energy. Defaults to `None`.

    Both give nothing for a file with operators whose multiply–accumulates cannot be
    counted, as those of recurrent layers.
    """

    name: str
    target: str
    flash: float | None = None
    ram: float | None = None
    latency_ms: float | None = None
    energy_uj: float | None = None
    macs_per_second: float | None = None
    energy_pj_per_mac: float | None = None

    def judge(self, figures: TargetFigures, found: list[Operator]) -> TargetFigures:
        """The figures of a tool as those of the board, with its budgets.

        Args:
            figures: what the tool of `target` says of a file.
            found: the operators of the file.
        """
        unknown = sorted({op.kind for op in found if op.macs is None})
        macs = None if unknown else sum(op.macs or 0 for op in found)
        latency, energy = figures.latency, None
        settings, notes = dict(figures.settings), [figures.note]
        if self.macs_per_second is not None:
            latency = None if macs is None else 1e3 * macs / self.macs_per_second
            if macs is not None:
                settings[COMPUTED] = f"{macs:,} MACs, {self.macs_per_second:g} a second"
        if self.energy_pj_per_mac is not None and macs is not None:
            energy = 1e-6 * macs * self.energy_pj_per_mac
        if unknown and (self.macs_per_second or self.energy_pj_per_mac):
            notes.append(
                f"The MACs of {', '.join(unknown)} cannot be counted, so that the "
                "profile gives no latency and no energy."
            )
        work = dominant(found, "macs")
        needs = (
            ("flash", figures.flash, self.flash, "B", dominant(found, "constants")),
            ("RAM", figures.ram, self.ram, "B", dominant(found, "working")),
            ("latency", latency, self.latency_ms, "ms", work),
            ("energy", energy, self.energy_uj, "µJ", work),
        )
        checks = tuple(
            Check(quantity, needed, budget, unit, most)
            for quantity, needed, budget, unit, most in needs
            if budget is not None
        )
        return replace(
            figures,
            target=self.name,
            latency=latency,
            settings=settings,
            checks=checks,
            note=" ".join(note for note in notes if note),
        )


def load_profile(path: str | os.PathLike[str], targets: list[str]) -> TargetProfile:
    """Reads a profile from a TOML file.

    Raises:
        ValueError: if it cannot be read or has another key or kind of value.
    """
    try:
        raw = _toml.read(path)
    except (OSError, ValueError) as error:
        raise ValueError(_message(path, str(error))) from error
    unknown = sorted(set(raw) - {"name", "target", *_NUMBERS})
    if unknown:
        raise ValueError(_message(path, f"unknown keys {unknown}"))
    name = raw.get("name")
    if not isinstance(name, str) or not name:
        raise ValueError(_message(path, f"`name` = {name!r}, not a text"))
    if raw.get("target") not in targets:
        raise ValueError(
            _message(path, f"`target` = {raw.get('target')!r}, not one of {targets}")
        )
    for key in _NUMBERS:
        if key in raw and not _positive(raw[key]):
            raise ValueError(_message(path, f"`{key}` = {raw[key]!r}, not positive"))
    return TargetProfile(**raw)


def _positive(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0 < value < float("inf")


def _message(path: str | os.PathLike[str], problem: str) -> str:
    return (
        "Invalid value for argument `name`. Expected a target, or the path of a TOML "
        "file with `name`, `target` and the budgets flash, ram, latency_ms and "
        f"energy_uj. Received: {str(path)!r} ({problem})"
    )
