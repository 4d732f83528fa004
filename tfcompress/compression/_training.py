"""The training run of one trial."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfcompress import constraints, gates, layers, quantization, schedules, structure
from tfcompress._finalize import finalize
from tfcompress._models import load_model, save_model
from tfcompress.callbacks import (
    FilterPruning,
    GatePenalty,
    HoldWeights,
    IncrementalApproximation,
    MagnitudePruning,
)
from tfcompress.compression._distillation import become, distilled_class
from tfcompress.compression._task import Metric, Task, loss_of_data, scalar
from tfcompress.training import (
    AdmmPhase,
    admm_compress,
    fit_shrinking,
    resize_by_density,
)

__all__ = [
    "Diverged",
    "Hopeless",
    "Lesson",
    "compile_as",
    "copy_of",
    "train_admm",
    "train_bits",
    "train_density",
    "train_drum",
    "train_filters",
    "train_gates",
    "train_weights",
]

# Share of the epochs after which the final size is reached; the rest recovers.
_RAMP = 0.4
# Gates first learn what a closed one costs; then they are to agree, and to close.
_POLARIZATION, _ACTIVATION, _UNDECIDED = 2.0, 0.5, 0.5
# Parts in which weights are handed over to approximate multipliers.
_PARTS = 8
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
        teacher: the model whose answers are learned, too; `None` for none.
        temperature: of the distillation.
        distillation: its share of the loss.
        callbacks: further callbacks.
        folder: for what a run needs to be resumed.
        report: called with epoch and metric of each epoch that counts; returns
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
            ValueError: if a callback ended training before an epoch counted.
        """
        # `teach` swaps the class of the student for a subclass with another loss, so
        # that it stays a Functional or Sequential model, which methods can prune and
        # rebuild. The result gets its own class back, and its own learning rate.
        # The keeper comes last in the list: it looks at the weights when every method
        # has changed them, with the zeros in place.
        plain = type(student)
        self.teach(student)
        cosine = self.cosine(student)
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
        if best is None and error is None and not keeper.diverged:
            raise ValueError(
                "Invalid value for argument `callbacks`. Expected callbacks that let "
                f"training go on beyond epoch {first + 1}, in which the model has its "
                "final size, as EarlyStopping does with "
                f"start_from_epoch={first + 1}. Received: one that ended it after "
                f"epoch {keeper.epochs} of {self.epochs}."
            )
        if best is None:
            raise Diverged("the loss was not finite before an epoch counted") from error
        become(best, plain)
        if not best.compiled:
            compile_as(best, student)
        for callback in cosine:
            callback.give_back(best.optimizer)
        return best

    def teach(self, student: keras.Model) -> None:
        """Makes a model learn the teacher's answers, too, by changing its class."""
        if self.teacher is None or self.distillation == 0:
            return
        distilled = distilled_class(
            student,
            self.teacher,
            temperature=self.temperature,
            weight=self.distillation,
        )
        become(student, distilled)
        # A model that a backup restores has to be a student of the same teacher.
        register = keras.saving.register_keras_serializable
        register("tfcompress", "Distilled")(distilled)

    def first_rate(self, optimizer: Any) -> float:
        """The learning rate to begin with: the largest that the optimizer had."""
        if self.learning_rate is not None:
            return self.rate_factor * self.learning_rate
        given = _innermost(optimizer)._learning_rate
        if not isinstance(given, keras.optimizers.schedules.LearningRateSchedule):
            given = given() if callable(given) else given
            return self.rate_factor * float(keras.ops.convert_to_numpy(given))
        # Not the first value: a schedule may warm up.
        return self.rate_factor * max(float(given(step)) for step in _PROBED)

    def cosine(self, student: keras.Model) -> list[_Cosine]:
        """Lets the learning rate fall, unless a callback of the user sets it."""
        optimizer = student.optimizer
        sets = any(isinstance(callback, _SETS_RATE) for callback in self.callbacks)
        several = isinstance(_innermost(optimizer), keras.optimizers.MultiOptimizer)
        if sets or several or not hasattr(_innermost(optimizer), "_learning_rate"):
            return []
        steps = self.task.steps or sum(1 for _ in self.task.train)
        return [_Cosine(optimizer, self.epochs, steps, self.first_rate(optimizer))]


