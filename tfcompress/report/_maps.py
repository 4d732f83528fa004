"""Where in an image the layers of a model are active."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from tfcompress._figures import Heatmap
from tfcompress._meters import watch
from tfcompress._taps import Tap, activation_taps
from tfcompress.structure._graph import require_graph

__all__ = ["activation_map"]

# Cells along the side of a layer's tile, and tiles side by side.
_TILE = 16
_ACROSS = 5


def activation_map(
    model: keras.Model,
    image: Any,
    layers: Sequence[str] | None = None,
    *,
    title: str = "",
) -> Heatmap:
    """Shows, for one image, which fraction of each layer's filters is active where.

    One tile for each layer, from left to right and top to bottom, as Figure 5 of
    "Activation Density driven Efficient Pruning in Training" (Foldy-Porto et al.,
    2020). That figure averages the activations of all filters; here it is the
    fraction of activations that are not zero, which can be compared between
    layers and networks.

    Example:

    ```python
    grid = tfc.report.activation_map(model, images[0])
    tfc.report.compare({"model": model}, heatmaps=[grid]).save("report.html")
    ```

    Args:
        model: a built Functional or Sequential model with one input.
        image: one input of the model, without batch axis: (height, width,
            channels).
        layers: names of convolutions that an activation function follows; `None`
            for up to ten of them, evenly spread. Defaults to `None`.
        title: heading of the chart. Defaults to one with the model's name.

    Returns:
        A `Heatmap` for a report.

    Raises:
        TypeError: if `model` is no Keras model.
        ValueError: if `model` is subclassed or not built, a name is unknown or
            has no activations with two spatial axes, or `image` does not fit.
    """
    require_graph(model)
    taps, _ = activation_taps(model)
    spatial = {
        name: tap for name, tap in taps.items() if len(tap.operation.output.shape) == 4
    }
    if layers is None:
        count = min(10, len(spatial))
        picked = np.linspace(0, len(spatial) - 1, count).round().astype(int)
        layers = [list(spatial)[index] for index in picked]
    unknown = [name for name in layers if name not in spatial]
    if unknown or not layers:
        raise ValueError(
            "Invalid value for argument `layers`. Expected names of convolutions that "
            f"an activation function follows: {list(spatial)}. Received: {layers!r}"
        )
    values = np.asarray(image, "float32")
    wanted = tuple(model.inputs[0].shape[1:])
    fits = values.ndim == len(wanted) and all(
        size in (None, have) for size, have in zip(wanted, values.shape, strict=True)
    )
    if not fits or len(model.inputs) != 1:
        raise ValueError(
            "Invalid value for argument `image`. Expected one image for a model with "
            f"{len(model.inputs)} inputs, the first of shape {wanted}. Received: an "
            f"array of shape {values.shape}"
        )
    outputs = watch(model, [spatial[name] for name in layers], values[None])
    tiles = [
        _resampled(_density(spatial[name], output))
        for name, output in zip(layers, outputs, strict=True)
    ]
    down = math.ceil(len(tiles) / _ACROSS)
    across = min(len(tiles), _ACROSS)
    # An empty row and column between tiles.
    grid = np.full((down * (_TILE + 1) - 1, across * (_TILE + 1) - 1), np.nan)
    for index, tile in enumerate(tiles):
        row, column = (n * (_TILE + 1) for n in divmod(index, _ACROSS))
        grid[row : row + _TILE, column : column + _TILE] = tile
    return Heatmap(
        title=title or f"Active filters of {model.name}",
        x_label="layers, left to right",
        y_label="and top to bottom",
        value_label="fraction of filters that are active",
        columns=[str(number) for number in range(grid.shape[1])],
        rows=[str(number) for number in range(grid.shape[0])],
        values=[[None if np.isnan(v) else float(v) for v in row] for row in grid],
        description=f"Layers: {', '.join(layers)}.",
    )


def _density(tap: Tap, output: np.ndarray) -> np.ndarray:
    """Fraction of the channels that are not zero at each position."""
    live = (output != 0)[0]
    mine = np.ones(live.shape[-1], bool)
    if tap.positions is not None:
        mine = np.broadcast_to(tap.positions[0], live.shape)[0, 0]
    if getattr(tap.operation, "data_format", None) == "channels_first":
        return live.mean(axis=0)
    return live[..., mine].mean(axis=-1)


def _resampled(tile: np.ndarray) -> np.ndarray:
    """Nearest neighbors on the grid of a tile."""
    rows, columns = (
        np.minimum((np.arange(_TILE) + 0.5) * size / _TILE, size - 1).astype(int)
        for size in tile.shape
    )
    return tile[np.ix_(rows, columns)]
