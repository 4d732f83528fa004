"""When pruning single weights makes hardware faster, and when slower."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tfcompress.cost._results import ModelCost

__all__ = ["SparseHardware", "overall_speedup"]


# Tables 8 and 9 of ADMM-NN, convolutions of AlexNet: operations of the dense layer
# over operations left, and synthesized speed-up. The first row of the paper's own
# network is a layer that it keeps dense, and has no ratio.
_PUBLISHED = (
    (180, 211, 0.15), (177, 211, 0.16), (175, 211, 0.17),  # conv1: Wen, Han, Mao
    (170, 448, 1.4), (56, 150, 1.5), (83, 224, 1.5), (105, 299, 1.6),  # Han
    (116, 448, 2.6), (36, 150, 2.9), (107, 448, 2.9),  # Mao, Wen, Wen
    (35, 150, 3.0), (52, 224, 3.0), (67, 299, 3.0),  # Mao
    (42, 224, 3.8), (44, 299, 4.6),  # Wen
    (11, 150, 7.1), (16, 224, 7.2), (31, 448, 7.0), (18, 299, 7.5),  # ADMM-NN
)  # fmt: skip
_BREAK_EVEN = 2.22
# "40.5× pruning on CONV2-5 with only 1.5 % accuracy loss": 8.6, 9.0, 8.8 and 8.6.
_SATURATED = (40.5, 8.75)
_FAR = 1e9  # a ratio that no layer has


def _rising(points: list[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """Points in ascending order, neighbors that fall replaced by their mean.

    Two of the published speed-ups are a little lower than one at a smaller
    ratio, because layers differ in shape. (Pool adjacent violators.)
    """
    blocks: list[tuple[list[float], float]] = []
    for ratio, speedup in sorted(points):
        blocks.append(([ratio], speedup))
        while len(blocks) > 1 and blocks[-2][1] > blocks[-1][1]:
            (ratios, low), (before, high) = blocks.pop(), blocks.pop()
            size = len(before) + len(ratios)
            mean = (high * len(before) + low * len(ratios)) / size
            blocks.append((before + ratios, mean))
    return tuple((ratio, speedup) for ratios, speedup in blocks for ratio in ratios)


PUBLISHED_CURVE = _rising(
    [(dense / left, speedup) for left, dense, speedup in _PUBLISHED]
    + [(_BREAK_EVEN, 1.0), _SATURATED]
)


@dataclass(frozen=True)
class SparseHardware:
    """Speed of hardware that skips pruned weights, against the dense design.

    Section 5 of "ADMM-NN: an algorithm-hardware co-design framework of DNNs
    using alternating direction method of multipliers" (Ren et al., 2019). In the
    same chip area a sparse design has fewer, slower processing elements, because
    indices have to be stored and decoded. So a hardly pruned layer is several
    times *slower* than the dense design; both are equally fast at the break-even
    pruning ratio (weights of the dense layer to weights left), 2.22 in the
    paper's synthesis in 40 nm; and at high ratios the speed-up saturates.

    The default is that synthesis: the 19 pairs of a layer's ratio and speed-up
    in the paper's Tables 8 and 9, the break-even point, and the mean of its most
    pruned layers (8.75 times at a ratio of 40.5). Between the points the
    logarithm of the speed-up is linear in the logarithm of the ratio; outside of
    them the speed-up is that of the nearest one.

    Example:

    >>> hardware = tfc.cost.SparseHardware()
    >>> round(hardware.speedup(0.9), 2)
    5.85
    >>> hardware.worthwhile(0.5)
    False

    Attributes:
        curve: pairs of a pruning ratio, at least 1, and the speed-up there, both
            rising. Defaults to the published ones.

    Raises:
        ValueError: if there are fewer than two pairs, or they do not rise.
    """

    curve: tuple[tuple[float, float], ...] = PUBLISHED_CURVE

    def __post_init__(self) -> None:
        valid = len(self.curve) > 1 and all(
            len(point) == 2 and 1 <= point[0] < math.inf and 0 < point[1] < math.inf
            for point in self.curve
        )
        if not valid or any(
            first[0] >= second[0] or first[1] > second[1]
            for first, second in itertools.pairwise(self.curve)
        ):
            raise ValueError(
                "Invalid value for argument `curve`. Expected at least two pairs "
                "(ratio, speed-up), ratios from 1, both rising. Received: "
                f"curve={self.curve!r}"
            )

    @classmethod
    def proportional(cls, break_even_ratio: float) -> SparseHardware:
        """Hardware on which each weight that is left takes the same extra time.

        speed-up = ratio / break_even_ratio, without saturation.

        Args:
            break_even_ratio: weights of the dense layer to weights left at which
                both designs are equally fast, at least 1.

        Raises:
            ValueError: if `break_even_ratio` is below 1 or not finite.
        """
        if not 1 <= break_even_ratio < math.inf:
            raise ValueError(
                "Invalid value for argument `break_even_ratio`. Expected a number of "
                f"at least 1. Received: break_even_ratio={break_even_ratio!r}"
            )
        return cls(((1.0, 1 / break_even_ratio), (_FAR, _FAR / break_even_ratio)))

    @property
    def break_even_ratio(self) -> float:
        """Pruning ratio from which on the sparse design is not the slower one.

        Infinite where it always is.
        """
        if self.curve[0][1] >= 1:
            return 1.0
        for (low, slow), (high, fast) in itertools.pairwise(self.curve):
            if fast >= 1:
                share = math.log(1 / slow) / math.log(fast / slow)
                return low * (high / low) ** share
        return math.inf

    @property
    def break_even_fraction(self) -> float:
        """Pruned fraction at which both designs are equally fast."""
        return 1 - 1 / self.break_even_ratio

    def speedup(self, pruned: float) -> float:
        """Speed of a layer against the dense design.

        Args:
            pruned: fraction of its weights that is zero, below 1.

        Raises:
            ValueError: if `pruned` is outside [0, 1).
        """
        if not 0 <= pruned < 1:
            raise ValueError(
                "Invalid value for argument `pruned`. Expected a fraction from 0 to "
                f"below 1. Received: pruned={pruned!r}"
            )
        # log(ratio) = -log(1 - pruned). In logarithms a speed-up that is proportional
        # to the ratio is a straight line, which interpolation keeps.
        ratios, speedups = zip(*self.curve, strict=True)
        known = np.interp(-math.log1p(-pruned), np.log(ratios), np.log(speedups))
        return float(np.exp(known))

    def worthwhile(self, pruned: float) -> bool:
        """Whether the sparse design is faster for a layer pruned so far."""
        # At the break-even point itself rounding decides.
        return self.speedup(pruned) > 1 + 1e-9

    def layers(self, cost: ModelCost) -> dict[str, float]:
        """Speed-up of each layer with weights, below 1 where pruning does not pay.

        Args:
            cost: from `count`, of the pruned model.

        Returns:
            Layer name -> speed-up; infinite where all weights are zero.
        """
        return {
            row.name: math.inf
            if not row.effective_macs
            else self.speedup(1 - row.effective_macs / row.macs)
            for row in cost.rows
            if row.weight_macs
        }

    def model(self, cost: ModelCost, *, restore: bool = True) -> float:
        """Speed-up of all layers with weights together.

        Layers take turns, so that times add up: the harmonic mean of the layers'
        speed-ups, weighted by their multiply–accumulates (Table 9 of the paper).

        Args:
            cost: from `count`, of the pruned model.
            restore: whether layers that pruning would slow down are kept dense,
                as the paper's algorithm does. Defaults to `True`.
        """
        speedups = self.layers(cost)
        macs = {row.name: row.macs for row in cost.rows if row.weight_macs}
        if restore:
            speedups = {name: max(1.0, value) for name, value in speedups.items()}
        return overall_speedup(macs, speedups)


def overall_speedup(work: Mapping[str, float], speedups: Mapping[str, float]) -> float:
    """Speed-up of parts that take turns, from the work and speed-up of each.

    Args:
        work: part -> its work, in any unit.
        speedups: part -> how much faster it has become.

    Returns:
        The speed-up of the whole; infinite if there is no work.
    """
    time = math.fsum(work[name] / speedups[name] for name in work)
    return math.fsum(work.values()) / time if time else math.inf
