"""The charts of a report."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tfcompress._figures import Curves, Heatmap
from tfcompress.report import _vega as vega
from tfcompress.report._align import Line, aligned
from tfcompress.report._figures import LayerFigures, ReportFigures
from tfcompress.report._rows import Row, rows_of
from tfcompress.report._words import prefix, quantity, short_names, shorten

__all__ = ["Chart", "charts", "model_colors"]

_NAME = 40  # characters of a name in a chart
_MOST_LAYERS = 24  # layers in a chart
_MOST_BARS = 60  # bars in a chart
_MOST_CLASSES = 30  # classes in a confusion matrix
_MODEL_COLORS = 8  # CSS variables --model-0 …
_KIND_COLORS = 5  # CSS variables --kind-0 …
_LEAST_SPAN = 0.01  # of an axis of fractions, so that a tie looks like one
_LOGARITHMIC = 20  # from which ratio of the figures on

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
        legend: CSS variable of the color of each name.
        table: the same numbers, header and rows; `None` where a table of the
            page has them.
        wide: whether it takes the whole width of the page.
        axes: what the reader can choose to show; see `_trade_off`.
    """

    section: str
    title: str
    description: str
    label: str
    spec: dict[str, Any]
    legend: Mapping[str, str]
    table: _Table | None = None
    wide: bool = False
    axes: dict[str, Any] = field(default_factory=dict)


def charts(report: ReportFigures) -> list[Chart]:
    """All charts for which the report has figures, in the order of the page."""
    lines = aligned(report)
    candidates = [
        _trade_off(report),
        _energy_of_models(report),
        _classes(report),
        _confusion(report),
        _bars_of_layers(report, lines, "MACs", lambda layer: layer.macs),
        _bars_of_layers(report, lines, "parameters", lambda layer: layer.parameters),
        _energy_of_layers(report, lines),
        *_training(report),
        *(_lines(report, curves) for curves in report.curves),
        *(_grid(heatmap) for heatmap in report.heatmaps),
    ]
    return [chart for chart in candidates if chart]


def model_colors(report: ReportFigures) -> list[str]:
    """A CSS variable for each model: gray for the baseline, blue for the one to ship.

    Without a verdict blue is the last one's.
    """
    names = [model.name for model in report.models]
    chosen = report.verdict.model if report.verdict else ""
    blue = names.index(chosen) if chosen in names else len(names) - 1
    if blue == 0 and len(names) > 1:
        blue = len(names) - 1
    others = itertools.cycle(f"--model-{i}" for i in range(2, _MODEL_COLORS))
    return [
        "--model-1" if i == blue else "--model-0" if i == 0 else next(others)
        for i in range(len(names))
    ]


# Models ---------------------------------------------------------------------


def _trade_off(report: ReportFigures) -> Chart | None:
    """Any figure against any other; the page's script changes the axes.

    `axes` has the names of the models, for each figure its title, the values and
    texts by model and the encodings of both axes, and for each pair of figures the
    models that no other beats in both.
    """
    # The page has no server to ask: values, encodings of both axes and frontiers of
    # all pairs of figures travel in the page, and its script only puts them together.
    # A figure that at most one model has, or a yes or no, makes no axis.
    names = list(_names(report).values())
    rows = [
        row
        for row in rows_of(report)
        if row.direction is not None
        and len({m.name for m in report.models if row.get(m) is not None}) > 1
        and not row.key.endswith((":fits", ":exact"))
    ]
    quality = [row for row in rows if row.group == "Quality"]
    if len(rows) < 2 or len(report.models) < 2:
        return None
    y = rows.index(quality[0]) if quality else 0
    wanted = ("int8_bytes", "float32_bytes", "energy", "macs", "parameters")
    keys = {row.key: i for i, row in enumerate(rows) if i != y}
    x = next((keys[key] for key in wanted if key in keys), 1 - min(y, 1))
    if rows[x].key == "int8_bytes":  # against how well these files do
        y = keys.get(f"int8:{rows[y].key}", y)
    figures = [_axis(report, row) for row in rows]
    frontiers = {
        f"{i},{j}": _undominated(report, first, second)
        for i, first in enumerate(rows)
        for j, second in enumerate(rows)
        if i != j
    }
    axes = {"models": names, "x": x, "y": y, "figures": figures, "best": frontiers}
    best = frontiers[f"{x},{y}"]
    first, second = figures[x], figures[y]
    values = [
        {
            "model": name,
            "x": first["values"][i],
            "y": second["values"][i],
            "best": i in best,
            "text": f"{second['texts'][i]}, {first['texts'][i]}",
        }
        for i, name in enumerate(names)
        if first["values"][i] is not None and second["values"][i] is not None
    ]
    colors = _model_palette(report)
    return Chart(
        section="Trade-off",
        title="Any figure against any other",
        description="The line joins the models that no other beats in both figures.",
        label="Scatter chart of two figures of each model, which can be chosen above. "
        "The table of models has the numbers.",
        spec=vega.spec(
            values,
            height=280,
            encoding={"x": first["x"], "y": second["y"]},
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
                        "tooltip": vega.tooltip(model="model", text="figures"),
                    },
                },
            ],
        ),
        legend=colors,
        axes=axes,
    )


