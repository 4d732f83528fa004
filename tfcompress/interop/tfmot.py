"""TensorFlow Model Optimization (`tensorflow_model_optimization`).

It runs on legacy Keras and switches the whole process to it when it is
imported, so nothing here imports it: its objects are passed in.
"""

from __future__ import annotations

from typing import Any

from tfcompress._checks import whole
from tfcompress.interop._tfmot_files import load
from tfcompress.schedules import Piecewise

__all__ = ["load", "schedule"]


def schedule(pruning_schedule: Any, *, steps: int | None = None) -> Piecewise:
    """Converts a TFMOT pruning schedule.

    The result holds the sparsity that is in force while a step runs: 0 before
    the first update, then the sparsity of the last step at which TFMOT updates
    its masks, which is every `frequency` steps from `begin_step` to `end_step`.
    The numbers are those that TFMOT computes, in float32. It is a schedule like
    any other, which can be stored and used without TFMOT.

    Install the extra `tfcompress[tfmot]` to have TFMOT beside this library.

    Example:

    ```python
    decay = tfmot.sparsity.keras.PolynomialDecay(0.0, 0.8, 0, 2000)
    pruning = tfc.callbacks.FilterPruning(
        tfc.interop.tfmot.schedule(decay), unit="step"
    )
    ```

    Args:
        pruning_schedule: a `tfmot.sparsity.keras.PruningSchedule`: an object
            that returns whether to update, and the sparsity, for a step.
        steps: number of steps to look at, from 0; needed for a schedule of your
            own without `begin_step`, `end_step` and `frequency`, or without end.
            Defaults to `None`.

    Returns:
        A `Piecewise` schedule of steps.

    Raises:
        TypeError: if `pruning_schedule` is not such an object.
        ValueError: if it does not say where it ends and `steps` is `None`, if
            `steps` is not positive, or if it never updates within them.
    """
    if steps is not None:
        steps = whole("steps", steps)
    # A schedule of TFMOT decides both when to update and to which sparsity; one of ours
    # is a function from a step to a number. So TFMOT's is asked at every step that can
    # update, and only changes are kept: a staircase of the numbers that TFMOT computes.
    values: dict[float, float] = {}
    current = None
    for step in _candidates(pruning_schedule, steps):
        update, sparsity = _ask(pruning_schedule, step)
        if update and sparsity != current:
            values[step] = current = sparsity
    if not values:
        raise ValueError(
            "Invalid value for argument `pruning_schedule`. Expected a schedule that "
            f"updates at some step. Received: {pruning_schedule!r}"
        )
    return Piecewise(values)


def _candidates(pruning_schedule: Any, steps: int | None) -> range:
    """The steps at which the sparsity can change."""
    if steps is not None:
        return range(steps)
    names = ("begin_step", "end_step", "frequency")
    if all(hasattr(pruning_schedule, name) for name in names):
        begin, end, frequency = (int(getattr(pruning_schedule, n)) for n in names)
        if end >= 0:
            return range(begin, end + 1, frequency)
        if hasattr(pruning_schedule, "target_sparsity"):
            return range(begin, begin + 1)  # constant, and without end
    if not callable(pruning_schedule):
        raise _no_schedule(pruning_schedule)
    raise ValueError(
        "Invalid value for argument `steps`. Expected the number of steps to look at, "
        f"because {type(pruning_schedule).__name__} does not say where it ends. "
        "Received: steps=None"
    )


def _ask(pruning_schedule: Any, step: int) -> tuple[bool, float]:
    import tensorflow as tf

    try:
        update, sparsity = pruning_schedule(tf.constant(step, tf.int64))
        return bool(update), float(sparsity)
    except (TypeError, ValueError) as error:
        raise _no_schedule(pruning_schedule) from error


def _no_schedule(received: Any) -> TypeError:
    return TypeError(
        "Invalid value for argument `pruning_schedule`. Expected a TFMOT "
        "PruningSchedule, which returns whether to update, and the sparsity, for a "
        f"step. Received: {received!r} of type {type(received).__name__}"
    )
