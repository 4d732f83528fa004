"""Weights that stay at zero, or as they are, while a model trains.

What stays is enforced by the variable's constraint, which Keras applies after
every update inside the compiled step: no optimizer moves such a weight,
whatever its momentum or weight decay, and no callback ever sees one moved.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, Generic, Self, TypeVar

import keras
import numpy as np
from keras import ops

from tfcompress.callbacks._state import StepState, retrace

__all__ = ["HeldVariables", "MaskedVariables"]

Choice = tuple[keras.Variable, np.ndarray]


class _Link(keras.constraints.Constraint):
    """One of the constraints of a variable, applied after the one it had before.

    A variable has one constraint. Links make a chain of several: with a user's
    `NonNeg` and two methods, `variable.constraint` is link2(link1(NonNeg)), and an
    update is passed from the inside out. Methods may be taken out in any order, as
    `_without` does.
    """

    def __init__(self, inner: keras.constraints.Constraint | None) -> None:
        self.inner = inner

    def __call__(self, w: Any) -> Any:
        return self.apply(w if self.inner is None else self.inner(w))

    def apply(self, w: Any) -> Any:
        """What becomes of an updated variable."""
        raise NotImplementedError


class _Masked(_Link):
    """Multiplies a variable by a mask."""

    def __init__(
        self, keep: np.ndarray, variable: keras.Variable, state: StepState
    ) -> None:
        super().__init__(variable.constraint)
        keep = np.broadcast_to(keep, variable.shape)
        self.mask = state.for_updates(keep, variable.dtype, "mask")

    def apply(self, w: Any) -> Any:
        return ops.multiply(w, self.mask)

    def change(self, keep: np.ndarray) -> None:
        """Replaces the mask."""
        self.mask.assign(np.broadcast_to(keep, self.mask.shape))

    def chosen(self) -> np.ndarray:
        """The mask."""
        return ops.convert_to_numpy(self.mask)


class _Held(_Link):
    """Puts chosen entries of a variable back to the values they had."""

    def __init__(
        self, where: np.ndarray, variable: keras.Variable, state: StepState
    ) -> None:
        super().__init__(variable.constraint)
        self.variable = variable
        where = np.broadcast_to(where, variable.shape)
        self.where = state.for_updates(where, "bool", "held")
        self.value = state.for_updates(
            ops.convert_to_numpy(variable), variable.dtype, "value"
        )

    def apply(self, w: Any) -> Any:
        # A choice, not a product with a mask: zero times an update that is NaN would be
        # NaN. Held values do not change by one bit.
        return ops.where(self.where.value, self.value.value, ops.convert_to_tensor(w))

    def change(self, where: np.ndarray) -> None:
        """Holds other entries, at their present values."""
        self.value.assign(self.variable)
        self.where.assign(np.broadcast_to(where, self.where.shape))

    def chosen(self) -> np.ndarray:
        """Which entries are held."""
        return ops.convert_to_numpy(self.where)


L = TypeVar("L", _Masked, _Held)


class _Constrained(ABC, Generic[L]):
    """Puts links into the constraints of variables, and takes them out again.

    Args:
        model: the compiled `keras.Model` that owns the variables and trains.
    """

    def __init__(self, model: keras.Model) -> None:
        self.model = model
        self._state = StepState(model)
        self._links: dict[int, tuple[keras.Variable, L]] = {}

    @abstractmethod
    def _link(self, variable: keras.Variable, entries: np.ndarray) -> L: ...

    def attach(self, choices: Iterable[Choice]) -> None:
        """Holds what is chosen from now on.

        Existing constraints stay in force and are applied first. The training
        step is traced again, because a traced step knows the constraints of the
        time of its tracing.

        Args:
            choices: pairs of a variable and an array that broadcasts against it.
                Variables of which something will be chosen later must be among
                them, with an array of that shape.
        """
        for variable, entries in choices:
            link = self._link(variable, entries)
            self._links[id(variable)] = (variable, link)
            variable.constraint = link
        self.apply()
        retrace(self.model)

    def update(self, choices: Iterable[Choice]) -> None:
        """Chooses other entries.

        Args:
            choices: as for `attach`; variables that are left out stay as they
                are.
        """
        # The step is not traced again: the link is the same, only its variable changes.
        # A change is in force at once, and not only after the next update.
        for variable, entries in choices:
            _, link = self._links[id(variable)]
            link.change(entries)
            variable.assign(link.apply(variable))

    def apply(self) -> None:
        """Puts what is chosen in its place.

        The training step does so by itself. This is for values that were
        written by something else, such as averaged weights.
        """
        for variable, link in self._links.values():
            variable.assign(link.apply(variable))

    def choices(self) -> list[Choice]:
        """What is chosen, as for `attach`."""
        return [(variable, link.chosen()) for variable, link in self._links.values()]

    def moved(self, shrunk: Any, model: keras.Model) -> Self:
        """Takes the links out and holds the same entries in a smaller model.

        Args:
            shrunk: the `Shrunk` record of how the model was made smaller. A
                variable that is gone is held no more.
            model: the compiled model that trains from now on.
        """
        choices = [
            (twin, shrunk.cut(variable, entries))
            for variable, entries in self.choices()
            if (twin := shrunk.variable(variable)) is not None
        ]
        self.detach()
        new = type(self)(model)
        new.attach(choices)
        return new

    def detach(self) -> None:
        """Gives the variables their own constraints back."""
        mine = {id(link) for _, link in self._links.values()}
        for variable, _ in self._links.values():
            variable.constraint = _without(variable.constraint, mine)
        self._links.clear()
        self._state.release()
        retrace(self.model)


class MaskedVariables(_Constrained[_Masked]):
    """Keeps entries of variables at zero: the masking step of every method.

    A choice is an array of 0 (zero) and 1 (free).

    Example:

    ```python
    masks = MaskedVariables(self.model)
    masks.attach([(variable, keep)])   # in `_attach`
    masks.update([(variable, keep)])   # whenever the masks change
    masks.detach()                     # in `_detach`
    ```
    """

    def _link(self, variable: keras.Variable, entries: np.ndarray) -> _Masked:
        return _Masked(entries, variable, self._state)

    def apply_statistics(self) -> None:
        """Zeroes what is masked of the variables that no optimizer updates."""
        # Optimizers apply constraints, so nothing does for the moving mean of a
        # normalization, which the forward pass updates.
        for variable, link in self._links.values():
            if not variable.trainable:
                variable.assign(link.apply(variable))


class HeldVariables(_Constrained[_Held]):
    """Keeps entries of variables at the values they had when they were chosen.

    A choice is an array of True (held) and False (free). Used as
    `MaskedVariables` is.
    """

    def _link(self, variable: keras.Variable, entries: np.ndarray) -> _Held:
        return _Held(entries, variable, self._state)


def _without(
    constraint: keras.constraints.Constraint | None, unwanted: set[int]
) -> keras.constraints.Constraint | None:
    """A chain of links, and what is behind it, without some of the links."""
    if not isinstance(constraint, _Link):
        return constraint
    constraint.inner = _without(constraint.inner, unwanted)
    return constraint.inner if id(constraint) in unwanted else constraint