def _axis(report: ReportFigures, row: Row) -> dict[str, Any]:
    """A figure as something to put on an axis."""
    given = [row.get(model) for model in report.models]
    known = [value for value in given if value is not None]
    percent = row.points or "agreement" in row.key
    title = row.label
    if row.key.startswith("target:"):
        title = f"{row.group}: {row.label}"
    domain = _span(known) if percent else None
    positive = min(known) > 0
    logarithmic = not percent and positive and max(known) > _LOGARITHMIC * min(known)
    unit = {"bytes": "B", "zipped": "B", "packed": "B", "energy": "J",
            "modeled": "J"}.get(row.key.rpartition("_")[2], "")  # fmt: skip
    if row.key.endswith(("latency", ":latency")):
        unit = "ms"
    scale = _Scale([], "") if percent or unit == "ms" else _Scale(known, unit)
    suffix = unit if unit == "ms" else scale.unit
    options: dict[str, Any] = {
        "zero": False,
        "format": ".1%" if percent else vega.NUMBER,
        "domain": domain,
        "logarithmic": logarithmic,
    }
    heading = f"{title} ({suffix})" if suffix else title
    return {
        "title": title,
        "values": [None if value is None else scale(value) for value in given],
        "texts": ["" if value is None else row.show(value) for value in given],
        "x": vega.number("x", heading, padding=28, **options),
        "y": vega.number("y", heading, padding=0 if domain else 14, **options),
    }


def _undominated(report: ReportFigures, first: Row, second: Row) -> list[int]:
    """Numbers of the models that no other one beats in both figures."""
    # The Pareto front. Figures of which more is better change their sign, so that less
    # is better in both. Models with the same two figures do not beat each other.
    points = []
    for number, model in enumerate(report.models):
        x, y = first.get(model), second.get(model)
        if x is not None and y is not None:
            points.append(
                (
                    number,
                    x if first.direction == "down" else -x,
                    y if second.direction == "down" else -y,
                )
            )
    return [
        number
        for number, x, y in points
        if not any(a <= x and b <= y and (a, b) != (x, y) for _, a, b in points)
    ]


