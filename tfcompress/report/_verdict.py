"""Which model to ship."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tfcompress.report._figures import (
    MetricFigure,
    ModelFigures,
    ReportFigures,
    Verdict,
)
from tfcompress.report._words import spoken

_GAP = "\N{NO-BREAK SPACE}"  # so that a figure stays on one line

__all__ = ["as_text", "primary", "sentence", "verdict"]


def primary(models: Sequence[ModelFigures]) -> str | None:
    """Name of the metric that models are judged by: the first model's first one.

    `None` if nothing was measured, or if it is not known whether more is better.
    """
    for name, figure in models[0].metrics.items():
        if figure.direction is not None and figure.value is not None:
            return name
    return None


def verdict(
    models: Sequence[ModelFigures], tolerance: float, highlight: str | None
) -> Verdict:
    """Chooses the smallest file whose quality is within `tolerance` of the first's."""
    if highlight is not None:
        chosen = next(model for model in models if model.name == highlight)
        smallest = _smallest([(chosen, kind) for kind in chosen.files])
        kind = smallest[1] if smallest else ""
        return Verdict(highlight, kind, "chosen by hand", tolerance)
    name = primary(models)
    if name is None:
        why = (
            "the first model has no figure on test data that says which of two is "
            "better"
        )
        return Verdict("", "", f"No verdict: {why}.", tolerance)
    base = models[0].metrics[name]
    allowed = _amount(base, tolerance)
    rule = (
        f"the smallest file whose {spoken(name)} is at most {allowed} worse than that "
        f"of {models[0].name}"
    )
    if any(name in file.reference for m in models for file in m.files.values()):
        rule += (
            "; a file that ran on a part of the test data counts as its model, less "
            "what it loses there"
        )
    candidates = []
    for model in models:
        if model.problem:
            continue
        for kind in model.files:
            figure = _on_all_data(model, kind, name)
            if figure is not None and _within(figure, base, tolerance):
                candidates.append((model, kind))
    best = _smallest(candidates)
    if best is None:
        return Verdict(
            "", "", f"No verdict: there is no file for the rule, {rule}.", tolerance
        )
    return Verdict(best[0].name, best[1], rule, tolerance)


def _on_all_data(model: ModelFigures, kind: str, name: str) -> MetricFigure | None:
    """What a file is judged by; an estimate where it ran on a part of the data."""
    # Parts of the data are easier or harder than all of it, which says nothing of the
    # file. Its model ran on both, so that the file is told by its distance to it.
    file, whole = model.files[kind], model.metrics.get(name)
    figure, part = file.metrics.get(name), file.reference.get(name)
    if figure is None:
        # A float32 file computes what the model does; an integer file may not.
        return whole if kind == "float32" else None
    if part is None or figure.value is None:
        return figure
    if whole is None or whole.value is None or part.value is None:
        return None
    shift = whole.value - part.value

    def moved(number: float | None) -> float | None:
        if number is None or figure.unit != "fraction":
            return None if number is None else number + shift
        return min(max(number + shift, 0.0), 1.0)

    return replace(
        figure,
        value=moved(figure.value),
        low=moved(figure.low),
        high=moved(figure.high),
    )


def _smallest(
    candidates: Sequence[tuple[ModelFigures, str]],
) -> tuple[ModelFigures, str] | None:
    return min(candidates, key=lambda c: c[0].files[c[1]].bytes, default=None)


def _within(figure: MetricFigure, base: MetricFigure, tolerance: float) -> bool:
    if figure.value is None or base.value is None:
        return False
    worse = (
        base.value - figure.value
        if base.direction == "up"
        else (figure.value - base.value)
    )
    scale = 1.0 if base.unit == "fraction" else abs(base.value)
    return worse <= tolerance * scale + 1e-9


def _amount(base: MetricFigure, tolerance: float) -> str:
    if base.unit == "fraction":
        return f"{100 * tolerance:g} point{'s' * (tolerance != 0.01)}"
    return f"{100 * tolerance:g} %"


def sentence(report: ReportFigures) -> str:
    """The verdict in one sentence; the rule is another one."""
    found = report.verdict
    if found is None or not found.model:
        return ""
    models = {model.name: model for model in report.models}
    first, chosen = report.models[0], models.get(found.model)
    if chosen is None:
        return ""
    file = chosen.files.get(found.file)
    word = "Keep" if chosen is first and found.file != "int8" else "Ship"
    text = f"{word} {found.model}" + (f" ({found.file})" if found.file else "")
    parts = []
    base = first.files.get("float32") or first.files.get(found.file)
    if file is not None and base is not None and base is not file:
        ratio = base.bytes / file.bytes
        factor = f"{ratio:.1f}× smaller" if ratio >= 1 else f"{1 / ratio:.1f}× larger"
        kind = "float32" if "float32" in first.files else found.file
        parts.append(f"{factor} than {first.name} ({kind})")
    name = primary(report.models)
    if name is not None:
        figure = _on_all_data(chosen, found.file, name) if file else None
        figure = figure or chosen.metrics.get(name)
        if figure is not None and figure.value is not None:
            parts.append(f"{spoken(name)} {as_text(figure)}")
    return text + (f": {', '.join(parts)}." if parts else ".")


def as_text(figure: MetricFigure) -> str:
    """A figure, with half the width of its interval."""
    if figure.value is None:
        return "NaN"
    if figure.unit != "fraction":
        text = f"{figure.value:.4g}"
        if figure.low is not None and figure.high is not None:
            text += f"{_GAP}±{_GAP}{(figure.high - figure.low) / 2:.2g}"
        return text
    if figure.low is None or figure.high is None:
        return f"{100 * figure.value:.2f}{_GAP}%"
    half = 50 * (figure.high - figure.low)
    return f"{100 * figure.value:.1f}{_GAP}±{_GAP}{half:.1f}{_GAP}%"
