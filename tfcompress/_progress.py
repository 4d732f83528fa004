"""What long training runs print, and how long they still take."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import keras

__all__ = ["Progress", "duration"]


class Progress(keras.callbacks.Callback):
    """Prints a line after an epoch, at most every few seconds, with the time left.

    Args:
        shown: names in the logs. Defaults to loss and accuracies.
        every: seconds between two lines. Defaults to 5.
    """

    def __init__(
        self,
        shown: Sequence[str] = ("loss", "accuracy", "val_accuracy"),
        every: float = 5.0,
    ) -> None:
        super().__init__()
        self._shown = shown
        self._every = every
        self._start = self._last = 0.0
        self._first: int | None = None

    def on_train_begin(self, logs: Any = None) -> None:
        """Starts the clock."""
        self._start, self._first, self._last = time.perf_counter(), None, 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Notes with which epoch this process begins."""
        self._first = epoch if self._first is None else self._first

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Prints."""
        now, total = time.perf_counter(), self.params.get("epochs", epoch + 1)
        if now - self._last < self._every and epoch + 1 < total:
            return
        self._last = now
        done = epoch + 1 - (self._first or 0)
        left = (now - self._start) / done * (total - epoch - 1)
        names = [name for name in self._shown if name in (logs or {})]
        values = "".join(f"  {name} {float(logs[name]):.4f}" for name in names)
        more = f"  ({duration(left)} left)" if epoch + 1 < total else ""
        print(f"  epoch {epoch + 1}/{total}{values}{more}", flush=True)


def duration(seconds: float) -> str:
    """A rough length of time."""
    if seconds < 90:
        return f"about {max(1, math.ceil(seconds))} s"
    minutes = seconds / 60
    return f"about {minutes:.0f} min" if minutes < 90 else f"about {minutes / 60:.1f} h"