def _energy_of_models(report: ReportFigures) -> Chart | None:
    names, colors = _names(report), _kind_palette(report)
    cells = [
        (names[model.name], _spaced(kind), joules)
        for model in report.models
        for kind, joules in (model.energy or {}).items()
        if _spaced(kind) in colors
    ]
    if not cells:
        return None
    scale = _Scale([model.joules for model in report.models], "J")
    return Chart(
        section="Trade-off",
        title="Energy by kind",
        description="Modeled energy of one inference.",
        label="Stacked bar chart of the modeled energy of each model by kind of "
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


# Classes --------------------------------------------------------------------


def _classes(report: ReportFigures) -> Chart | None:
    """Accuracy class by class, the most difficult first where there are many."""
    names = _names(report)
    found = {names[m.name]: m.classes for m in report.models if m.classes}
    if not found:
        return None
    shares: dict[str, dict[str, float]] = {}
    for name, figures in found.items():
        for index, label in enumerate(figures.names):
            total = sum(figures.confusion[index])
            if total:
                share = figures.confusion[index][index] / total
                shares.setdefault(label, {})[name] = share
    if not shares:
        return None
    hardest = sorted(shares, key=lambda label: min(shares[label].values()))
    room = max(8, min(_MOST_LAYERS, _MOST_BARS // len(found)))
    kept = [label for label in shares if label in hardest[:room]]
    short = short_names(kept, _NAME)
    colors = _model_palette(report)
    left_out = len(shares) - len(kept)
    return Chart(
        section="Classes",
        title="Accuracy by class",
        description=f"The {len(kept)} most difficult of {len(shares)} classes."
        if left_out
        else "",
        label="Bar chart of the share of each class that each model gets right.",
        spec=vega.spec(
            [
                {
                    "class": short[label],
                    "model": name,
                    "value": share,
                    "text": f"{100 * share:.1f} %",
                }
                for label in kept
                for name, share in shares[label].items()
            ],
            height=(9 * len(found) + 9) * len(kept),
            mark=vega.bar(0.9),
            encoding={
                "y": vega.names("class", list(short.values())),
                "yOffset": {"field": "model", "sort": list(names.values())},
                "x": vega.number("value", "accuracy", format=".0%"),
                "color": vega.color("model", colors),
                "opacity": vega.faded("model"),
                "tooltip": vega.tooltip(model="model", text="accuracy"),
            },
        ),
        legend={name: colors[name] for name in found},
        table=_pivot(
            "class",
            [
                (label, name, f"{100 * share:.1f} %")
                for label, by_model in shares.items()
                for name, share in by_model.items()
            ],
        ),
    )


def _confusion(report: ReportFigures) -> Chart | None:
    """What each model takes each class for."""
    names = _names(report)
    found = {names[m.name]: m.classes for m in report.models if m.classes}
    sizes = {len(figures.names) for figures in found.values()}
    if not found or max(sizes) > _MOST_CLASSES:
        return None
    values = []
    labels: dict[str, str] = {}
    for name, figures in found.items():
        short = short_names(list(figures.names), 16)
        labels.update(dict.fromkeys(short.values()))  # type: ignore[arg-type]
        for row, numbers in zip(figures.names, figures.confusion, strict=True):
            total = sum(numbers)
            values += [
                {
                    "model": name,
                    "true": short[row],
                    "taken for": short[column],
                    "share": count / total,
                    "text": f"{count:,} of {total:,}",
                }
                for column, count in zip(figures.names, numbers, strict=True)
                if total and count
            ]
    if not values:
        return None
    order = list(labels)
    room = max(60, 400 // len(order))  # pixels of a name below its column
    chosen = names.get(report.verdict.model if report.verdict else "", "")
    models = [name for name in found if name != chosen]
    models += [chosen] if chosen in found else []
    return Chart(
        section="Classes",
        title="Confusion matrix",
        description="Share of each class (rows) that is taken for each other one.",
        label="Grid of how often each class is taken for each other one, for the model "
        "chosen above.",
        spec=vega.spec(
            values,
            height=min(max(24 * len(order), 80), 520),
            mark={"type": "rect"},
            choice=("model", models),
            encoding={
                "y": {
                    **vega.names("true", order, "true class"),
                    "scale": {"domain": order},
                },
                "x": {
                    **vega.names("taken for", order, "taken for"),
                    "scale": {"domain": order},
                    "axis": {"labelOverlap": True, "labelAngle": 0, "labelLimit": room},
                },
                "color": {
                    "field": "share",
                    "type": "quantitative",
                    "title": "share",
                    "scale": {"range": ["--ramp-0", "--ramp-1"], "domain": [0, 1]},
                    "legend": {"orient": "top", "gradientLength": 160, "format": ".0%"},
                },
                "tooltip": [
                    {"field": name, "type": "nominal"}
                    for name in ("true", "taken for", "text")
                ],
            },
        ),
        legend={},
        table=_pivot(
            "true class, model",
            [
                (f"{v['true']}, {v['model']}", str(v["taken for"]), str(v["text"]))
                for v in values
            ],
        ),
    )


# Layers ---------------------------------------------------------------------


def _bars_of_layers(
    report: ReportFigures,
    lines: list[Line],
    title: str,
    get: Callable[[LayerFigures], float],
) -> Chart | None:
    names = list(_names(report).values())
    kept, description = _largest_lines(lines, get, len(names))
    if not kept:
        return None
    scale = _Scale(get(cell) for line in lines for cell in line.cells if cell)
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
                    "value": scale(get(cell)),
                    "text": quantity(get(cell)),
                }
                for line, short in kept
                for name, cell in zip(names, line.cells, strict=True)
                if cell is not None
            ],
            height=(9 * len(names) + 9) * len(kept),
            mark=vega.bar(0.9),
            encoding={
                "y": vega.names("layer", [short for _, short in kept]),
                "yOffset": {"field": "model", "sort": names},
                "x": vega.number("value", scale.count_of(title)),
                "color": vega.color("model", colors),
                "opacity": vega.faded("model"),
                "tooltip": vega.tooltip(layer="layer", model="model", text=title),
            },
        ),
        legend=colors,
    )


