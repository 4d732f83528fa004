"""A report as one HTML page that needs no network."""

from __future__ import annotations

import functools
import html
import json
import urllib.parse
from importlib import resources
from typing import Any

from tfcompress.report._align import aligned
from tfcompress.report._charts import Chart, charts, model_colors
from tfcompress.report._figures import LayerFigures, ModelFigures, ReportFigures
from tfcompress.report._json import to_json, without_nan
from tfcompress.report._rows import (
    DASH,
    Row,
    relative,
    rows_of,
    shown,
    spread,
    tone,
)
from tfcompress.report._verdict import sentence
from tfcompress.report._words import quantity, shorten, step

__all__ = ["to_html"]

# What the summary shows beside the quality: of each line the first figure that is
# known. The file to ship comes first in a line.
_CARDS = (
    ("parameters",),
    ("macs",),
    ("int8_bytes", "float32_bytes"),
    ("int8_latency", "float32_latency"),
    ("int8_modeled", "energy"),
)
_NAME = 160  # characters of a name in the page

# Nothing may be loaded from anywhere; the chart library compiles expressions.
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
    "script-src 'unsafe-inline' 'unsafe-eval'"
)


def to_html(report: ReportFigures) -> str:
    """The page."""
    # One file that can be mailed and opened years later: styles, script, chart library
    # and all figures are in it, and the policy lets it load nothing. Every text comes
    # from a user's names or from JSON of unknown origin, and goes through `_text`,
    # `_embedded` or `_base64` before it becomes a part of the page.
    drawn = charts(report)
    title = _text(shorten(report.title, 200))
    specs = [{"spec": chart.spec, "axes": chart.axes} for chart in drawn]
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
{_wrong(report)}
{_made(report)}
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
    """The verdict in one sentence, and the rule that it follows."""
    text = sentence(report)
    found = report.verdict
    if not text:
        why = "" if found is None else f'<p class="quiet">{_text(found.rule)}</p>'
        names = ", ".join(_strong(model.name) for model in report.models[:4])
        rest = len(report.models) - 4
        more = f" and {rest} more" if rest > 0 else ""
        return f'<p class="lead">{names}{more}</p>{why}'
    assert found is not None
    name = shorten(found.model, _NAME)
    head, _, tail = text.partition(found.model)
    return (
        f'<p class="lead">{_text(head)}<strong>{_text(name)}</strong>{_text(tail)}</p>'
        f'<p class="quiet rule">Rule: {_text(shorten(found.rule, 400))}.</p>'
    )


def _highlighted(report: ReportFigures) -> ModelFigures:
    """The model of the summary: the one to ship, otherwise the last."""
    chosen = report.verdict.model if report.verdict else ""
    found = [model for model in report.models if model.name == chosen]
    return found[0] if found else report.models[-1]


def _cards(report: ReportFigures) -> str:
    first, model = report.models[0], _highlighted(report)
    rows = {row.key: row for row in rows_of(report)}
    file = report.verdict.file if report.verdict else ""
    quality = next(row for row in rows.values() if row.group == "Quality")
    on_file = rows.get(f"int8:{quality.key}")
    if file == "int8" and on_file and on_file.get(model) is not None:
        quality = on_file
    # One card for each line of `_CARDS`, with the first figure that the model has. If
    # the verdict is a float32 file, figures of int8 files would describe another one.
    # Where the model has none, the card is shown as not known, so that the gap is seen.
    chosen = [quality]
    for keys in _CARDS:
        known = [rows[key] for key in keys if key in rows]
        known = [row for row in known if file != "float32" or "int8" not in row.key]
        present = [row for row in known if row.get(model) is not None]
        chosen += (present or known or [rows[key] for key in keys if key in rows])[:1]
    cards = []
    for row in chosen:
        origin = row.origin if row.get(model) is not None else "not known"
        interval = spread(row, model)
        cards.append(
            f'<div class="card"><dt>{_text(row.label)}</dt>'
            f'<dd><div class="value">{_text(shown(row, model))}</div>'
            f"{_factor(row, model, first, 'div')}"
            + (f'<div class="origin">{_text(interval)}</div>' if interval else "")
            + f'<div class="origin">{_text(origin)}</div></dd></div>'
        )
    name = _text(shorten(model.name, 60))
    return (
        f'<h2 class="hidden">Summary of {name}</h2>'
        f'<dl class="cards" aria-label="Summary of {name}">{"".join(cards)}</dl>'
    )


