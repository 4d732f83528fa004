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
from typing import Any, Literal

import keras

from tfcompress import _processes, cost
from tfcompress.cost._live import LiveCost

__all__ = ["Pace", "pays"]

# How much of the work that is saved is saved in time, before it was measured:
# narrow layers in small batches gain less than their share. It stays one of the values
# that are averaged, because a measured one may be wrong by a factor.
_YIELD = 0.5
# Building a model again takes about as long as this many looks for its zeros.
_LOOKS = 25
# The first model of a process compiles more slowly than a later one, because libraries
# are loaded and kernels are chosen. This much of its time comes again.
_COMES_AGAIN = 0.5
# A removal has to save this many times its cost: a prediction from constants, and one
# from what the removal before it has cost and saved.
_MARGINS = {"guessed": 2.0, "measured": 1.25}
# Looking whether a removal pays takes at most this share of the time.
_LOOKING = 0.005


def pays(
    *,
    gain: float,
    seconds_left: float,
    wasted: float,
    removal: float,
    settled: bool,
    basis: Literal["guessed", "measured"] = "guessed",
) -> bool:
    """Whether a model should be made smaller now.

    It should if two things hold. The epochs that remain save more than the removal
    costs, with a margin, because predictions may be wrong. And waiting no longer pays:
    the time wasted since the last removal has reached the cost of one, or nothing more
    is being pruned.

    Args:
        gain: fraction of the time of a step that a removal saves.
        seconds_left: how long the epochs that remain take without it.
        wasted: seconds that are lost by not having removed anything yet, with those of
            the epoch that comes.
        removal: seconds that a removal costs.
        settled: whether nothing was pruned since the epoch before.
        basis: whether gain and cost are guessed, or follow from an earlier removal.
            Defaults to `"guessed"`.
    """
    worth = gain * seconds_left >= _MARGINS[basis] * removal
    return worth and (settled or wasted >= removal)


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
        self._yields = [_YIELD]
        self._wasted = 0.0
        self._unseen = 0.0  # seconds of training since the last look
        self._looking = 0.0
        self._live: LiveCost | None = None  # of the present model
        self._whole = 0  # its multiply-accumulates
        self._saved = 0.0  # the share of them that a removal saves
        self._macs: int | None = None  # what it would leave
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
        epoch = statistics.median(self._steps or [0.0]) * len(self._steps)
        self._unseen += epoch
        # Processes measure different times, and must do the same.
        due = _processes.agreed(int(self._pays_now(model, epoch * epochs_left)))
        if due:
            self._before = (step, self._saved)
        return bool(due)

    def note_removal(self, seconds: float) -> None:
        """Notes how long it took to build the smaller model."""
        self._rebuilding = seconds
        self._wasted = 0.0
        self._compiles = True
        self._live = None  # which would keep the model that is left behind

    def _pays_now(self, model: keras.Model, seconds_left: float) -> bool:
        """Whether it pays in this process; without a look if looking costs too much."""
        if self._unseen * _LOOKING < self._looking:
            return False
        begin = time.perf_counter()
        if self._live is None:
            self._live, self._whole = LiveCost(model), cost.count(model).macs
        then = self._live.count().macs
        self._looking = time.perf_counter() - begin
        settled, self._macs = then == self._macs, then
        self._saved = 1 - then / self._whole if self._whole else 0.0
        gain = statistics.mean(self._yields) * self._saved
        self._wasted += gain * self._unseen
        self._unseen = 0.0
        basis: Literal["guessed", "measured"]
        if self._rebuilding is None:
            basis = "guessed"
            removal = _COMES_AGAIN * self._compiling + _LOOKS * self._looking
        else:
            basis = "measured"
            removal = self._compiling + self._rebuilding
        return self._saved > 0 and pays(
            gain=gain,
            seconds_left=seconds_left,
            wasted=self._wasted,
            removal=removal,
            settled=settled,
            basis=basis,
        )

    def _measured_step(self) -> float:
        """Seconds of a fast step; what the first of a model takes more is compiling.

        Where others use the machine, slow steps say more about them than about the
        model.
        """
        rest = self._steps[1:] if self._compiles else self._steps
        rest = sorted(rest or self._steps or [0.0])
        step = rest[len(rest) // 10]
        if self._compiles:
            self._compiling = max(0.0, (self._steps or [0.0])[0] - step)
            self._compiles = False
            if self._before is not None and len(self._steps) > 1:
                before, saved = self._before
                measured = (1 - step / before) / saved if before else 0.0
                self._yields.append(min(1.0, max(0.0, measured)))
                self._before = None
        return step
