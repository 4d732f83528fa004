"""Operations with gradients of their own."""

import keras

from tfcompress.ops._binary import binary_step, gumbel_step, mean_step
from tfcompress.ops._drum import (
    drum_multiply,
    drum_truncate,
    implementation,
    portable,
)

__all__ = [
    "binary_step",
    "drum_multiply",
    "drum_truncate",
    "gumbel_step",
    "implementation",
    "mean_step",
    "portable",
]

if keras.backend.backend() == "tensorflow":
    from tfcompress.ops import _native

    # So that a SavedModel with the compiled operation can be loaded from here on.
    _native.library()