def train_filters(
    model: keras.Model,
    counts: Mapping[str, int],
    sizes: Mapping[str, int],
    criterion: str,
    lesson: Lesson,
) -> keras.Model:
    """Prunes filters while training, with the original as the teacher.

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
    ramp = _ramp_end(lesson)
    schedule = {
        name: _ramp(count / sizes[name], ramp)
        for name, count in counts.items()
        if count
    }
    pruning = FilterPruning(schedule, criterion=criterion)
    return _plain(_shrinking(copy_of(model), pruning, lesson))


def train_weights(
    model: keras.Model, sparsities: Mapping[str, float], lesson: Lesson
) -> keras.Model:
    """Sets single weights to zero while training.

    Args:
        model: a compiled model. It is not modified.
        sparsities: layer name -> fraction of its weights.
        lesson: how to train.

    Returns:
        The model of the best epoch with all its zeros, compiled as `model` is.

    Raises:
        Diverged: if the loss became NaN before all zeros were there.
        Hopeless: if the lesson's `report` said so.
    """
    ramp = _ramp_end(lesson)
    schedule = {name: _ramp(share, ramp) for name, share in sparsities.items() if share}
    pruning = MagnitudePruning(schedule, unit="epoch")
    return _plain(_shrinking(copy_of(model), pruning, lesson))


def train_admm(
    model: keras.Model, sparsities: Mapping[str, float], lesson: Lesson
) -> keras.Model:
    """Lets ADMM find which single weights are zero, and trains what is left.

    Half of the epochs pull the weights toward zeros, at a constant learning rate;
    the other half trains with the zeros in place.

    Args:
        model: a compiled model. It is not modified.
        sparsities: layer name -> fraction of its weights.
        lesson: how to train. The last epoch counts, and nothing is reported.

    Returns:
        The model after the last epoch, compiled as `model` is.

    Raises:
        Diverged: if the loss became NaN.
    """
    student = copy_of(model)
    # ADMM wants a number, which cannot take the place of a schedule.
    compile_as(student, model, lesson.first_rate(model.optimizer))
    plain = type(student)
    lesson.teach(student)
    half = lesson.epochs // 2
    phase = AdmmPhase(
        {
            name: constraints.Cardinality(fraction=1 - share)
            for name, share in sparsities.items()
            if share
        },
        half,
        lesson.epochs - half,
    )
    with _diverging():
        result = admm_compress(
            student,
            [phase],
            callbacks=list(lesson.callbacks),
            backup_dir=lesson.folder / "backup",
            verbose=lesson.verbose,
            **lesson.task.fit_arguments(),
        )
    return _recompiled(result.model, plain, model)


def train_gates(
    model: keras.Model, inputs: Any, seed: int, lesson: Lesson
) -> keras.Model:
    """Lets gates on the residual branches close, and removes what they close.

    Args:
        model: a compiled model. It is not modified.
        inputs: samples that the gates decide on.
        seed: of their noise.
        lesson: how to train.

    Returns:
        The model of the last epochs without gates, compiled as `model` is.

    Raises:
        Diverged: if the loss became NaN before the last epochs.
        Hopeless: if the lesson's `report` said so.
        ValueError: if there is no residual branch.
    """
    student = gates.add_layer_gates(copy_of(model), seed=seed)
    begin = min(lesson.epochs - 1, max(1, round(_RAMP / 2 * lesson.epochs)))

    penalty = GatePenalty(
        schedules.Piecewise({float(begin): _POLARIZATION}),
        schedules.Piecewise({float(begin): _ACTIVATION}),
    )
    # Early epochs are better, because nothing is closed yet.
    first = lesson.epochs - max(1, lesson.epochs // 4)
    trained = _shrinking(student, penalty, lesson, first)
    with warnings.catch_warnings():
        # What undecided gates cost shows in the trial.
        warnings.simplefilter("ignore")
        small = finalize(trained, inputs, threshold=_UNDECIDED)
    return _plain(small)


def train_density(model: keras.Model, seed: int, lesson: Lesson) -> keras.Model:
    """Trains until activations have settled, sizes layers by them, trains again.

    Args:
        model: a compiled model. It is not modified.
        seed: see `training.resize_by_density`.
        lesson: how to train. The last epoch counts, and nothing is reported.

    Returns:
        The sized model after the last epoch, compiled as `model` is.

    Raises:
        Diverged: if the loss became NaN.
    """
    student = copy_of(model)
    plain = type(student)
    lesson.teach(student)
    with _diverging():
        result = resize_by_density(
            student,
            epochs=lesson.epochs,
            round_epochs=max(1, lesson.epochs // 4),
            max_rounds=1,
            weights="inherit",
            seed=seed,
            callbacks=[*lesson.cosine(student), *lesson.callbacks],
            backup_dir=lesson.folder / "backup",
            verbose=lesson.verbose,
            **lesson.task.fit_arguments(),
        )
    return _recompiled(result.model, plain, model)


def train_drum(
    model: keras.Model, pair: tuple[int, int], lesson: Lesson
) -> keras.Model:
    """Hands a model over to approximate multipliers, part by part.

    Args:
        model: a compiled model. It is not modified; its zeros stay.
        pair: bits of weight and activation that the multipliers look at.
        lesson: how to train.

    Returns:
        The model after the hand-over, with `layers.DrumMultiply` around its layers,
        compiled as `model` is.

    Raises:
        Diverged: if the loss became NaN before the last epoch.
        Hopeless: if the lesson's `report` said so.
    """
    student = layers.wrap_kernels(
        copy_of(model), lambda layer: layers.DrumMultiply(layer, *pair)
    )
    # The averages of normalizations settle in the last epoch.
    last = lesson.epochs - 1
    method = IncrementalApproximation(_PARTS, epochs=max(1, last))
    trained = lesson.run(student, student.fit, [method], last)
    return _plain(finalize(trained))


def train_bits(
    model: keras.Model,
    bits: int,
    calibration: Any,
    lesson: Lesson,
    *,
    keeps_zeros: bool = False,
) -> keras.Model:
    """Trains on with the rounding of the integer file in force.

    Args:
        model: a compiled model. It is not modified.
        bits: of the kernels.
        calibration: typical inputs, for the ranges to begin with.
        lesson: how to train.
        keeps_zeros: whether single weights that are zero stay so. Defaults to
            `False`.

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
    return lesson.run(student, student.fit, [HoldWeights()] if keeps_zeros else [])


