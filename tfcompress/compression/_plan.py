"""How many channels, and how many single weights, a model can do without."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping

import keras
import numpy as np
from keras import ops

from tfcompress import policy, structure
from tfcompress.callbacks.magnitude_pruning import largest
from tfcompress.compression._sensitivity import Sensitivity
from tfcompress.cost import count

__all__ = [
    "Filters",
    "reasons",
    "smallest_cut",
    "smallest_share",
    "spread_zeros",
    "with_zeros",
]

_STEPS = 14
# Powers of ten: the rise of the loss that saving everything may cost.
_PRICES = (-6.0, 6.0)


class Filters:
    """The channels of a model that can be pruned, and smaller models without.

    Args:
        model: the original.
    """

    def __init__(self, model: keras.Model) -> None:
        self.model = model
        self.sensitivity: Sensitivity | None = None
        groups = structure.channel_groups(model)
        try:
            selection = policy.select_groups(groups, model)
        except ValueError as error:  # nothing is left to prune
            if any(group.prunable for group in groups):
                raise
            self.sizes: dict[str, int] = {}
            self.skipped = {group.name: group.reason for group in groups}
            self.reason = str(error).rpartition("Received none: ")[2]
            return
        self.sizes = {name: group.size for name, group in selection.chosen.items()}
        self.skipped = dict(selection.skipped)
        self.reason = ""

    def counts(self, strength: float, tilt: float = 0.0) -> dict[str, int]:
        """How many channels of each group go.

        With a `sensitivity`, each group loses as many as are worth the rise of the
        loss at one price for all; otherwise each loses the same share.

        Args:
            strength: in [0, 1], from nothing to everything that can go.
            tilt: how much more late groups are pruned than early ones. Defaults
                to 0.0, neither.

        Returns:
            Numbers by group; every group keeps at least two channels: what passes
            through a single one says little.
        """
        places = np.linspace(-1, 1, len(self.sizes)) if len(self.sizes) > 1 else [0.0]
        result = {}
        for (name, size), place in zip(self.sizes.items(), places, strict=False):
            most = max(0, size - 2)
            if self.sensitivity is None or strength >= 1:
                share = min(1.0, strength * (1 + tilt * float(place)))
                result[name] = min(most, round(share * size))
                continue
            # Lagrange: at one price for all, each group by itself minimizes
            # harm(n) - price · saving · n. The groups then have the least sum of harm
            # for what they save together: no other division saves as much and harms
            # less. A higher price prunes every group at least as far, so that bisection
            # over the price works. Prices are spaced by powers of ten, because nothing
            # is known of the scale of the loss.
            price = 10 ** (_PRICES[0] + strength * (_PRICES[1] - _PRICES[0]))
            harm = self.sensitivity.harm[name][: most + 1] * np.exp(-tilt * place)
            gain = self.sensitivity.saving[name] * np.arange(most + 1)
            result[name] = int(np.argmin(harm - price * gain)) if most else 0
        return result

    def savings(self, weights: Mapping[str, float]) -> dict[str, float]:
        """What one channel of each group saves, if all other groups stay.

        Args:
            weights: how much each of `"macs"` and `"parameters"` matters.

        Returns:
            Weighted shares of the original's figures, by group.
        """
        original = _counted(self.model)
        result = {}
        for name, size in self.sizes.items():
            half = max(1, size // 2) if size > 1 else 0
            less = _counted(self.without({name: half}))
            result[name] = sum(
                weight * (original[figure] - less[figure]) / original[figure]
                for figure, weight in weights.items()
                if original[figure]
            ) / max(1, half)
        return result

    def without(self, counts: Mapping[str, int]) -> keras.Model:
        """The original without that many channels, any of them; itself if none."""
        going = {name: np.arange(count) for name, count in counts.items() if count}
        if not going:
            return self.model
        return structure.remove_channels(
            self.model, going, verify=False, carry_optimizer=False
        )


def smallest_cut(
    filters: Filters, tilt: float, fits: Callable[[dict[str, int]], bool]
) -> tuple[dict[str, int], bool]:
    """The fewest channels without which the model fits the budget.

    Args:
        filters: what can be pruned.
        tilt: see `Filters.counts`.
        fits: whether a model without so many channels fits.

    Returns:
        Numbers by group, and whether they fit; if nothing does, all that can go.
    """
    known: dict[tuple[int, ...], bool] = {}

    def does(counts: dict[str, int]) -> bool:
        key = tuple(counts.values())
        if key not in known:
            known[key] = fits(counts)
        return known[key]

    everything = filters.counts(1.0)
    if not does(everything):
        return everything, False
    low, high = 0.0, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if does(filters.counts(middle, tilt)):
            high = middle
        else:
            low = middle
    most = filters.counts(high, tilt)
    # From one price to the next a group may lose many channels at once. What lies
    # between gives some of them back.
    low, high = 0.0, 1.0
    for _ in range(_STEPS // 2):
        middle = (low + high) / 2
        if does(_scaled(most, middle)):
            high = middle
        else:
            low = middle
    return _scaled(most, high), True


# Single weights ------------------------------------------------------------------


def spread_zeros(
    model: keras.Model, share: float, *, uniform: bool
) -> dict[str, float]:
    """How a share of zeros is divided among the layers.

    Args:
        model: the model.
        share: which fraction of all kernel weights is to be zero, below 1.
        uniform: whether each layer gets the same share; otherwise the weights of
            all layers are ranked together by magnitude.

    Returns:
        Layer name -> fraction of its weights, for the layers that train.

    Raises:
        ValueError: if no layer has a kernel that trains.
    """
    kernels = policy.select_kernels(model)
    if uniform:
        return dict.fromkeys(kernels, share)
    values = {
        name: np.concatenate([ops.convert_to_numpy(k).ravel() for k in own])
        for name, own in kernels.items()
    }
    keep = largest(list(values.values()), share)
    # At least one weight of each layer stays.
    return {
        name: 1 - max(1, int(kept.sum())) / kept.size
        for name, kept in zip(values, keep, strict=True)
    }


def with_zeros(model: keras.Model, sparsities: Mapping[str, float]) -> keras.Model:
    """A copy of `model` without the smallest weights of each layer.

    Args:
        model: the model.
        sparsities: layer name -> fraction of its weights.
    """
    copy = structure.wrap(model, {}, carry_optimizer=False)
    for name, own in policy.select_kernels(copy, list(sparsities)).items():
        for kernel in own:
            value = ops.convert_to_numpy(kernel)
            kernel.assign(value * largest([value], sparsities[name])[0])
    return copy


def smallest_share(
    most: float, step: float, fits: Callable[[float], bool]
) -> tuple[float, bool]:
    """The smallest share, in steps, that fits; if nothing does, the most.

    Args:
        most: the largest share.
        step: between two shares.
        fits: whether a share fits. Larger ones fit where smaller ones do.

    Returns:
        The share, and whether it fits.
    """
    low, high = 0, round(most / step)
    if not fits(high * step):
        return high * step, False
    while low < high:
        middle = (low + high) // 2
        if fits(middle * step):
            high = middle
        else:
            low = middle + 1
    return high * step, True


def _scaled(counts: Mapping[str, int], share: float) -> dict[str, int]:
    return {name: round(share * count) for name, count in counts.items()}


def _counted(model: keras.Model) -> dict[str, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is not counted is in the report
        cost = count(model)
    return {"macs": float(cost.macs), "parameters": float(cost.parameters)}


def reasons(skipped: Mapping[str, str]) -> str:
    """Names in groups that have one reason."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in skipped.items():
        by_reason.setdefault(reason, []).append(name)
    return "; ".join(f"{', '.join(names)} ({why})" for why, names in by_reason.items())
