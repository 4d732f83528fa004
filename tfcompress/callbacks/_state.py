"""Variables that a method adds to a compiled training step.

A step that TensorFlow has traced reads any variable that it closes over. A step
that JAX has traced does not: it is a pure function, whose inputs are the variables
of the model, of the optimizer and of the metrics. Every other variable is a
constant of the time of the tracing, and a mask kept in one would silently stay the
first mask forever. On JAX, a method's variables therefore join

* the optimizer's variables, if the update of the weights reads them (masks and held
  values, which constraints apply). They stay out of what the optimizer saves;
* the model's variables that are no weights, where Keras keeps the states of random
  generators, if the loss or the forward pass reads or writes them (targets of
  penalties, counters). These are part of the step, but neither of `weights` nor of
  a saved model.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras

from tfcompress.structure._graph import scope_of

__all__ = ["StepState", "no_weights", "retrace"]


def retrace(model: keras.Model, *, inference: bool = False) -> None:
    """Makes Keras trace the compiled steps of a model again.

    The old step is dropped first. JAX looks up earlier traces by the equality of
    functions, as long as the earlier function is alive, and two bound methods of one
    model are equal. It would find the old trace, with the old constants in it.

    Args:
        model: the compiled `keras.Model`.
        inference: whether the steps that evaluate and predict are traced again as
            well. Defaults to `False`.
    """
    model.train_function = None
    model.make_train_function()
    if inference:
        model.test_function = model.predict_function = None
        model.make_test_function()
        model.make_predict_function()


class StepState:
    """The variables that one method adds to the steps of one model.

    Args:
        model: the compiled `keras.Model` that trains.
    """

    def __init__(self, model: keras.Model) -> None:
        self.model = model
        # The model may be compiled again, after a run that failed, before `release`.
        self._optimizer = model.optimizer
        self._of_updates: list[keras.Variable] = []
        self._of_loss: list[_NoWeight] = []

    def for_updates(self, value: Any, dtype: Any, name: str) -> keras.Variable:
        """Makes a variable that constraints read.

        Args:
            value: the initial value, an array or a number.
            dtype: the variable's dtype.
            name: the variable's name.
        """
        variable = self._variable(value, dtype, name)
        if _must_track():
            # A wrapper that scales the loss lists the variables of the optimizer inside
            # it as its own. Tracked there, the variable is known to both, and both must
            # leave it out of what they save.
            _innermost(self._optimizer)._track_variable(variable)
            self._of_updates.append(variable)
            for each in _chain(self._optimizer):
                _hide(each, variable)
        return variable

    def for_loss(self, value: Any, dtype: Any, name: str) -> keras.Variable:
        """Makes a variable that the forward pass or the loss reads or writes.

        Arguments as for `for_updates`.
        """
        variable = self._variable(value, dtype, name)
        self.track_for_loss(variable)
        return variable

    def track_for_loss(self, variable: keras.Variable) -> None:
        """Lets the forward pass read and write a variable made elsewhere."""
        if _must_track():
            # Of the objects in this list Keras only reads the attribute `state`.
            holder = _NoWeight(variable)
            self.model._seed_generators.append(holder)
            self._of_loss.append(holder)

    def release(self) -> None:
        """Takes the variables out of the steps."""
        for variable in self._of_updates:
            _innermost(self._optimizer)._tracker.untrack(variable)
            for each in _chain(self._optimizer):
                _show(each, variable)
        for holder in self._of_loss:
            self.model._seed_generators.remove(holder)
        self._of_updates.clear()
        self._of_loss.clear()

    def _variable(self, value: Any, dtype: Any, name: str) -> keras.Variable:
        with scope_of(self.model):
            return keras.Variable(value, trainable=False, dtype=dtype, name=name)


class _NoWeight:
    """A variable of a model that is not a weight, like the state of a generator."""

    def __init__(self, state: keras.Variable) -> None:
        self.state = state


def no_weights(model: keras.Model) -> list[keras.Variable]:
    """The variables that methods have added to a model's steps, as of now.

    They are among the states of its random generators.
    """
    return [
        holder.state
        for holder in model._seed_generators
        if isinstance(holder, _NoWeight)
    ]


def _must_track() -> bool:
    return keras.backend.backend() == "jax"


def _chain(optimizer: Any) -> Iterator[Any]:
    """The optimizer and those that it wraps, as for the scaling of losses."""
    while optimizer is not None:
        yield optimizer
        optimizer = getattr(optimizer, "inner_optimizer", None)


def _innermost(optimizer: Any) -> Any:
    return list(_chain(optimizer))[-1]


class _Saver:
    """Saves an optimizer without the variables that methods have added."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer
        self.hidden: list[keras.Variable] = []

    def __call__(self, store: Any) -> None:
        hidden = {id(variable) for variable in self.hidden}
        own = [v for v in self.optimizer.variables if id(v) not in hidden]
        for index, variable in enumerate(own):
            store[str(index)] = keras.ops.convert_to_numpy(variable)


def _hide(optimizer: Any, variable: keras.Variable) -> None:
    # An attribute of the object hides the method of its class. It is set past Keras'
    # own `__setattr__`, which tracks what an optimizer is given.
    saver = vars(optimizer).get("save_own_variables")
    if saver is None:
        saver = _Saver(optimizer)
        object.__setattr__(optimizer, "save_own_variables", saver)
    saver.hidden.append(variable)


def _show(optimizer: Any, variable: keras.Variable) -> None:
    saver = vars(optimizer)["save_own_variables"]
    saver.hidden = [each for each in saver.hidden if each is not variable]
    if not saver.hidden:
        object.__delattr__(optimizer, "save_own_variables")
