"""What all methods have in common: the life of a method in a training run."""

from __future__ import annotations

import contextlib
import sys
import warnings
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any, Self

import keras
import numpy as np

from tfcompress import _made, schedules
from tfcompress._checks import name_list
from tfcompress.callbacks._progress import Progress
from tfcompress.structure._graph import edited, require_graph

__all__ = ["Method", "diverged"]

# Whose training loops the methods are tested with.
_BACKENDS = ("tensorflow", "jax")
_ATTACHED = "_tfcompress_attached"


class Method(keras.callbacks.Callback):
    """A method that changes a model while it trains.

    A subclass says what is special about it, in up to seven steps, of which it
    overrides those it needs. In the order in which they are called:

    | step | when | what |
    |---|---|---|
    | `_prepare` | `fit` begins; the model was replaced | checks names, finds layers |
    | `_attach` | before the first epoch | puts state into the compiled step |
    | `_advance(t)` | before epoch or step t | applies the schedules' values at t |
    | `_end_epoch(epoch)` | an epoch has ended | measures, corrects statistics |
    | `_logs` | then | returns what is logged |
    | `_reapply` | `fit` ends | corrects weights that something else has written |
    | `_detach` | then, or when a run failed | takes the state out |

    The base class does what is easy to get wrong:

    * State is attached before the first epoch, not when `fit` begins, because a
      callback that restores an interrupted run may come later in the list.
    * A run that ends in an exception never tells its callbacks. What it left
      attached is taken out when the next `fit` of the model begins.
    * Under `steps_per_execution` several steps run between two calls. `_advance`
      is called with the last of them, so that no value of a schedule that begins
      within them comes too late.
    * Other callbacks see what a method logs, and the weights that it leaves,
      wherever they stand in the list of callbacks: methods are moved to its
      front, behind `SwapEMAWeights`, which writes the weights. Averages that it
      puts in the place of the weights are corrected at once (`_reapply`).
    * On JAX, state is part of what the compiled step takes and returns: see
      `_state`.

    Args:
        layers: names of the layers to work on; `None` for all that the method can
            work on. For methods that select layers (`_selects`). Defaults to `None`.
        exclude: names of layers to leave alone. Defaults to `()`.
        target: the part of the model to work on: a submodel, or its name among
            the model's layers or attributes. `None` for the whole model, or the
            student of a `keras.distillation.Distiller`, which leaves penalties out of
            its loss, so that methods that act by one are refused. Defaults to `None`.

    Raises:
        TypeError: if an argument is of another type.
    """

    # Whether a run leaves a record of how the model was made. One that only measures
    # leaves none, nor one that a driver uses, which leaves a record of its own.
    leaves_record = True
    # Whether a method has the arguments `layers` and `exclude`.
    _selects = False
    # Whether a method changes weights by a term that it adds to the loss.
    _adds_to_loss = False
    # Whether the schedule goes on in a further run, whatever that counts from. Begun
    # anew, it would give back what has been pruned.
    _goes_on = False

    unit = "epoch"
    layers: Any
    exclude: tuple[str, ...]

    def __init__(
        self,
        *,
        layers: Sequence[str] | None = None,
        exclude: Sequence[str] = (),
        target: keras.Model | str | None = None,
    ) -> None:
        super().__init__()
        if self._selects:
            self.layers = None if layers is None else name_list("layers", layers)
            self.exclude = name_list("exclude", exclude)
        if not (target is None or isinstance(target, str | keras.Model)):
            raise TypeError(
                "Invalid value for argument `target`. Expected a keras.Model, a name "
                f"or None. Received: target={target!r}"
            )
        self.target = target
        self._target_names: tuple[str, ...] = ()
        self._is_attached = False
        self._swaps = False
        self._restoring: keras.callbacks.EarlyStopping | None = None
        self._progress = Progress()  # of `unit`s
        self._initial_epoch: int | None = None  # the argument of `fit`, if it is known
        self._updates_before = 0  # the run
        # Epochs of the present run, as it numbers them, and those in records so far.
        self._since = self._until = 0
        self._recorded: int | None = None
        self._step = 0  # of the schedules, the last that has been applied
        # What `set_state` was given, until the run that it is for has used it.
        self._restored: Mapping[str, Any] = {}

    # What a method overrides -------------------------------------------------

    @abstractmethod
    def _prepare(self) -> None:
        """Checks `self.network` and finds what the method works on."""

    def _attach(self) -> None:
        """Puts what the method needs into the compiled step of `self.model`."""

    def _advance(self, step: int) -> None:
        """Applies what the schedules say for an epoch, or an optimizer update."""

    def _end_epoch(self, epoch: int) -> None:
        """Does what is due at the end of an epoch."""

    def _logs(self) -> Mapping[str, Any]:
        """Returns what is logged at the end of an epoch."""
        return {}

    def _reapply(self) -> None:
        """Puts right what averaged weights, for example, have overwritten."""

    def _detach(self) -> None:
        """Takes out what `_attach` has put in, also if that failed half-way."""

    def _meet_restoring(self, stop: keras.callbacks.EarlyStopping) -> None:
        """Says what it means that the weights of an epoch may come back in the end."""
        # It may begin to compare epochs when everything is pruned.
        first = stop.start_from_epoch if self.unit == "epoch" else 0
        if self._goes_on and any(s(first) != s.last() for s in self._schedules()):
            warnings.warn(
                f"{type(self).__name__}: EarlyStopping(restore_best_weights=True) may "
                "bring back the weights of an epoch in which less was pruned than in "
                "the end. Give it start_from_epoch, the epoch in which the schedule "
                "ends.",
                stacklevel=2,
            )

    def _forget(self) -> None:
        """Forgets what was counted: the callback is given another model."""

    def _schedules(self) -> Iterable[schedules.Schedule]:
        """The schedules that say how far the method goes."""
        return ()

    def _unreached(self) -> str | None:
        """How far a schedule got that training has not brought to its end."""
        for schedule in self._schedules():
            now, last = schedule(self._step), schedule.last()
            if last is not None and now != last:
                return f"{now:.4g} of {last:.4g}"
        return None

    def _carry(self, shrunk: Any) -> None:
        """Goes on in a smaller model, while attached.

        By default the method is attached anew, which is right if all that it
        keeps are weights of layers. Otherwise what is shaped like a variable has
        to be cut as the variable was.

        Args:
            shrunk: the `Shrunk` record of how the model was made smaller.
        """
        self._detach()
        self._model = shrunk.model
        self._prepare()
        self._attach()

    # What a method can use -----------------------------------------------------

    @property
    def network(self) -> keras.Model:
        """The graph that the method works on: the model, or a part of it."""
        return _network(self.model, self.target, self._target_names)

    @property
    def updates_done(self) -> int:
        """The optimizer's count of updates."""
        return int(keras.ops.convert_to_numpy(self.model.optimizer.iterations))

    # The life of a run -----------------------------------------------------------

    def set_params(self, params: dict[str, Any]) -> None:
        """Called by Keras with the facts of the run, the same for all callbacks."""
        super().set_params(params)
        frame = sys._getframe(1)
        found = frame.f_locals.get("self")
        if isinstance(found, keras.callbacks.CallbackList):
            swaps = any(map(_is_swapping, found.callbacks))
            for callback in found.callbacks:
                if isinstance(callback, Method):
                    callback._swaps = swaps
                    callback._restoring = next(
                        filter(_is_restoring, found.callbacks), None
                    )
                    callback._initial_epoch = _initial_epoch(frame)
            # `BackupAndRestore` sets it when the run begins, and leaves it behind: the
            # next `fit` would begin there, too.
            if found.model is not None:
                found.model._initial_epoch = None
            _move_methods_to_front(found)

    def set_model(self, model: keras.Model) -> None:
        """Called by Keras with the model that will be trained."""
        # A driver that made the model smaller has called `replace_model` before, which
        # sets `_model`. What differs here is a model that has nothing to do with the
        # last one, as in a `fit` of another network with the same callback.
        if model is not self._model:
            self._release()
            self._progress, self._recorded = Progress(), None
            self._forget()
        super().set_model(model)
        if isinstance(self.target, keras.Model):
            found = _submodels(model).items()
            names = [name for name, each in found if each is self.target]
            self._target_names = tuple(names) or self._target_names

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Checks everything that can be checked before anything trains."""
        # After a run that has failed, this callback may still be attached, and so may
        # others, which need not be in the list of the present run.
        self._release()
        _release_stale(self.model, self.params)
        _check_run(type(self).__name__, self.model)
        if self._adds_to_loss and isinstance(self.model, keras.distillation.Distiller):
            raise ValueError(
                "Invalid value for argument `model`. Expected one whose loss includes "
                f"`model.losses`, by which {type(self).__name__} acts; that of a "
                "Distiller leaves out the losses of its student. Train the student "
                "itself, with a loss that compares with the teacher's outputs. "
                f"Received: {type(self.model).__name__}"
            )
        require_graph(self.network)
        if "progress" in self._restored:
            self._progress.restore(self._restored["progress"])
        if self._goes_on and self.unit == "step":
            # Before `BackupAndRestore`, later in the list, changes the count.
            self._updates_before = self.updates_done
        self._prepare()
        if self._restoring is not None:
            self._meet_restoring(self._restoring)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Attaches the method before the first epoch, and lets it advance."""
        with self._guarded():
            if not self._is_attached:
                # Set before, so that `_guarded` takes out what `_attach` has put in if
                # it fails half-way.
                self._is_attached = True
                _note(self.model, self)
                self._attach()
                self._begin_run(epoch)
                self._restored = {}
            self._begin_epoch(epoch)

    def _begin_run(self, epoch: int) -> None:
        """Finds out where the schedule is when the first epoch begins."""
        # `BackupAndRestore` has let `fit` begin at a later epoch than it was told to.
        restored = getattr(self.model, "_initial_epoch", None) is not None
        first = epoch
        if restored and self._initial_epoch is not None:
            first = self._initial_epoch
        if self._goes_on:
            self._progress.begin(
                self._updates_before if self.unit == "step" else first,
                resumed=restored or bool(self._restored),
            )
        # Earlier epochs of the same numbering are of this run, if no record has them.
        self._since = self._until = epoch
        if (given := (self.params or {}).get("since")) is not None:
            self._since = given
        else:
            known = self._recorded is not None and self._recorded <= first
            self._since = first if known else 0

    def _begin_epoch(self, epoch: int) -> None:
        if self.unit == "epoch":
            self._step = self._progress.at(epoch)
            self._advance(self._step)

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """Leaves nothing in the model if what is done within fails."""
        try:
            yield
        except BaseException:
            self._release()
            raise

    def on_train_batch_begin(
        self, batch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Lets a method that counts updates advance."""
        with self._guarded():
            self._begin_batch(batch)

    def _begin_batch(self, batch: int) -> None:
        if self.unit == "step":
            now = self.updates_done
            self._progress.reach(now)
            self._step = self._progress.at(self._last_step(batch, now))
            self._advance(self._step)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Logs what the method did."""
        with self._guarded():
            # Rectifiers and masks may hide weights that are NaN; the loss does not.
            loss = (logs or {}).get("loss", 0.0)
            if not (np.isfinite(loss) or self.model.stop_training):
                raise diverged("the loss is")
            self._correct_averages()
            self._end_epoch(epoch)
            self._until = epoch + 1
            if self._goes_on:
                by_step = self.unit == "step"
                self._progress.reach(self.updates_done if by_step else self._until)
        if logs is not None:
            logs.update(self._logs())

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Lets validation see averaged weights as the method wants them."""
        self._correct_averages()

    def _correct_averages(self) -> None:
        # An average of weights that were pruned at different times is not zero.
        if self._swaps and self._is_attached:
            self._reapply()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Leaves the model as the method wants it, without the method's state."""
        # A run that was complete when it was restored has no epochs left, and says
        # nothing.
        has_run = self._is_attached
        if has_run:
            # Keras may just have replaced the weights by their moving average.
            self._reapply()
            self._record()
        self._release()
        self._progress.end()
        self._restored = {}
        if has_run and (unreached := self._unreached()) is not None:
            warnings.warn(
                f"{type(self).__name__}: training has ended before the schedule did, "
                f"at {unreached}. Train longer, or let the schedule end earlier.",
                stacklevel=2,
            )

    def _record(self) -> None:
        """Notes in the model how it was made; `report.compare` shows it."""
        if not self.leaves_record:
            return
        try:
            config = self.get_config()
        except ValueError:  # a method that holds data has no configuration
            config = {}
        models = [edited(self.model)]
        if self.network is not models[0]:  # a part that may be saved alone
            models.append(self.network)
        for model in models:
            epochs = self._until - self._since
            _made.note(model, type(self).__name__, config=config, epochs=epochs)
        self._recorded = self._until

    def _last_step(self, batch: int, step: int) -> int:
        """The last of the steps that run before the next call, `step` the first."""
        # With 10 steps in an epoch, and 4 in one execution, Keras announces the batches
        # 0, 4 and 8, which stand for 0–3, 4–7 and 8–9.
        together = getattr(self.model, "steps_per_execution", 1)
        total = (self.params or {}).get("steps")
        if total:
            together = min(together, total - batch)
        return step + max(1, together) - 1

    def _release(self) -> None:
        if self._is_attached:
            self._is_attached = False
            _strike(self.model, self)
            self._detach()

    # What `training.fit_shrinking` needs -------------------------------------------

    def before_shrink(self, epoch: int) -> None:
        """Advances to an epoch before it begins, and before channels are removed.

        Args:
            epoch: number of the epoch that comes next.
        """

    def replace_model(self, shrunk: Any) -> None:
        """Goes on with a smaller version of the model, as if nothing had happened.

        Args:
            shrunk: the `Shrunk` record of how the model was made smaller.
        """
        # The note moves first. If it stayed, a later `fit` of the old model would take
        # the method out as a leftover, although it is at work in the new one.
        if self._is_attached:
            _strike(self.model, self)
            _note(shrunk.model, self)
            self._carry(shrunk)
        self._model = shrunk.model

    def get_state(self) -> dict[str, Any]:
        """Returns what cannot be read back from the weights of the model.

        Returns:
            A dict of JSON-compatible values and NumPy arrays, nested or not.
        """
        return {"progress": self._progress.state()} if self._goes_on else {}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Takes over, before training begins, what `get_state` returned.

        Args:
            state: the dict.
        """
        self._restored = state

    # Configuration -------------------------------------------------------------------

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments as plain Python values."""
        config: dict[str, Any] = {}
        if self._selects:
            config["layers"] = None if self.layers is None else list(self.layers)
            config["exclude"] = list(self.exclude)
        if isinstance(self.target, keras.Model):
            config["target"] = self.target.name
        elif self.target is not None:
            config["target"] = self.target
        return config

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Creates a callback from what `get_config` returned."""
        return cls(**config)


def diverged(what: str) -> ValueError:
    """The error of a training run in which NaN or infinity has appeared.

    Args:
        what: what is not finite, with its verb, such as "the loss is".
    """
    return ValueError(
        f"Training has diverged: {what} not finite. Nothing was chosen from such "
        "numbers. Lower the learning rate, or clip gradients."
    )


# Helpers ---------------------------------------------------------------------------


def _note(model: keras.Model, method: Method) -> None:
    """Keeps in a model itself that a method is attached to it."""
    vars(model)[_ATTACHED] = [*vars(model).get(_ATTACHED, ()), method]


def _strike(model: keras.Model, method: Method) -> None:
    left = [each for each in vars(model).pop(_ATTACHED, ()) if each is not method]
    if left:
        vars(model)[_ATTACHED] = left


def _release_stale(model: keras.Model, params: Any) -> None:
    """Takes out what methods of a run that failed have left in a model."""
    # Keras gives all callbacks of a run the same dict of facts. A method with another
    # one belongs to an earlier run.
    for method in vars(model).get(_ATTACHED, ()):
        if method.params is not params:
            method._release()


def _check_run(method: str, model: keras.Model) -> None:
    backend = keras.backend.backend()
    if backend not in _BACKENDS:
        raise ValueError(
            f"Invalid value for the backend of Keras. {method} works on "
            f"{' and '.join(_BACKENDS)}. Received: {backend!r}"
        )
    strategy = getattr(model, "distribute_strategy", None)
    if "MultiWorker" in type(strategy).__name__:
        raise ValueError(
            "Invalid value for the distribution strategy of the model. Expected one "
            "machine; fit of Keras 3 does not work under MultiWorkerMirroredStrategy "
            "(keras#20585 on GitHub). Use the JAX backend and keras.distribution for "
            f"several. Received: {type(strategy).__name__}"
        )


def _network(
    model: keras.Model, target: keras.Model | str | None, names: Sequence[str] = ()
) -> keras.Model:
    if target is None:
        return edited(model)
    inside = _submodels(model)
    if isinstance(target, keras.Model):
        for submodel in inside.values():
            if submodel is target:
                return submodel
    # A model that was made smaller, or that comes from a backup, has another object in
    # the place of a submodel, under the names that it had.
    wanted = target if isinstance(target, str) else target.name
    for name in (*names, wanted):
        if name in inside:
            return inside[name]
    raise ValueError(
        "Invalid value for argument `target`. Expected a submodel of the model that "
        f"trains, one of {sorted(inside)}. Received: {wanted!r}"
    )


def _submodels(model: keras.Model) -> dict[str, keras.Model]:
    """The models inside a model, by attribute and by name."""
    result = {
        name: value
        for name, value in vars(model).items()
        if isinstance(value, keras.Model) and not name.startswith("_")
    }
    for layer in model._flatten_layers(include_self=False):
        if isinstance(layer, keras.Model):
            result.setdefault(layer.name, layer)
    return result


def _initial_epoch(frame: FrameType | None) -> int | None:
    """The argument `initial_epoch` of the `fit` that makes a list of callbacks.

    Keras does not tell it to callbacks. It is found on the stack, as the list is:
    `fit`, `CallbackList.__init__`, perhaps that of a subclass, `set_params`.
    """
    for _ in range(4):
        if frame is None:
            break
        if "initial_epoch" in frame.f_locals:
            return int(frame.f_locals["initial_epoch"])
        frame = frame.f_back
    return None


def _move_methods_to_front(found: keras.callbacks.CallbackList) -> None:
    """Puts the methods of a run where every other callback sees what they did.

    Keras tells callbacks nothing about the list that they are in. It is found on
    the stack: `CallbackList.set_params` is what calls `Method.set_params`. In a
    training loop of somebody's own, without such a list, the order stays as it is.

    Keras iterates over the list at this moment. After a move it would miss one
    callback and visit another twice. Therefore all are told the facts again; to be
    told twice does no harm.
    """
    ordered = sorted(found.callbacks, key=_rank)
    if any(a is not b for a, b in zip(ordered, found.callbacks, strict=True)):
        found.callbacks[:] = ordered
        for callback in ordered:
            callback.set_params(found.params)


def _is_swapping(callback: Any) -> bool:
    """Whether a callback exchanges weights for their averages while training."""
    return isinstance(callback, keras.callbacks.SwapEMAWeights)


def _is_restoring(callback: Any) -> bool:
    """Whether a callback puts back the weights of the best epoch in the end."""
    return (
        isinstance(callback, keras.callbacks.EarlyStopping)
        and callback.restore_best_weights
    )


def _rank(callback: Any) -> int:
    if _is_swapping(callback):
        return 0
    return 1 if isinstance(callback, Method) else 2
