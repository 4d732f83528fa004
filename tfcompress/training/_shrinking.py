"""Training that gets faster while the model gets smaller."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Sequence
from typing import Any, Literal

import keras

from tfcompress import structure
from tfcompress._checks import whole
from tfcompress.structure._edit import Shrunk, shrink_recorded
from tfcompress.structure._graph import edited, require_editable, scope_of
from tfcompress.structure._rebuild import require_copies
from tfcompress.training._backup import Backup, owned
from tfcompress.training._pace import Pace
from tfcompress.training._run import Run
from tfcompress.training._stream import Stream

__all__ = ["fit_shrinking"]


def fit_shrinking(
    model: keras.Model,
    x: Any = None,
    y: Any = None,
    *,
    epochs: int = 1,
    initial_epoch: int = 0,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    shrink_every: int | Literal["auto"] = 1,
    multiple_of: int = 1,
    backup_dir: str | os.PathLike[str] | None = None,
    keep_backup: bool = False,
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
    final size. If it has a method `replace_model(shrunk)`, as every method of this
    library has, that is called with the record of how the smaller model was made,
    before `set_model` is called: what the callback keeps for each weight or channel
    (masks, held values, Z and U) goes over to the weights that stay.

    The result equals masked training, `fit` and then `finalize`, up to the
    rounding of floating-point sums, as long as the data come in the same order.
    It differs where arithmetic depends on the size of the model:

    * Dropout and noise draw other random numbers.
    * A weight regularizer no longer sees the weights that read a removed channel.
    * A removed channel that carried a constant other than zero, as 0.5 behind a
      sigmoid, is part of the bias that follows. The weights that read it go, while
      those of the masked model would go on to train.
    * The `"random"` criterion draws a new order of the channels that remain.
    * An update that uses a norm of a whole variable, or of all of them, does not
      see what was removed: `clipnorm`, `global_clipnorm`, `Lamb`, `Muon`,
      `Adafactor`. A warning says so.

    The data go on as in a single `fit`. With `steps_per_epoch`, an epoch begins
    where the one before has stopped, whatever the data are: an endless dataset, a
    generator, arrays. The hooks of a `PyDataset` are called as often as `fit` calls
    them. Arrays and finite `PyDataset`s that are shuffled have an order that
    follows from a seed, drawn from NumPy's global generator when the run begins,
    and the number of the epoch.

    A model that was made under a `tf.distribute` strategy goes on under it.

    Each new size is traced and compiled anew, which costs seconds for deep
    networks; a larger `shrink_every` does so less often.

    **Interruptions.** With `backup_dir`, a run that was killed goes on as if nothing
    had happened: weights, optimizer, generators of dropout and noise, callbacks,
    the order of shuffled arrays and the `History` are those of a run that was not
    interrupted, bit for bit on one machine. Your own callbacks have to keep their
    state by methods `get_state` and `set_state`, as those of the package do. The best
    value and the patience of Keras' callbacks are kept; a `CSVLogger` needs
    `append=True`. Layers, functions and losses of your own need not be registered
    with Keras: they are taken from `model`. A `tf.data.Dataset` has to be made again
    with the same seeds; batches that were seen in a pass that is under way are read
    once more and skipped. The state of an augmentation that has a generator of its
    own is not kept. A Python generator has to begin at its start again; one that is
    given as `validation_data` is read from where it stands. A `PyDataset` that counts
    its passes by what is read of them needs a method `skip_passes(count)`, as those
    of `data.Dataset.pipeline` have.

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
        x: training data as for `fit`: arrays, a `tf.data.Dataset`, a `PyDataset` or
            a generator. Defaults to `None`.
        y: labels as for `fit`. Defaults to `None`.
        epochs: the epoch to stop before, as for `fit`. Defaults to `1`.
        initial_epoch: the epoch to begin with. Defaults to `0`.
        callbacks: callbacks as for `fit`, in a list. Defaults to `()`.
        shrink_every: number of epochs between two removals; "auto" decides after
            every epoch, by the measured time of a step, the work that a removal
            would save and the measured cost of a removal, whether the epochs that
            remain pay for one. Defaults to `1`.
        multiple_of: the number of channels that remain in a group is rounded up
            to a multiple of this; the rest stays masked. Defaults to `1`.
        backup_dir: a folder in which model and state are kept at the end of
            every epoch, in one file. A run that finds them there goes on where
            they end, whatever `model` and `initial_epoch` are, also if its layers
            have other automatic names. One run at a time may use the folder.
            Defaults to `None`, no backup.
        keep_backup: whether a run that is complete leaves its backup; the same
            call then returns at once what it returned. Save the model first and
            delete the folder afterwards: a process that is killed in between then
            loses nothing. Defaults to `False`: it is deleted.
        verbose: as for `fit`. Defaults to `"auto"`.
        **fit_arguments: anything else that `fit` takes.

    Returns:
        The trained model without its zero channels, compiled, with the
        optimizer's state. Its `history` is the `History` of all epochs.

    Raises:
        TypeError: if `model` is not a Keras model or `callbacks` not a list.
        ValueError: if the model is subclassed, not built or not compiled, if
            numbers are out of range, if there are no data, if `backup_dir` cannot
            be written, another run uses it or the model could not be read back,
            if training has diverged (the last backup stays; the loss is NaN or
            weights are not finite), or if a
            callback or the optimizer keeps copies of the weights, which do not
            fit the smaller model: `BackupAndRestore` (use `backup_dir`),
            `EarlyStopping(restore_best_weights=True)`, `SwapEMAWeights`, and
            optimizers with `use_ema`.
    """
    pace = Pace() if shrink_every == "auto" else None
    counts = {} if pace else {"shrink_every": shrink_every}
    _check(model, callbacks, multiple_of=multiple_of, **counts)
    for name, value in (("epochs", epochs), ("initial_epoch", initial_epoch)):
        whole(name, value, 0)
    with owned(backup_dir):
        backup = None if backup_dir is None else Backup(backup_dir)
        saved = backup.load(model) if backup else None
        if saved:
            model = saved.model
        state = saved.state if saved else {}
        run = Run(
            model,
            Stream(x, y, fit_arguments, state.get("data")),
            epochs=epochs,
            initial_epoch=initial_epoch,
            callbacks=[*callbacks, pace] if pace else callbacks,
            verbose=verbose,
            state=state.get("run"),
        )
        was_complete = not run.goes_on
        while run.goes_on:
            run.train_epoch()
            due = (
                shrink_every == "auto"
                or (run.epoch - initial_epoch) % shrink_every == 0
            )
            # The model that is returned has no zero channels, whether a removal is due
            # or not.
            if due or not run.goes_on:
                _make_smaller(run, callbacks, multiple_of, pace)
            if backup and run.goes_on:
                backup.save(run.model, {"run": run.state(), "data": run.data.state()})
        # A complete run leaves the model that it returns, with what methods do to it at
        # the end, and the callbacks as they were before: afterwards they hold nothing
        # any more, and the run may be given more epochs.
        state = {"run": run.state(), "data": run.data.state()} if backup else {}
        run.end()
        if backup and not keep_backup:
            backup.delete()
        elif backup and not was_complete:
            backup.save(run.model, state)
    return run.model


