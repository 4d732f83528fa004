"""Modeled energy of one inference."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from tfcompress._checks import whole
from tfcompress.cost._bits import Bits, with_bits
from tfcompress.cost._operands import Operands
from tfcompress.cost._profiles import Format, Memory, Profile, profile
from tfcompress.cost._results import LayerCost, ModelCost
from tfcompress.cost._table import quantity, table

__all__ = ["PRODUCTS", "EnergyEstimate", "LayerEnergy", "Products", "energy"]

Products = Literal["computed", "gated", "skipped"]
PRODUCTS = get_args(Products)


@dataclass(frozen=True)
class LayerEnergy:
    """Modeled energy of one row of a `ModelCost`, in joules.

    Attributes:
        name: name of the layer.
        kind: class of the layer.
        by_kind: "arithmetic", and "on-chip memory" and "off-chip memory" where
            the profile has them -> joules.
    """

    name: str
    kind: str
    by_kind: Mapping[str, float]

    @property
    def total(self) -> float:
        """Joules of all kinds."""
        return math.fsum(self.by_kind.values())


@dataclass(frozen=True)
class EnergyEstimate:
    """Modeled energy of one inference, in joules; `print` shows a table.

    Attributes:
        name: name of the model.
        label: "modeled": nothing was measured.
        profile: name of the hardware profile.
        sources: where the profile's figures come from.
        rows: one `LayerEnergy` for each row of the `ModelCost`.
        settings: what `energy` was asked for.
        notes: what the figures leave out or take for granted.
    """

    name: str
    profile: str
    sources: tuple[str, ...]
    rows: tuple[LayerEnergy, ...]
    settings: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    label: str = "modeled"

    @property
    def by_kind(self) -> dict[str, float]:
        """Joules of the whole model by kind."""
        kinds = dict.fromkeys(kind for row in self.rows for kind in row.by_kind)
        return {
            kind: math.fsum(row.by_kind[kind] for row in self.rows) for kind in kinds
        }

    @property
    def by_layer(self) -> dict[str, float]:
        """Joules of all kinds by layer."""
        return {row.name: row.total for row in self.rows}

    @property
    def total(self) -> float:
        """Joules of the whole model."""
        return math.fsum(row.total for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """A dictionary of plain values, for JSON."""
        return {
            **asdict(self),
            "sources": list(self.sources),
            "notes": list(self.notes),
            "rows": [asdict(row) for row in self.rows],
            "settings": dict(self.settings),
            "total": self.total,
            "by_kind": self.by_kind,
        }

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> EnergyEstimate:
        """The opposite of `to_dict`."""
        return cls(
            name=plain["name"],
            profile=plain["profile"],
            sources=tuple(plain["sources"]),
            rows=tuple(LayerEnergy(**row) for row in plain["rows"]),
            settings=plain["settings"],
            notes=tuple(plain["notes"]),
            label=plain["label"],
        )

    def __str__(self) -> str:
        kinds = list(self.by_kind)
        rows = [
            (
                row.name,
                row.kind,
                *(f"{quantity(row.by_kind[kind])}J" for kind in kinds),
                f"{quantity(row.total)}J",
            )
            for row in self.rows
            if row.total
        ]
        sums = (f"{quantity(joules)}J" for joules in self.by_kind.values())
        total = ("total", "", *sums, f"{quantity(self.total)}J")
        return "\n".join(
            [
                f"{self.name}: {quantity(self.total)}J for one sample, {self.label} "
                f"with {self.profile}",
                table(("layer", "kind", *kinds, "total"), rows, total, left=2),
                *self.notes,
            ]
        )


def energy(
    cost: ModelCost,
    hardware: str | Profile = "horowitz_45nm",
    *,
    products: Products = "computed",
    precision: str | None = None,
    bits: Bits | None = None,
    multiplier_bits: tuple[int, int] | None = None,
    sram_bytes: int | None = None,
) -> EnergyEstimate:
    """Models the energy of one inference on some hardware.

    Energy = arithmetic + on-chip memory + off-chip memory. A multiply–accumulate
    takes one multiplication and one addition of the layer's number format, any
    other operation one addition. bfloat16 is charged as float16.

    The dataflow that is assumed: within a layer every input and weight is read
    from on-chip memory once and every output written there once. Weights come
    from off-chip memory at each inference, unless those of the whole model and
    the largest layer's input and output fit on the chip together. An input or
    output that does not fit by itself is read from or written to off-chip
    memory. If neither input nor weights of a layer fit, one of them is kept in
    tiles of the capacity, the cheaper choice, and the other is read again for
    each tile. The sample is on the chip to begin with.

    The saving of a zero weight depends on the hardware, which `products` describes:

    - `"computed"`: it saves nothing. Zeros are multiplied like any other number.
    - `"gated"`: it saves the switching of the multiplier, whose operands are kept
      still. The cycle is spent and the weight is read; the profile states the energy
      that is left.
    - `"skipped"`: it saves everything. Only weights that are not zero are stored,
      each with an index, and multiplied.

    Example:

    >>> cost = tfc.cost.count(model)
    >>> print(tfc.cost.energy(cost, "horowitz_45nm", precision="int8"))

    Args:
        cost: from `count`.
        hardware: a profile, its name, or the path of its TOML file. Defaults to
            `"horowitz_45nm"`.
        products: what happens to a multiplication by a zero weight, `"computed"`,
            `"gated"` or `"skipped"`. Defaults to `"computed"`.
        precision: number format of all weights and activations, `"float32"`,
            `"float16"` or `"intN"`, instead of what each layer computes in.
            Defaults to `None`.
        bits: widths of integer weights and activations, instead of what each
            layer computes in: one int for both, a pair `(weights, activations)`,
            or such by layer name, which leaves other layers as they are. `None`
            for the activations of a pair keeps their format, so that only the
            stored weights are narrower. Defaults to `None`.
        multiplier_bits: `(k0, k1)`, the significant bits of weight and activation
            that the multiplier looks at, instead of what each layer asks for.
            Defaults to `None`.
        sram_bytes: on-chip capacity. Defaults to the largest that the profile
            lists.

    Returns:
        An `EnergyEstimate` in joules.

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: if the profile does not exist or has no figures for a number
            format, or an argument is out of range.
    """
    if not isinstance(cost, ModelCost):
        raise TypeError(
            "Invalid value for argument `cost`. Expected the result of "
            f"tfcompress.cost.count. Received: cost={cost!r}"
        )
    chip = hardware if isinstance(hardware, Profile) else profile(hardware)
    if products not in PRODUCTS:
        raise ValueError(
            "Invalid value for argument `products`. Expected one of "
            f"{list(PRODUCTS)}. Received: products={products!r}"
        )
    if precision is not None and bits is not None:
        raise ValueError(
            "Invalid value for argument `bits`. Expected None where `precision` is "
            f"given. Received: bits={bits!r}, precision={precision!r}"
        )
    override = _override(precision, multiplier_bits)
    capacity, on_chip = _capacity(chip, sram_bytes)
    rows = [
        replace(row, operands=override(row.operands)) for row in with_bits(cost, bits)
    ]
    notes = _notes(chip, rows, cost)
    # Whether weights come from off-chip memory is decided for the model as a whole:
    # they stay on the chip from one inference to the next only if all of them fit
    # beside the largest pair of input and output. So a pruned model can save far more
    # energy than weights: once it fits, off-chip reads of weights are gone.
    skipping = products == "skipped"
    resident = chip.memory is not None and _fits(rows, capacity, skipping, chip)
    estimates = []
    for row in rows:
        joules = {"arithmetic": _arithmetic(chip, row, products)}
        if chip.memory is not None:
            inputs, weights, outputs = _traffic(row, skipping, chip.memory)
            joules["on-chip memory"] = on_chip * (inputs + weights + outputs)
            moved = _off_chip_bits(
                inputs, 0 if resident else weights, outputs, 8 * capacity
            )
            joules["off-chip memory"] = chip.memory.off_chip * moved
        estimates.append(LayerEnergy(row.name, row.kind, joules))
    settings = {
        "products": products,
        "precision": precision,
        "bits": _plain_bits(bits),
        "multiplier_bits": None if multiplier_bits is None else list(multiplier_bits),
        "sram_bytes": capacity if chip.memory is not None else None,
        "weights_on_chip": resident if chip.memory is not None else None,
    }
    return EnergyEstimate(
        cost.name, chip.name, chip.sources, tuple(estimates), settings, notes
    )


# Arguments ------------------------------------------------------------------


def _override(precision: str | None, multiplier_bits: Any) -> Any:
    """A function that puts what the caller asks for into a layer's operands."""
    changes: dict[str, Any] = {}
    if precision is not None:
        number = str(precision).rstrip("0123456789")
        digits = str(precision)[len(number) :]
        if number not in ("float", "int") or not digits or not 1 <= int(digits) <= 64:
            raise ValueError(
                "Invalid value for argument `precision`. Expected 'float32', "
                f"'float16' or 'intN'. Received: precision={precision!r}"
            )
        bits = int(digits)
        changes |= {"number": number, "weight_bits": bits, "activation_bits": bits}
    if multiplier_bits is not None:
        valid = (
            isinstance(multiplier_bits, tuple | list)
            and len(multiplier_bits) == 2
            and all(isinstance(k, int) and k >= 1 for k in multiplier_bits)
        )
        if not valid:
            raise ValueError(
                "Invalid value for argument `multiplier_bits`. Expected two ints of "
                f"at least 1. Received: multiplier_bits={multiplier_bits!r}"
            )
        changes["multiplier_bits"] = tuple(multiplier_bits)
    return lambda operands: replace(operands, **changes)


