"""The training run of one trial."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfcompress import quantization, schedules, structure
from tfcompress._finalize import finalize
from tfcompress._models import load_model, save_model
from tfcompress.callbacks import FilterPruning
from tfcompress.compression._distillation import distilled_class
from tfcompress.compression._task import Metric, Task
from tfcompress.training import fit_shrinking

__all__ = [
    "Diverged",
    "Hopeless",
    "Lesson",
    "compile_as",
    "copy_of",
    "train_bits",
    "train_filters",
]

# Share of the epochs after which the final size is reached; the rest recovers.
_RAMP = 0.4
_SETS_RATE = (
    keras.callbacks.LearningRateScheduler,
    keras.callbacks.ReduceLROnPlateau,
)
_PROBED = np.linspace(0, 10_000, 101)


class Diverged(RuntimeError):
    """The loss is not a finite number."""


class Hopeless(RuntimeError):
    """The search stops this trial early."""


def copy_of(model: keras.Model) -> keras.Model:
    """A compiled copy whose optimizer starts anew."""
    return structure.wrap(model, {}, carry_optimizer=False)


@dataclass(frozen=True)
class Lesson:
    """How a trial trains.

    Attributes:
        task: the data.
        metric: what to choose the best epoch by.
        epochs: epochs of training.
        learning_rate: at the beginning; it falls to zero along a cosine. `None`
            starts with the compiled optimizer's own.
        rate_factor: what the first learning rate is multiplied by.
        teacher: whose answers are learned, too; `None` for nobody.
        temperature: of the distillation.
        distillation: its share of the loss.
        callbacks: further callbacks.
        folder: for what a run needs to go on.
        report: called with epoch and metric of each epoch that counts; tells
            whether to give up.
        verbose: as for `fit`.
    """

    task: Task
    metric: Metric
    epochs: int
    learning_rate: float | None
    rate_factor: float
    teacher: keras.Model | None
    temperature: float
    distillation: float
    callbacks: Sequence[keras.callbacks.Callback]
    folder: Path
    report: Callable[[int, float], bool]
    verbose: Any

    def run(
        self,
        student: keras.Model,
        fit: Callable[..., Any],
        own: Sequence[keras.callbacks.Callback] = (),
        first: int = 0,
    ) -> keras.Model:
        """Trains, and returns the best epoch.

        Args:
            student: what is trained. Its class and its learning rate change.
            fit: called with what `Model.fit` takes beside the model.
            own: callbacks of the method.
            first: the first epoch that counts. Defaults to 0.

        Returns:
            A model of the class of `student`, compiled as it was.

        Raises:
            Diverged: if the loss became NaN before an epoch counted.
            Hopeless: if `report` said so.
        """
        plain = type(student)
        if self.teacher is not None and self.distillation > 0:
            student.__class__ = distilled_class(
                student,
                self.teacher,
                temperature=self.temperature,
                weight=self.distillation,
            )
            # A model that a backup restores has to be a student of the same teacher.
            register = keras.saving.register_keras_serializable
            register("tfcompress", "Distilled")(student.__class__)
        cosine = self._cosine(student)
        keeper = _KeepBest(self.metric, first, self.folder, self.report)
        error: Exception | None = None
        try:
            fit(
                epochs=self.epochs,
                callbacks=[*cosine, *own, *self.callbacks, keeper],
                verbose=self.verbose,
                **self.task.fit_arguments(),
            )
        except (ValueError, RuntimeError) as failure:
            if not (keeper.diverged or "diverged" in str(failure)):
                raise
            error = failure
        if keeper.hopeless:
            raise Hopeless
        best = keeper.best()
        if best is None:
            raise Diverged("the loss was no number before an epoch counted") from error
        best.__class__ = plain
        if not best.compiled:
            compile_as(best, student)
        for callback in cosine:
            callback.give_back(best.optimizer)
        return best

    def _cosine(self, student: keras.Model) -> list[_Cosine]:
        optimizer = student.optimizer
        sets = any(isinstance(callback, _SETS_RATE) for callback in self.callbacks)
        if sets or not hasattr(_innermost(optimizer), "_learning_rate"):
            return []
        steps = self.task.steps or sum(1 for _ in self.task.train)
        return [
            _Cosine(optimizer, self.epochs, steps, self.learning_rate, self.rate_factor)
        ]


def train_filters(
    model: keras.Model,
    counts: Mapping[str, int],
    sizes: Mapping[str, int],
    criterion: str,
    lesson: Lesson,
) -> keras.Model:
    """Prunes filters while training, with what the original knows.

    Args:
        model: the compiled original. It is not modified.
        counts: how many channels of each group go.
        sizes: how many there are.
        criterion: of `FilterPruning`.
        lesson: how to train.

    Returns:
        The model of the best epoch at its final size, without pruned channels,
        compiled as the original is.

    Raises:
        Diverged: if the loss became NaN before the final size was reached.
        Hopeless: if the lesson's `report` said so.
    """
    student = copy_of(model)
    ramp = min(lesson.epochs - 1, max(1, round(_RAMP * lesson.epochs)))
    schedule = {
        name: _ramp(count / sizes[name], ramp)
        for name, count in counts.items()
        if count
    }

    def fit(**arguments: Any) -> None:
        fit_shrinking(
            student,
            shrink_every=max(1, ramp),
            backup_dir=lesson.folder / "backup",
            **arguments,
        )

    pruning = FilterPruning(schedule, criterion=criterion)
    small = finalize(lesson.run(student, fit, [pruning], ramp))
    if small.optimizer is not None:
        small.optimizer.build(small.trainable_variables)
    return small


def train_bits(
    model: keras.Model, bits: int, calibration: Any, lesson: Lesson
) -> keras.Model:
    """Trains on with the rounding of the integer file in force.

    Args:
        model: a compiled model. It is not modified.
        bits: of the kernels.
        calibration: typical inputs, for the ranges to begin with.
        lesson: how to train.

    Returns:
        A model of `quantization.prepare`, of the best epoch.

    Raises:
        Diverged: if the loss became NaN in the first epoch.
        Hopeless: if the lesson's `report` said so.
        ValueError: if no layer can be quantized.
    """
    student = quantization.calibrate(
        quantization.prepare(copy_of(model), weights=bits), calibration
    )
    return lesson.run(student, student.fit)


def compile_as(model: keras.Model, original: keras.Model) -> None:
    """Compiles a model that was read from a file as another one is.

    A loss of the user's own has no name in a file, so that nothing there says how
    the model was compiled.
    """
    given = dict(original._compile_config.config)
    optimizer = original.optimizer
    given["optimizer"] = type(optimizer).from_config(optimizer.get_config())
    model.compile(**given)


def _ramp(rate: float, end: int) -> schedules.Schedule:
    if end < 1:
        return schedules.Constant(rate)
    return schedules.Linear(0.0, rate, begin=0, end=end)


class _Cosine(keras.callbacks.Callback):
    """Lets the learning rate fall along a cosine, from what it began with.

    The schedule that trained the original ends where that training ended, often at
    zero. Keras lets a schedule be replaced by a schedule only, and a number set by
    a number only; so the one falls with each update, the other with each epoch.

    Args:
        optimizer: the optimizer as it was compiled; a schedule in it is replaced.
        epochs: epochs until the rate is zero.
        steps: updates in an epoch.
        start: the first rate; `None` for the largest that the optimizer had.
        factor: what the first rate is multiplied by.
    """

    def __init__(
        self,
        optimizer: Any,
        epochs: int,
        steps: int,
        start: float | None,
        factor: float,
    ) -> None:
        super().__init__()
        inner = _innermost(optimizer)
        self._given = inner._learning_rate
        self._epochs = epochs
        if callable(self._given):
            # Not the first value: a schedule may warm up.
            largest = max(float(self._given(step)) for step in _PROBED)
            inner.learning_rate = keras.optimizers.schedules.CosineDecay(
                factor * (largest if start is None else start), epochs * steps
            )
        else:
            self._given = float(keras.ops.convert_to_numpy(self._given))
            self._start = factor * (self._given if start is None else start)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Sets the rate of the epoch."""
        if not callable(self._given):
            share = 0.5 * (1 + math.cos(math.pi * epoch / self._epochs))
            _innermost(self.model.optimizer).learning_rate = self._start * share

    def give_back(self, optimizer: Any) -> None:
        """Gives a later optimizer the rate or the schedule that was compiled."""
        inner = _innermost(optimizer)
        if callable(self._given) or not callable(inner._learning_rate):
            inner.learning_rate = self._given