def _make_smaller(
    run: Run, callbacks: Sequence[Any], multiple_of: int, pace: Pace | None
) -> None:
    """Removes what is zero if it pays, and tells the callbacks before and after."""
    # The order matters. `FilterPruning` prunes for the next epoch before channels are
    # removed, or that epoch would run at the size of the last one. Methods are told of
    # the smaller model with its record, and take their state over, before `set_model`
    # is called with the bare model: a method that finds another model there than the
    # one it knows takes everything out of the old one and begins from nothing.
    if run.goes_on:
        for callback in callbacks:
            if hasattr(callback, "before_shrink"):
                callback.before_shrink(run.epoch)
        if pace and not pace.is_due(run.model, run.epochs - run.epoch):
            return
    begin = time.perf_counter()
    shrunk = _shrunk(run.model, multiple_of)
    if shrunk is None:
        return
    for callback in callbacks:
        if hasattr(callback, "replace_model"):
            callback.replace_model(shrunk)
    run.replace_model(shrunk.model)
    if pace:
        pace.note_removal(time.perf_counter() - begin)


def _shrunk(model: keras.Model, multiple_of: int) -> Shrunk | None:
    """A smaller model and how it was made; `None` if nothing can be removed.

    A model that stays the same also keeps its compiled step.
    """
    with scope_of(model):
        if not structure.zero_indices(structure.channel_groups(model)):
            return None
        shrunk = shrink_recorded(model, multiple_of=multiple_of)
    # Zero channels may all be ones that have to stay: the last one of a layer, or those
    # that fill up to `multiple_of`.
    return shrunk if shrunk.model.count_params() < model.count_params() else None


def _check(model: Any, callbacks: Any, **counts: Any) -> None:
    require_editable(model)
    require_copies(edited(model))
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
    _warn_of_norms(model.optimizer)


def _warn_of_norms(optimizer: keras.optimizers.Optimizer) -> None:
    found = sorted(_norms(optimizer))
    if found:
        warnings.warn(
            f"{', '.join(found)}: updates depend on norms of whole variables, so that "
            "training a model that shrinks differs a little from masked training.",
            stacklevel=4,
        )


def _norms(optimizer: Any) -> set[str]:
    """Options and classes, of an optimizer or those inside it, that take norms."""
    found = {
        option
        for option in ("clipnorm", "global_clipnorm")
        if getattr(optimizer, option, None)
    }
    found |= {
        cls.__name__
        for cls in type(optimizer).__mro__
        if cls.__name__ in ("Adafactor", "Lamb", "Muon")
    }
    inner = [
        getattr(optimizer, "inner_optimizer", None),
        getattr(optimizer, "_default_optimizer", None),
        *(getattr(optimizer, "_inner_optimizers", None) or ()),
    ]
    return found.union(*(_norms(each) for each in inner if each is not None))