def _plain_bits(bits: Any) -> Any:
    """`bits` as JSON has it."""
    if isinstance(bits, Mapping):
        return {name: _plain_bits(value) for name, value in bits.items()}
    return list(bits) if isinstance(bits, tuple | list) else bits


def _capacity(chip: Profile, sram_bytes: int | None) -> tuple[int, float]:
    """On-chip bytes, and joules per bit of a memory of that size."""
    if chip.memory is None:
        if sram_bytes is not None:
            raise ValueError(
                "Invalid value for argument `sram_bytes`. Expected None, because "
                f"{chip.name!r} has no figures for memory. Received: "
                f"sram_bytes={sram_bytes!r}"
            )
        return 0, 0.0
    largest = chip.memory.on_chip[-1][0]
    wanted = largest if sram_bytes is None else sram_bytes
    wanted = whole("sram_bytes", wanted)
    for size, joules in chip.memory.on_chip:
        if size >= wanted:
            return wanted, joules
    raise ValueError(
        f"Invalid value for argument `sram_bytes`. Expected at most {largest}, the "
        f"largest memory that {chip.name!r} has figures for. Received: "
        f"sram_bytes={sram_bytes!r}"
    )


def _notes(
    chip: Profile, rows: Sequence[LayerCost], cost: ModelCost
) -> tuple[str, ...]:
    notes = []
    left_out = [row.name for row in cost.uncounted]
    if left_out:
        notes.append(f"A lower bound: the work of {', '.join(left_out)} is not known.")
    if chip.memory is None:
        notes.append("Arithmetic only: the profile has no figures for memory.")
    if not chip.arithmetic:
        notes.append("Multiply–accumulates only: the profile has no other operation.")
    approximate = [row for row in rows if row.operands.multiplier_bits and row.macs]
    if approximate and chip.drum is None:
        notes.append(
            "An upper bound: the profile has no approximate multiplier, so that every "
            "multiplication is charged as an exact one."
        )
    if chip.drum is not None and not chip.arithmetic:
        exact = any(row.macs and not row.operands.multiplier_bits for row in rows)
        if exact:
            notes.append(
                "Layers that ask for no multiplier bits are charged at "
                f"{chip.drum.default_bits}, what the hardware computes with."
            )
    return tuple(notes)


