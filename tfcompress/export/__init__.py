"""From a Keras model to the files that devices run."""

from tfcompress.export._parity import Parity, parity
from tfcompress.export._runtime import Latency, benchmark, run
from tfcompress.export._tflite import Artifact, to_tflite

__all__ = ["Artifact", "Latency", "Parity", "benchmark", "parity", "run", "to_tflite"]
