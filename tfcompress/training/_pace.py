"""When it pays to make a model smaller while it trains.

A removal costs time: the model is built anew, and its step is traced and compiled
anew. It gains a part of every step that follows. While a schedule prunes more and
more, it is best to wait: if C is the cost of a removal and the gain grows evenly, the
sum of removals and of time that is wasted by waiting is smallest if the model is made
smaller whenever the waste has grown to C.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import keras

from tfcompress import _processes, cost
from tfcompress.cost._live import LiveCost

__all__ = ["Pace", "pays"]

# How much of the work that is saved is saved in time, before it was measured:
# narrow layers in small batches gain less than their share.
_YIELD = 0.5
# Building a model again takes about as long as this many analyses of it.
_ANALYSES = 15


def pays(
    *,
    gain: float,
    seconds_left: float,
    wasted: float,
    removal: float,
    settled: bool,
) -> bool:
    """Whether a model should be made smaller now.

    It should if two things hold. The epochs that remain save at least twice what the
    removal costs, because predictions may be wrong. And waiting no longer pays: the
    time wasted since the last removal has reached the cost of one, or nothing more is
    being pruned.

    Args:
        gain: fraction of the time of a step that a removal saves.
        seconds_left: how long the epochs that remain take without it.
        wasted: seconds that were lost by not having removed anything yet.
        removal: seconds that a removal costs.
        settled: whether nothing was pruned since the epoch before.
    """
    return gain * seconds_left >= 2 * removal and (settled or wasted >= removal)


class Pace(keras.callbacks.Callback):
    """Measures steps and removals, and decides by `pays`.

    It is one of the callbacks of the run.
    """

    def __init__(self) -> None:
        super().__init__()
        self._steps: list[float] = []
        self._began = 0.0
        self._compiles = True  # the next step is the first of a model
        self._compiling = 0.0
        self._rebuilding: float | None = None
        self._yield = _YIELD
        self._wasted = 0.0
        self._macs: int | None = None  # after the removal that was thought of last
        self._before: tuple[float, float] | None = None

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Measures the steps of this epoch."""
        self._steps = []

    def on_train_batch_begin(
        self, batch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """A step begins."""
        self._began = time.perf_counter()

    def on_train_batch_end(
        self, batch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """A step has ended."""
        self._steps.append(time.perf_counter() - self._began)

    def is_due(self, model: keras.Model, epochs_left: int) -> bool:
        """Whether the model should be made smaller before the epochs that remain."""
        step = self._measured_step()
        begin = time.perf_counter()
        now, then = cost.count(model).macs, LiveCost(model).count().macs
        analysis = time.perf_counter() - begin
        settled, self._macs = then == self._macs, then
        saved = 1 - then / now if now else 0.0
        gain = self._yield * saved
        epoch = step * len(self._steps)
        self._wasted += gain * epoch
        rebuilding = self._rebuilding
        pays_now = saved > 0 and pays(
            gain=gain,
            seconds_left=epoch * epochs_left,
            wasted=self._wasted,
            removal=self._compiling
            + (_ANALYSES * analysis if rebuilding is None else rebuilding),
            settled=settled,
        )
        # Processes measure different times, and must do the same.
        due = bool(_processes.agreed(int(pays_now)))
        if due:
            self._before = (step, saved)
        return due

    def note_removal(self, seconds: float) -> None:
        """Notes how long it took to build the smaller model."""
        self._rebuilding = seconds
        self._wasted = 0.0
        self._compiles = True

    def _measured_step(self) -> float:
        """Seconds of a step; what the first one of a model takes more is compiling."""
        rest = self._steps[1:] if self._compiles else self._steps
        step = statistics.median(rest or self._steps or [0.0])
        if self._compiles:
            self._compiling = max(0.0, (self._steps or [0.0])[0] - step)
            self._compiles = False
            if self._before is not None and rest:
                before, saved = self._before
                measured = (1 - step / before) / saved if before else 0.0
                self._yield = min(1.0, max(0.0, measured))
                self._before = None
        return step
