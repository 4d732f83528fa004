"""Compare models and show the result to people and programs."""

from tfcompress.report._compare import compare
from tfcompress.report._figures import (
    Curves,
    FileFigures,
    Heatmap,
    History,
    LayerFigures,
    ModelFigures,
    Report,
    load,
)
from tfcompress.report._maps import activation_map

__all__ = [
    "Curves",
    "FileFigures",
    "Heatmap",
    "History",
    "LayerFigures",
    "ModelFigures",
    "Report",
    "activation_map",
    "compare",
    "load",
]