def compile_as(
    model: keras.Model, original: keras.Model, rate: float | None = None
) -> None:
    """Compiles a model that was read from a file as another one is.

    A loss of the user's own has no name in a file, so that nothing there says how
    the model was compiled.

    Args:
        model: the model.
        original: how.
        rate: another learning rate. Defaults to `None`, that of `original`.
    """
    given = dict(original._compile_config.config)
    optimizer = original.optimizer
    config = optimizer.get_config()
    if rate is not None:
        inner = config
        while "inner_optimizer" in inner:
            inner = inner["inner_optimizer"]["config"]
        inner["learning_rate"] = rate
    given["optimizer"] = type(optimizer).from_config(config)
    model.compile(**given)


def _ramp_end(lesson: Lesson) -> int:
    """The first epoch at the final size."""
    return min(lesson.epochs - 1, max(1, round(_RAMP * lesson.epochs)))


def _shrinking(
    student: keras.Model,
    method: keras.callbacks.Callback,
    lesson: Lesson,
    first: int | None = None,
) -> keras.Model:
    """Trains with a method, and removes channels at the end of its ramp."""
    # With filters and 20 epochs, numbered from 0: the pruned fraction grows up to epoch
    # 8; channels are removed when that begins; epochs 8 to 19 train the small model,
    # and only they may be the best. An earlier epoch is better because it is larger.
    ramp = _ramp_end(lesson)

    def fit(**arguments: Any) -> None:
        fit_shrinking(
            student,
            shrink_every=max(1, ramp),
            backup_dir=lesson.folder / "backup",
            **arguments,
        )

    return lesson.run(student, fit, [method], ramp if first is None else first)


def _plain(model: keras.Model) -> keras.Model:
    small = finalize(model)
    if small.optimizer is not None:
        small.optimizer.build(small.trainable_variables)
    return small


def _recompiled(
    model: keras.Model, plain: type[keras.Model], original: keras.Model
) -> keras.Model:
    become(model, plain)
    compile_as(model, original)
    return _plain(model)


@contextlib.contextmanager
def _diverging() -> Iterator[None]:
    """Turns what a driver says about a loss that is NaN into `Diverged`."""
    try:
        yield
    except (ValueError, RuntimeError) as error:
        if "diverged" not in str(error):
            raise
        raise Diverged(str(error)) from error


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
        start: the first rate.
    """

    def __init__(self, optimizer: Any, epochs: int, steps: int, start: float) -> None:
        super().__init__()
        inner = _innermost(optimizer)
        self._given = inner._learning_rate
        self._epochs = epochs
        self._start = start
        if callable(self._given):
            inner.learning_rate = keras.optimizers.schedules.CosineDecay(
                start, epochs * steps
            )
        else:
            self._given = float(keras.ops.convert_to_numpy(self._given))

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
        self.epochs = 0
        self.diverged = False
        self.hopeless = False

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Looks at the epoch that ended."""
        self.epochs = epoch + 1
        logs = logs or {}
        name = self._metric.name
        value = scalar(logs[f"val_{name}"])
        value = loss_of_data(self.model, {name: value}).get(name, value)
        if not (math.isfinite(float(logs.get("loss", 0.0))) and math.isfinite(value)):
            self.diverged = True
            self.model.stop_training = True
            return
        if epoch < self._first:
            return
        if self._metric.worth(value) > self._worth:
            # A copy, because training continues with this model. And a file, because a
            # run that is resumed from a backup has only the worth in its state.
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
