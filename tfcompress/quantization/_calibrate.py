"""Ranges without training."""

from __future__ import annotations

from typing import Any

import keras

from tfcompress import structure
from tfcompress._samples import call_model, take_samples
from tfcompress.layers import FakeQuantize
from tfcompress.policy import named_layers
from tfcompress.structure._graph import require_graph

__all__ = ["calibrate"]


def calibrate(model: keras.Model, data: Any, *, limit: int = 1000) -> keras.Model:
    """A copy of a prepared model whose ranges are those of typical inputs.

    Every range becomes the smallest and the largest value that the tensor takes
    on the data, with kernels on their grids and everything else in float. This
    quantizes a model after training: the file computes what the copy computes. A
    training run can also start from the copy.

    Example:

    ```python
    quantized = tfc.quantization.calibrate(tfc.quantization.prepare(model), x[:500])
    tfc.export.to_tflite(quantized, "model.tflite")
    ```

    Args:
        model: what `prepare` returned. It is not modified.
        data: typical inputs, in any form that `export.to_tflite` takes as its
            calibration.
        limit: the most samples to take. Defaults to `1000`.

    Returns:
        A new model.

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: if `model` is not prepared, or `data` do not fit it or are not
            finite.
    """
    require_graph(model)
    if not any(isinstance(x, FakeQuantize) for x in named_layers(model).values()):
        raise ValueError(
            "Invalid value for argument `model`. Expected what quantization.prepare "
            f"returned. Received: {model.name!r}, which has no ranges."
        )
    samples, _ = take_samples(model, data, limit=limit, argument="data")
    copy = structure.wrap(model, {})
    grids = [x for x in copy._flatten_layers() if isinstance(x, FakeQuantize)]
    learned = [grid for grid in grids if grid.fixed is None]
    # Calibration only widens ranges, so that it begins at [0, 0]. Zero belongs to every
    # range: padding and ReLU make zeros that have to be exact.
    for grid in learned:
        for variable in (grid.low, grid.high, grid.seen):
            variable.assign(0.0)
    for grid in grids:
        grid.calibrating = True
    call_model(copy, samples)
    for grid in grids:
        grid.calibrating = False
    return copy
