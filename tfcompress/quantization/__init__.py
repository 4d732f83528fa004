"""Quantization-aware training: models that know of their integer files."""

from tfcompress.quantization._calibrate import calibrate
from tfcompress.quantization._plan import Plan, Row, plan
from tfcompress.quantization._prepare import prepare

__all__ = ["Plan", "Row", "calibrate", "plan", "prepare"]
