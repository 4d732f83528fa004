"""Fits of one epoch each that are one training run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress.training._stream import Stream, no_data

__all__ = ["Run", "check_finite", "progress", "restore_progress", "scalars"]

# Callbacks of Keras that compare an epoch with those before, and what they keep of it:
# they have no `get_state`, and begin anew in a process that resumes a run.
_COMPARING = (
    keras.callbacks.EarlyStopping,
    keras.callbacks.ModelCheckpoint,
    keras.callbacks.OrbaxCheckpoint,
    keras.callbacks.ReduceLROnPlateau,
)
_KEPT = (
    "best",
    "best_epoch",
    "best_weights",
    "cooldown_counter",
    "stopped_epoch",
    "wait",
    "_batches_seen_since_last_saving",
    "_last_batch_seen",
    "_total_batches_seen",
)


class Run:
    """A training run whose model may be replaced between epochs.

    Every epoch is a `fit` of its own. The callbacks are told of one run, and the
    data go on, so that a run in which nothing is replaced is what one `fit` is.

    Args:
        model: the compiled model to begin with.
        data: the training data; a run may use data that an earlier one has used.
        epochs: the epoch to stop before.
        initial_epoch: the epoch to begin with.
        callbacks: callbacks as for `fit`.
        verbose: as for `fit`.
        state: what `state` returned in the run that is resumed. Defaults to
            `None`, a new run.

    Attributes:
        model: the present model.
        epoch: number of epochs that are done.
        history: the `History` of all epochs, of those before a resume too.
    """

    def __init__(
        self,
        model: keras.Model,
        data: Stream,
        *,
        epochs: int,
        initial_epoch: int,
        callbacks: Sequence[keras.callbacks.Callback],
        verbose: Any,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        self.model = model
        self.data = data
        self.epochs = min(epochs, keras.config.max_epochs() or epochs)
        self.epoch = initial_epoch
        self.stopped = False
        self._verbose = verbose
        self._callbacks = list(callbacks)
        self._since = initial_epoch
        if state is not None:
            self.epoch, self.stopped = state["epoch"], state["stopped"]
            self._since = state.get("since", initial_epoch)
            _set_states(self._callbacks, state["callbacks"])
        # `fit` goes on where `BackupAndRestore` stopped in an earlier run.
        model._initial_epoch = None
        self._told = _Callbacks(
            self._callbacks,
            model=model,
            add_progbar=verbose not in (0, "0"),
            verbose=1 if verbose == "auto" else verbose,
            epochs=epochs,
            steps=data.steps,
            since=self._since,  # which methods record how long they have trained
        )
        self.history = self._told.begin()
        if state is not None:
            # After the beginning of a run, at which they forget what they know.
            restore_progress(self._callbacks, state.get("progress"))
            self.history.epoch = state["epochs"]
            self.history.history = state["history"]
        model.stop_training = False  # as `fit` does

    @property
    def goes_on(self) -> bool:
        """Whether there are epochs left."""
        return self.epoch < self.epochs and not self.stopped

    def train_epoch(self) -> None:
        """Trains for one epoch.

        Raises:
            ValueError: if there were no data, or training has diverged.
        """
        steps = self.data.begin_epoch(self.model)
        self.model.fit(
            self.data,
            initial_epoch=self.epoch,
            epochs=self.epoch + 1,
            callbacks=self._told,
            verbose=self._verbose,
            **({} if steps is None else {"steps_per_epoch": steps}),
            **self.data.fit_arguments,
        )
        if not self._told.batches:
            raise no_data()
        self.data.end_epoch(self._told.batches)
        self.epoch += 1
        self.stopped = bool(self.model.stop_training)
        check_finite(self.model, self.history.history)

    def replace_model(self, model: keras.Model) -> None:
        """Goes on with another model."""
        # A callback may have asked to stop in the epoch that has just ended.
        model.stop_training = self.stopped
        self.model = model
        self._told.set_model(model)

    def state(self) -> dict[str, Any]:
        """What a resumed run needs beside model and data."""
        return {
            "epoch": self.epoch,
            "stopped": self.stopped,
            "epochs": self.history.epoch,
            "history": self.history.history,
            "callbacks": _get_states(self._callbacks),
            "progress": progress(self._callbacks),
            # What is complete has its records. Epochs that are added get others.
            "since": self._since if self.goes_on else self.epoch,
        }

    def end(self) -> None:
        """Tells the callbacks that the run has ended."""
        self._told.end()


class _Callbacks(keras.callbacks.CallbackList):
    """A list of callbacks for which several fits are one training run.

    `fit` takes a `CallbackList` as it is. It calls `on_train_begin` and `on_train_end`
    in every epoch, because every epoch is a `fit` of its own. These calls stop here;
    the callbacks get them once, from `begin` and `end`.
    """

    def __init__(self, callbacks: list[Any], **kwargs: Any) -> None:
        super().__init__(callbacks, add_history=True, **kwargs)
        self._final_logs: dict[str, Any] | None = None
        self.batches = 0  # of the present epoch

    def begin(self) -> keras.callbacks.History:
        """Begins the run, and returns its History."""
        super().on_train_begin()
        return self._history

    def end(self) -> None:
        """Ends the run."""
        super().on_train_end(self._final_logs)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """A `fit` begins: nothing to tell."""

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """A `fit` ends: nothing to tell yet."""
        self._final_logs = logs

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Counts batches from zero."""
        self.batches = 0
        super().on_epoch_begin(epoch, logs)

    def on_train_batch_end(
        self, batch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Counts batches."""
        self.batches = batch + 1
        super().on_train_batch_end(batch, logs)


def scalars(values: Sequence[Any]) -> list[float]:
    """The log of a metric, with means where it has a figure for each class."""
    return [float(np.mean(ops.convert_to_numpy(value))) for value in values]


def check_finite(model: keras.Model, history: Mapping[str, Sequence[Any]]) -> None:
    """Refuses to go on with weights or a loss that are not numbers.

    Args:
        model: the model after an epoch.
        history: the logs of the epochs so far.

    Raises:
        ValueError: if the last loss is NaN, or a weight not finite.
    """
    losses = history.get("loss") or [0.0]
    if math.isnan(float(losses[-1])):
        raise _diverged("the loss is NaN")
    for variable in model.weights:
        if keras.backend.is_float_dtype(variable.dtype):
            values = ops.convert_to_numpy(variable)
            # A layer may hold infinite constants, but no optimizer makes them.
            bad = ~np.isfinite(values) if variable.trainable else np.isnan(values)
            if bad.any():
                raise _diverged(f"{variable.path!r} has values that are not finite")


def _diverged(what: str) -> ValueError:
    """The error of a training run in which NaN or infinity has appeared.

    Args:
        what: where that was seen.
    """
    return ValueError(
        f"Training has diverged: {what}. Try a lower learning rate, or clip gradients. "
        "A backup, if there is one, holds an epoch before that."
    )


def progress(callbacks: Sequence[Any]) -> list[tuple[str, dict[str, Any]]]:
    """What callbacks of Keras know of the epochs before: the best one, how long ago."""
    return [
        (type(each).__name__, {n: getattr(each, n) for n in _KEPT if hasattr(each, n)})
        for each in _comparing(callbacks)
    ]


def restore_progress(
    callbacks: Sequence[Any], states: Sequence[tuple[str, dict[str, Any]]] | None
) -> None:
    """Gives callbacks what `progress` returned; nothing if that is `None`.

    Raises:
        ValueError: if they are other callbacks.
    """
    if states is None:  # of a release that did not keep it
        return
    comparing = _comparing(callbacks)
    _check_same(comparing, states)
    for callback, (_, values) in zip(comparing, states, strict=True):
        for name, value in values.items():
            setattr(callback, name, value)


def _comparing(callbacks: Sequence[Any]) -> list[Any]:
    return [
        each
        for each in callbacks
        if isinstance(each, _COMPARING) and not hasattr(each, "get_state")
    ]


def _get_states(callbacks: Sequence[Any]) -> list[tuple[str, Any]]:
    """Class and state of the callbacks that have one."""
    stateful = [each for each in callbacks if hasattr(each, "get_state")]
    return [(type(each).__name__, each.get_state()) for each in stateful]


def _set_states(callbacks: Sequence[Any], states: Sequence[tuple[str, Any]]) -> None:
    stateful = [each for each in callbacks if hasattr(each, "set_state")]
    _check_same(stateful, states)
    for callback, (_, state) in zip(stateful, states, strict=True):
        callback.set_state(state)


def _check_same(callbacks: Sequence[Any], states: Sequence[tuple[str, Any]]) -> None:
    found = [type(each).__name__ for each in callbacks]
    expected = [name for name, _ in states]
    if found != expected:
        raise ValueError(
            "Invalid value for argument `callbacks`. Expected the callbacks of the run "
            f"in `backup_dir`, those with a state: {expected}. Received: {found}"
        )
