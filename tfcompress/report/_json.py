"""A report as JSON, and what is read back from it."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

from tfcompress._figures import Curves, Heatmap
from tfcompress.export import Latency, Parity
from tfcompress.report._figures import (
    FileFigures,
    History,
    LayerFigures,
    ModelFigures,
    ReportFigures,
)

__all__ = ["SCHEMA", "fields_of", "to_json"]

SCHEMA = "tfcompress-report/1"


def to_json(report: ReportFigures) -> str:
    """The whole report as JSON text."""
    data = {"schema": SCHEMA, **dataclasses.asdict(report)}
    return json.dumps(_without_nan(data), indent=2, ensure_ascii=False, allow_nan=False)


def fields_of(data: dict[str, Any]) -> dict[str, Any]:
    """The fields of `ReportFigures` from parsed JSON."""
    return dict(
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