# Arithmetic -----------------------------------------------------------------


def _arithmetic(chip: Profile, row: LayerCost, products: Products) -> float:
    joules = 0.0
    if row.macs:
        each, gated = _multiply_accumulate(chip, row.operands)
        zero = row.macs - row.effective_macs if products != "computed" else 0
        joules += (row.macs - zero) * each
        if zero and products == "gated":
            if gated is None:
                raise ValueError(
                    "Invalid value for argument `products`. Expected 'computed' or "
                    f"'skipped' for {chip.name!r}, which does not state the energy "
                    f"of a gated product. Received: products={products!r}"
                )
            joules += zero * gated
    if row.operations and chip.arithmetic:
        joules += row.operations * _format(chip, row.operands).add
    return joules


def _multiply_accumulate(
    chip: Profile, operands: Operands
) -> tuple[float, float | None]:
    """Joules of one multiplication and one addition, and of a gated one."""
    # A DRUM multiplier multiplies the k0 and k1 leading bits of its operands: an array
    # of k0 · k1 cells, and a part that does not depend on them (leading-one detectors,
    # shifters, accumulation).
    bits = operands.multiplier_bits
    if chip.drum is not None and (bits or not chip.arithmetic):
        first, second = bits or chip.drum.default_bits
        each = chip.drum.fixed + chip.drum.per_bit_product * first * second
        return each, chip.drum.gated
    chosen = _format(chip, operands)
    return chosen.multiply + chosen.add, chosen.gated


