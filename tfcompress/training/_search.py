"""How far to prune each layer, so that hardware gets faster."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from tfcompress import cost
from tfcompress._checks import fraction as check_fraction
from tfcompress._checks import whole
from tfcompress._files import check_writable, write_atomic
from tfcompress.constraints import Cardinality
from tfcompress.policy import select_kernels

__all__ = ["HardwarePlan", "LayerPlan", "search_fractions"]


@dataclass(frozen=True)
class LayerPlan:
    """What the search decided for one layer.

    Attributes:
        name: the layer.
        macs: multiply–accumulates for one sample, before pruning.
        fraction: fraction of its weights to keep, the paper's alpha.
        speedup: on hardware that skips pruned weights; 1 for a dense layer.
        searched: whether the search changed the fraction (else it was given).
    """

    name: str
    macs: int
    fraction: float
    speedup: float
    searched: bool


@dataclass(frozen=True)
class HardwarePlan:
    """The outcome of `search_fractions`.

    Attributes:
        layers: one entry for each layer with a kernel.
        accuracy: accuracy that was measured for these fractions.
        least: the accuracy that had to be reached.
        trials: every measurement: fractions and accuracy.
    """

    layers: tuple[LayerPlan, ...]
    accuracy: float
    least: float
    trials: tuple[tuple[dict[str, float], float], ...]

    @property
    def fractions(self) -> dict[str, float]:
        """Fraction of weights to keep, by layer."""
        return {layer.name: layer.fraction for layer in self.layers}

    @property
    def speedup(self) -> float:
        """Speed-up of all layers together, which run one after another."""
        time = math.fsum(layer.macs / layer.speedup for layer in self.layers)
        return math.fsum(layer.macs for layer in self.layers) / time

    def constraints(self) -> dict[str, Cardinality]:
        """The constraints for ADMM; dense layers have none."""
        return {
            layer.name: Cardinality(fraction=layer.fraction)
            for layer in self.layers
            if layer.fraction < 1
        }

    def __str__(self) -> str:
        width = max(len(layer.name) for layer in self.layers)
        lines = [
            f"{'layer':<{width}}{'MACs':>15}{'kept':>9}{'ratio':>9}{'speed-up':>10}"
        ]
        for layer in self.layers:
            lines.append(
                f"{layer.name:<{width}}{layer.macs:>15,}{layer.fraction:>9.2%}"
                f"{1 / layer.fraction:>8.1f}×{layer.speedup:>9.2f}×"
            )
        lines.append(
            f"accuracy {self.accuracy:.4f} (at least {self.least:.4f}), speed-up "
            f"{self.speedup:.2f}×, {len(self.trials)} trials"
        )
        return "\n".join(lines)


def search_fractions(
    model: keras.Model,
    evaluate: Callable[[dict[str, float]], float],
    *,
    least: float,
    initial: Mapping[str, float] | None = None,
    others: float = 0.3,
    hardware: cost.SparseHardware | None = None,
    steps: int = 5,
    floor: float = 0.01,
    log_path: str | os.PathLike[str] | None = None,
) -> HardwarePlan:
    r"""Finds pruning fractions that make hardware fast and keep the accuracy.

    The algorithm of ADMM-NN, section 5 and Figure 5. Let C_i be the operations of
    searched layer i. Its fraction falls in proportion to them,

    $$\alpha_i(t) = \max(\alpha_i^0 - t \, C_i / \max_j C_j, \text{floor})$$

    and t, from 0 to 1, is found by binary search: the largest that was seen to
    reach the accuracy. Then layers whose ratio 1/alpha is below the hardware's
    break-even ratio, and which pruning would thus slow down, get all their weights
    back, the least pruned first, and the others are tightened further with the
    accuracy this frees, until no layer is below.

    The paper searches convolutions, and prunes fully connected layers along, 3–4×,
    because accuracy suffers if they are left as they are.

    Example:

    ```python
    def evaluate(fractions):
        copy = keras.models.clone_model(model)
        ...  # prune the copy with ADMM, retrain it
        return validation_accuracy

    plan = tfc.training.search_fractions(model, evaluate, least=0.985)
    print(plan)
    phase = tfc.training.AdmmPhase(plan.constraints(), 10, 10)
    ```

    Args:
        model: a built Functional or Sequential model; it is not changed.
        evaluate: measures the accuracy for fractions by layer. It is called once
            for each trial, in which all other layers with kernels are named too.
        least: accuracy that has to be reached: that of the dense model minus the
            drop that is allowed.
        initial: the fractions that the search begins with, by searched layer;
            they should reach the accuracy. Defaults to `None`: 1 for every
            convolution.
        others: fraction for the layers that are not searched. Defaults to 0.3.
        hardware: speed of the hardware by pruning ratio. Defaults to `None`:
            `cost.SparseHardware()`, the paper's, which breaks even at 2.22.
        steps: halvings of the interval in each binary search. Defaults to 5.
        floor: smallest fraction. Defaults to 0.01.
        log_path: file ending in `.json` for the trials. A search that finds its
            trials there does not repeat them. Defaults to `None`: no file.

    Returns:
        A `HardwarePlan`.

    Raises:
        ValueError: if an argument is out of range, a layer is unknown or not
            counted, the initial fractions do not reach the accuracy, or
            `log_path` belongs to another search.
    """
    hardware = hardware or cost.SparseHardware()
    check_fraction("others", others)
    check_fraction("floor", floor)
    steps = whole("steps", steps)
    macs = _macs(model)
    start = _initial(model, initial, macs)
    fixed = {name: others for name in macs if name not in start}
    trials = _Trials(evaluate, log_path, {"macs": macs, "initial": start, **fixed})
    dense: set[str] = set()
    t = 0.0

    def most() -> int:
        return max((macs[name] for name in start if name not in dense), default=1)

    def fractions(t: float) -> dict[str, float]:
        # The layer with the most operations loses t of its weights, the others less, in
        # proportion to theirs.
        fallen = {
            name: max(alpha - t * macs[name] / most(), min(floor, alpha))
            for name, alpha in start.items()
        }
        return {
            name: fixed[name]
            if name in fixed
            else 1.0
            if name in dense
            else fallen[name]
            for name in macs
        }

    if trials(fractions(0.0)) < least:
        raise ValueError(
            "Invalid value for argument `initial`. Expected fractions that reach the "
            f"accuracy {least:.4f}. Received: initial={dict(start)!r}, which reach "
            f"{trials(fractions(0.0)):.4f}"
        )
    # t never falls: the search takes for granted that the accuracy does not suffer when
    # a layer gets its weights back, and goes on from the t that was reached.
    while True:
        t = _largest(lambda t: trials(fractions(t)) >= least, t, steps)
        kept = {n: alpha for n, alpha in fractions(t).items() if n in start}
        slowed = {
            name: alpha
            for name, alpha in kept.items()
            if name not in dense and not hardware.worthwhile(1 - alpha)
        }
        if not slowed:
            break
        # One at a time: what it frees may carry the others past the ratio.
        before = most()
        dense.add(max(slowed, key=lambda name: slowed[name]))
        # In terms of what has the most operations now: the others stay as they are.
        t *= most() / before
    found = fractions(t)
    accuracy = trials(found)
    layers = tuple(
        LayerPlan(
            name=name,
            macs=macs[name],
            fraction=fraction,
            speedup=1.0 if fraction == 1 else hardware.speedup(1 - fraction),
            searched=name in start,
        )
        for name, fraction in found.items()
    )
    return HardwarePlan(layers, accuracy, least, tuple(trials.done))


class _Trials:
    """Measurements, each made once, and kept in a file."""

    def __init__(
        self,
        evaluate: Callable[[dict[str, float]], float],
        log_path: str | os.PathLike[str] | None,
        search: dict[str, Any],
    ) -> None:
        self.done: list[tuple[dict[str, float], float]] = []
        self._evaluate = evaluate
        self._search = json.loads(json.dumps(search))
        self._path: Path | None = None
        if log_path is not None:
            self._path = check_writable(
                log_path, argument="log_path", suffixes=(".json",)
            )
            self._load()

    def __call__(self, fractions: dict[str, float]) -> float:
        for known, accuracy in self.done:
            if known == fractions:
                return accuracy
        accuracy = float(self._evaluate(dict(fractions)))
        self.done.append((fractions, accuracy))
        if self._path is not None:
            log = {"search": self._search, "trials": self.done}
            write_atomic(self._path, json.dumps(log, indent=1))
        return accuracy

    def _load(self) -> None:
        if self._path is None or not self._path.exists():
            return
        log = json.loads(self._path.read_text())
        if log["search"] != self._search:
            raise ValueError(
                "Invalid value for argument `log_path`. Expected the log of a search "
                "with the same model and fractions. Received: log_path="
                f"{str(self._path)!r}"
            )
        self.done = [(dict(fractions), value) for fractions, value in log["trials"]]


def _largest(reaches: Callable[[float], bool], low: float, steps: int) -> float:
    """The largest t found in [low, 1] that reaches the accuracy; `low` if none does."""
    if low >= 1 or reaches(1.0):
        return 1.0
    high = 1.0
    for _ in range(steps):
        middle = (low + high) / 2
        if reaches(middle):
            low = middle
        else:
            high = middle
    return low


def _macs(model: keras.Model) -> dict[str, int]:
    """Multiply–accumulates of every layer with a kernel; all uses of a shared one."""
    names = select_kernels(model)
    result = dict.fromkeys(names, 0)
    for row in cost.count(model).rows:
        name = row.name.split("#")[0]
        if name in result:
            result[name] += row.weight_macs
    missing = [name for name, macs in result.items() if not macs]
    if missing:
        raise ValueError(
            "Invalid value for argument `model`. Expected layers whose operations can "
            f"be counted. Received uncounted layers: {', '.join(missing)}"
        )
    return result


def _initial(
    model: keras.Model, initial: Mapping[str, float] | None, macs: Mapping[str, int]
) -> dict[str, float]:
    if initial is None:
        kernels = select_kernels(model)
        # Kernels of convolutions have spatial axes, those of dense layers none.
        initial = {n: 1.0 for n in macs if max(len(k.shape) for k in kernels[n]) > 2}
    unknown = sorted(set(initial) - set(macs))
    if unknown or not initial:
        raise ValueError(
            "Invalid value for argument `initial`. Expected names among "
            f"{', '.join(macs)}. Received: initial={dict(initial)!r}"
        )
    for fraction in initial.values():
        check_fraction("initial", fraction)
    return {name: float(initial[name]) for name in macs if name in initial}
