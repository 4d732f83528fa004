"""What each method could save on a model, and what it has to leave alone."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfcompress import gates, policy, structure
from tfcompress.compression._measure import Meter, file_name
from tfcompress.compression._methods import FILES
from tfcompress.compression._plan import Filters, reasons, spread_zeros, with_zeros
from tfcompress.cost import Profile
from tfcompress.training._density import widths_by_density

__all__ = ["PAIRS", "Offer", "Saving", "offers"]

# What single weights could save is measured with so many zeros.
ZEROS = 0.9
# What counts as a saving.
_LEAST = 0.03
# Bits of weight and activation that a DRUM multiplier looks at.
PAIRS = tuple((a, b) for b in range(1, 6) for a in range(1, b + 1))
_NO_CHANGE = "no figure of this budget changes with single zeros in a file of "


@dataclass(frozen=True)
class Saving:
    """What one method could save.

    Attributes:
        method: its name.
        figures: the model's figures with this method alone, as far as it goes;
            empty where it cannot be used.
        note: why it cannot be used, or what it leaves alone.
        lowers: which of the budget's figures it makes smaller.
    """

    method: str
    figures: Mapping[str, float]
    note: str = ""
    lowers: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Offer:
    """The original's figures, and what each method could save."""

    original: Mapping[str, float]
    savings: tuple[Saving, ...]

    def of(self, method: str) -> Saving:
        """The saving of one method."""
        return next(saving for saving in self.savings if saving.method == method)

    def file(self, kind: str) -> Mapping[str, float]:
        """The figures of a file of the original, in a format that was measured."""
        return self.original if kind == "float32" else self.of(kind).figures


