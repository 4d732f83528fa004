"""The figures of a comparison, defined once for text, Markdown, page and charts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from tfcompress.report._figures import (
    Agreement,
    FileFigures,
    MetricFigure,
    ModelFigures,
    ReportFigures,
    TargetFigures,
)
from tfcompress.report._words import quantity, spoken

__all__ = ["DASH", "Row", "relative", "rows_of", "shown", "spread", "tone"]

DASH = "–"

Get = Callable[[ModelFigures], float | None]
Interval = Callable[[ModelFigures], tuple[float, float] | None]


@dataclass(frozen=True)
class Row:
    """One figure of every model.

    Attributes:
        key: short identifier.
        group: heading that it stands under.
        label: its own heading.
        origin: `"measured"`, `"counted"`, `"modeled"` or `"estimated"`.
        get: the figure of a model, or `None`.
        show: the figure as text.
        direction: `"up"` where more is better, `"down"`, or `None`.
        words: for a figure below and above the baseline's, such as
            `("smaller", "larger")`; `None` where a factor says nothing.
        points: whether the difference to the baseline is shown in points.
        interval: where the figure lies with some confidence, or `None`.
        noise: half the width of the confidence interval of the difference to the
            baseline, or `None`; without it, intervals that overlap are noise.
        fixed: whether it is shown, with dashes, though no model has it.
    """

    key: str
    group: str
    label: str
    origin: str
    get: Get
    show: Callable[[float], str]
    direction: Literal["up", "down"] | None = "down"
    words: tuple[str, str] | None = None
    points: bool = False
    interval: Interval = lambda model: None
    noise: Get = lambda model: None
    fixed: bool = False


def rows_of(report: ReportFigures) -> list[Row]:
    """The rows to show: those that some model has, and those that all should have."""
    return [
        row
        for row in _all(report)
        if row.fixed or any(row.get(model) is not None for model in report.models)
    ]


def shown(row: Row, model: ModelFigures) -> str:
    """The figure as text, a dash where it is missing."""
    value = row.get(model)
    if value is not None:
        return row.show(value)
    broken = "not finite" in model.problem and row.group == "Quality"
    return "NaN" if broken else DASH


def spread(row: Row, model: ModelFigures) -> str:
    """The confidence interval as text: `"97.2–99.6"`. Empty where not known."""
    ends = row.interval(model)
    if ends is None or row.get(model) is None:
        return ""
    low, high = (row.show(end) for end in ends)
    unit = low.rpartition(" ")[2]
    if high.endswith(unit) and unit != low:
        low = low.removesuffix(unit).rstrip()
    return f"{low}–{high}"


def relative(row: Row, model: ModelFigures, baseline: ModelFigures) -> str:
    """The figure against the baseline's: `"3.9× smaller"`, `"+0.3 points"`.

    Empty where either is missing or they cannot be compared.
    """
    value, base = row.get(model), row.get(baseline)
    if value is None or base is None or model is baseline:
        return ""
    if row.points:
        text = f"{100 * (value - base):+.2f}"
        noise = row.noise(model)
        if noise is not None:
            text += f" ± {100 * noise:.2f}"
        return f"{text} points".replace("-", "−")
    if row.words is None or value <= 0 or base <= 0:
        return ""
    if value == base:
        return "the same"
    word = row.words[value > base]
    ratio = max(base / value, value / base)
    if ratio < 1.1:  # "1.0×" would say nothing
        return f"{100 * abs(value / base - 1):.1f} % {word}"
    return f"{ratio:.1f}× {word}" if ratio < 9.95 else f"{ratio:,.0f}× {word}"


def tone(
    row: Row, model: ModelFigures, baseline: ModelFigures
) -> Literal["better", "worse", "same"]:
    """Whether the figure is better than the baseline's, beyond the noise."""
    value, base = row.get(model), row.get(baseline)
    if value is None or base is None or value == base or row.direction is None:
        return "same"
    noise = row.noise(model)
    if noise is not None:
        if abs(value - base) <= noise:
            return "same"
    else:
        mine, theirs = row.interval(model), row.interval(baseline)
        if mine and theirs and mine[0] <= theirs[1] and theirs[0] <= mine[1]:
            return "same"
    return "better" if (value > base) == (row.direction == "up") else "worse"


# Rows -------------------------------------------------------------------------


