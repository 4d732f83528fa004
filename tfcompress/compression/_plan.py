"""What could be saved, and how much of it has to be."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from tfcompress import policy, structure
from tfcompress.compression._measure import Meter, file_name
from tfcompress.compression._sensitivity import Sensitivity
from tfcompress.cost import count

__all__ = ["Filters", "Offer", "Saving", "offers", "smallest_cut"]

_STEPS = 14
# Powers of ten: the rise of the loss that saving everything may cost.
_PRICES = (-6.0, 6.0)


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
        self.sensitivity: Sensitivity | None = None
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

    def counts(self, strength: float, tilt: float = 0.0) -> dict[str, int]:
        """How many channels of each group go.

        With a `sensitivity`, each group loses as many as are worth the rise of the
        loss at one price for all; otherwise each loses the same share.

        Args:
            strength: in [0, 1], from nothing to everything that can go.
            tilt: how much more late groups are pruned than early ones. Defaults
                to 0.0, neither.

        Returns:
            Numbers by group; every group keeps at least two channels: what passes
            through a single one says little.
        """
        places = np.linspace(-1, 1, len(self.sizes)) if len(self.sizes) > 1 else [0.0]
        result = {}
        for (name, size), place in zip(self.sizes.items(), places, strict=False):
            most = max(0, size - 2)
            if self.sensitivity is None or strength >= 1:
                share = min(1.0, strength * (1 + tilt * float(place)))
                result[name] = min(most, round(share * size))
                continue
            price = 10 ** (_PRICES[0] + strength * (_PRICES[1] - _PRICES[0]))
            harm = self.sensitivity.harm[name][: most + 1] * np.exp(-tilt * place)
            gain = self.sensitivity.saving[name] * np.arange(most + 1)
            result[name] = int(np.argmin(harm - price * gain)) if most else 0
        return result

    def savings(self, weights: Mapping[str, float]) -> dict[str, float]:
        """What one channel of each group saves, if all other groups stay.

        Args:
            weights: how much each of `"macs"` and `"parameters"` matters.

        Returns:
            Weighted shares of the original's figures, by group.
        """
        original = _counted(self._model)
        result = {}
        for name, size in self.sizes.items():
            half = max(1, size // 2) if size > 1 else 0
            less = _counted(self.without({name: half}))
            result[name] = sum(
                weight * (original[figure] - less[figure]) / original[figure]
                for figure, weight in weights.items()
                if original[figure]
            ) / max(1, half)
        return result

    def without(self, counts: Mapping[str, int]) -> keras.Model:
        """The original without that many channels, any of them; itself if none."""
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
            least = filters.without(filters.counts(1.0))
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


def smallest_cut(
    filters: Filters, tilt: float, fits: Callable[[dict[str, int]], bool]
) -> tuple[dict[str, int], bool]:
    """The fewest channels without which the model fits the budget.

    Args:
        filters: what can be pruned.
        tilt: see `Filters.counts`.
        fits: whether a model without so many channels fits.

    Returns:
        Numbers by group, and whether they fit; if nothing does, all that can go.
    """
    known: dict[tuple[int, ...], bool] = {}

    def does(counts: dict[str, int]) -> bool:
        key = tuple(counts.values())
        if key not in known:
            known[key] = fits(counts)
        return known[key]

    everything = filters.counts(1.0)
    if not does(everything):
        return everything, False
    low, high = 0.0, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if does(filters.counts(middle, tilt)):
            high = middle
        else:
            low = middle
    most = filters.counts(high, tilt)
    # From one price to the next a group may lose many channels at once. What lies
    # between gives some of them back.
    low, high = 0.0, 1.0
    for _ in range(_STEPS // 2):
        middle = (low + high) / 2
        if does(_scaled(most, middle)):
            high = middle
        else:
            low = middle
    return _scaled(most, high), True


def _scaled(counts: Mapping[str, int], share: float) -> dict[str, int]:
    return {name: round(share * count) for name, count in counts.items()}


def _counted(model: keras.Model) -> dict[str, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is not counted is in the report
        cost = count(model)
    return {"macs": float(cost.macs), "parameters": float(cost.parameters)}


def _reasons(skipped: Mapping[str, str]) -> str:
    by_reason: dict[str, list[str]] = {}
    for name, reason in skipped.items():
        by_reason.setdefault(reason, []).append(name)
    return "; ".join(f"{', '.join(names)} ({why})" for why, names in by_reason.items())
