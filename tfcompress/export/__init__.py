"""From a Keras model to the files that devices run."""

from tfcompress.export._debug import LayerError, LayerErrors, debug
from tfcompress.export._parity import OutputParity, Parity, parity
from tfcompress.export._runtime import Latency, benchmark, run
from tfcompress.export._tflite import Artifact, to_tflite
from tfcompress.export.targets import (
    Check,
    TargetFigures,
    TargetProfile,
    target,
    to_c,
)
from tfcompress.export.tfcz import (
    InvalidFileError,
    PackedFile,
    PackedTensor,
    pack,
    unpack,
)

__all__ = [
    "Artifact",
    "Check",
    "InvalidFileError",
    "Latency",
    "LayerError",
    "LayerErrors",
    "OutputParity",
    "PackedFile",
    "PackedTensor",
    "Parity",
    "TargetFigures",
    "TargetProfile",
    "benchmark",
    "debug",
    "pack",
    "parity",
    "run",
    "target",
    "to_c",
    "to_tflite",
    "unpack",
]
