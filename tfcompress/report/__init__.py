"""Compare models and show the result to people and programs."""

from tfcompress._figures import Curves, Heatmap
from tfcompress.report._compare import compare
from tfcompress.report._figures import (
    FileFigures,
    History,
    LayerFigures,
    ModelFigures,
)
from tfcompress.report._maps import activation_map
from tfcompress.report._report import Report, load

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