def _all(report: ReportFigures) -> Iterator[Row]:
    yield from _quality(report)
    yield from _agreements(report)
    sparse = any(
        m.nonzero is not None and m.parameters and m.nonzero < 0.99 * m.parameters
        for m in report.models
    )
    count = ("fewer", "more")
    yield _row("parameters", "Size", "Parameters", "counted", lambda m: m.parameters,
               lambda v: f"{v:,.0f}", count)  # fmt: skip
    if sparse:
        yield _row("nonzero", "Size", "Non-zero parameters", "counted",
                   lambda m: m.nonzero, lambda v: f"{v:,.0f}", count)  # fmt: skip
    size = ("smaller", "larger")
    for kind in ("float32", "int8"):
        yield _row(f"{kind}_bytes", "Size", f"TFLite {kind}", "measured",
                   _of_file(kind, lambda f: f.bytes), _bytes, size)  # fmt: skip
        yield _row(f"{kind}_zipped", "Size", f"TFLite {kind}, zipped", "measured",
                   _of_file(kind, lambda f: f.zipped), _bytes, size,
                   fixed=False)  # fmt: skip
    yield _row("packed", "Size", "Packed .tfcz", "measured", lambda m: m.packed,
               _bytes, size, fixed=False)  # fmt: skip
    yield _row("macs", "Work", "MACs", "counted", lambda m: m.macs, quantity, count)
    for kind in ("float32", "int8"):
        yield Row(
            f"{kind}_latency",
            "Speed",
            f"Latency {kind}, this computer",
            "measured",
            _of_file(kind, lambda f: f.latency.median if f.latency else None),
            _milliseconds,
            words=("faster", "slower"),
            interval=_latency_span(kind),
            fixed=True,
        )
    less = ("less", "more")
    for kind in ("float32", "int8"):
        yield _row(f"{kind}_energy", "Energy", f"Energy {kind}, this computer",
                   "measured", _of_file(kind, lambda f: f.energy), _joules, less,
                   fixed=False)  # fmt: skip
    yield _row("energy", "Energy", "Modeled energy", "modeled", lambda m: m.joules,
               _joules, less)  # fmt: skip
    yield _row("int8_modeled", "Energy", "Modeled energy, int8", "modeled",
               _of_file("int8", lambda f: sum(f.modeled.values()) if f.modeled
                        else None), _joules, less, fixed=False)  # fmt: skip
    yield from _targets(report)


def _row(
    key: str,
    group: str,
    label: str,
    origin: str,
    get: Get,
    show: Callable[[float], str],
    words: tuple[str, str],
    *,
    fixed: bool = True,
) -> Row:
    """A row of which less is better."""
    return Row(key, group, label, origin, get, show, words=words, fixed=fixed)


def _quality(report: ReportFigures) -> Iterator[Row]:
    names = dict.fromkeys(name for m in report.models for name in m.metrics)
    if not names:
        yield Row("quality", "Quality", "Quality", "measured", lambda m: None, str,
                  fixed=True)  # fmt: skip
    losses = [name for name in names if name == "loss" or name.endswith("_loss")]
    for name in [n for n in names if n not in losses] + losses:
        yield _metric(report, name, "")
        if name not in losses:
            yield _metric(report, name, "int8")


def _metric(report: ReportFigures, name: str, kind: str) -> Row:
    """The row of a metric, of the models or of their files."""

    def figure(model: ModelFigures) -> MetricFigure | None:
        if not kind:
            return model.metrics.get(name)
        file = model.files.get(kind)
        return file.metrics.get(name) if file else None

    def value(model: ModelFigures) -> float | None:
        found = figure(model)
        return None if found is None else found.value

    def interval(model: ModelFigures) -> tuple[float, float] | None:
        found = figure(model)
        if found is None or found.low is None or found.high is None:
            return None
        return found.low, found.high

    def noise(model: ModelFigures) -> float | None:
        found = figure(model)
        return None if found is None else found.noise

    found = [m.metrics[name] for m in report.models if name in m.metrics]
    fraction = bool(found) and found[0].unit == "fraction"
    direction = found[0].direction if found else None
    label = spoken(name)
    label = label[:1].upper() + label[1:]
    return Row(
        f"{kind}:{name}" if kind else name,
        "Quality",
        f"{label}, {kind} file" if kind else label,
        "measured",
        value,
        _percent if fraction else _number,
        direction if direction in ("up", "down") else None,  # type: ignore[arg-type]
        words=None if fraction else ("lower", "higher"),
        points=fraction,
        interval=interval,
        noise=noise,
        fixed=not kind,
    )


