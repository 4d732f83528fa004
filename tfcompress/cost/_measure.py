"""Energy that the machine itself has counted."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tfcompress.cost._table import quantity

__all__ = ["MeasuredEnergy", "measure_energy"]

_POWERCAP = "/sys/class/powercap"
NOT_MEASURED = "not measured on this machine"


@dataclass
class MeasuredEnergy:
    """What energy counters said between the beginning and the end of a block.

    Attributes:
        joules: energy of everything that ran on the counted parts of the
            machine; `None` where it has no counter that can be read.
        seconds: time that passed.
        domains: counter name -> joules.
        label: "measured", or why not.
    """

    joules: float | None = None
    seconds: float | None = None
    domains: dict[str, float] = field(default_factory=dict)
    label: str = NOT_MEASURED

    def __str__(self) -> str:
        if self.joules is None:
            return self.label
        parts = ", ".join(f"{name} {quantity(j)}J" for name, j in self.domains.items())
        return (
            f"{quantity(self.joules)}J in {self.seconds:.3g} s, {self.label} ({parts})"
        )


@dataclass(frozen=True)
class _Counter:
    """One RAPL domain, a counter in microjoules that wraps at `limit`."""

    name: str
    path: Path
    limit: int

    def read(self) -> int:
        return int(self.path.joinpath("energy_uj").read_text())


@contextmanager
def measure_energy(
    powercap: str | os.PathLike[str] = _POWERCAP,
) -> Iterator[MeasuredEnergy]:
    """Measures the energy of a block of code, where the machine counts it.

    Reads the RAPL counters of Linux: those of whole processor packages (and of
    DRAM, if it has its own counter). They count everything that runs there, also
    other programs. A counter may wrap once in the block, after many minutes at
    full power. If there is no counter, or only the superuser may read it, the
    result says "not measured on this machine"; it is never an estimate.

    Example:

    ```python
    with tfc.cost.measure_energy() as energy:
        model.predict(x)
    print(energy)
    ```

    Args:
        powercap: folder of the counters. Defaults to `"/sys/class/powercap"`.

    Yields:
        A `MeasuredEnergy` that is filled in at the end of the block.
    """
    result = MeasuredEnergy()
    counters = _counters(Path(powercap))
    begin = _read(counters)
    started = time.perf_counter()
    try:
        yield result
    finally:
        seconds = time.perf_counter() - started
        end = _read(counters)
        if begin and end:
            result.seconds = seconds
            result.label = "measured"
            for counter, first, last in zip(counters, begin, end, strict=True):
                used = last - first
                if used < 0:
                    used += counter.limit
                result.domains[counter.name] = used * 1e-6
            result.joules = sum(result.domains.values())


def _counters(folder: Path) -> list[_Counter]:
    """Packages, and DRAM inside them; a package contains its other parts."""
    found = []
    for path in sorted(folder.glob("intel-rapl:*")):
        try:
            name = path.joinpath("name").read_text().strip()
            limit = int(path.joinpath("max_energy_range_uj").read_text())
        except (OSError, ValueError):
            continue
        if name.startswith("package") or name == "dram":
            found.append(_Counter(f"{name} ({path.name})", path, limit))
    return found


def _read(counters: list[_Counter]) -> list[int]:
    try:
        return [counter.read() for counter in counters]
    except (OSError, ValueError):
        return []
