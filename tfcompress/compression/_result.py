"""What comes out of a compression."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras

from tfcompress.compression._budget import FIGURES, Budget
from tfcompress.compression._offers import Offer
from tfcompress.compression._task import Metric
from tfcompress.report import Report

__all__ = ["Compressed", "TrialResult"]


@dataclass(frozen=True)
class TrialResult:
    """One trial.

    Attributes:
        number: from 0.
        status: `"done"`, `"diverged"` (the loss became NaN) or `"hopeless"` (the
            search gave up).
        settings: what was tried.
        figures: size, MACs, … of its file and model; empty without a result.
        quality: loss and metrics of its file on the validation data.
        drop: how much worse its file is than the original: a difference where
            more is better, as with accuracies, else a relative growth.
        excess: by which factor the worst figure exceeds its limit; at most 1 is
            within the budget.
    """

    number: int
    status: str
    settings: Mapping[str, Any]
    figures: Mapping[str, float] = field(default_factory=dict)
    quality: Mapping[str, float] = field(default_factory=dict)
    drop: float | None = None
    excess: float | None = None

    @property
    def in_budget(self) -> bool:
        """Whether every figure is within its limit."""
        return self.excess is not None and self.excess <= 1


@dataclass(frozen=True)
class Compressed:
    """A compressed model and how it came about.

    Attributes:
        model: the compressed model, compiled as the original is.
        files: the files that were written, by what they are: `"model"` (Keras),
            `"file"` (what was measured), `"report"`, `"plan"`. Empty without `out`.
        trials: all trials, the chosen one among them.
        best: the chosen trial.
        offer: the original's figures, and what each method could save.
        budget: what was asked for.
        limits: the limits, absolute.
        metric: what quality was measured by, on the validation data.
        original_quality: of the original, in Keras.
        max_drop: the largest drop that was allowed.
        kind: what the measured file is: `"int8"`, `"float32"`, ….
        make_report: makes `report`.
    """

    model: keras.Model
    files: Mapping[str, Path]
    trials: tuple[TrialResult, ...]
    best: TrialResult
    offer: Offer
    budget: Budget
    limits: Mapping[str, float]
    metric: Metric
    original_quality: Mapping[str, float]
    max_drop: float
    kind: str
    make_report: Callable[[], Report] = field(repr=False)

    @functools.cached_property
    def report(self) -> Report:
        """The original and the compressed model side by side; made when asked for."""
        return self.make_report()

    @property
    def in_budget(self) -> bool:
        """Whether every figure is within the budget."""
        return self.best.in_budget

    @property
    def in_tolerance(self) -> bool:
        """Whether the quality dropped by no more than was allowed."""
        return self.best.drop is not None and self.best.drop <= self.max_drop

    @property
    def statement(self) -> str:
        """One or two sentences: whether what was asked for was reached."""
        over = [
            f"{name} {FIGURES[name].show(self.best.figures[name])} instead of "
            f"{FIGURES[name].show(limit)}"
            for name, limit in self.limits.items()
            if self.best.figures[name] > limit
        ]
        budget = (
            f"The budget is NOT met: {', '.join(over)}; nothing that was tried is "
            "smaller."
            if over
            else "The budget is met."
        )
        name = self.metric.name
        before, after = self.original_quality[name], self.best.quality[name]
        change = f"{name} {before:.4f} to {after:.4f} on the validation data"
        if self.in_tolerance:
            quality = f"The quality is kept: {change}."
        elif self.metric.grows:
            quality = (
                f"The quality is NOT kept: {change}, a drop of {self.best.drop:.4f} "
                f"where {self.max_drop:g} was allowed."
            )
        else:
            quality = (
                f"The quality is NOT kept: {change}, {self.best.drop:.1%} more where "
                f"{self.max_drop:.1%} was allowed."
            )
        return f"{budget} {quality}"

    def __str__(self) -> str:
        rows = [("", "original", "compressed", "limit")]
        for name, figure in FIGURES.items():
            if name in self.best.figures:
                limit = self.limits.get(name)
                original = self.offer.original.get(name)
                rows.append(
                    (
                        name,
                        "" if original is None else figure.show(original),
                        figure.show(self.best.figures[name]),
                        "" if limit is None else figure.show(limit),
                    )
                )
        name = self.metric.name
        rows.append(
            (
                name,
                f"{self.original_quality[name]:.4f}",
                f"{self.best.quality[name]:.4f}",
                f"drop of {self.max_drop:g}",
            )
        )
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = [
            "  ".join(
                cell.ljust(width) if i == 0 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        lines.append(f"\n{self.statement}")
        lines += [f"{what:<7} {path}" for what, path in self.files.items()]
        return "\n".join(lines)