def _model_table(report: ReportFigures) -> str:
    """Figures as rows, models as columns."""
    first, rows = report.models[0], rows_of(report)
    colors = model_colors(report)
    head = "".join(
        f'<th scope="col"><div class="name">{_swatch(color)}'
        f"{_model_name(model)}</div>{_badges(report, model)}</th>"
        for model, color in zip(report.models, colors, strict=True)
    )
    body = []
    for group in dict.fromkeys(row.group for row in rows):
        columns = len(report.models) + 1
        title = _text(shorten(group, _NAME))
        lines = "".join(
            f'<tr><th scope="row">{_text(row.label)}'
            f'<span class="origin">{_text(row.origin)}</span></th>'
            + "".join(_cell(row, model, first) for model in report.models)
            + "</tr>"
            for row in rows
            if row.group == group
        )
        body.append(
            f'<tbody><tr class="group"><th scope="rowgroup" colspan="{columns}">'
            f"{title}</th></tr>{lines}</tbody>"
        )
    verdicts = _target_verdicts(report)
    return (
        '<section aria-labelledby="models"><h2 id="models">Models</h2>'
        '<div class="panel scroll" tabindex="0" role="region" '
        'aria-label="Figures of all models"><table class="models"><thead><tr>'
        f'<th scope="col">Figure</th>{head}</tr></thead>{"".join(body)}</table></div>'
        f"{verdicts}</section>"
    )


def _cell(row: Row, model: ModelFigures, first: ModelFigures) -> str:
    interval = spread(row, model)
    inner = _text(shown(row, model))
    if interval:
        inner += f'<span class="interval">{_text(interval)}</span>'
    return f"<td>{inner}{_factor(row, model, first, 'span')}</td>"


def _model_name(model: ModelFigures) -> str:
    name = f'<span class="full">{_text(shorten(model.name, _NAME))}</span>'
    if not model.path:
        return name
    return f'<a class="full" href="{_text(_link(model.path))}">{name}</a>'


def _link(path: str) -> str:
    """A relative or absolute path as a link; nothing that could be a program."""
    return urllib.parse.quote(path, safe="/.-_~") if "://" not in path else "#"


def _badges(report: ReportFigures, model: ModelFigures) -> str:
    badges = []
    if report.verdict and report.verdict.model == model.name:
        badges.append('<span class="badge ship">to ship</span>')
    if model.problem:
        badges.append(
            f'<span class="badge broken">{_text(shorten(model.problem, 80))}</span>'
        )
    return "".join(badges)


def _target_verdicts(report: ReportFigures) -> str:
    """What fits a board, what does not, and what dominates."""
    items = [
        f"<li>{_text(shorten(model.name, _NAME))} on {_text(name)} "
        f"{_text(figures.verdict)}</li>"
        for model in report.models
        for name, figures in model.targets.items()
        if figures.checks
    ]
    return f'<ul class="notes">{"".join(items)}</ul>' if items else ""


def _wrong(report: ReportFigures) -> str:
    """Some images that the model of the summary got wrong."""
    model = _highlighted(report)
    if not model.wrong:
        return ""
    pictures = "".join(
        f'<figure class="sample"><img src="data:image/png;base64,{_base64(w.image)}" '
        f'alt="Test image {w.index}"><figcaption>{_text(shorten(w.expected, 40))} '
        f'<span class="quiet">taken for</span> {_text(shorten(w.predicted, 40))}'
        "</figcaption></figure>"
        for w in model.wrong
    )
    return (
        '<section aria-labelledby="wrong"><h2 id="wrong">Wrong samples</h2>'
        f'<p class="quiet">The first of the test data that '
        f"{_text(shorten(model.name, _NAME))} gets wrong.</p>"
        f'<div class="samples">{pictures}</div></section>'
    )


