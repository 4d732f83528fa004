"""From a Keras model to the files that devices run."""

from tfcompress.export._debug import LayerErrors, debug
from tfcompress.export._parity import Parity, parity
from tfcompress.export._runtime import Latency, benchmark, run
from tfcompress.export._tflite import Artifact, to_tflite
from tfcompress.export.targets import (
    TargetFigures,
    TargetProfile,
    target,
    to_c,
)
from tfcompress.export.tfcz import (
    InvalidFileError,
    PackedFile,
    pack,
    unpack,
)

__all__ = [
    "Artifact",
    "InvalidFileError",
    "Latency",
    "LayerErrors",
    "PackedFile",
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
