"""Compare models and show the result to people and programs."""

from tfcompress._figures import Curves, Heatmap
from tfcompress.report._compare import compare
from tfcompress.report._figures import (
    Agreement,
    ClassFigures,
    FileFigures,
    History,
    LayerFigures,
    MetricFigure,
    ModelFigures,
    Verdict,
    WrongSample,
)
from tfcompress.report._maps import activation_map
from tfcompress.report._report import Report, load

__all__ = [
    "Agreement",
    "ClassFigures",
    "Curves",
    "FileFigures",
    "Heatmap",
    "History",
    "LayerFigures",
    "MetricFigure",
    "ModelFigures",
    "Report",
    "Verdict",
    "WrongSample",
    "activation_map",
    "compare",
    "load",
]