def _base64(text: str) -> str:
    """Nothing but the characters of base64."""
    return "".join(c for c in text if c.isascii() and (c.isalnum() or c in "+/="))


def _made(report: ReportFigures) -> str:
    """How each model was made, step by step."""
    parts = [
        f"<dt>{_text(shorten(model.name, _NAME))}</dt><dd><ol>"
        + "".join(f"<li>{_text(step(record))}</li>" for record in model.made)
        + "</ol></dd>"
        for model in report.models
        if model.made
    ]
    if not parts:
        return ""
    return (
        '<section aria-labelledby="made"><h2 id="made">How the models were made</h2>'
        f'<dl class="panel facts">{"".join(parts)}</dl></section>'
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
        f'<figure class="panel chart-panel{" wide" if chart.wide else ""}">'
        f"<figcaption>{caption}</figcaption>"
        + _axes(chart, index)
        + f'<div class="binding" id="chart-{index}-binding"></div>'
        + _legend(chart, index)
        + f'<div class="chart" id="chart-{index}" data-chart="{index}" role="img" '
        f'aria-label="{_text(shorten(chart.label, 300))}"></div>'
        + (_numbers(*chart.table, chart.title) if chart.table else "")
        + "</figure>"
    )


def _axes(chart: Chart, index: int) -> str:
    """Lists to choose the figures of the axes from."""
    if not chart.axes:
        return ""
    titles = [figure["title"] for figure in chart.axes["figures"]]

    def options(chosen: int) -> str:
        return "".join(
            f'<option value="{i}"{" selected" if i == chosen else ""}>'
            f"{_text(shorten(title, 60))}</option>"
            for i, title in enumerate(titles)
        )

    return (
        f'<div class="binding axes" id="chart-{index}-axes">'
        f'<label>Upward <select data-axis="y">{options(chart.axes["y"])}</select>'
        f'</label><label>To the right <select data-axis="x">'
        f"{options(chart.axes['x'])}</select></label></div>"
    )


def _legend(chart: Chart, index: int) -> str:
    """Buttons that name the colors; a pressed one makes its marks stand out."""
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
    """Every layer of every model, those in the same place side by side."""
    units = {"MACs": "", "parameters": "", "energy": "J"}

    def cell(layer: LayerFigures | None, key: str) -> str:
        if layer is None or (key == "energy" and layer.energy is None):
            return DASH
        value = {
            "MACs": layer.macs,
            "parameters": layer.parameters,
            "energy": sum((layer.energy or {}).values()),
        }[key]
        return quantity(value, units[key])

    columns = [(key, number) for key in units for number in range(len(report.models))]
    header = ["Layer", "Kind"]
    header += [f"{report.models[number].name}: {key}" for key, number in columns]
    rows = [
        [
            line.label,
            line.kind,
            *(cell(line.cells[number], key) for key, number in columns),
        ]
        for line in aligned(report)
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


def _factor(row: Row, model: ModelFigures, baseline: ModelFigures, tag: str) -> str:
    text = relative(row, model, baseline)
    if not text:
        return ""
    kind = tone(row, model, baseline)
    # Color alone must not say it: within the noise, the text does, too.
    if kind == "same" and text != "the same" and (row.interval(model) or row.points):
        text += " (noise)"
    return f'<{tag} class="factor {kind}">{_text(text)}</{tag}>'


def _strong(name: str) -> str:
    return f"<strong>{_text(shorten(name, 60))}</strong>"


def _text(text: str) -> str:
    """`text` as it can stand in an element or a quoted attribute."""
    return html.escape(text)


def _embedded(data: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    # The page reads nothing if there is a NaN in it, which JSON does not know.
    text = json.dumps(
        without_nan(data), ensure_ascii=False, separators=(",", ":"), allow_nan=False
    )
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
