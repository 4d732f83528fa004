"""The report: figures that can be shown, saved and restored."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path

from tfcompress._files import check_writable, write_atomic
from tfcompress.report import _html, _json, _text
from tfcompress.report._figures import ReportFigures

__all__ = ["Report", "load"]


@dataclass(frozen=True)
class Report(ReportFigures):
    """A comparison of models, made by `tfcompress.report.compare`.

    `str(report)` is a table for the terminal; `save` writes a page, JSON or
    Markdown. The first model is the one that the others are compared with.

    Attributes:
        title: heading.
        models: figures of each model.
        histories: training curves by model.
        curves: further line charts.
        heatmaps: further grids.
        provenance: where the figures come from: versions, machine, data,
            hardware profile.
        notes: why figures are missing, and what to keep in mind.
        verdict: which model to ship; `None` if there is none.
    """

    def __str__(self) -> str:
        return _text.to_text(self)

    def to_json(self) -> str:
        """The whole report as JSON text; `load` restores it.

        The top level has `"schema": "tfcompress-report/2"` and one key for each
        attribute of this class. Numbers that are not finite become `null`. The
        JSON Schema is in docs/report.schema.json.
        """
        return _json.to_json(self)

    def to_markdown(self) -> str:
        """The report as a Markdown document, without the charts."""
        return _text.to_markdown(self)

    def to_html(self) -> str:
        """The report as one HTML page that needs no network."""
        return _html.to_html(self)

    def _page_in(self, folder: Path) -> str:
        """The page with links to models as they are seen from a folder."""
        models = tuple(
            replace(model, path=Path(os.path.relpath(model.path, folder)).as_posix())
            if model.path and Path(model.path).exists()
            else model
            for model in self.models
        )
        return replace(self, models=models).to_html()

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the report to a file, in one step.

        Args:
            path: ends in `.html`, `.json` or `.md`, which chooses the format.

        Returns:
            The path.

        Raises:
            ValueError: if the ending is another or nothing can be written there.
        """
        target = check_writable(path, suffixes=(".html", ".json", ".md"))
        formats = {
            ".html": lambda: self._page_in(target.parent),
            ".json": self.to_json,
            ".md": self.to_markdown,
        }
        write_atomic(target, formats[target.suffix.lower()]())
        return target


def load(source: str | os.PathLike[str]) -> Report:
    """Restores a report from JSON.

    Reports of schema 1 are read, too.

    Args:
        source: the path of a file that `Report.save` wrote with the ending
            `.json`, or the JSON text itself.

    Returns:
        An equal `Report`.

    Raises:
        TypeError: if `source` is neither.
        ValueError: if `source` is not such JSON, of an unknown schema, or has a
            value of a wrong kind, which is named.
    """
    if not isinstance(source, str | os.PathLike):
        raise TypeError(
            "Invalid value for argument `source`. Expected the path or the text of a "
            f"JSON report. Received: an object of type {type(source).__name__}"
        )
    is_text = isinstance(source, str) and source.lstrip().startswith("{")
    try:
        text = str(source) if is_text else Path(source).read_text(encoding="utf-8")
        return Report(**_json.fields_of(json.loads(text)))
    # JSON that is nested too deeply exhausts the parser's stack.
    except (OSError, ValueError, RecursionError, _json.InvalidError) as error:
        problem = str(error) or type(error).__name__
        raise ValueError(
            "Invalid value for argument `source`. Expected the path or the text of a "
            f"JSON report. Received: {str(source)[:100]!r} ({problem[:200]})"
        ) from error