def offers(
    model: keras.Model,
    filters: Filters,
    meter: Meter,
    methods: Sequence[str],
    choose: Callable[[Mapping[str, Mapping[str, float]]], str],
    sample: Any,
    hardware: Profile,
) -> tuple[Offer, str]:
    """Measures the original and what each method could save.

    Args:
        model: the original.
        filters: its channels.
        meter: measures.
        methods: what to measure, file formats beside float32 among them.
        choose: from the figures of files by format ("float32" among them) to the
            format that single weights and multipliers are measured in.
        sample: typical inputs.
        hardware: profile of the modeled energy.

    Returns:
        An `Offer`, and the format.
    """
    kinds = [name for name in methods if name in FILES]
    with tempfile.TemporaryDirectory() as folder:

        def measured(candidate: keras.Model, kind: str) -> dict[str, float]:
            file = Path(folder) / file_name(kind)
            # How good it is shows in the trials; rounding can be learned.
            meter.export(candidate, kind, file, rough=kind != "float32")
            return {
                **meter.model_figures(candidate, kind),
                **meter.file_figures(file, strict=False),
            }

        original = measured(model, "float32")
        limited = meter.limited

        def saving(
            method: str, make: Callable[[], tuple[Mapping[str, float], str]]
        ) -> Saving:
            """What `make` says; or, where it fails, why the method cannot be used."""
            try:
                figures, note = make()
            except (ValueError, RuntimeError) as error:
                return Saving(method, {}, _first_line(error))
            # Formats are compared with float32, and so is what changes the
            # architecture. Zeros and multipliers are measured last, in the format
            # that was chosen: in an int8 file zeros may save nothing.
            base = original if method in (*kinds, *_WIDE) else files[chosen]
            lowers = frozenset(
                name
                for name in limited
                if name in figures
                and name in base
                and figures[name] < (1 - _LEAST) * base[name]
            )
            return Saving(method, figures, note, lowers)

        def counted(smaller: keras.Model) -> dict[str, float]:
            return meter.model_figures(smaller, "float32")

        def pruned() -> tuple[Mapping[str, float], str]:
            if not filters.sizes:
                raise ValueError(filters.reason)
            note = f"{len(filters.sizes)} groups of channels"
            if filters.skipped:
                note += "; left alone: " + reasons(filters.skipped)
            return counted(filters.without(filters.counts(1.0))), note

        def without_branches() -> tuple[Mapping[str, float], str]:
            small, count = _without_branches(model)
            return counted(small), f"{count} residual branches; the data decide which"

        def sized() -> tuple[Mapping[str, float], str]:
            widths, skipped = widths_by_density(model, sample)
            if not widths:
                raise ValueError(
                    "every layer is as wide as it is active: " + reasons(skipped)
                    if skipped
                    else "every layer is as wide as it is active"
                )
            small = structure.resize(
                model, widths, weights="inherit", verify=False, carry_optimizer=False
            )
            note = f"{len(widths)} layers are wider than active; the data decide"
            if skipped:
                note += "; left alone: " + reasons(skipped)
            return counted(small), note

        def zeros() -> tuple[Mapping[str, float], str]:
            sparse = with_zeros(model, spread_zeros(model, ZEROS, uniform=True))
            figures = meter.model_figures(sparse, chosen)
            if set(limited) - set(figures):
                figures = measured(sparse, chosen)
            note = f"{ZEROS:.0%} of the kernels' weights at zero"
            if frozen:
                note += "; left alone: " + reasons(frozen)
            return figures, note

        def approximate() -> tuple[Mapping[str, float], str]:
            if hardware.drum is None:
                raise ValueError(
                    f"the profile {hardware.name!r} has no approximate multiplier"
                )
            if chosen not in ("float32", "tfcz"):
                raise ValueError(
                    f"a file of {chosen} rounds the weights, which an approximate "
                    "multiplier has truncated"
                )
            if frozen:
                raise ValueError(
                    f"multipliers are those of all layers, and {', '.join(frozen)} "
                    "cannot adapt to them: not trainable"
                )
            pairs = [
                meter.model_figures(model, chosen, multiplier_bits=pair)
                for pair in PAIRS
            ]
            least = min(pairs, key=lambda figures: figures.get("energy", np.inf))
            return least, "multipliers that look at fewer bits; MACs stay as many"

        frozen = {
            name: policy.NOT_TRAINABLE
            for name, layer in policy.named_layers(model).items()
            if not policy.kernels(layer) and _has_frozen_kernel(layer)
        }
        of_model = {"filters": pruned, "gates": without_branches, "density": sized}
        savings = [saving(n, make) for n, make in of_model.items() if n in methods]
        savings += [
            saving(kind, lambda kind=kind: (measured(model, kind), ""))  # type: ignore[misc]
            for kind in kinds
        ]
        files: dict[str, Mapping[str, float]] = {"float32": original}
        files |= {s.method: s.figures for s in savings if s.method in kinds}
        chosen = choose(files)
        useless = {
            "weights": f"{_NO_CHANGE}{chosen}",
            "drum": "multipliers change the energy only, if that",
        }
        for name, make in (("weights", zeros), ("drum", approximate)):
            if name in methods:
                found = saving(name, make)
                if found.figures and not found.lowers:
                    found = Saving(name, {}, useless[name])
                savings.append(found)
    return Offer(original, tuple(savings)), chosen


# These are measured on the model, without a file.
_WIDE = ("filters", "gates", "density")


def _without_branches(model: keras.Model) -> tuple[keras.Model, int]:
    """The model with all gates closed, and how many there are."""
    gated = gates.add_layer_gates(structure.wrap(model, {}, carry_optimizer=False))
    names = list(gates.gates_of(gated))
    closed = gates.Openings({name: np.zeros(1) for name in names}, samples=1)
    return gates.resolve(gated, closed, verify=False), len(names)


def _has_frozen_kernel(layer: keras.layers.Layer) -> bool:
    return any(v.name == "kernel" for v in getattr(layer, "weights", ()))


def _first_line(error: Exception) -> str:
    text = str(error).strip().partition("\n")[0]
    return text.rpartition("Received: ")[2] or text
