"""Pieces of Vega-Lite specifications.

Colors are names of CSS variables (`"--model-1"`), which the page's script
replaces by their values, so that charts follow the light and dark themes. The
legend is part of the page; it sets the parameter `picked` of a chart.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tfcompress.report._words import shorten

__all__ = [
    "NUMBER",
    "bar",
    "color",
    "faded",
    "lines",
    "names",
    "number",
    "spec",
    "tooltip",
]

_Part = dict[str, Any]

NUMBER = ".4~g"  # axis labels: up to four digits, exponents beyond
_TITLE = 50  # characters of an axis title


def spec(
    values: list[_Part], *, choice: tuple[str, list[str]] | None = None, **parts: Any
) -> _Part:
    """A specification as wide as its place.

    Args:
        values: the data.
        choice: a field and its values of which the reader chooses one to be
            shown, at first the last one. Defaults to `None`.
        **parts: the rest of the specification.
    """
    params: list[_Part] = [{"name": "picked", "value": ""}]
    transform: list[_Part] = []
    if choice:
        field, options = choice
        bind = {"input": "select", "options": options, "name": field.capitalize()}
        params.append({"name": "shown", "value": options[-1], "bind": bind})
        transform.append({"filter": f"datum.{field} === shown"})
    return {
        "width": "container",
        "data": {"values": values},
        "params": params,
        **({"transform": transform} if transform else {}),
        **parts,
    }


def lines(
    values: list[_Part],
    *,
    x_title: str,
    y_title: str | None,
    colors: Mapping[str, str],
    dashes: Mapping[str, list[int]] | None = None,
    whole: bool = False,
) -> _Part:
    """A line chart of `values` with the fields `line`, `x`, `y`, `text`.

    Those whose field `single` is true are shown as points.

    Args:
        values: the data.
        x_title: title of the horizontal axis.
        y_title: title of the vertical axis.
        colors: color of each line.
        dashes: dash pattern by the field `phase`. Defaults to `None`.
        whole: whether x counts and has no fractions. Defaults to `False`.
    """
    xs = sorted({value["x"] for value in values})
    x = number("x", x_title, zero=False)
    x["scale"]["nice"] = False
    if whole:
        x["axis"] = {"format": "d", "tickCount": 6}
        if len(xs) <= 10:  # or ticks would fall between
            x["axis"]["values"] = xs
    extra = {"phase": "phase"} if dashes else {}
    encoding = {
        "x": x,
        "y": number("y", y_title, zero=False, format=NUMBER),
        "color": color("line", colors),
    }
    if dashes:
        scale = {"domain": list(dashes), "range": list(dashes.values())}
        encoding["strokeDash"] = {"field": "phase", "scale": scale, "legend": None}
    points: list[_Part] = []
    if any(value.get("single") for value in values):  # would not be seen as a line
        points.append(
            {
                "transform": [{"filter": "datum.single"}],
                "mark": {"type": "point", "filled": True, "size": 60},
                "encoding": {"opacity": faded("line")},
            }
        )
    return spec(
        values,
        height=230,
        encoding=encoding,
        layer=[
            {
                "mark": {"type": "line", "strokeWidth": 2, "point": len(xs) == 1},
                "encoding": {"opacity": faded("line")},
            },
            *points,
            {
                # Generous invisible targets make the lines easy to hover.
                "mark": {"type": "circle", "size": 160, "opacity": 0},
                "encoding": {
                    "tooltip": [
                        *tooltip(line="line", **extra),
                        {
                            "field": "x",
                            "type": "quantitative",
                            "title": _short(x_title),
                        },
                        *tooltip(text=y_title or "value"),
                    ],
                },
            },
        ],
    )


def names(field: str, order: list[str], title: str | None = None) -> _Part:
    """A named position for each of `order`."""
    return {"field": field, "type": "nominal", "sort": order, "title": _short(title)}


def number(
    field: str,
    title: str | None,
    *,
    zero: bool = True,
    padding: int = 0,
    logarithmic: bool = False,
    domain: list[float] | None = None,
    format: str = NUMBER,
) -> _Part:
    """A position on a numeric axis."""
    scale: _Part = {"type": "log"} if logarithmic else {"zero": zero}
    if padding:
        scale["padding"] = padding
    if domain:
        scale["domain"] = domain
    return {
        "field": field,
        "type": "quantitative",
        "title": _short(title),
        "scale": scale,
        "axis": {"format": format, "tickCount": 3 if logarithmic else 5},
    }


def bar(band: float) -> _Part:
    """Bars that fill a share of their row."""
    return {"type": "bar", "height": {"band": band}}


def color(field: str, colors: Mapping[str, str]) -> _Part:
    """Colors by name, without a legend of the chart's own."""
    return {
        "field": field,
        "type": "nominal",
        "scale": {"domain": list(colors), "range": list(colors.values())},
        "legend": None,
    }


def faded(field: str) -> _Part:
    """Opacity: what the reader picked in the legend stands out."""
    test = f"picked === '' || datum.{field} === picked"
    return {"condition": {"test": test, "value": 1}, "value": 0.12}


def tooltip(**titles: str) -> list[_Part]:
    """What is shown on hover, by field."""
    return [
        {"field": field, "type": "nominal", "title": _short(title)}
        for field, title in titles.items()
    ]


def _short(title: str | None) -> str | None:
    return shorten(title, _TITLE) if title else None
