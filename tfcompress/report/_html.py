"""A report as one HTML page that needs no network."""

from __future__ import annotations

import functools
import html
import json
from importlib import resources
from typing import Any

from tfcompress.report._charts import Chart, charts, model_colors
from tfcompress.report._figures import ModelFigures, ReportFigures
from tfcompress.report._json import to_json
from tfcompress.report._metrics import (
    DASH,
    METRICS,
    Metric,
    metrics_of,
    relative,
    shown,
)
from tfcompress.report._words import quantity, shorten

__all__ = ["to_html"]

# What the summary shows: of each line the smallest figure, for the
# file that one would deploy.
_CARDS = (
    ("accuracy",),
    ("parameters",),
    ("macs",),
    ("int8_bytes", "float32_bytes"),
    ("int8_latency", "float32_latency"),
    ("energy",),
)

# Nothing may be loaded from anywhere; the chart library compiles expressions.
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline' 'unsafe-eval'"
)


def to_html(report: ReportFigures) -> str:
    """The page."""
    drawn = charts(report)
    title = _text(shorten(report.title, 200))
    specs = [chart.spec for chart in drawn]
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="generator" content="tfcompress">
<title>{title}</title>
<style>
{_asset("page.css")}</style>
</head>
<body>
<header>
<h1 class="clip">{title}</h1>
{_lead(report)}
</header>
<main>
{_cards(report)}
{_model_table(report)}
{_chart_sections(report, drawn)}
{_notes(report)}
{_facts(report)}
</main>
<footer></footer>
<noscript><p class="quiet">Charts need JavaScript; the tables have all numbers.</p>
</noscript>
<script type="application/json" id="report">{_embedded(json.loads(to_json(report)))}
</script>
<script type="application/json" id="charts">{_embedded(specs)}</script>
<script>{_chart_library()}</script>
<script>
{_asset("page.js")}</script>
</body>
</html>
"""


# Sections -------------------------------------------------------------------


def _lead(report: ReportFigures) -> str:
    """One sentence: the last model against the first."""
    first, last = report.models[0], report.models[-1]
    if first is last:
        return f'<p class="lead">{_strong(first.name)}</p>'
    nouns = {"parameters": "parameters", "macs": "MACs", "energy": "modelled energy"}
    gains = [
        f"{relative(_metric(key), last, first)} {noun}"
        for key, noun in nouns.items()
        if _metric(key).get(last) != _metric(key).get(first)
        and relative(_metric(key), last, first)
    ]
    sentence = f"{_strong(last.name)} against {_strong(first.name)}"
    if gains:
        sentence += f": {_text(', '.join(gains))}"
    accuracy = relative(_metric("accuracy"), last, first)
    if accuracy:
        sentence += f", at {_text(accuracy)} of accuracy"
    return f'<p class="lead">{sentence}.</p>'


def _cards(report: ReportFigures) -> str:
    first, last = report.models[0], report.models[-1]
    cards = []
    for keys in _CARDS:
        candidates = [_metric(key) for key in keys]
        known = [metric for metric in candidates if metric.get(last) is not None]
        metric = _card_metric(known, last) if known else candidates[0]
        origin = metric.origin if known else "not known"
        cards.append(
            f'<div class="card"><dt>{_text(metric.label)}</dt>'
            f'<dd><div class="value">{_text(shown(metric, last))}</div>'
            f"{_factor(metric, last, first, 'div')}"
            f'<div class="origin">{_text(origin)}</div></dd></div>'
        )
    name = _text(shorten(last.name, 60))
    return f'<dl class="cards" aria-label="Summary of {name}">{"".join(cards)}</dl>'


def _card_metric(known: list[Metric], model: ModelFigures) -> Metric:
    """The smallest of the same figure for several files: the one to deploy."""
    return min(known, key=lambda metric: metric.get(model) or 0)


def _model_table(report: ReportFigures) -> str:
    first, metrics = report.models[0], metrics_of(report)
    head = "".join(
        f'<th scope="col" role="columnheader">{_text(metric.label)}</th>'
        for metric in metrics
    )
    rows = []
    for model, color in zip(report.models, model_colors(report), strict=True):
        cells = "".join(
            f'<td role="cell" data-label="{_text(metric.label)}"><span>'
            f"{_text(shown(metric, model))}{_factor(metric, model, first, 'span')}"
            "</span></td>"
            for metric in metrics
        )
        rows.append(
            f'<tr role="row"><th scope="row" role="rowheader"><div class="name">'
            f'{_swatch(color)}<span class="clip">{_text(model.name)}</span></div></th>'
            f"{cells}</tr>"
        )
    # The roles keep the table a table where the style turns rows into blocks.
    return (
        '<section aria-labelledby="models"><h2 id="models">Models</h2>'
        '<div class="panel scroll" tabindex="0" role="region" '
        'aria-labelledby="models"><table class="models" role="table">'
        '<thead role="rowgroup"><tr role="row">'
        f'<th scope="col" role="columnheader">Model</th>{head}</tr></thead>'
        f'<tbody role="rowgroup">{"".join(rows)}</tbody></table></div></section>'
    )


def _chart_sections(report: ReportFigures, drawn: list[Chart]) -> str:
    sections = []
    for number, name in enumerate(dict.fromkeys(chart.section for chart in drawn)):
        figures = "".join(
            _figure(chart, index)
            for index, chart in enumerate(drawn)
            if chart.section == name
        )
        table = _layer_table(report) if name == "Layer by layer" else ""
        sections.append(
            f'<section aria-labelledby="section-{number}">'
            f'<h2 id="section-{number}">{_text(name)}</h2>'
            f'<div class="charts">{figures}</div>{table}</section>'
        )
    return "\n".join(sections)


def _figure(chart: Chart, index: int) -> str:
    caption = f'<h3 class="clip">{_text(chart.title)}</h3>'
    if chart.description:
        caption += f'<p class="quiet clip">{_text(chart.description)}</p>'
    return (
        f'<figure class="panel{" wide" if chart.wide else ""}">'
        f"<figcaption>{caption}</figcaption>"
        f'<div class="binding" id="chart-{index}-binding"></div>'
        + _legend(chart, index)
        + f'<div class="chart" id="chart-{index}" data-chart="{index}" role="img" '
        f'aria-label="{_text(shorten(chart.label, 300))}"></div>'
        + (_numbers(*chart.table, chart.title) if chart.table else "")
        + "</figure>"
    )


def _legend(chart: Chart, index: int) -> str:
    """Buttons that name the colours; a pressed one makes its marks stand out."""
    if not chart.legend:
        return ""
    buttons = "".join(
        f'<button type="button" aria-pressed="false" data-name="{_text(name)}">'
        f"{_swatch(color)}<span>{_text(name)}</span></button>"
        for name, color in chart.legend.items()
    )
    return (
        f'<div class="legend" id="chart-{index}-legend" role="group" '
        f'aria-label="Highlight in the chart">{buttons}</div>'
    )


def _swatch(color: str) -> str:
    return f'<i class="swatch" style="background:var({color})"></i>'


def _layer_table(report: ReportFigures) -> str:
    """Every layer of every model."""
    units = {"MACs": "", "parameters": "", "energy": "J"}
    kinds: dict[str, str] = {}
    figures: dict[tuple[str, str, int], float] = {}
    for number, model in enumerate(report.models):
        for layer in model.layers:
            kinds.setdefault(layer.name, layer.kind)
            values: dict[str, float] = {
                "MACs": layer.macs,
                "parameters": layer.parameters,
            }
            if layer.energy is not None:
                values["energy"] = sum(layer.energy.values())
            for key, value in values.items():
                place = layer.name, key, number
                figures[place] = figures.get(place, 0) + value

    def cell(layer: str, key: str, number: int) -> str:
        value = figures.get((layer, key, number))
        return DASH if value is None else quantity(value, units[key])

    columns = [(key, number) for key in units for number in range(len(report.models))]
    header = ["Layer", "Kind"]
    header += [f"{report.models[number].name}: {key}" for key, number in columns]
    rows = [
        [layer, kind, *(cell(layer, *column) for column in columns)]
        for layer, kind in kinds.items()
    ]
    return _numbers(header, rows, "All layers", "All layers as a table")


def _numbers(
    header: list[str], rows: list[list[str]], title: str, summary: str = "As a table"
) -> str:
    head = "".join(
        f'<th scope="col"><span class="clip">{_text(cell)}</span></th>'
        for cell in header
    )
    body = "".join(
        f'<tr><th scope="row"><span class="clip">{_text(row[0])}</span></th>'
        + "".join(f"<td>{_text(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    return (
        f'<details><summary>{_text(summary)}</summary><div class="scroll" tabindex="0" '
        f'role="region" aria-label="{_text(shorten(title, 100))}: numbers">'
        f'<table class="dense-table"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div></details>"
    )


def _notes(report: ReportFigures) -> str:
    if not report.notes:
        return ""
    items = "".join(
        f'<li><span class="clip">{_text(note)}</span></li>' for note in report.notes
    )
    return (
        '<section aria-labelledby="notes"><h2 id="notes">Notes</h2>'
        f'<ul class="notes">{items}</ul></section>'
    )


def _facts(report: ReportFigures) -> str:
    items = "".join(
        f'<dt><span class="clip">{_text(key)}</span></dt>'
        f'<dd><span class="clip">{_text(value)}</span></dd>'
        for key, value in report.provenance.items()
    )
    return (
        '<section aria-labelledby="facts"><h2 id="facts">Where the figures come from'
        f'</h2><dl class="panel facts">{items}</dl></section>'
    )


# Parts ----------------------------------------------------------------------


def _factor(
    metric: Metric, model: ModelFigures, baseline: ModelFigures, tag: str
) -> str:
    text = relative(metric, model, baseline)
    if not text:
        return ""
    value, base = metric.get(model), metric.get(baseline)
    assert value is not None and base is not None  # otherwise there is no text
    better = value > base if metric.points else value < base
    tone = "" if value == base else (" better" if better else " worse")
    return f'<{tag} class="factor{tone}">{_text(text)}</{tag}>'


def _metric(key: str) -> Metric:
    return next(metric for metric in METRICS if metric.key == key)


def _strong(name: str) -> str:
    return f"<strong>{_text(shorten(name, 60))}</strong>"


def _text(text: str) -> str:
    """`text` as it can stand in an element or a quoted attribute."""
    return html.escape(text)


def _embedded(data: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _asset(name: str) -> str:
    return resources.files("tfcompress.report").joinpath("assets", name).read_text()


@functools.cache
def _chart_library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script."""
    import vl_convert

    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
