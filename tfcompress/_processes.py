"""Several processes that train one model together, on JAX.

Each runs the same program and holds the same weights. What they decide follows from
these weights, so that they decide alike, and only one of them writes files. What one
process alone knows, such as the time that a step took, is told to the others.
"""

from __future__ import annotations

import keras
import numpy as np

__all__ = ["agreed", "alike", "count", "is_first", "require_one"]


def count() -> int:
    """Number of processes that train together."""
    if keras.backend.backend() != "jax":
        return 1
    import jax

    return jax.process_count()


def is_first() -> bool:
    """Whether this is the process that writes files."""
    if count() == 1:
        return True
    import jax

    return jax.process_index() == 0


def agreed(value: int) -> int:
    """What the first process says; all processes have to ask.

    Args:
        value: what this process would say, an integer of 32 bits.
    """
    return int(_gathered(value)[0])


def alike(value: int) -> bool:
    """Whether all processes say the same; all have to ask.

    Args:
        value: what this process says, an integer of 32 bits.
    """
    return len(set(_gathered(value).tolist())) == 1


def require_one(what: str) -> None:
    """Refuses what works in one process only.

    Args:
        what: its name, for the message.

    Raises:
        ValueError: if several processes train together.
    """
    if count() > 1:
        raise ValueError(
            f"Invalid value for the number of processes. {what} works in one process. "
            f"Received: {count()} processes of JAX"
        )


def _gathered(value: int) -> np.ndarray:
    """The values of all processes, in their order."""
    if count() == 1:
        return np.array([value], "int32")
    from jax.experimental import multihost_utils

    gathered = multihost_utils.process_allgather(np.int32(value))
    return np.ravel(np.asarray(gathered))
