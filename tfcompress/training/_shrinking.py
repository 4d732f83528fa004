"""Training that gets faster while the model gets smaller."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from tfcompress import structure
from tfcompress._checks import whole
from tfcompress._files import check_writable, write_atomic
from tfcompress.structure._graph import require_graph

__all__ = ["fit_shrinking"]


def fit_shrinking(
    model: keras.Model,
    x: Any = None,
    y: Any = None,
    *,
    epochs: int = 1,
    initial_epoch: int = 0,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    shrink_every: int = 1,
    multiple_of: int = 1,
    backup_dir: str | os.PathLike[str] | None = None,
    verbose: Any = "auto",
    **fit_arguments: Any,
) -> keras.Model:
    """Trains like `model.fit`, and removes pruned channels while it does.

    Every `shrink_every` epochs the model is replaced by a copy without the
    channels that are provably zero, so that the epochs that follow are cheaper.
    The optimizer's slots are sliced and carried on; epoch numbers, learning-rate
    schedules, the `History` and the callbacks go on as in a single `fit`:
    `on_train_begin` and `on_train_end` are called once, and `callback.model` is
    the present model. A callback that has a method `before_shrink(epoch)` is
    called with the number of the next epoch before channels are removed;
    `FilterPruning` then prunes for that epoch already, so that it runs at its
    final size. One that has a method `replace_model(model)` is told in this way
    that the smaller model is the same training's, before `set_model` is called.

    The result equals masked training, `fit` and then `finalize`, up to the
    rounding of floating-point sums, as long as the data come in the same order.
    It differs where arithmetic depends on the size of the model: dropout and
    noise draw other random numbers; a weight regularizer no longer sees the
    weights that read a removed channel; the `"random"` criterion draws a new
    order of the channels that remain. Array data with `shuffle=True` are
    shuffled anew in every segment.

    Each new size is traced and compiled anew, which costs seconds for deep
    networks; a larger `shrink_every` does so less often.

    Example:

    ```python
    pruning = tfc.callbacks.FilterPruning(
        tfc.schedules.Linear(0.0, 0.8, begin=0, end=60)
    )
    small = tfc.training.fit_shrinking(
        model, train, epochs=80, callbacks=[pruning], shrink_every=5
    )
    small.history.history["loss"]
    ```

    Args:
        model: a compiled Functional or Sequential model. It is trained in place
            until something is removed for the first time, and then left behind;
            use the model that is returned.
        x: training data as for `fit`: arrays or a `tf.data.Dataset`. Defaults to
            `None`.
        y: labels as for `fit`. Defaults to `None`.
        epochs: the epoch to stop before, as for `fit`. Defaults to `1`.
        initial_epoch: the epoch to begin with. Defaults to `0`.
        callbacks: callbacks as for `fit`, in a list. Defaults to `()`.
        shrink_every: number of epochs between two removals. Defaults to `1`.
        multiple_of: the number of channels that remain in a group is rounded up
            to a multiple of this; the rest stays masked. Defaults to `1`.
        backup_dir: a folder in which model and state are kept at the end of
            every segment. A run that finds them there goes on where they end,
            whatever `model` and `initial_epoch` are; a run that is complete
            deletes them. Defaults to `None`, no backup.
        verbose: as for `fit`. Defaults to `"auto"`.
        **fit_arguments: anything else that `fit` takes.

    Returns:
        The trained model without its zero channels, compiled, with the
        optimizer's state. Its `history` is the `History` of all epochs.

    Raises:
        TypeError: if `model` is not a Keras model or `callbacks` not a list.
        ValueError: if the model is subclassed, not built or not compiled, if
            numbers are out of range, if `backup_dir` cannot be written, or if a
            callback or the optimizer keeps copies of the weights, which do not
            fit the smaller model: `BackupAndRestore` (use `backup_dir`),
            `EarlyStopping(restore_best_weights=True)`, `SwapEMAWeights`, and
            optimizers with `use_ema`.
    """
    _check(model, callbacks, shrink_every=shrink_every, multiple_of=multiple_of)
    for name, value in (("epochs", epochs), ("initial_epoch", initial_epoch)):
        whole(name, value, 0)
    backup = None if backup_dir is None else _Backup(backup_dir)
    saved = backup.load() if backup else None
    if saved:
        model, state = saved
        initial_epoch = state["epoch"]
        _set_states(callbacks, state["callbacks"])
    run = _Callbacks(
        list(callbacks),
        model=model,
        add_progbar=verbose not in (0, "0"),
        verbose=1 if verbose == "auto" else verbose,
        epochs=epochs,
        steps=_steps(x, fit_arguments),
    )
    history = run.begin()
    if saved:
        history.epoch, history.history = state["epochs"], state["history"]
    epoch = initial_epoch
    model.stop_training = False  # as `fit` does
    while epoch < epochs and not model.stop_training:
        until = min(epoch + shrink_every, epochs)
        model.fit(
            x,
            y,
            initial_epoch=epoch,
            epochs=until,
            callbacks=run,
            verbose=verbose,
            **fit_arguments,
        )
        epoch = history.epoch[-1] + 1 if history.epoch else until
        stopped = model.stop_training
        if epoch < epochs and not stopped:
            for callback in callbacks:
                if hasattr(callback, "before_shrink"):
                    callback.before_shrink(epoch)
        model = _shrunk(model, multiple_of)
        model.stop_training = stopped
        for callback in callbacks:
            if hasattr(callback, "replace_model"):
                callback.replace_model(model)
        run.set_model(model)
        if backup and epoch < epochs and not stopped:
            backup.save(
                model,
                {
                    "epoch": epoch,
                    "epochs": history.epoch,
                    "history": history.history,
                    "callbacks": _get_states(callbacks),
                },
            )
    run.end()
    if backup:
        backup.delete()
    return model


class _Callbacks(keras.callbacks.CallbackList):
    """A list of callbacks for which several fits are one training."""

    def __init__(self, callbacks: list[Any], **kwargs: Any) -> None:
        super().__init__(callbacks, add_history=True, **kwargs)
        self._final_logs: dict[str, Any] | None = None

    def begin(self) -> keras.callbacks.History:
        """Begins the training, and returns its History."""
        super().on_train_begin()
        return self._history

    def end(self) -> None:
        """Ends the training."""
        super().on_train_end(self._final_logs)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """A segment begins: nothing to tell."""

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """A segment ends: nothing to tell yet."""
        self._final_logs = logs


class _Backup:
    """A model and a state on disk, complete or absent."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.state_file = check_writable(
            Path(folder) / "state.json", argument="backup_dir"
        )
        self.folder = self.state_file.parent

    def load(self) -> tuple[keras.Model, dict[str, Any]] | None:
        """What was saved last, if anything was."""
        if not self.state_file.exists():
            return None
        state = json.loads(self.state_file.read_text())
        return keras.saving.load_model(self.folder / state["model"]), state

    def save(self, model: keras.Model, state: dict[str, Any]) -> None:
        """Replaces what was saved by `model` and `state`."""
        name = f"model-{state['epoch']}.keras"
        model.save(self.folder / name)
        # The state names the model that belongs to it, so that there is no
        # moment at which the two do not fit.
        write_atomic(
            self.state_file, json.dumps({**state, "model": name}, default=float)
        )
        for old in self.folder.glob("model-*.keras"):
            if old.name != name:
                old.unlink()

    def delete(self) -> None:
        """Deletes what was saved, and the folder if nothing else is in it."""
        self.state_file.unlink(missing_ok=True)
        for old in self.folder.glob("model-*.keras"):
            old.unlink()
        if not any(self.folder.iterdir()):
            shutil.rmtree(self.folder)