def _agreements(report: ReportFigures) -> Iterator[Row]:
    """How closely integer files decide as the models do, output by output."""
    files = [m.files["int8"] for m in report.models if "int8" in m.files]
    outputs = dict.fromkeys(name for file in files for name in file.agreement)
    if not outputs:  # as in reports of schema 1
        yield Row("int8_agreement", "Quality", "int8 agreement (top-1)", "measured",
                  _of_file("int8", lambda f: f.parity.top1_agreement), _percent,
                  "up")  # fmt: skip
    single = all(len(file.agreement) <= 1 for file in files)
    if single and outputs:  # models may name their output differently
        kinds = {a.kind for file in files for a in file.agreement.values()}
        for kind in sorted(kinds):
            yield _agreement(kind, "", lambda f: next(iter(f.agreement.values()), None))
        return
    for name in outputs:
        kinds = {f.agreement[name].kind for f in files if name in f.agreement}
        for kind in sorted(kinds):
            yield _agreement(kind, name, _answer_of(name))


def _answer_of(name: str) -> Callable[[FileFigures], Agreement | None]:
    return lambda file: file.agreement.get(name)


def _agreement(
    kind: str, output: str, find: Callable[[FileFigures], Agreement | None]
) -> Row:
    def value(file: FileFigures) -> float | None:
        found = find(file)
        return found.value if found is not None and found.kind == kind else None

    what = "relative error" if kind == "relative error" else f"agreement ({kind})"
    return Row(
        f"int8_agreement:{output}:{kind}",
        "Quality",
        f"int8 {what}" + (f", {output}" if output else ""),
        "measured",
        _of_file("int8", value),
        _percent,
        "down" if kind == "relative error" else "up",
    )


def _targets(report: ReportFigures) -> Iterator[Row]:
    """Flash, memory and speed on every target that was asked."""
    for name in dict.fromkeys(n for m in report.models for n in m.targets):
        tools = [m.targets[name] for m in report.models if name in m.targets]
        origin = tools[0].kind
        for key, label, get, show, words in (
            ("flash", "Flash", lambda t: t.flash, _binary, ("less", "more")),
            ("ram", "RAM", lambda t: t.ram, _binary, ("less", "more")),
            ("latency", "Latency", lambda t: t.latency, _latency,
             ("faster", "slower")),
        ):  # fmt: skip
            yield Row(
                f"target:{name}:{key}",
                name,
                label,
                origin,
                _of_target(name, get),
                show,
                words=words,
            )
        if any(tool.exact is not None for tool in tools):
            yield Row(
                f"target:{name}:exact",
                name,
                "Outputs equal LiteRT's",
                origin,
                _of_target(name, lambda t: t.exact),
                lambda v: "bit for bit" if v else "not bit for bit",
            )
        if any(tool.checks for tool in tools):
            yield Row(
                f"target:{name}:fits",
                name,
                "Budgets",
                origin,
                _of_target(name, lambda t: 1.0 if t.fits is None else 2.0 * t.fits),
                lambda v: {2.0: "fits", 0.0: "does not fit"}.get(v, "may fit"),
                "up",
            )


def _of_file(kind: str, get: Callable[[FileFigures], float | None]) -> Get:
    return lambda m: get(m.files[kind]) if kind in m.files else None


def _of_target(name: str, get: Callable[[TargetFigures], float | None]) -> Get:
    return lambda m: get(m.targets[name]) if name in m.targets else None


def _latency_span(kind: str) -> Interval:
    def span(model: ModelFigures) -> tuple[float, float] | None:
        file = model.files.get(kind)
        return (file.latency.p10, file.latency.p90) if file and file.latency else None

    return span


def _percent(value: float) -> str:
    return f"{100 * value:.2f} %"


def _number(value: float) -> str:
    return f"{value:.4g}".replace("-", "−")


def _bytes(value: float) -> str:
    return quantity(value, "B")


def _binary(value: float) -> str:
    return f"{value / 1024:,.1f} KiB"


def _joules(value: float) -> str:
    return quantity(value, "J")


def _milliseconds(value: float) -> str:
    return quantity(value / 1e3, "s")


def _latency(value: float) -> str:
    return f"{_milliseconds(value)} ({quantity(1e3 / value)}/s)"