def _innermost(optimizer: Any) -> Any:
    while hasattr(optimizer, "inner_optimizer"):
        optimizer = optimizer.inner_optimizer
    return optimizer


class _KeepBest(keras.callbacks.Callback):
    """Keeps the best epoch at the final size, and stops where the loss is NaN.

    Args:
        metric: what to choose by, on the validation data.
        first: the first epoch at the final size.
        folder: where the best model is kept for a run that is interrupted.
        report: see `train_filters`.
    """

    def __init__(
        self,
        metric: Metric,
        first: int,
        folder: Path,
        report: Callable[[int, float], bool],
    ) -> None:
        super().__init__()
        self._metric = metric
        self._first = first
        self._file = folder / "best.keras"
        self._report = report
        self._worth = -math.inf
        self._best: keras.Model | None = None
        self.diverged = False
        self.hopeless = False

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Looks at the epoch that ended."""
        logs = logs or {}
        value = float(logs[f"val_{self._metric.name}"])
        if not (math.isfinite(float(logs["loss"])) and math.isfinite(value)):
            self.diverged = True
            self.model.stop_training = True
            return
        if epoch < self._first:
            return
        if self._metric.worth(value) > self._worth:
            self._worth = self._metric.worth(value)
            self._best = structure.wrap(self.model, {}, carry_optimizer=False)
            save_model(self._best, self._file)
        if self._report(epoch, value):
            self.hopeless = True
            self.model.stop_training = True

    def best(self) -> keras.Model | None:
        """The model of the best epoch, if there was one at the final size."""
        if self._best is None and math.isfinite(self._worth):
            return load_model(self._file)
        return self._best

    def get_state(self) -> dict[str, Any]:
        """What a backup keeps."""
        return {"worth": self._worth if math.isfinite(self._worth) else None}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes on from a backup."""
        self._worth = -math.inf if state["worth"] is None else state["worth"]
