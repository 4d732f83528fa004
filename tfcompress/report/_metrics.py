"""The columns of a comparison, defined once for text, Markdown and HTML."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from tfcompress.report._figures import ModelFigures

__all__ = ["DASH", "METRICS", "Metric", "quantity", "relative", "shown"]

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
        less: word for a figure below the baseline's, such as `"smaller"`; empty
            for accuracy, whose difference is shown in points.
        more: word for a figure above it.
    """

    key: str
    label: str
    origin: str
    get: Callable[[ModelFigures], float | None]
    show: Callable[[float], str]
    less: str = ""
    more: str = ""


def quantity(value: float, unit: str = "") -> str:
    """Three significant digits with an SI prefix: `quantity(4.3e-7, "J")`."""
    if value == 0:
        return f"0 {unit}".rstrip()
    prefixes = {
        -15: "f", -12: "p", -9: "n", -6: "µ", -3: "m",
        0: "", 3: "k", 6: "M", 9: "G", 12: "T", 15: "P",
    }  # fmt: skip
    exponent = 3 * math.floor(math.log10(abs(value)) / 3)
    if not unit:
        exponent = max(exponent, 0)
    exponent = min(max(exponent, -15), 15)
    scaled = f"{value / 10**exponent:.3g}"
    if float(scaled) >= 1000 and exponent < 15:  # 999.9 rounds up to the next one
        exponent += 3
        scaled = f"{value / 10**exponent:.3g}"
    return f"{scaled} {prefixes[exponent]}{unit}".rstrip()


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
    if not metric.less:
        points = 100 * (value - base)
        return f"{points:+.2f} points".replace("-", "−")
    if value <= 0 or base <= 0:
        return ""
    ratio = max(base / value, value / base)
    if ratio < 1.005:
        return "the same"
    word = metric.less if value < base else metric.more
    return f"{ratio:,.0f}× {word}" if ratio >= 100 else f"{ratio:.3g}× {word}"


def _file_size(name: str) -> Callable[[ModelFigures], float | None]:
    return lambda m: m.files[name].bytes if name in m.files else None


def _latency(name: str) -> Callable[[ModelFigures], float | None]:
    def get(figures: ModelFigures) -> float | None:
        file = figures.files.get(name)
        return file.latency.median if file and file.latency else None

    return get


def _agreement(figures: ModelFigures) -> float | None:
    file = figures.files.get("int8")
    return file.parity.top1_agreement if file else None


def _percent(value: float) -> str:
    return f"{100 * value:.2f} %"


def _milliseconds(value: float) -> str:
    return quantity(value / 1e3, "s")


METRICS = (
    Metric("accuracy", "Accuracy", "measured", lambda m: m.accuracy, _percent),
    Metric(
        "parameters",
        "Parameters",
        "counted",
        lambda m: m.parameters,
        lambda v: f"{v:,.0f}",
        "fewer",
        "more",
    ),
    Metric("macs", "MACs", "counted", lambda m: m.macs, quantity, "fewer", "more"),
    Metric(
        "float32_bytes",
        "TFLite float32",
        "measured",
        _file_size("float32"),
        lambda v: quantity(v, "B"),
        "smaller",
        "larger",
    ),
    Metric(
        "int8_bytes",
        "TFLite int8",
        "measured",
        _file_size("int8"),
        lambda v: quantity(v, "B"),
        "smaller",
        "larger",
    ),
    Metric(
        "int8_agreement",
        "int8 agrees with Keras",
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
        "faster",
        "slower",
    ),
    Metric(
        "int8_latency",
        "Latency int8",
        "measured",
        _latency("int8"),
        _milliseconds,
        "faster",
        "slower",
    ),
    Metric(
        "energy",
        "Energy",
        "modelled",
        lambda m: m.joules,
        lambda v: quantity(v, "J"),
        "less",
        "more",
    ),
)
