"""Callbacks: one method a file."""

from tfcompress.callbacks.activation_density import ActivationDensity
from tfcompress.callbacks.admm import ADMM
from tfcompress.callbacks.compression_metrics import CompressionMetrics
from tfcompress.callbacks.dynamic_surgery import DynamicSurgery
from tfcompress.callbacks.filter_pruning import FilterPruning
from tfcompress.callbacks.gate_penalty import GatePenalty
from tfcompress.callbacks.hold_weights import HoldWeights
from tfcompress.callbacks.incremental_approximation import IncrementalApproximation
from tfcompress.callbacks.magnitude_pruning import MagnitudePruning

__all__ = [
    "ADMM",
    "ActivationDensity",
    "CompressionMetrics",
    "DynamicSurgery",
    "FilterPruning",
    "GatePenalty",
    "HoldWeights",
    "IncrementalApproximation",
    "MagnitudePruning",
]
