"""The columns of a comparison, defined once for text, Markdown and HTML."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tfcompress.report._figures import ModelFigures, ReportFigures
from tfcompress.report._words import quantity

__all__ = [
    "DASH",
    "METRICS",
    "Metric",
    "metrics_of",
    "relative",
    "shown",
]

DASH = "–"


@dataclass(frozen=True)
class Metric:
    """One figure of a model.

    Attributes:
        key: short identifier.
        label: heading.
        origin: `"measured"`, `"counted"` or `"modelled"`.
        get: the figure of a model, or `None`.
        show: the figure as text.
        words: for a figure below and above the baseline's, such as
            `("smaller", "larger")`. `None` where less is not better.
        points: whether the difference to the baseline is shown in points.
    """

    key: str
    label: str
    origin: str
    get: Callable[[ModelFigures], float | None]
    show: Callable[[float], str]
    words: tuple[str, str] | None = None
    points: bool = False


def metrics_of(report: ReportFigures) -> list[Metric]:
    """The metrics to show.

    Non-zero parameters only where many are zero, and measured energy only where
    the machine measures it; everything else always, with a dash where missing.
    """
    hidden = set()
    if not any(
        m.nonzero is not None and m.parameters and m.nonzero < 0.99 * m.parameters
        for m in report.models
    ):
        hidden.add("nonzero")
    for kind in ("float32", "int8"):
        if all(_file_energy(kind)(model) is None for model in report.models):
            hidden.add(f"{kind}_energy")
    return [metric for metric in METRICS if metric.key not in hidden]


def shown(metric: Metric, figures: ModelFigures) -> str:
    """The figure as text, a dash where it is missing."""
    value = metric.get(figures)
    return DASH if value is None else metric.show(value)


def relative(metric: Metric, figures: ModelFigures, baseline: ModelFigures) -> str:
    """The figure against the baseline's: `"3.9× smaller"`, `"+0.3 points"`.

    Empty where either is missing or they cannot be compared.
    """
    value, base = metric.get(figures), metric.get(baseline)
    if value is None or base is None or figures is baseline:
        return ""
    if metric.points:
        return f"{100 * (value - base):+.2f} points".replace("-", "−")
    if metric.words is None or value <= 0 or base <= 0:
        return ""
    if value == base:
        return "the same"
    word = metric.words[value > base]
    ratio = max(base / value, value / base)
    if ratio < 1.1:  # "1.0×" would say nothing
        return f"{100 * abs(value / base - 1):.1f} % {word}"
    return f"{ratio:.1f}× {word}" if ratio < 9.95 else f"{ratio:,.0f}× {word}"


def _file_size(name: str) -> Callable[[ModelFigures], float | None]:
    return lambda m: m.files[name].bytes if name in m.files else None


def _latency(name: str) -> Callable[[ModelFigures], float | None]:
    def get(figures: ModelFigures) -> float | None:
        file = figures.files.get(name)
        return file.latency.median if file and file.latency else None

    return get


def _file_energy(name: str) -> Callable[[ModelFigures], float | None]:
    return lambda m: m.files[name].energy if name in m.files else None


def _agreement(figures: ModelFigures) -> float | None:
    file = figures.files.get("int8")
    return file.parity.top1_agreement if file else None


def _percent(value: float) -> str:
    return f"{100 * value:.2f} %"


def _milliseconds(value: float) -> str:
    return quantity(value / 1e3, "s")


METRICS = (
    Metric(
        "accuracy", "Accuracy", "measured", lambda m: m.accuracy, _percent, points=True
    ),
    Metric(
        "parameters",
        "Parameters",
        "counted",
        lambda m: m.parameters,
        lambda v: f"{v:,.0f}",
        ("fewer", "more"),
    ),
    Metric(
        "nonzero",
        "Non-zero",
        "counted",
        lambda m: m.nonzero,
        lambda v: f"{v:,.0f}",
        ("fewer", "more"),
    ),
    Metric("macs", "MACs", "counted", lambda m: m.macs, quantity, ("fewer", "more")),
    Metric(
        "float32_bytes",
        "TFLite float32",
        "measured",
        _file_size("float32"),
        lambda v: quantity(v, "B"),
        ("smaller", "larger"),
    ),
    Metric(
        "int8_bytes",
        "TFLite int8",
        "measured",
        _file_size("int8"),
        lambda v: quantity(v, "B"),
        ("smaller", "larger"),
    ),
    Metric(
        "int8_agreement",
        "int8 agreement",
        "measured",
        _agreement,
        _percent,
    ),
    Metric(
        "float32_latency",
        "Latency float32",
        "measured",
        _latency("float32"),
        _milliseconds,
        ("faster", "slower"),
    ),
    Metric(
        "int8_latency",
        "Latency int8",
        "measured",
        _latency("int8"),
        _milliseconds,
        ("faster", "slower"),
    ),
    Metric(
        "float32_energy",
        "Energy float32",
        "measured",
        _file_energy("float32"),
        lambda v: quantity(v, "J"),
        ("less", "more"),
    ),
    Metric(
        "int8_energy",
        "Energy int8",
        "measured",
        _file_energy("int8"),
        lambda v: quantity(v, "J"),
        ("less", "more"),
    ),
    Metric(
        "energy",
        "Modelled energy",
        "modelled",
        lambda m: m.joules,
        lambda v: quantity(v, "J"),
        ("less", "more"),
    ),
)
