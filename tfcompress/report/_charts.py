"""The charts of a report."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tfcompress._figures import Curves, Heatmap
from tfcompress.report import _vega as vega
from tfcompress.report._figures import LayerFigures, ModelFigures, ReportFigures
from tfcompress.report._words import prefix, quantity, short_names, shorten

__all__ = ["Chart", "charts", "model_colors"]

_NAME = 40  # characters of a name in a chart
_MOST_LAYERS = 24  # layers in a chart
_MOST_BARS = 60  # bars in a chart
_MODEL_COLORS = 8  # CSS variables --model-0 …
_KIND_COLORS = 5  # CSS variables --kind-0 …
_LEAST_SPAN = 0.01  # of the accuracy axis, so that a tie looks like one

_Table = tuple[list[str], list[list[str]]]


@dataclass(frozen=True)
class Chart:
    """A chart and the words around it.

    Attributes:
        section: heading that it stands under.
        title: its own heading.
        description: what it shows, in a sentence.
        label: what a screen reader says in place of the picture.
        spec: the Vega-Lite specification.
        legend: CSS variable of the colour of each name.
        table: the same numbers, header and rows; `None` where a table of the
            page has them.
        wide: whether it takes the whole width of the page.
    """

    section: str
    title: str
    description: str
    label: str
    spec: dict[str, Any]
    legend: Mapping[str, str]
    table: _Table | None = None
    wide: bool = False


def charts(report: ReportFigures) -> list[Chart]:
    """All charts for which the report has figures, in the order of the page."""
    candidates = [
        _frontier(report),
        _energy_of_models(report),
        _bars_of_layers(report, "MACs", lambda layer: layer.macs),
        _bars_of_layers(report, "parameters", lambda layer: layer.parameters),
        _energy_of_layers(report),
        *_training(report),
        *(_lines(report, curves) for curves in report.curves),
        *(_grid(heatmap) for heatmap in report.heatmaps),
    ]
    return [chart for chart in candidates if chart]


def model_colors(report: ReportFigures) -> list[str]:
    """A CSS variable for each model: grey for the baseline, blue for the last."""
    count = len(report.models)
    if count == 1:
        return ["--model-1"]
    between = [f"--model-{2 + i % (_MODEL_COLORS - 2)}" for i in range(count - 2)]
    return ["--model-0", *between, "--model-1"]


# Models ---------------------------------------------------------------------


def _frontier(report: ReportFigures) -> Chart | None:
    names = _names(report)
    points = [
        (names[model.name], model.joules, model.accuracy)
        for model in report.models
        if model.joules and model.accuracy is not None
    ]
    if len(points) < 2:
        return None
    scale = _Scale([joules for _, joules, _ in points], "J")
    best = _pareto([(joules, accuracy) for _, joules, accuracy in points])
    energies = [joules for _, joules, _ in points]
    logarithmic = max(energies) > 20 * min(energies)
    values = [
        {
            "model": name,
            "x": scale(joules),
            "y": accuracy,
            "best": (joules, accuracy) in best,
            "text": f"{100 * accuracy:.2f} %, {quantity(joules, 'J')}",
        }
        for name, joules, accuracy in points
    ]
    colors = _model_palette(report)
    return Chart(
        section="Trade-off",
        title="Accuracy against energy",
        description="Up and to the left is better. The line joins the models that "
        "no other beats in both.",
        label="Scatter chart of the accuracy of each model against its modelled "
        "energy. The table of models has the numbers.",
        spec=vega.spec(
            values,
            height=260,
            encoding={
                "x": vega.number(
                    "x",
                    f"modelled energy ({scale.unit})",
                    zero=False,
                    padding=28,
                    logarithmic=logarithmic,
                ),
                "y": vega.number(
                    "y",
                    "accuracy",
                    zero=False,
                    format=".1%",
                    domain=_span([accuracy for _, _, accuracy in points]),
                ),
            },
            layer=[
                {
                    "transform": [{"filter": "datum.best"}],
                    "mark": {
                        "type": "line",
                        "color": "--muted",
                        "strokeDash": [4, 4],
                        "strokeWidth": 1.25,
                    },
                },
                {
                    "mark": {"type": "circle", "size": 160},
                    "encoding": {
                        "opacity": vega.faded("model"),
                        "color": vega.color("model", colors),
                        "tooltip": vega.tooltip(model="model", text="accuracy, energy"),
                    },
                },
            ],
        ),
        legend=colors,
    )


def _energy_of_models(report: ReportFigures) -> Chart | None:
    names = _names(report)
    cells = [
        (names[model.name], _spaced(kind), joules)
        for model in report.models
        for kind, joules in (model.energy or {}).items()
    ]
    if not cells:
        return None
    scale = _Scale([model.joules for model in report.models], "J")
    colors = _kind_palette(report)
    return Chart(
        section="Trade-off",
        title="Energy by kind",
        description="Modelled energy of one inference.",
        label="Stacked bar chart of the modelled energy of each model by kind of "
        "operation.",
        spec=vega.spec(
            [
                {
                    "model": name,
                    "kind": kind,
                    "order": list(colors).index(kind),
                    "value": scale(joules),
                    "text": quantity(joules, "J"),
                }
                for name, kind, joules in cells
            ],
            height=max(180, 52 * len(names)),
            mark=vega.bar(0.5),
            encoding={
                "y": vega.names("model", list(names.values())),
                "x": vega.number("value", scale.unit),
                "color": vega.color("kind", colors),
                "order": {"field": "order"},
                "opacity": vega.faded("kind"),
                "tooltip": vega.tooltip(model="model", kind="kind", text="energy"),
            },
        ),
        legend=colors,
        table=_pivot("model", [(n, kind, quantity(v, "J")) for n, kind, v in cells]),
    )


# Layers ---------------------------------------------------------------------


def _bars_of_layers(
    report: ReportFigures, title: str, get: Callable[[LayerFigures], float]
) -> Chart | None:
    names = _names(report)
    figures = {names[model.name]: _by_layer(model, get) for model in report.models}
    layers, description = _largest_layers(list(figures.values()))
    if not layers:
        return None
    scale = _Scale([value for by in figures.values() for value in by.values()])
    colors = _model_palette(report)
    return Chart(
        section="Layer by layer",
        title=title[0].upper() + title[1:],
        description=description,
        label=f"Bar chart of the {title} of each layer for every model. The table "
        "at the end of this section has the numbers.",
        spec=vega.spec(
            [
                {
                    "layer": short,
                    "model": name,
                    "value": scale(by_layer[layer]),
                    "text": quantity(by_layer[layer]),
                }
                for name, by_layer in figures.items()
                for layer, short in layers.items()
                if layer in by_layer
            ],
            height=(9 * len(names) + 9) * len(layers),
            mark=vega.bar(0.9),
            encoding={
                "y": vega.names("layer", list(layers.values())),
                "yOffset": {"field": "model", "sort": list(names.values())},
                "x": vega.number("value", scale.count_of(title)),
                "color": vega.color("model", colors),
                "opacity": vega.faded("model"),
                "tooltip": vega.tooltip(layer="layer", model="model", text=title),
            },
        ),
        legend=colors,
    )


def _energy_of_layers(report: ReportFigures) -> Chart | None:
    names = _names(report)
    modelled = [model for model in report.models if model.energy]
    totals = [_by_layer(model, _joules) for model in modelled]
    layers, description = _largest_layers(totals)
    if not layers:
        return None
    scale = _Scale([max(by_layer.values()) for by_layer in totals], "J")
    colors = _kind_palette(report)
    return Chart(
        section="Layer by layer",
        title="Energy by kind",
        description=f"Modelled energy of one inference. {description}".strip(),
        label="Stacked bar chart of the modelled energy of each layer by kind of "
        "operation, for the model chosen above. The table at the end of this "
        "section has the numbers.",
        spec=vega.spec(
            [
                {
                    "layer": layers[layer.name],
                    "model": names[model.name],
                    "kind": _spaced(kind),
                    "order": list(colors).index(_spaced(kind)),
                    "value": scale(joules),
                    "text": quantity(joules, "J"),
                }
                for model in modelled
                for layer in model.layers
                if layer.name in layers
                for kind, joules in (layer.energy or {}).items()
            ],
            height=max(20 * len(layers), 80),
            mark=vega.bar(0.62),
            choice=("model", [names[model.name] for model in modelled]),
            encoding={
                "y": vega.names("layer", list(layers.values())),
                "x": vega.number("value", scale.unit),
                "color": vega.color("kind", colors),
                "order": {"field": "order"},
                "opacity": vega.faded("kind"),
                "tooltip": vega.tooltip(
                    layer="layer", model="model", kind="kind", text="energy"
                ),
            },
        ),
        legend=colors,
    )


def _largest_layers(figures: list[dict[str, float]]) -> tuple[dict[str, str], str]:
    """Short names of the layers worth a bar, and a word about the rest."""
    largest: dict[str, float] = {}
    for by_layer in figures:
        for layer, value in by_layer.items():
            largest[layer] = max(value, largest.get(layer, 0))
    relevant = [layer for layer, value in largest.items() if value > 0]
    room = max(8, min(_MOST_LAYERS, _MOST_BARS // max(len(figures), 1)))
    top = set(sorted(relevant, key=lambda name: -largest[name])[:room])
    description = (
        f"The largest {len(top)} of {len(relevant)} layers; the table has all."
        if len(top) < len(relevant)
        else ""
    )
    return short_names([name for name in relevant if name in top], _NAME), description


def _by_layer(
    model: ModelFigures, get: Callable[[LayerFigures], float]
) -> dict[str, float]:
    """Figure of each layer, the uses of a shared layer added up."""
    result: dict[str, float] = {}
    for layer in model.layers:
        result[layer.name] = result.get(layer.name, 0) + get(layer)
    return result


# Lines and grids ------------------------------------------------------------


def _training(report: ReportFigures) -> list[Chart]:
    """One chart for each metric of the histories."""
    metrics = dict.fromkeys(
        name.removeprefix("val_")
        for history in report.histories.values()
        for name in history.metrics
    )
    charts = (_training_chart(report, metric) for metric in metrics)
    return [chart for chart in charts if chart]


def _training_chart(report: ReportFigures, metric: str) -> Chart | None:
    names = short_names(list(report.histories), _NAME)
    lines = [
        (names[name], phase, history, history.metrics[key])
        for name, history in report.histories.items()
        for key, phase in ((metric, "training"), (f"val_{metric}", "validation"))
        if key in history.metrics
    ]
    values: list[dict[str, Any]] = [
        {
            "line": name,
            "phase": phase,
            "x": epoch + 1,
            "y": value,
            "text": f"{value:.4g}",
        }
        for name, phase, history, numbers in lines
        for epoch, value in zip(history.epochs, numbers, strict=True)
        if value is not None
    ]
    if not values:
        return None
    phases = {phase for _, phase, _, _ in lines}
    drawn = {name for name, _, _, _ in lines}
    colors = _series_palette(report, names)
    return Chart(
        section="Training",
        title=metric.replace("_", " ").capitalize(),
        description="Training solid, validation dashed." if len(phases) > 1 else "",
        label=f"Line chart of {metric} over the epochs of training.",
        spec=vega.lines(
            values,
            x_title="epoch",
            y_title=None,
            colors=colors,
            dashes={"training": [1, 0], "validation": [5, 4]},
            whole=True,
        ),
        legend={name: colors[name] for name in names.values() if name in drawn},
        table=_pivot(
            "epoch",
            [
                (str(v["x"]), f"{v['line']}, {v['phase']}", v["text"])
                for v in sorted(values, key=lambda v: v["x"])
            ],
        ),
    )


def _lines(report: ReportFigures, curves: Curves) -> Chart | None:
    names = short_names(list(curves.series), _NAME)
    values: list[dict[str, Any]] = [
        {
            "line": names[name],
            "x": x,
            "y": y,
            "text": f"{y:.4g}",
            "single": len(points) == 1,
        }
        for name, points in curves.series.items()
        for x, y in points
        if y is not None
    ]
    if not values:
        return None
    colors = _series_palette(report, names)
    return Chart(
        section="Analysis",
        title=curves.title,
        description=curves.description,
        label=f"Line chart of {curves.y_label} over {curves.x_label}: {curves.title}.",
        spec=vega.lines(
            values, x_title=curves.x_label, y_title=curves.y_label, colors=colors
        ),
        legend=colors,
        table=_pivot(
            curves.x_label,
            [
                (f"{v['x']:.4g}", v["line"], v["text"])
                for v in sorted(values, key=lambda v: v["x"])
            ],
        ),
    )


def _grid(heatmap: Heatmap) -> Chart | None:
    rows, columns = _positions(heatmap.rows), _positions(heatmap.columns)
    values: list[dict[str, Any]] = [
        {"row": row, "column": column, "value": value, "text": f"{value:.4g}"}
        for row, numbers in zip(rows, heatmap.values, strict=True)
        for column, value in zip(columns, numbers, strict=True)
        if value is not None
    ]
    if not values:
        return None
    return Chart(
        section="Analysis",
        title=heatmap.title,
        description=heatmap.description,
        label=f"Grid of {heatmap.value_label} by {heatmap.y_label} and "
        f"{heatmap.x_label}: {heatmap.title}.",
        spec=vega.spec(
            values,
            height=min(max(22 * len(rows), 80), 440),
            mark={"type": "rect"},
            encoding={
                "y": {
                    **vega.names("row", rows, heatmap.y_label),
                    "scale": {"domain": rows},  # those without numbers, too
                    "axis": {"labelOverlap": True},
                },
                "x": {
                    **vega.names("column", columns, heatmap.x_label),
                    "scale": {"domain": columns},
                    "axis": {"labelOverlap": True, "labelAngle": 0, "labelLimit": 60},
                },
                "color": {
                    "field": "value",
                    "type": "quantitative",
                    "title": shorten(heatmap.value_label, 40),
                    "scale": {"range": ["--ramp-0", "--ramp-1"]},
                    "legend": {"orient": "top", "gradientLength": 160},
                },
                "tooltip": vega.tooltip(
                    row=heatmap.y_label,
                    column=heatmap.x_label,
                    text=heatmap.value_label,
                ),
            },
        ),
        legend={},
        table=_pivot(
            heatmap.y_label, [(v["row"], v["column"], v["text"]) for v in values]
        ),
        wide=len(columns) > 16,
    )


# Parts ----------------------------------------------------------------------


class _Scale:
    """Divides figures so that an axis has small numbers, and names the unit."""

    def __init__(self, values: Iterable[float | None], unit: str = ""):
        largest = max((abs(value) for value in values if value), default=0)
        exponent, symbol = prefix(largest, unit)
        self._divisor = 10.0**exponent
        self.unit = symbol + unit

    def __call__(self, value: float) -> float:
        return value / self._divisor

    def count_of(self, what: str) -> str:
        """An axis title for counts: `"million MACs"`."""
        word = {"": "", "k": "thousand ", "M": "million ", "G": "billion "}
        return word.get(self.unit, f"{self.unit} ") + what


def _names(report: ReportFigures) -> dict[str, str]:
    return short_names([model.name for model in report.models], _NAME)


def _model_palette(report: ReportFigures) -> dict[str, str]:
    return dict(zip(_names(report).values(), model_colors(report), strict=True))


def _kind_palette(report: ReportFigures) -> dict[str, str]:
    kinds = dict.fromkeys(
        _spaced(kind) for model in report.models for kind in model.energy or {}
    )
    return {kind: f"--kind-{i % _KIND_COLORS}" for i, kind in enumerate(kinds)}


def _series_palette(report: ReportFigures, names: Mapping[str, str]) -> dict[str, str]:
    """Colours of lines, those of the models for lines that bear their names."""
    models = dict(
        zip((model.name for model in report.models), model_colors(report), strict=True)
    )
    # First the colours that no line with a model's name has.
    taken = {models[name] for name in names if name in models}
    colors = [f"--model-{i}" for i in range(1, _MODEL_COLORS)]
    others = itertools.cycle(sorted(colors, key=lambda color: color in taken))
    return {
        short: models[name] if name in models else next(others)
        for name, short in names.items()
    }


def _joules(layer: LayerFigures) -> float:
    return math.fsum((layer.energy or {}).values())


def _spaced(kind: str) -> str:
    return kind.replace("_", " ")


def _span(values: list[float]) -> list[float]:
    """Range of an axis of accuracies, with room around the points."""
    low, high = min(values), max(values)
    room = max(0.15 * (high - low), (_LEAST_SPAN - (high - low)) / 2)
    return [max(low - room, 0), min(high + room, 1)]


def _pareto(points: list[tuple[float, float]]) -> set[tuple[float, float]]:
    """(energy, accuracy) of the models that no other model dominates."""
    return {
        (energy, accuracy)
        for energy, accuracy in points
        if not any(
            e <= energy and a >= accuracy and (e, a) != (energy, accuracy)
            for e, a in points
        )
    }


def _pivot(corner: str, cells: list[tuple[str, str, str]]) -> _Table:
    """A table from (row, column, text)."""
    columns = list(dict.fromkeys(column for _, column, _ in cells))
    table: dict[str, dict[str, str]] = {}
    for row, column, text in cells:
        table.setdefault(row, {})[column] = text
    rows = [[row, *(by.get(c, "–") for c in columns)] for row, by in table.items()]
    return [corner, *columns], rows


def _positions(labels: Iterable[str]) -> list[str]:
    """Short and unique labels, in order; the given ones may repeat."""
    seen: dict[str, int] = {}
    unique = []
    for label in labels:
        seen[label] = seen.get(label, 0) + 1
        unique.append(label if seen[label] == 1 else f"{label} ({seen[label]})")
    return list(short_names(unique, _NAME).values())
