"""When pruning single weights makes hardware faster, and when slower."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from tfcompress.cost._results import ModelCost

__all__ = ["SparseHardware"]


@dataclass(frozen=True)
class SparseHardware:
    """Speed of hardware that skips pruned weights, against the dense design.

    Section 5 of "ADMM-NN: an algorithm-hardware co-design framework of DNNs
    using alternating direction method of multipliers" (Ren et al., 2019). In the
    same chip area a sparse design has fewer, slower processing elements, because
    indices have to be stored and decoded: each weight that is left takes
    `1 + index_overhead` times as long as a weight of the dense design. With a
    pruned fraction p,

        speed-up(p) = 1 / ((1 − p) (1 + index_overhead)),

    which is 1 at the break-even pruning ratio 1 / (1 − p) = 1 + index_overhead.
    The paper synthesised 2.22 (55 % pruned) in 40 nm, the default.

    Example:

    >>> hardware = tfc.cost.SparseHardware()
    >>> hardware.speedup(0.9)
    4.504504504504505
    >>> hardware.worthwhile(0.5)
    False

    Attributes:
        break_even_ratio: weights of the dense layer to weights left at which
            both designs are equally fast, at least 1.
    """

    break_even_ratio: float = 2.22

    def __post_init__(self) -> None:
        if not 1 <= self.break_even_ratio < math.inf:
            raise ValueError(
                "Invalid value for argument `break_even_ratio`. Expected a number of "
                f"at least 1. Received: break_even_ratio={self.break_even_ratio!r}"
            )

    @property
    def index_overhead(self) -> float:
        """Extra time for each weight that is left, relative to a dense weight."""
        return self.break_even_ratio - 1

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
        return 1 / ((1 - pruned) * self.break_even_ratio)

    def worthwhile(self, pruned: float) -> bool:
        """Whether the sparse design is faster for a layer pruned so far."""
        return self.speedup(pruned) > 1

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
    """Speed-up of parts that take turns, from the work and speed-up of each."""
    time = math.fsum(work[name] / speedups[name] for name in work)
    return math.fsum(work.values()) / time if time else math.inf
