"""Where a schedule is, over several training runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Progress"]


@dataclass
class Progress:
    """A count, of epochs or of updates, that goes on from run to run.

    A further `fit` counts its epochs from 0 again, and so does the optimizer of a model
    that is compiled again its updates. A schedule that began again with them would give
    back what has been pruned. What a run counts is therefore moved by an offset:

    | run | counts | offset | the schedule is at |
    |---|---|---|---|
    | `fit(epochs=20)` | 0–19 | 0 | 0–19 |
    | `fit(epochs=10)` | 0–9 | 20 | 20–29 |
    | `fit(initial_epoch=30, epochs=40)` | 30–39 | 0 | 30–39 |

    The offset belongs to the run. One that was interrupted and goes on keeps it,
    wherever it was interrupted.

    Attributes:
        done: where the schedule goes on.
        offset: of the present run, or the last one.
        under_way: whether that run has not come to its end.
    """

    done: int = 0
    offset: int = 0
    under_way: bool = False

    def begin(self, count: int, *, resumed: bool) -> None:
        """Begins a run, or goes on with one.

        Args:
            count: what the run begins to count from; if it goes on, what it began to
                count from.
            resumed: whether a run that was interrupted goes on.
        """
        if not (resumed and self.under_way):
            self.offset = max(0, self.done - count)
        self.under_way = True

    def at(self, count: int) -> int:
        """Where the schedule is when the present run has counted to `count`."""
        return count + self.offset

    def reach(self, count: int) -> None:
        """Notes that all before `count` is done."""
        self.done = self.at(count)

    def end(self) -> None:
        """Ends the run."""
        self.under_way = False

    def state(self) -> dict[str, int]:
        """What `restore` needs, for a run that is interrupted."""
        return {"done": self.done, "offset": self.offset}

    def restore(self, state: Mapping[str, int]) -> None:
        """Takes over a run that was interrupted."""
        self.done, self.offset = state["done"], state["offset"]
        self.under_way = True