def _format(chip: Profile, operands: Operands) -> Format:
    """Energies of the operands' number format.

    Floats are multiplied in the width of the activations. An integer format
    that the profile lacks is derived from the nearest one by width: an array
    multiplier has one cell for each pair of bits (Horowitz' own figures: 0.2 pJ
    for int8, hence 3.2 pJ for int32, against 3.1 pJ published).
    """
    if operands.number == "float":
        name = f"float{operands.activation_bits}"
        if name not in chip.arithmetic:
            raise ValueError(
                "Invalid value for argument `hardware`. Expected a profile with "
                f"figures for {name}, which the model computes in; give `precision` "
                f"to model another format. Received: {chip.name!r}, which has "
                f"{list(chip.arithmetic)}"
            )
        return chip.arithmetic[name]
    cells = operands.weight_bits * operands.activation_bits
    widths = [int(name[3:]) for name in chip.arithmetic if name.startswith("int")]
    if not widths:
        raise ValueError(
            "Invalid value for argument `hardware`. Expected a profile with figures "
            f"for integers. Received: {chip.name!r}, which has {list(chip.arithmetic)}"
        )
    # Nearest by ratio: for 16 × 16 bits, int8 and int32 are both a factor of 4 away in
    # cells. Only the multiplication scales; the addition is that of the known format.
    width = min(widths, key=lambda bits: abs(math.log(bits * bits / cells)))
    known = chip.arithmetic[f"int{width}"]
    return Format(known.multiply * cells / width**2, known.add, known.gated)


# Memory ---------------------------------------------------------------------


def _traffic(row: LayerCost, skipping: bool, memory: Memory) -> tuple[int, int, int]:
    """Bits of a layer's input, weights and output."""
    data = row.operands.activation_bits
    weight = row.operands.weight_bits
    if skipping:
        weights = row.nonzero_reads * (weight + memory.index_bits)
    else:
        weights = row.weight_reads * weight
    return row.inputs * data, weights, row.activations * data


def _fits(
    rows: Sequence[LayerCost], capacity: int, skipping: bool, chip: Profile
) -> bool:
    """Whether all weights and the largest input and output fit on the chip."""
    assert chip.memory is not None
    traffic = [_traffic(row, skipping, chip.memory) for row in rows]
    stored = sum(
        row.nonzero * (row.operands.weight_bits + chip.memory.index_bits)
        if skipping
        else row.parameters * row.operands.weight_bits
        for row in rows
    )
    largest = max((inputs + outputs for inputs, _, outputs in traffic), default=0)
    return stored + largest <= 8 * capacity


def _off_chip_bits(inputs: int, weights: int, outputs: int, capacity: int) -> int:
    """Bits that cross the chip's border for one layer."""
    # All arguments are in bits. `weights` is 0 if those of the whole model stay on the
    # chip. If input and weights are both too large, one of them is held in n tiles of
    # the capacity, and the other is read once for each tile. `moved` has one of these
    # reads already, so n - 1 are added. Example: with the capacity 10, inputs 30 and
    # weights 20, two tiles of weights add 1 · 30, and three tiles of inputs add 2 · 20.
    large = inputs if inputs > capacity else 0
    moved = large + weights + (outputs if outputs > capacity else 0)
    if not large or weights <= capacity:
        return moved
    keep_weights = (math.ceil(weights / capacity) - 1) * inputs
    keep_inputs = (math.ceil(inputs / capacity) - 1) * weights
    return moved + min(keep_weights, keep_inputs)
