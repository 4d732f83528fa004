"""The charts of a report as Vega-Lite specifications.

Colours are names of CSS variables (`"--model-1"`), which the page's script
replaces by their values, so that charts follow the light and dark themes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tfcompress.report._figures import (
    Curves,
    Heatmap,
    History,
    LayerFigures,
    ModelFigures,
    Report,
)
from tfcompress.report._metrics import quantity
from tfcompress.report._text import short_names

__all__ = ["Chart", "charts", "model_colors"]

_MOST_LAYERS = 24
_NAME = 40
_PALETTE = 8  # number of --model-N variables


@dataclass(frozen=True)
class Chart:
    """A chart and the words around it.

    Attributes:
        section: heading that it stands under.
        title: its own heading.
        description: what it shows, in a sentence.
        label: what a screen reader says in place of the picture.
        spec: the Vega-Lite specification.
        table: the same numbers: a header and rows; `None` where a table of the
            page has them.
        wide: whether it takes the whole width of the page.
    """

    section: str
    title: str
    description: str
    label: str
    spec: dict[str, Any]
    table: tuple[list[str], list[list[str]]] | None = None
    wide: bool = False


def charts(report: Report) -> list[Chart]:
    """All charts for which the report has figures, in the order of the page."""
    candidates = [
        _frontier(report),
        _energy_of_models(report),
        _layer_bars(report, "MACs", lambda layer: layer.macs, ""),
        _layer_bars(report, "Parameters", lambda layer: layer.parameters, ""),
        _energy_of_layers(report),
        *_training(report),
        *(_lines(curves) for curves in report.curves),
        *(_grid(heatmap) for heatmap in report.heatmaps),
    ]
    return [chart for chart in candidates if chart]


def model_colors(report: Report) -> list[str]:
    """A CSS variable for each model: grey for the baseline, blue for the last."""
    count = len(report.models)
    if count == 1:
        return ["--model-1"]
    between = [f"--model-{2 + i % (_PALETTE - 1)}" for i in range(count - 2)]
    return ["--model-0", *between, "--model-1"]


# Charts ---------------------------------------------------------------------


def _frontier(report: Report) -> Chart | None:
    names, color = _model_scale(report)
    points = [
        (names[m.name], m.joules, m.accuracy)
        for m in report.models
        if m.joules and m.accuracy is not None
    ]
    if len(points) < 2:
        return None
    best = _pareto((joules, accuracy) for _, joules, accuracy in points)
    joules = [point[1] for point in points]
    logarithmic = max(joules) > 20 * min(joules)
    middle = (
        math.sqrt(max(joules) * min(joules))
        if logarithmic
        else (max(joules) + min(joules)) / 2
    )
    values = [
        {
            "model": name,
            "energy": energy,
            "accuracy": accuracy,
            "best": (energy, accuracy) in best,
            "left": energy < middle,
            "text": f"{quantity(energy, 'J')}, {100 * accuracy:.2f} %",
        }
        for name, energy, accuracy in points
    ]
    x = {
        "field": "energy",
        "type": "quantitative",
        "title": "modelled energy of one inference (J)",
        "scale": {
            "type": "log" if logarithmic else "linear",
            "zero": False,
            "padding": 24,
        },
        "axis": {"format": "~s", "tickCount": 5},
    }
    y = {
        "field": "accuracy",
        "type": "quantitative",
        "title": "accuracy",
        "scale": {"zero": False, "padding": 20},
        "axis": {"format": ".1%", "tickCount": 5},
    }
    label = {"type": "text", "dy": -12, "limit": 130, "color": "--ink"}
    return Chart(
        section="Trade-off",
        title="Accuracy against energy",
        description="Up and to the left is better; the line joins the models that "
        "no other beats in both.",
        label="Scatter chart of the accuracy of each model against its modelled "
        "energy.",
        spec=_spec(
            values,
            height=280,
            encoding={"x": x, "y": y},
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
                    "mark": {
                        "type": "point",
                        "size": 130,
                        "filled": True,
                        "opacity": 1,
                    },
                    "encoding": {
                        "color": {**color, "legend": None},
                        "tooltip": _tooltip(model="model", text="energy, accuracy"),
                    },
                },
                {
                    "transform": [{"filter": "datum.left"}],
                    "mark": {**label, "align": "left", "dx": -4},
                    "encoding": {"text": {"field": "model"}},
                },
                {
                    "transform": [{"filter": "!datum.left"}],
                    "mark": {**label, "align": "right", "dx": 4},
                    "encoding": {"text": {"field": "model"}},
                },
            ],
        ),
    )


def _energy_of_models(report: Report) -> Chart | None:
    names = _names(report)
    values = [
        {
            "model": names[model.name],
            "kind": _kind(kind),
            "energy": joules,
            "text": quantity(joules, "J"),
        }
        for model in report.models
        for kind, joules in (model.energy or {}).items()
    ]
    if not values:
        return None
    kinds = _unique(value["kind"] for value in values)
    return Chart(
        section="Trade-off",
        title="Energy by kind",
        description="Modelled energy of one inference.",
        label="Stacked bar chart of the modelled energy of each model by kind of "
        "operation.",
        spec=_spec(
            values,
            height=max(120, 56 * len(report.models)),
            mark={"type": "bar", "cornerRadiusEnd": 2, "height": {"band": 0.62}},
            encoding={
                "y": _rows("model", list(names.values())),
                "x": _energy_axis(),
                "color": _kind_scale(kinds),
                "order": {"field": "kind", "sort": kinds},
                "tooltip": _tooltip(model="model", kind="kind", text="energy"),
            },
        ),
        table=_pivot(
            "model",
            [
                (names[m.name], _kind(kind), quantity(joules, "J"))
                for m in report.models
                for kind, joules in (m.energy or {}).items()
            ],
        ),
    )


def _layer_bars(
    report: Report, title: str, get: Callable[[LayerFigures], float], unit: str
) -> Chart | None:
    names, color = _model_scale(report)
    by_model = [(names[model.name], _by_layer(model, get)) for model in report.models]
    layers, description = _largest_layers([figures for _, figures in by_model], title)
    if not layers:
        return None
    short = short_names(layers, _NAME)
    values = [
        {
            "layer": short[layer],
            "model": name,
            "value": figures[layer],
            "text": quantity(figures[layer], unit),
        }
        for name, figures in by_model
        for layer in layers
        if layer in figures
    ]
    band = 11 * len(report.models) + 9
    return Chart(
        section="Layer by layer",
        title=title,
        description=description,
        label=f"Bar chart of the {title} of each layer for every model. The table "
        "at the end of this section has the numbers.",
        spec=_spec(
            values,
            height=band * len(layers),
            mark={"type": "bar", "cornerRadiusEnd": 2},
            params=[_legend_choice("model")],
            encoding={
                "y": _rows("layer", list(short.values())),
                "yOffset": {"field": "model", "sort": list(names.values())},
                "x": {
                    "field": "value",
                    "type": "quantitative",
                    "title": None,
                    "axis": {"format": "~s", "tickCount": 4},
                },
                "color": color,
                "opacity": _faded(),
                "tooltip": _tooltip(layer="layer", model="model", text=title),
            },
        ),
    )


def _energy_of_layers(report: Report) -> Chart | None:
    modelled = [model for model in report.models if model.energy and model.layers]
    if not modelled:
        return None
    names = short_names([model.name for model in report.models], _NAME)
    totals = [_by_layer(model, _joules) for model in modelled]
    layers, description = _largest_layers(totals, "energy")
    if not layers:
        return None
    short = short_names(layers, _NAME)
    kinds = _unique(_kind(kind) for model in modelled for kind in model.energy or {})
    values = [
        {
            "layer": short[layer.name],
            "model": names[model.name],
            "kind": _kind(kind),
            "energy": joules,
            "text": quantity(joules, "J"),
        }
        for model in modelled
        for layer in model.layers
        if layer.name in short
        for kind, joules in (layer.energy or {}).items()
    ]
    options = [names[model.name] for model in modelled]
    longest = max(max(figures.values()) for figures in totals)
    return Chart(
        section="Layer by layer",
        title="Energy by kind",
        description=f"Modelled energy of one inference. {description}".strip(),
        label="Stacked bar chart of the modelled energy of each layer by kind of "
        "operation, for the model chosen above.",
        spec=_spec(
            values,
            height=max(22 * len(layers), 80),
            mark={"type": "bar", "cornerRadiusEnd": 2, "height": {"band": 0.62}},
            params=[
                {
                    "name": "chosen",
                    "value": options[-1],
                    "bind": {"input": "select", "options": options, "name": "Model"},
                }
            ],
            transform=[{"filter": "datum.model === chosen"}],
            encoding={
                "y": _rows("layer", list(short.values())),
                # One scale for all models, so that choosing shows the saving.
                "x": {**_energy_axis(), "scale": {"domain": [0, longest]}},
                "color": _kind_scale(kinds),
                "order": {"field": "kind", "sort": kinds},
                "tooltip": _tooltip(
                    layer="layer", model="model", kind="kind", text="energy"
                ),
            },
        ),
    )


def _training(report: Report) -> list[Chart]:
    """One chart for each metric, training solid and validation dashed."""
    bases = _unique(
        name.removeprefix("val_")
        for history in report.histories.values()
        for name in history.metrics
    )
    charts = (_training_chart(report.histories, base) for base in bases)
    return [chart for chart in charts if chart]


def _training_chart(histories: Mapping[str, History], base: str) -> Chart | None:
    names = short_names(list(histories), _NAME)
    phases = {base: "training", f"val_{base}": "validation"}
    values = [
        {
            "model": names[name],
            "phase": phase,
            "epoch": epoch + 1,
            "value": value,
            "text": f"{value:.4g}",
        }
        for name, history in histories.items()
        for metric, phase in phases.items()
        for epoch, value in zip(
            history.epochs, history.metrics.get(metric, ()), strict=False
        )
        if value is not None
    ]
    if not values:
        return None
    present = _unique(value["phase"] for value in values)
    return Chart(
        section="Training",
        title=base.replace("_", " ").capitalize(),
        description="Training solid, validation dashed." if len(present) > 1 else "",
        label=f"Line chart of {base} over the epochs for every model.",
        spec=_line_spec(
            values,
            x="epoch",
            x_title="epoch",
            y_title=None,
            names=list(names.values()),
            dash={
                "field": "phase",
                "scale": {"domain": list(phases.values()), "range": [[1, 0], [5, 4]]},
                "legend": None,
            },
        ),
        table=_pivot(
            "epoch",
            [
                (str(v["epoch"]), f"{v['model']}, {v['phase']}", v["text"])
                for v in sorted(values, key=lambda v: v["epoch"])
            ],
        ),
    )


def _lines(curves: Curves) -> Chart | None:
    names = short_names(list(curves.series), _NAME)
    values = [
        {"model": names[name], "x": x, "value": y, "text": f"{x:.4g}, {y:.4g}"}
        for name, points in curves.series.items()
        for x, y in points
        if y is not None
    ]
    if not values:
        return None
    return Chart(
        section="More curves",
        title=curves.title,
        description=curves.description,
        label=f"Line chart of {curves.y_label} over {curves.x_label}: {curves.title}.",
        spec=_line_spec(
            values,
            x="x",
            x_title=curves.x_label,
            y_title=curves.y_label,
            names=list(names.values()),
        ),
        table=_pivot(
            curves.x_label,
            [
                (f"{v['x']:.4g}", v["model"], f"{v['value']:.4g}")
                for v in sorted(values, key=lambda v: v["x"])
            ],
        ),
    )


def _grid(heatmap: Heatmap) -> Chart | None:
    rows = short_names(_numbered(heatmap.rows), _NAME)
    columns = short_names(_numbered(heatmap.columns), _NAME)
    values = [
        {"row": row, "column": column, "value": value, "text": f"{value:.4g}"}
        for row, numbers in zip(rows.values(), heatmap.values, strict=True)
        for column, value in zip(columns.values(), numbers, strict=True)
        if value is not None
    ]
    if not values:
        return None
    return Chart(
        section="More curves",
        title=heatmap.title,
        description=heatmap.description,
        label=f"Grid of {heatmap.value_label} by {heatmap.y_label} and "
        f"{heatmap.x_label}: {heatmap.title}.",
        spec=_spec(
            values,
            height=max(22 * len(rows), 80),
            mark={"type": "rect"},
            encoding={
                "y": _rows("row", list(rows.values()), title=heatmap.y_label),
                "x": {
                    "field": "column",
                    "type": "ordinal",
                    "sort": list(columns.values()),
                    "title": heatmap.x_label,
                    "axis": {"labelOverlap": True, "labelAngle": 0},
                },
                "color": {
                    "field": "value",
                    "type": "quantitative",
                    "title": heatmap.value_label,
                    "scale": {"range": ["--ramp-0", "--ramp-1"]},
                    "legend": {"orient": "top", "gradientLength": 160},
                },
                "tooltip": _tooltip(
                    row=heatmap.y_label,
                    column=heatmap.x_label,
                    text=heatmap.value_label,
                ),
            },
        ),
        table=_pivot(
            heatmap.y_label, [(v["row"], v["column"], v["text"]) for v in values]
        ),
        wide=len(columns) > 16,
    )


# Parts of specifications ----------------------------------------------------


def _spec(values: list[dict[str, Any]], **parts: Any) -> dict[str, Any]:
    return {"width": "container", "data": {"values": values}, **parts}


def _line_spec(
    values: list[dict[str, Any]],
    *,
    x: str,
    x_title: str,
    y_title: str | None,
    names: list[str],
    dash: dict[str, Any] | None = None,
) -> dict[str, Any]:
    colors = [f"--model-{i % _PALETTE}" for i in range(len(names))]
    encoding: dict[str, Any] = {
        "x": {
            "field": x,
            "type": "quantitative",
            "title": x_title,
            "scale": {"zero": False, "nice": False},
            "axis": {"tickCount": 6, **({"tickMinStep": 1} if x == "epoch" else {})},
        },
        "y": {
            "field": "value",
            "type": "quantitative",
            "title": y_title,
            "scale": {"zero": False},
            "axis": {"tickCount": 5, "format": "~g"},
        },
        "color": {
            "field": "model",
            "type": "nominal",
            "title": None,
            "scale": {"domain": names, "range": colors},
            "legend": {"orient": "top", "symbolType": "stroke"},
        },
        "opacity": _faded(),
    }
    if dash:
        encoding["strokeDash"] = dash
    tooltip = _tooltip(
        model="line", **({"phase": "phase"} if dash else {}), text="value"
    )
    return _spec(
        values,
        height=240,
        encoding=encoding,
        layer=[
            {
                "params": [_legend_choice("model")],
                "mark": {"type": "line", "strokeWidth": 2, "point": len(values) == 1},
            },
            {
                # Generous invisible targets make the lines easy to hover.
                "mark": {"type": "point", "size": 150, "opacity": 0},
                "encoding": {
                    "tooltip": [
                        {"field": x, "title": x_title},
                        *tooltip,
                    ],
                    "opacity": {"value": 0},
                },
            },
        ],
    )


def _rows(field: str, order: list[str], title: str | None = None) -> dict[str, Any]:
    return {"field": field, "type": "nominal", "sort": order, "title": title}


def _energy_axis() -> dict[str, Any]:
    return {
        "field": "energy",
        "type": "quantitative",
        "title": "energy (J)",
        "axis": {"format": "~s", "tickCount": 4},
    }


def _tooltip(**titles: str) -> list[dict[str, Any]]:
    return [
        {"field": field, "type": "nominal", "title": title}
        for field, title in titles.items()
    ]


def _legend_choice(field: str) -> dict[str, Any]:
    """Clicking a legend entry brings its marks forward."""
    return {
        "name": "chosen",
        "select": {"type": "point", "fields": [field]},
        "bind": "legend",
    }


def _faded() -> dict[str, Any]:
    return {"condition": {"param": "chosen", "value": 1}, "value": 0.15}


def _model_scale(report: Report) -> tuple[dict[str, str], dict[str, Any]]:
    """Short names of the models and their colour encoding."""
    names = _names(report)
    color = {
        "field": "model",
        "type": "nominal",
        "title": None,
        "scale": {"domain": list(names.values()), "range": model_colors(report)},
        "legend": {"orient": "top", "symbolType": "square"} if len(names) > 1 else None,
    }
    return names, color


def _kind_scale(kinds: list[str]) -> dict[str, Any]:
    return {
        "field": "kind",
        "type": "nominal",
        "title": None,
        "scale": {
            "domain": kinds,
            "range": [f"--kind-{i % 5}" for i in range(len(kinds))],
        },
        "legend": {"orient": "top", "symbolType": "square"},
    }


# Figures --------------------------------------------------------------------


def _names(report: Report) -> dict[str, str]:
    return short_names([model.name for model in report.models], _NAME)


def _kind(kind: str) -> str:
    return kind.replace("_", " ")


def _joules(layer: LayerFigures) -> float:
    return math.fsum((layer.energy or {}).values())


def _by_layer(
    model: ModelFigures, get: Callable[[LayerFigures], float]
) -> dict[str, float]:
    """Figure of each layer, the uses of a shared layer added up."""
    result: dict[str, float] = {}
    for layer in model.layers:
        result[layer.name] = result.get(layer.name, 0) + get(layer)
    return result


def _largest_layers(
    figures: list[dict[str, float]], what: str
) -> tuple[list[str], str]:
    """Layers worth a bar, in the order of the models, and a word about the rest."""
    largest: dict[str, float] = {}
    for by_layer in figures:
        for layer, value in by_layer.items():
            largest[layer] = max(value, largest.get(layer, 0))
    relevant = [layer for layer, value in largest.items() if value > 0]
    if len(relevant) <= _MOST_LAYERS:
        return relevant, ""
    top = set(sorted(relevant, key=lambda name: -largest[name])[:_MOST_LAYERS])
    return (
        [layer for layer in relevant if layer in top],
        f"The {_MOST_LAYERS} of {len(relevant)} layers with the most {what}.",
    )


def _pareto(points: Iterable[tuple[float, float]]) -> set[tuple[float, float]]:
    """(energy, accuracy) of the models that no other model dominates."""
    candidates = list(points)
    return {
        (energy, accuracy)
        for energy, accuracy in candidates
        if not any(
            e <= energy and a >= accuracy and (e, a) != (energy, accuracy)
            for e, a in candidates
        )
    }


def _pivot(
    corner: str, cells: list[tuple[str, str, str]]
) -> tuple[list[str], list[list[str]]]:
    """A table from (row, column, text)."""
    columns = _unique(column for _, column, _ in cells)
    table: dict[str, dict[str, str]] = {}
    for row, column, text in cells:
        table.setdefault(row, {})[column] = text
    rows = [[row, *(by.get(c, "–") for c in columns)] for row, by in table.items()]
    return [corner, *columns], rows


def _unique(items: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(items))


def _numbered(names: Iterable[str]) -> list[str]:
    """`names` with a number added to those that occur before."""
    seen: dict[str, int] = {}
    result = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        result.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return result
