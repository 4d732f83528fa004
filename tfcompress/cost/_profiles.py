"""Hardware profiles: energies of single operations, with their sources."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from tfcompress import _toml
from tfcompress._files import check_writable, write_atomic

__all__ = [
    "Drum",
    "Format",
    "Memory",
    "Profile",
    "profile",
    "profiles",
    "write_template",
]

_PICO = 1e-12
_TEMPLATE = "template"


@dataclass(frozen=True)
class Format:
    """Energies of one number format, in joules.

    Attributes:
        multiply: of one multiplication.
        add: of one addition.
        gated: of a multiply–accumulate whose weight is zero, where the hardware
            keeps its operands still but spends the cycle; `None` where not known.
    """

    multiply: float
    add: float
    gated: float | None = None


@dataclass(frozen=True)
class Drum:
    """Energies of a multiplier that looks at the leading bits only, in joules.

    A multiply–accumulate takes `fixed + per_bit_product * k0 * k1`.

    Attributes:
        fixed: what does not depend on the bits.
        per_bit_product: for each pair of a weight's and an activation's bit.
        default_bits: `(k0, k1)` where a layer asks for none.
        gated: of a multiply–accumulate whose weight is zero, where the hardware
            keeps its operands still but spends the cycle; `None` where not known.
    """

    fixed: float
    per_bit_product: float
    default_bits: tuple[int, int]
    gated: float | None = None


@dataclass(frozen=True)
class Memory:
    """Energies of memory accesses, in joules per bit, reading or writing.

    Attributes:
        on_chip: pairs of a capacity in bytes and the energy, smallest first.
        off_chip: the energy of external memory.
        index_bits: stored beside each weight where zeros are skipped.
    """

    on_chip: tuple[tuple[int, float], ...]
    off_chip: float
    index_bits: int = 0


@dataclass(frozen=True)
class Profile:
    """Energies of the operations of one piece of hardware.

    Attributes:
        name: unique name.
        description: one line.
        node_nm: process node in nanometres.
        operands: which values the figures were taken with.
        sources: where the figures come from.
        arithmetic: number format ("float32", "int8") -> `Format`.
        drum: approximate multiplier, if the hardware has one.
        memory: memory accesses, `None` where only arithmetic is known.
    """

    name: str
    description: str
    node_nm: float
    operands: str
    sources: tuple[str, ...]
    arithmetic: Mapping[str, Format]
    drum: Drum | None = None
    memory: Memory | None = None

    def __str__(self) -> str:
        return f"{self.name} ({self.description}; {self.node_nm:g} nm)"


def profiles() -> tuple[str, ...]:
    """Names of the profiles that come with the library."""
    files = resources.files("tfcompress.cost").joinpath("profiles").iterdir()
    names = (file.name.removesuffix(".toml") for file in files)
    return tuple(sorted(name for name in names if name != _TEMPLATE))


def profile(name_or_path: str | os.PathLike[str]) -> Profile:
    """Loads a hardware profile.

    Example:

    >>> tfc.cost.profile("horowitz_45nm").arithmetic["float32"].multiply
    3.7e-12

    Args:
        name_or_path: name of a profile that comes with the library (see
            `profiles`), or path of a TOML file.

    Returns:
        A `Profile`.

    Raises:
        TypeError: if `name_or_path` is neither.
        ValueError: if there is no such profile, or the file is not a valid one.
    """
    if not isinstance(name_or_path, str | os.PathLike):
        raise TypeError(
            "Invalid value for argument `name_or_path`. Expected the name of a "
            "profile or the path of a TOML file. Received: "
            f"name_or_path={name_or_path!r}"
        )
    try:
        return _parse(_table_of(name_or_path))
    except OSError as error:
        raise ValueError(
            "Invalid value for argument `name_or_path`. Expected one of "
            f"{list(profiles())} or the path of a TOML file. Received: "
            f"name_or_path={str(name_or_path)!r} ({error})"
        ) from error
    except (ValueError, _Invalid) as error:
        raise ValueError(
            "Invalid value for argument `name_or_path`. Expected a valid hardware "
            f"profile. Received: {str(name_or_path)!r}, in which {error}"
        ) from error


def write_template(path: str | os.PathLike[str]) -> Path:
    """Writes a form for a profile of your own, with explanations.

    Args:
        path: where to write the `.toml` file.

    Returns:
        The path.

    Raises:
        TypeError: if `path` is not a path.
        ValueError: if it does not end in `.toml` or cannot be written.
    """
    target = check_writable(path, suffixes=(".toml",))
    write_atomic(target, _packaged(_TEMPLATE))
    return target


def _packaged(name: str) -> str:
    folder = resources.files("tfcompress.cost").joinpath("profiles")
    return folder.joinpath(f"{name}.toml").read_text("utf-8")


def _table_of(name_or_path: str | os.PathLike[str]) -> dict[str, Any]:
    if name_or_path in profiles():
        return _toml.parse(_packaged(str(name_or_path)))
    return _toml.read(name_or_path)


# Reading --------------------------------------------------------------------


class _Invalid(Exception):
    """What is wrong with a profile."""


def _parse(raw: dict[str, Any]) -> Profile:
    table = _Table(raw, "")
    name = table.text("name")
    description = table.text("description")
    node = table.number("node_nm", positive=True)
    operands = table.text("operands")
    sources = table.take("sources")
    if not (isinstance(sources, list) and sources and all(map(_is_text, sources))):
        raise _Invalid(f"`sources` must be a list of texts, not {sources!r}")
    arithmetic = table.table("arithmetic")
    drum = None
    if arithmetic.has("drum"):
        drum = _drum(arithmetic.table("drum"))
    formats = {key: _format(arithmetic.table(key)) for key in arithmetic.rest()}
    for key in formats:
        if not _is_format(key):
            raise _Invalid(
                f"`arithmetic.{key}` is not one of float16, float32, float64, drum "
                "or intN"
            )
    if not formats and drum is None:
        raise _Invalid("`arithmetic` has no format")
    memory = _memory(table.table("memory")) if table.has("memory") else None
    table.close()
    return Profile(
        name, description, node, operands, tuple(sources), formats, drum, memory
    )


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_format(key: str) -> bool:
    if key.startswith("int"):
        return key[3:].isdecimal() and 1 <= int(key[3:]) <= 64
    return key in ("float16", "float32", "float64")


def _format(table: _Table) -> Format:
    result = Format(
        table.joules("multiply_pj"),
        table.joules("add_pj"),
        _gated(table),
    )
    table.close()
    return result


def _drum(table: _Table) -> Drum:
    bits = table.take("default_bits")
    if not (
        isinstance(bits, list)
        and len(bits) == 2
        and all(isinstance(k, int) and k > 0 for k in bits)
    ):
        raise _Invalid(f"`{table.path}default_bits` must be two ints, not {bits!r}")
    result = Drum(
        table.joules("fixed_pj"),
        table.joules("per_bit_product_pj"),
        tuple(bits),
        _gated(table),
    )
    table.close()
    return result


def _gated(table: _Table) -> float | None:
    return table.joules("gated_pj") if table.has("gated_pj") else None


def _memory(table: _Table) -> Memory:
    # Publications give picojoules for a word (Horowitz: 64 bits); layers are charged by
    # the bit, because they have words of 32, 8 or 4 bits.
    word = table.number("word_bits", positive=True)
    off_chip = table.joules("off_chip_pj") / word
    index_bits = table.whole("index_bits") if table.has("index_bits") else 0
    sizes = table.take("on_chip")
    if not (isinstance(sizes, list) and sizes):
        raise _Invalid("`memory.on_chip` must be a list of tables")
    on_chip = []
    for raw in sizes:
        size = _Table(raw, "memory.on_chip.")
        capacity = size.whole("bytes", positive=True)
        on_chip.append((capacity, size.joules("pj") / word))
        size.close()
    for (small, near), (large, far) in itertools.pairwise(on_chip):
        if small >= large or near > far:
            raise _Invalid("`memory.on_chip` must grow in bytes and in energy")
    table.close()
    return Memory(tuple(on_chip), off_chip, index_bits)


class _Table:
    """A TOML table that is read key by key, so that no key goes unnoticed."""

    def __init__(self, raw: Any, path: str) -> None:
        if not isinstance(raw, dict):
            raise _Invalid(f"`{path.rstrip('.')}` must be a table, not {raw!r}")
        self._raw = dict(raw)
        self.path = path

    def has(self, key: str) -> bool:
        return key in self._raw

    def rest(self) -> list[str]:
        return list(self._raw)

    def take(self, key: str) -> Any:
        if key not in self._raw:
            raise _Invalid(f"`{self.path}{key}` is missing")
        return self._raw.pop(key)

    def text(self, key: str) -> str:
        value = self.take(key)
        if not _is_text(value):
            raise _Invalid(f"`{self.path}{key}` must be a text, not {value!r}")
        return value

    def number(self, key: str, *, positive: bool = False) -> float:
        value = self.take(key)
        valid = isinstance(value, int | float) and not isinstance(value, bool)
        if not valid or not 0 <= value < float("inf") or (positive and value == 0):
            kind = "a positive number" if positive else "a number of at least 0"
            raise _Invalid(f"`{self.path}{key}` must be {kind}, not {value!r}")
        return value

    def whole(self, key: str, *, positive: bool = False) -> int:
        value = self.number(key, positive=positive)
        if value != int(value):
            raise _Invalid(f"`{self.path}{key}` must be a whole number, not {value!r}")
        return int(value)

    def joules(self, key: str) -> float:
        return self.number(key, positive=True) * _PICO

    def table(self, key: str) -> _Table:
        return _Table(self.take(key), f"{self.path}{key}.")

    def close(self) -> None:
        if self._raw:
            raise _Invalid(f"`{self.path}{next(iter(self._raw))}` is not known")