def _shrunk(model: keras.Model, multiple_of: int) -> keras.Model:
    """A smaller model; `model` itself if nothing can be removed.

    A model that stays the same also keeps its compiled step.
    """
    if not structure.zero_indices(structure.channel_groups(model)):
        return model
    small = structure.shrink(model, multiple_of=multiple_of)
    return small if small.count_params() < model.count_params() else model


def _steps(x: Any, fit_arguments: Mapping[str, Any]) -> int | None:
    """Number of steps in an epoch, for the progress bar, where it is known."""
    given = fit_arguments.get("steps_per_epoch")
    if given:
        return given
    if hasattr(x, "cardinality"):
        count = int(x.cardinality())
        return count if count > 0 else None
    if hasattr(x, "shape"):
        share = len(x) * (1 - (fit_arguments.get("validation_split") or 0.0))
        return math.ceil(int(share) / (fit_arguments.get("batch_size") or 32))
    return getattr(x, "num_batches", None)


def _get_states(callbacks: Sequence[Any]) -> list[Any]:
    return [c.get_state() if hasattr(c, "get_state") else None for c in callbacks]


def _set_states(callbacks: Sequence[Any], states: Sequence[Any]) -> None:
    if len(callbacks) != len(states):
        raise ValueError(
            "Invalid value for argument `callbacks`. Expected the callbacks of the "
            f"training in `backup_dir`, {len(states)} of them. Received: "
            f"callbacks={callbacks!r}"
        )
    for callback, state in zip(callbacks, states, strict=True):
        if state is not None:
            callback.set_state(state)


def _check(model: Any, callbacks: Any, **counts: Any) -> None:
    require_graph(model)
    if not model.compiled:
        raise ValueError(
            "Invalid value for argument `model`. Expected a compiled model. "
            f"Received: {model!r}; call model.compile first."
        )
    for name, value in counts.items():
        whole(name, value)
    if not isinstance(callbacks, list | tuple):
        raise TypeError(
            "Invalid value for argument `callbacks`. Expected a list of callbacks. "
            f"Received: callbacks={callbacks!r}"
        )
    for callback in callbacks:
        if isinstance(
            callback, keras.callbacks.BackupAndRestore | keras.callbacks.SwapEMAWeights
        ) or getattr(callback, "restore_best_weights", False):
            raise ValueError(
                "Invalid value for argument `callbacks`. Expected callbacks that keep "
                "no copies of the weights, which would not fit the smaller model (for "
                "backups there is `backup_dir`). Received: "
                f"{type(callback).__name__}"
            )
    if getattr(model.optimizer, "use_ema", False):
        raise ValueError(
            "Invalid value for argument `model`. Expected an optimizer without moving "
            "averages of the weights, which would be written into the model at the "
            f"end of every segment. Received: {model.optimizer!r} with use_ema=True"
        )
