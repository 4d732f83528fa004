"""What a long comparison is doing."""

from __future__ import annotations

import sys
import time

__all__ = ["Progress"]


class Progress:
    """Tells on standard error which of so many steps begins.

    Args:
        steps: how many there are.
        verbose: 0 for silence.
    """

    def __init__(self, steps: int, verbose: int):
        self._steps = steps
        self._verbose = verbose
        self._step = 0
        self._start = time.monotonic()

    def __call__(self, what: str) -> None:
        """Says that the next step begins."""
        self._step += 1
        self.note(what)

    def note(self, what: str) -> None:
        """Says what is done within a step."""
        if self._verbose:
            seconds = time.monotonic() - self._start
            number = min(self._step, self._steps)
            line = f"[{number}/{self._steps}, {seconds:.0f} s] {what}"
            print(line, file=sys.stderr, flush=True)
