"""A report as a table for the terminal and as Markdown."""

from __future__ import annotations

import re

from tfcompress.report._figures import ModelFigures, ReportFigures
from tfcompress.report._rows import relative, rows_of, shown, spread
from tfcompress.report._verdict import sentence
from tfcompress.report._words import short_names, shorten, step

__all__ = ["to_markdown", "to_text"]

_TEXT_NAME = 30


def to_text(report: ReportFigures) -> str:
    """A table with one row a figure and one column a model, and the notes."""
    names = short_names([model.name for model in report.models], _TEXT_NAME)
    rows = [["", *names.values()], *_rows(report)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    rule = "─" * max(map(len, lines))
    notes = [f"Note: {shorten(note, 300)}" for note in report.notes]
    said = [shorten(text, 300) for text in _verdict(report)]
    return "\n".join(
        [
            shorten(report.title, 100),
            *said,
            rule,
            lines[0],
            rule,
            *lines[1:],
            rule,
            *notes,
        ]
    )


def to_markdown(report: ReportFigures) -> str:
    """Tables of the models, their layers and the provenance."""
    names = short_names([model.name for model in report.models], 60)
    parts = [f"# {_escape(shorten(report.title, 200))}"]
    parts += [_escape(shorten(text, 400)) for text in _verdict(report)]
    parts.append("## Models")
    parts.append(_table(["", *names.values()], _rows(report)))
    parts += ["\n".join(f"- {_escape(note)}" for note in report.notes)]
    for model in report.models:
        if model.made:
            parts.append(f"## How {_escape(names[model.name])} was made")
            parts.append(
                "\n".join(f"1. {_escape(step(record))}" for record in model.made)
            )
    for model in report.models:
        if model.layers:
            parts.append(f"## Layers of {_escape(names[model.name])}")
            parts.append(_layer_table(model))
    for name, history in report.histories.items():
        parts.append(f"## Training of {_escape(shorten(name, 60))}")
        rows = [
            [
                str(epoch + 1),
                *(_number(values[i]) for values in history.metrics.values()),
            ]
            for i, epoch in enumerate(history.epochs)
        ]
        parts.append(_table(["epoch", *history.metrics], rows))
    for curves in report.curves:
        parts.append(f"## {_escape(curves.title)}")
        parts.append(_escape(curves.description))
        rows = [
            [shorten(name, 60), _number(x), _number(y)]
            for name, points in curves.series.items()
            for x, y in points
        ]
        parts.append(_table(["", curves.x_label, curves.y_label], rows))
    for heatmap in report.heatmaps:
        parts.append(f"## {_escape(heatmap.title)}")
        parts.append(_escape(heatmap.description))
        rows = [
            [name, *map(_number, values)]
            for name, values in zip(heatmap.rows, heatmap.values, strict=True)
        ]
        corner = f"{heatmap.value_label} ({heatmap.y_label} × {heatmap.x_label})"
        parts.append(_table([corner, *heatmap.columns], rows))
    parts.append("## Provenance")
    parts.append(_table(["", ""], [list(item) for item in report.provenance.items()]))
    return "\n\n".join(part for part in parts if part) + "\n"


def _rows(report: ReportFigures) -> list[list[str]]:
    """One line for each figure: its label, then every model's."""
    baseline = report.models[0]
    lines = []
    for row in rows_of(report):
        cells = []
        for model in report.models:
            text = shown(row, model)
            interval = spread(row, model) if row.group == "Quality" else ""
            text += f" [{interval}]" if interval else ""
            factor = relative(row, model, baseline)
            cells.append(text + (f" ({factor})" if factor else ""))
        target = row.key.startswith("target:")
        group = f"{row.group}: " if target else ""
        lines.append([group + row.label, *cells])
    return lines


def _verdict(report: ReportFigures) -> list[str]:
    """The verdict and its rule."""
    if report.verdict is None:
        return []
    rule = report.verdict.rule
    text = sentence(report)
    return [text, f"Rule: {rule}."] if text else [rule]


def _layer_table(model: ModelFigures) -> str:
    kinds = sorted({kind for layer in model.layers for kind in layer.energy or {}})
    rows = [
        [
            shorten(layer.name, 60),
            layer.kind,
            f"{layer.macs:,}",
            f"{layer.parameters:,}",
            *(_number((layer.energy or {}).get(kind)) for kind in kinds),
        ]
        for layer in model.layers
    ]
    energies = [f"{kind} energy (J)" for kind in kinds]
    return _table(["layer", "kind", "MACs", "parameters", *energies], rows)


def _table(header: list[str], rows: list[list[str]]) -> str:
    def line(cells: list[str]) -> str:
        return "| " + " | ".join(_escape(shorten(cell, 200)) for cell in cells) + " |"

    rule = "|" + "---|" + "---:|" * (len(header) - 1)
    return "\n".join([line(header), rule, *map(line, rows)])


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _escape(text: str) -> str:
    """`text` with everything that Markdown or HTML would act on made harmless."""
    html = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|#])", r"\\\1", html)