def _energy_of_layers(report: ReportFigures, lines: list[Line]) -> Chart | None:
    names = list(_names(report).values())
    kept, description = _largest_lines(lines, _joules, len(names))
    modeled = [name for name, m in zip(names, report.models, strict=True) if m.energy]
    if not kept or not modeled:
        return None
    scale = _Scale(
        (_joules(cell) for line in lines for cell in line.cells if cell), "J"
    )
    colors = _kind_palette(report)
    chosen = report.verdict.model if report.verdict else ""
    shown = _names(report).get(chosen, "")
    options = [name for name in modeled if name != shown]
    options += [shown] if shown in modeled else []
    return Chart(
        section="Layer by layer",
        title="Energy by kind",
        description=f"Modeled energy of one inference. {description}".strip(),
        label="Stacked bar chart of the modeled energy of each layer by kind of "
        "operation, for the model chosen above. The table at the end of this "
        "section has the numbers.",
        spec=vega.spec(
            [
                {
                    "layer": short,
                    "model": name,
                    "kind": _spaced(kind),
                    "order": list(colors).index(_spaced(kind)),
                    "value": scale(joules),
                    "text": quantity(joules, "J"),
                }
                for line, short in kept
                for name, cell in zip(names, line.cells, strict=True)
                if cell is not None and name in modeled
                for kind, joules in (cell.energy or {}).items()
                if _spaced(kind) in colors
            ],
            height=max(20 * len(kept), 80),
            mark=vega.bar(0.62),
            choice=("model", options),
            encoding={
                "y": vega.names("layer", [short for _, short in kept]),
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


def _largest_lines(
    lines: list[Line], get: Callable[[LayerFigures], float], models: int
) -> tuple[list[tuple[Line, str]], str]:
    """Layers worth a bar with a short name, and a word about the rest."""
    sizes = [max((get(cell) for cell in line.cells if cell), default=0.0)
             for line in lines]  # fmt: skip
    relevant = [i for i, size in enumerate(sizes) if size > 0]
    room = max(8, min(_MOST_LAYERS, _MOST_BARS // max(models, 1)))
    top = set(sorted(relevant, key=lambda i: -sizes[i])[:room])
    kept = [lines[i] for i in relevant if i in top]
    short = short_names([line.label for line in kept], _NAME)
    description = (
        f"The largest {len(top)} of {len(relevant)} layers; the table has all."
        if len(top) < len(relevant)
        else ""
    )
    return [(line, short[line.label]) for line in kept], description


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
    """A color for each kind of energy that some model needs."""
    kinds = dict.fromkeys(
        _spaced(kind)
        for model in report.models
        for kind, joules in (model.energy or {}).items()
        if joules
    )
    return {kind: f"--kind-{i % _KIND_COLORS}" for i, kind in enumerate(kinds)}


def _series_palette(report: ReportFigures, names: Mapping[str, str]) -> dict[str, str]:
    """Colors of lines: those of the models for lines with their names."""
    models = dict(
        zip((model.name for model in report.models), model_colors(report), strict=True)
    )
    # Colors that no line with a model's name has come first.
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
    """Range of an axis of fractions, with room around the points."""
    low, high = min(values), max(values)
    room = max(0.15 * (high - low), (_LEAST_SPAN - (high - low)) / 2)
    return [max(low - room, 0), min(high + room, 1) if high <= 1 else high + room]


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
