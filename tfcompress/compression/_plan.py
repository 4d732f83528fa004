"""What could be saved, and how much of it has to be."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from tfcompress import policy, structure
from tfcompress.compression._measure import Meter, file_name

__all__ = ["Filters", "Offer", "Saving", "offers", "smallest_rate"]

# A layer that is left with less than this share of its filters learns little.
_LEAST_KEPT = 0.05
_STEPS = 8


@dataclass(frozen=True)
class Saving:
    """What one method could save.

    Attributes:
        method: its name.
        figures: the model's figures with this method alone, as far as it goes;
            empty where it cannot be used.
        note: why it cannot be used, or what it leaves alone.
    """

    method: str
    figures: Mapping[str, float]
    note: str = ""


@dataclass(frozen=True)
class Offer:
    """The original's figures, and what each method could save."""

    original: Mapping[str, float]
    savings: tuple[Saving, ...]

    def of(self, method: str) -> Saving:
        """The saving of one method."""
        return next(saving for saving in self.savings if saving.method == method)


class Filters:
    """The channels of a model that can be pruned, and smaller models without.

    Args:
        model: the original.
    """

    def __init__(self, model: keras.Model) -> None:
        self._model = model
        groups = structure.channel_groups(model)
        try:
            selection = policy.select_groups(groups, model)
        except ValueError as error:  # nothing is left to prune
            if any(group.prunable for group in groups):
                raise
            self.sizes: dict[str, int] = {}
            self.skipped = {group.name: group.reason for group in groups}
            self.reason = str(error).rpartition("Received none: ")[2]
            return
        self.sizes = {name: group.size for name, group in selection.chosen.items()}
        self.skipped = dict(selection.skipped)
        self.reason = ""

    def counts(self, rate: float, tilt: float = 0.0) -> dict[str, int]:
        """How many channels of each group go.

        Args:
            rate: mean pruning rate, in [0, 1].
            tilt: how much more late groups are pruned than early ones: the rate
                runs from `(1 - tilt) * rate` in the first to `(1 + tilt) * rate`
                in the last. Defaults to 0.0.

        Returns:
            Numbers by group; every group keeps at least two channels: what passes
            through a single one says little.
        """
        places = np.linspace(-1, 1, len(self.sizes)) if len(self.sizes) > 1 else [0.0]
        result = {}
        for (name, size), place in zip(self.sizes.items(), places, strict=False):
            own = min(1.0, rate * (1 + tilt * float(place)))
            result[name] = min(max(0, size - 2), round(own * size))
        return result

    def without(self, counts: Mapping[str, int]) -> keras.Model:
        """The original without so many channels, whichever; the original if none."""
        going = {name: np.arange(count) for name, count in counts.items() if count}
        if not going:
            return self._model
        return structure.remove_channels(
            self._model, going, verify=False, carry_optimizer=False
        )


def offers(
    model: keras.Model, filters: Filters, meter: Meter, kinds: Sequence[str]
) -> Offer:
    """Measures the original and what each method could save.

    Args:
        model: the original.
        filters: its channels.
        meter: measures.
        kinds: file formats to measure beside float32.
    """
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
        savings = []
        if filters.sizes:
            least = filters.without(filters.counts(1 - _LEAST_KEPT))
            note = f"{len(filters.sizes)} groups of channels"
            if filters.skipped:
                note += "; left alone: " + _reasons(filters.skipped)
            figures = meter.model_figures(least, "float32")
            savings.append(Saving("filters", figures, note))
        else:
            savings.append(Saving("filters", {}, filters.reason))
        for kind in kinds:
            try:
                savings.append(Saving(kind, measured(model, kind)))
            except (ValueError, RuntimeError) as error:
                note = str(error).strip().partition("\n")[0]
                savings.append(Saving(kind, {}, note))
    return Offer(original, tuple(savings))


def smallest_rate(
    filters: Filters, tilt: float, fits: Callable[[dict[str, int]], bool]
) -> tuple[float, bool]:
    """The smallest pruning rate whose model fits the budget.

    Args:
        filters: what can be pruned.
        tilt: see `Filters.counts`.
        fits: whether a model without so many channels fits.

    Returns:
        The rate, and whether it fits; if not even the highest does, that one.
    """
    known: dict[tuple[int, ...], bool] = {}

    def does(rate: float) -> bool:
        counts = filters.counts(rate, tilt)
        key = tuple(counts.values())
        if key not in known:
            known[key] = fits(counts)
        return known[key]

    high = 1 - _LEAST_KEPT
    if not does(high):
        high = 1.0
        if not does(high):
            return 1 - _LEAST_KEPT, False
    low = 0.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if does(middle):
            high = middle
        else:
            low = middle
    return high, True


def _reasons(skipped: Mapping[str, str]) -> str:
    by_reason: dict[str, list[str]] = {}
    for name, reason in skipped.items():
        by_reason.setdefault(reason, []).append(name)
    return "; ".join(f"{', '.join(names)} ({why})" for why, names in by_reason.items())
