"""How far each method has to go, tried on real files."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import keras
import numpy as np

from tfcompress import layers
from tfcompress.compression._budget import FIGURES
from tfcompress.compression._measure import Meter, file_name
from tfcompress.compression._methods import SINGLE
from tfcompress.compression._offers import PAIRS, Offer
from tfcompress.compression._plan import (
    Filters,
    smallest_cut,
    smallest_share,
    spread_zeros,
    with_zeros,
)
from tfcompress.compression._sensitivity import measure
from tfcompress.compression._task import Task
from tfcompress.compression._training import compile_as, copy_of

__all__ = ["Planner", "approximated"]

# The exporter's file of a trained model may be a little larger than that of the
# candidate it was planned with; what is compressed varies more.
_RESERVE, _RESERVE_ZEROS = 0.995, 0.97
_CORRECTIONS, _NEAR = 5, 0.98
_BYTES = {
    "float32": 4,
    "float16": 2,
    "dynamic": 1,
    "int8": 1,
    "int4": 0.5,
    "tfcz": 4,
}

# Where single weights share the work with filters, filters leave them this much of it.
SHARED = 0.5
_MOST_ZEROS, _STEP = 0.98, 0.01
# How many of the multipliers that fit are tried on data.
_TRIED = 4


class Planner:
    """Finds the least that meets a budget.

    Args:
        task: data to measure with.
        meter: measures candidates.
        offer: figures of the original.
        limits: the limits, absolute.
        kind: format of the file.
        uniform: whether all layers are treated alike.
        say: tells what is being done.
    """

    def __init__(
        self,
        task: Task,
        meter: Meter,
        offer: Offer,
        limits: Mapping[str, float],
        kind: str,
        *,
        uniform: bool,
        say: Callable[[str], None],
    ) -> None:
        self._task = task
        self._meter = meter
        self._offer = offer
        self._limits = limits
        self._kind = kind
        self._uniform = uniform
        self._say = say
        self._counted = [name for name in limits if not FIGURES[name].of_file]
        self._of_file = [name for name in limits if FIGURES[name].of_file]

    def excess(self, figures: Mapping[str, float]) -> float:
        """By which factor the worst figure exceeds its limit; inf if one is missing."""
        if not set(self._limits) <= set(figures):
            return np.inf
        return self._meter.excess(figures, self._limits)

    # Filters ---------------------------------------------------------------------

    def filters(
        self,
        filters: Filters,
        tilt: float,
        criterion: str,
        later: Collection[str] = (),
    ) -> tuple[dict[str, int], bool]:
        """The fewest channels to prune for the budget.

        Args:
            filters: the channels of the model.
            tilt: see `Filters.counts`.
            criterion: which filters of a layer go first.
            later: methods that come after, of whose share single weights get a
                part of what has to be saved.

        Returns:
            Numbers by group, and whether they suffice.
        """
        self._sense(filters, criterion)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / file_name(self._kind)

            def fits(counts: dict[str, int]) -> bool:
                candidate = filters.without(counts)
                if estimated:
                    figures = self._meter.model_figures(candidate, self._kind)
                    size = figures["parameters"] * bytes_each + overhead
                    within = size <= self._limits["size"] * _RESERVE
                    return within and self._counts_fit(figures)
                return self._fits(self._expected(candidate, later), file)

            # Every conversion takes seconds, and bisection asks dozens of times. The
            # size of a file is that of its weights and of what is around them, which
            # hardly changes from one candidate to the next: `fits` computes with
            # parameters · bytes_each + overhead. Each round converts the answer once,
            # corrects the overhead by the real size, and asks again. If no file of
            # five rounds fits, every candidate is converted.
            estimated = self._of_file == ["size"] and not later
            bytes_each = _BYTES[self._kind]
            parameters = self._offer.original["parameters"]
            overhead = self._offer.file(self._kind).get("size", 0.0)
            overhead -= parameters * bytes_each
            found: list[dict[str, int]] = []
            seen: list[dict[str, int]] = []
            for _ in range(_CORRECTIONS if estimated else 0):
                counts, _ = smallest_cut(filters, tilt, fits)
                if counts in seen:
                    break
                seen.append(counts)
                candidate = filters.without(counts)
                over = self._excess_of_file(candidate, file) / _RESERVE
                if over <= 1:
                    found.append(counts)
                if not np.isfinite(over) or _NEAR <= over <= 1:
                    break
                figures = self._meter.model_figures(candidate, self._kind)
                size = file.stat().st_size
                overhead = size - figures["parameters"] * bytes_each
            if found:
                return min(found, key=lambda counts: sum(counts.values())), True
            estimated = False
            return smallest_cut(filters, tilt, fits)

    def _sense(self, filters: Filters, criterion: str) -> None:
        """Measures what pruning does to the loss, where it has to be known."""
        if self._uniform or filters.sensitivity is not None:
            return
        self._say("Measuring how much each layer's filters matter")
        of_work = {"macs", "latency", "energy", "ram"} & set(self._limits)
        of_size = {"size", "parameters", "flash"} & set(self._limits)
        weights = {"macs": float(bool(of_work)), "parameters": float(bool(of_size))}
        filters.sensitivity = measure(
            copy_of(filters.model),
            filters.sizes,
            self._task.sample(),
            criterion,
            filters.savings(weights),
        )

    def _expected(self, candidate: keras.Model, later: Collection[str]) -> keras.Model:
        """What later methods make of a candidate, as far as they are counted on."""
        if set(SINGLE) & set(later):
            sparsities = spread_zeros(candidate, SHARED, uniform=self._uniform)
            candidate = with_zeros(candidate, sparsities)
        if "drum" in later:
            candidate = approximated(candidate, self.pair(candidate)[0])
        return candidate

    # Single weights ----------------------------------------------------------------

    def zeros(
        self, model: keras.Model, later: Collection[str] = (), most: float = _MOST_ZEROS
    ) -> tuple[dict[str, float], bool]:
        """The fewest zeros that meet the budget.

        Args:
            model: the model.
            later: methods that come after.
            most: the largest share of zeros. Defaults to 0.98.

        Returns:
            Layer name -> fraction of its weights, and whether they suffice.
        """
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / file_name(self._kind)

            def sparsities(share: float) -> dict[str, float]:
                return spread_zeros(model, share, uniform=self._uniform)

            def fits(share: float) -> bool:
                sparse = with_zeros(model, sparsities(share)) if share else model
                if "drum" in later:
                    sparse = approximated(sparse, self.pair(sparse)[0])
                return self._fits(sparse, file, _RESERVE_ZEROS)

            share, reached = smallest_share(most, _STEP, fits)
            return (sparsities(share) if share else {}), reached

    # Multipliers ---------------------------------------------------------------------

    def pair(self, model: keras.Model) -> tuple[tuple[int, int], bool]:
        """The widest multiplier that meets the budget, by the bits it looks at.

        Returns:
            Bits of weight and activation, and whether they suffice.
        """
        fitting = self._fitting(model)
        joules = self._joules(model)
        if not fitting:
            return min(joules, key=lambda pair: joules[pair]), False
        return max(fitting, key=lambda pair: (joules[pair], pair)), True

    def best_pair(self, model: keras.Model) -> tuple[tuple[int, int], bool]:
        """As `pair`, but of the widest ones that which the loss rises least with."""
        fitting, joules = self._fitting(model), self._joules(model)
        if not fitting:
            return self.pair(model)
        widest = sorted(fitting, key=lambda pair: -joules[pair])[:_TRIED]
        sample = self._task.sample()

        def loss(pair: tuple[int, int]) -> float:
            tried = approximated(model, pair)
            compile_as(tried, model)
            value = tried.evaluate(*sample, verbose=0, return_dict=True)["loss"]
            return float(value) if np.isfinite(value) else np.inf

        return min(widest, key=loss), True

    def _fitting(self, model: keras.Model) -> list[tuple[int, int]]:
        return [
            pair
            for pair, value in self._joules(model).items()
            if value <= self._limits["energy"]
        ]

    def _joules(self, model: keras.Model) -> dict[tuple[int, int], float]:
        return {
            pair: self._meter.model_figures(model, self._kind, multiplier_bits=pair)[
                "energy"
            ]
            for pair in PAIRS
        }

    # Candidates ------------------------------------------------------------------

    def _fits(
        self, candidate: keras.Model, file: Path, reserve: float = _RESERVE
    ) -> bool:
        figures = self._meter.model_figures(candidate, self._kind)
        if not self._counts_fit(figures):
            return False
        return not self._of_file or self._excess_of_file(candidate, file) <= reserve

    def _counts_fit(self, figures: Mapping[str, float]) -> bool:
        if not self._counted:
            return True
        return self._meter.excess(figures, self._limits, self._counted) <= 1

    def _excess_of_file(self, candidate: keras.Model, file: Path) -> float:
        try:
            self._meter.export(candidate, self._kind, file, rough=True)
        except RuntimeError:
            return np.inf
        figures = self._meter.file_figures(file)
        return self._meter.excess(figures, self._limits, self._of_file)


def approximated(model: keras.Model, pair: tuple[int, int]) -> keras.Model:
    """A copy of `model` whose products look at so many bits."""
    return layers.wrap_kernels(model, lambda layer: layers.DrumMultiply(layer, *pair))
