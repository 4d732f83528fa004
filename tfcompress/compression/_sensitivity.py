"""How much each group of channels matters, and how much it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from scipy.interpolate import PchipInterpolator

from tfcompress import criteria, structure

__all__ = ["Sensitivity", "measure"]

_SHARES = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 0.95)


@dataclass(frozen=True)
class Sensitivity:
    """What pruning does to the loss, group by group.

    Attributes:
        harm: for each group the rise of the loss, without any training, when
            0, 1, 2, … of its channels go and all other groups stay.
        saving: for each group what one channel saves, as a share of what has to
            be saved.
    """

    harm: Mapping[str, np.ndarray]
    saving: Mapping[str, float]


def measure(
    model: keras.Model,
    names: Mapping[str, int],
    data: tuple[Any, ...],
    criterion: str,
    saving: Mapping[str, float],
) -> Sensitivity:
    """Masks more and more channels of each group, and looks at the loss.

    Li et al., "Pruning filters for efficient ConvNets" (2017), section 3.2,
    measure the accuracy in this way; the loss is smoother.

    Args:
        model: a compiled model. Its weights change meanwhile.
        names: sizes of the groups, by name.
        data: inputs and labels to look at.
        criterion: which channels go first.
        saving: see `Sensitivity`.
    """
    groups = structure.channel_groups(model)
    chosen = [group for group in groups if group.name in names]
    ranking = criteria.get("l1" if criterion == "mean_activation" else criterion)
    scores = criteria.score(ranking, model, chosen, {})

    def loss() -> float:
        logs = model.evaluate(*data, verbose=0, return_dict=True)
        return float(logs["loss"])

    # One group at a time, and each measurement starts from the trained weights again:
    # a few evaluations for each group, no training. What groups do to each other is
    # left out, which a sum over groups cannot express anyway.
    base = loss()
    harm = {}
    for group, values in zip(chosen, scores, strict=True):
        order = np.argsort(values, kind="stable")
        counts = sorted({min(round(s * group.size), group.size - 1) for s in _SHARES})
        rises = [0.0]
        for count in counts:
            masks = structure.keep_masks(groups, {group.name: order[:count]})
            before = [keras.ops.convert_to_numpy(variable) for variable, _ in masks]
            for (variable, mask), old in zip(masks, before, strict=True):
                variable.assign(old * mask)
            rise = loss() - base
            for (variable, _), old in zip(masks, before, strict=True):
                variable.assign(old)
            # Channels only go: the loss must not fall where more of them are gone.
            rises.append(max(rises[-1], rise if np.isfinite(rise) else np.inf))
        finite = np.minimum(rises, 1e6)
        harm[group.name] = _between([0, *counts], finite, group.size)
    return Sensitivity(harm, saving)


def _between(counts: list[int], rises: np.ndarray, size: int) -> np.ndarray:
    """A smooth rising curve through the measured points, for every count."""
    kept = [i for i, count in enumerate(counts) if i == 0 or count > counts[i - 1]]
    x, y = [counts[i] for i in kept], [rises[i] for i in kept]
    if len(x) == 1:
        return np.zeros(size)
    curve = PchipInterpolator(x, y, extrapolate=False)(np.arange(size))
    return np.where(np.isnan(curve), y[-1], curve)
