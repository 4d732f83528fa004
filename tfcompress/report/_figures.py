"""What a report holds, and how it becomes JSON and comes back."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tfcompress._files import check_writable, write_atomic
from tfcompress.export import Latency, Parity

__all__ = [
    "SCHEMA",
    "Curves",
    "FileFigures",
    "Heatmap",
    "History",
    "LayerFigures",
    "ModelFigures",
    "Report",
    "load",
]

SCHEMA = "tfcompress-report/1"


@dataclass(frozen=True)
class LayerFigures:
    """Figures of one layer, for one sample.

    Attributes:
        name: name of the layer.
        kind: its type, such as `"Conv2D"`.
        macs: multiply–accumulates.
        parameters: number of parameters.
        energy: joules by kind of operation; `None` where not modelled.
    """

    name: str
    kind: str
    macs: int
    parameters: int
    energy: dict[str, float] | None = None


@dataclass(frozen=True)
class FileFigures:
    """Figures of one exported file.

    Attributes:
        bytes: its size.
        latency: time of one inference; `None` where not measured.
        parity: how close it is to the Keras model.
        energy: measured joules of one inference, with everything else that ran
            on the processor meanwhile; `None` where the machine does not count.
    """

    bytes: int
    latency: Latency | None
    parity: Parity
    energy: float | None = None


@dataclass(frozen=True)
class ModelFigures:
    """Figures of one model; `None` where a figure is not known.

    Attributes:
        name: the name it was compared under.
        accuracy: top-1 accuracy on the test data, from 0 to 1.
        parameters: number of parameters.
        nonzero: number of parameters that are not zero.
        macs: multiply–accumulates for one sample.
        energy: modelled joules for one inference, by kind of operation.
        files: exported files by format, `"float32"` and `"int8"`.
        layers: figures layer by layer.
    """

    name: str
    accuracy: float | None = None
    parameters: int | None = None
    nonzero: int | None = None
    macs: int | None = None
    energy: dict[str, float] | None = None
    files: dict[str, FileFigures] = field(default_factory=dict)
    layers: tuple[LayerFigures, ...] = ()

    @property
    def joules(self) -> float | None:
        """Modelled energy of one inference, all kinds together."""
        return None if self.energy is None else math.fsum(self.energy.values())


@dataclass(frozen=True)
class History:
    """Training curves of one model.

    Attributes:
        epochs: number of each epoch, from 0.
        metrics: one value for each epoch, by name; `None` where there is none.
    """

    epochs: tuple[int, ...]
    metrics: dict[str, tuple[float | None, ...]]


@dataclass(frozen=True)
class Curves:
    """Lines to show in a report, such as the sensitivity of every layer.

    Example:

    ```python
    tfc.report.Curves(
        title="Sensitivity",
        x_label="fraction of filters removed",
        y_label="accuracy",
        series={"conv1": [(0.0, 0.99), (0.5, 0.97)], "conv2": [(0.0, 0.99)]},
    )
    ```

    Attributes:
        title: heading of the chart.
        x_label: what runs along the horizontal axis, with its unit.
        y_label: what runs along the vertical axis, with its unit.
        series: points `(x, y)` of every line, by its name.
        description: a sentence for the reader. Defaults to `""`.
    """

    title: str
    x_label: str
    y_label: str
    series: Mapping[str, Sequence[tuple[float, float | None]]]
    description: str = ""


@dataclass(frozen=True)
class Heatmap:
    """A grid of numbers to show in a report.

    Attributes:
        title: heading of the chart.
        x_label: what the columns are.
        y_label: what the rows are.
        value_label: what the numbers are, with their unit.
        columns: name of each column.
        rows: name of each row.
        values: one sequence for each row; `None` leaves a cell empty.
        description: a sentence for the reader. Defaults to `""`.
    """

    title: str
    x_label: str
    y_label: str
    value_label: str
    columns: Sequence[str]
    rows: Sequence[str]
    values: Sequence[Sequence[float | None]]
    description: str = ""

    def __post_init__(self) -> None:
        shape = [len(row) for row in self.values]
        if shape != [len(self.columns)] * len(self.rows):
            raise ValueError(
                "Invalid value for argument `values`. Expected "
                f"{len(self.rows)} rows of {len(self.columns)} numbers. Received: "
                f"rows of {shape} numbers"
            )


@dataclass(frozen=True)
class Report:
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
    """

    title: str
    models: tuple[ModelFigures, ...]
    histories: dict[str, History] = field(default_factory=dict)
    curves: tuple[Curves, ...] = ()
    heatmaps: tuple[Heatmap, ...] = ()
    provenance: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        from tfcompress.report._text import to_text

        return to_text(self)

    def to_json(self) -> str:
        """The whole report as JSON text; `load` restores it.

        The top level has `"schema": "tfcompress-report/1"` and one key for each
        attribute of this class. Numbers that are not finite become `null`.
        """
        data = {"schema": SCHEMA, **dataclasses.asdict(self)}
        return json.dumps(
            _without_nan(data), indent=2, ensure_ascii=False, allow_nan=False
        )

    def to_markdown(self) -> str:
        """The report as a Markdown document, without the charts."""
        from tfcompress.report._text import to_markdown

        return to_markdown(self)

    def to_html(self) -> str:
        """The report as one HTML page that needs no network."""
        from tfcompress.report._html import to_html

        return to_html(self)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the report to a file, in one step.

        Args:
            path: ends in `.html`, `.json` or `.md`, which chooses the format.

        Returns:
            The path.

        Raises:
            ValueError: if the ending is another or nothing can be written there.
        """
        formats = {
            ".html": self.to_html,
            ".json": self.to_json,
            ".md": self.to_markdown,
        }
        target = check_writable(path, suffixes=tuple(formats))
        write_atomic(target, formats[target.suffix.lower()]())
        return target


def load(source: str | os.PathLike[str]) -> Report:
    """Restores a report from JSON.

    Args:
        source: the path of a file that `Report.save` wrote with the ending
            `.json`, or the JSON text itself.

    Returns:
        An equal `Report`.

    Raises:
        ValueError: if `source` is not such JSON or of an unknown schema.
    """
    is_text = isinstance(source, str) and source.lstrip().startswith("{")
    try:
        text = str(source) if is_text else Path(source).read_text(encoding="utf-8")
        data = json.loads(text)
        schema = data.get("schema")
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(
            "Invalid value for argument `source`. Expected the path or the text of a "
            f"JSON report. Received: {str(source)[:200]!r} ({error})"
        ) from error
    if schema != SCHEMA:
        raise ValueError(
            "Invalid value for argument `source`. Expected a report with schema "
            f"{SCHEMA!r}. Received: schema={schema!r}"
        )
    try:
        return _from_dict(data)
    except (KeyError, TypeError) as error:
        raise ValueError(
            "Invalid value for argument `source`. Expected a complete JSON report. "
            f"Received: one with missing or unknown keys ({error})"
        ) from error


def _from_dict(data: dict[str, Any]) -> Report:
    return Report(
        title=data["title"],
        models=tuple(_model(entry) for entry in data["models"]),
        histories={
            name: History(
                epochs=tuple(entry["epochs"]),
                metrics={k: tuple(v) for k, v in entry["metrics"].items()},
            )
            for name, entry in data["histories"].items()
        },
        curves=tuple(
            Curves(
                **{
                    **entry,
                    "series": {
                        name: [(x, y) for x, y in points]
                        for name, points in entry["series"].items()
                    },
                }
            )
            for entry in data["curves"]
        ),
        heatmaps=tuple(Heatmap(**entry) for entry in data["heatmaps"]),
        provenance=dict(data["provenance"]),
        notes=tuple(data["notes"]),
    )


def _model(entry: dict[str, Any]) -> ModelFigures:
    files = {
        name: FileFigures(
            bytes=file["bytes"],
            latency=Latency(**file["latency"]) if file["latency"] else None,
            parity=Parity(**file["parity"]),
            energy=file["energy"],
        )
        for name, file in entry["files"].items()
    }
    layers = tuple(LayerFigures(**layer) for layer in entry["layers"])
    return ModelFigures(**{**entry, "files": files, "layers": layers})


def _without_nan(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return value
