"""Quantization-aware training: models that know of their integer files."""

from tfcompress.quantization._calibrate import calibrate
from tfcompress.quantization._cluster import cluster
from tfcompress.quantization._plan import Plan, plan
from tfcompress.quantization._prepare import prepare

__all__ = ["Plan", "calibrate", "cluster", "plan", "prepare"]
