"""Training runs that continue where an interrupted run has stopped."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
from _experiment import (
    Experiment,
    Job,
    duration,
    read_json,
    with_rename,
    write,
)

import tfcompress as tfc

SECONDS_BETWEEN_LINES = 5.0


def fit(
    experiment: Experiment,
    job: Job,
    model: keras.Model,
    batches: Any,
    *,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    shrink_every: int | None = None,
    **arguments: Any,
) -> tuple[keras.Model, dict[str, list[float]]]:
    """Trains for `job.epochs`, or continues an interrupted run.

    Args:
        experiment: where the backup is.
        job: whose backup is used.
        model: a compiled model.
        batches: a `tf.data.Dataset` of batches.
        callbacks: methods. Defaults to `()`.
        shrink_every: epochs between removals of what is pruned, by
            `tfc.training.fit_shrinking`; `None` removes nothing. Defaults to
            `None`.
        **arguments: anything else that `fit` takes.

    Returns:
        The trained model, and the logs of every epoch by name.
    """
    backup = experiment.backup(job)
    arguments |= {"epochs": job.epochs, "shuffle": False, "verbose": 0}
    if shrink_every is None:
        keeper = _EpochBackup(backup, batches)
        # First, so that the others see what it restores.
        callbacks = [keeper, *callbacks, Progress()]
        arguments["initial_epoch"] = keeper.epochs
        model.fit(batches, callbacks=callbacks, **arguments)
        return model, keeper.history
    model = tfc.training.fit_shrinking(
        model,
        batches,
        callbacks=[*callbacks, Progress()],
        shrink_every=shrink_every,
        backup_dir=backup,
        keep_backup=True,  # the experiment deletes it when the result is complete
        **arguments,
    )
    return model, model.history.history


def sgd(settings: Any, steps: int) -> keras.optimizers.SGD:
    """SGD whose rate falls to a tenth at the epochs in `settings.decay_at`.

    Weight decay acts inside momentum, as in PyTorch. In Keras a step subtracts
    rate · decay · w beside the momentum; inside it a constant w would accumulate
    that 1 / (1 - momentum) times.

    Args:
        settings: has `learning_rate`, `decay_at`, `momentum`, `weight_decay` and
            `epochs`.
        steps: batches in an epoch.
    """
    if not all(0 < epoch < settings.epochs for epoch in settings.decay_at):
        raise ValueError(
            "Invalid value for argument `decay_at`. Expected epochs before the last, "
            f"{settings.epochs}. Received: decay_at={settings.decay_at}"
        )
    rate: Any = settings.learning_rate
    if settings.decay_at:
        rate = keras.optimizers.schedules.PiecewiseConstantDecay(
            [epoch * steps for epoch in settings.decay_at],
            [rate * 0.1**stage for stage in range(len(settings.decay_at) + 1)],
        )
    decay = settings.weight_decay / (1.0 - settings.momentum)
    return keras.optimizers.SGD(rate, settings.momentum, weight_decay=decay)


class _EpochBackup(keras.callbacks.Callback):
    """Keeps weights, optimizer and history after each epoch, as one.

    A new process has to see the batches that come next. The order of a shuffled
    `tf.data.Dataset` follows from how many passes were begun or, as in
    `tfcompress.data`, were read to their end. So the passes that are used up are
    read, and one more is begun for each: Keras begins two in an epoch. What
    `tfcompress.data` makes on other backends can be told instead.
    """

    def __init__(self, folder: Path, batches: Any) -> None:
        super().__init__()
        self.folder = folder
        state = read_json(folder / "epochs.json") or {}
        self.weights, self.seeds = state.get("weights"), state.get("seeds")
        self.history = state.get("history", {})
        if hasattr(batches, "skip_passes"):
            batches.skip_passes(self.epochs)
            return
        for _ in range(self.epochs):
            for _ in batches:
                pass
            iter(batches)

    @property
    def epochs(self) -> int:
        """Number of epochs that are done."""
        return max(map(len, self.history.values()), default=0)

    def on_train_begin(self, logs: Any = None) -> None:
        """Restores what is there."""
        if self.weights:
            self.model.optimizer.build(self.model.trainable_variables)
            self.model.load_weights(self.folder / self.weights)
            for variable, seed in zip(self._draws(), self.seeds, strict=True):
                variable.assign(seed)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Replaces what is there: the new state names the new weights."""
        for name, value in (logs or {}).items():
            self.history.setdefault(name, []).append(float(value))
        self.folder.mkdir(exist_ok=True)
        former, self.weights = self.weights, f"epoch{epoch}.weights.h5"
        with_rename(self.folder / self.weights, self.model.save_weights)
        seeds = [variable.numpy().tolist() for variable in self._draws()]
        state = {"weights": self.weights, "seeds": seeds, "history": self.history}
        write(self.folder / "epochs.json", json.dumps(state))
        if former:
            (self.folder / former).unlink(missing_ok=True)

    def _draws(self) -> list[Any]:
        """States of random generators, as of dropout, which a file of weights lacks."""
        variables = self.model.variables
        return [v for v in variables if v.path.endswith("seed_generator_state")]


class Progress(keras.callbacks.Callback):
    """Prints a line after an epoch, at most every few seconds, with the time left."""

    def on_train_begin(self, logs: Any = None) -> None:
        """Starts the clock."""
        self.start, self.first, self.last = time.perf_counter(), None, 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Notes with which epoch this process begins."""
        self.first = epoch if self.first is None else self.first

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Prints."""
        now, total = time.perf_counter(), self.params.get("epochs", epoch + 1)
        if now - self.last < SECONDS_BETWEEN_LINES and epoch + 1 < total:
            return
        self.last = now
        left = (now - self.start) / (epoch + 1 - self.first) * (total - epoch - 1)
        shown = [n for n in ("loss", "accuracy", "val_accuracy") if n in (logs or {})]
        values = "".join(f"  {name} {float(logs[name]):.4f}" for name in shown)
        more = f"  ({duration(left)} left)" if epoch + 1 < total else ""
        print(f"  epoch {epoch + 1}/{total}{values}{more}", flush=True)
