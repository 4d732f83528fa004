"""Zeros that stay zero while a model trains: the masking step of every method.

A mask is enforced by the variable's constraint, which Keras applies after every
update inside the compiled step: no optimizer moves a masked weight, whatever
its momentum or weight decay, and no callback ever sees an unmasked one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

__all__ = ["MaskedVariables"]


class MaskedVariables:
    """Holds masks on variables of a model that is being trained.

    Example:

    ```python
    masks = MaskedVariables(self.model, self.params)
    masks.attach([(variable, keep)])   # in on_train_begin or on_epoch_begin
    masks.update([(variable, keep)])   # whenever the masks change
    masks.detach()                     # in on_train_end
    ```

    Args:
        model: the compiled `keras.Model` that owns the variables.
        training: an object that all callbacks of one `fit` share and no other
            `fit` does, as a callback's `params`. Masks of this training are
            combined; those that an earlier one left behind, because it ended in
            an exception, are dropped.
    """

    def __init__(self, model: keras.Model, training: Any) -> None:
        self.model = model
        self.training = training
        self._masks: dict[int, tuple[keras.Variable, keras.Variable]] = {}

    def attach(self, masks: Iterable[tuple[keras.Variable, np.ndarray]]) -> None:
        """Zeroes what is masked and keeps it so from now on.

        Existing constraints stay in force and are applied first. The training
        step is traced again, because a traced step knows the constraints of the
        time of its tracing.

        Args:
            masks: pairs of a variable and an array of 0 and 1 that broadcasts
                against it. Variables that will be masked later must be among
                them, with a mask of that shape.
        """
        for variable, keep in masks:
            mask = keras.Variable(
                keep, trainable=False, dtype=variable.dtype, name="mask"
            )
            self._masks[id(variable)] = (variable, mask)
            current = _without(
                variable.constraint, lambda c: c.training is not self.training
            )
            variable.constraint = _Masked(mask, current, self.training)
        self.apply()
        self.model.make_train_function(force=True)

    def update(self, masks: Iterable[tuple[keras.Variable, np.ndarray]]) -> None:
        """Changes masks, and zeroes what they newly mask.

        Args:
            masks: as for `attach`; variables that are left out keep their mask.
        """
        for variable, keep in masks:
            _, mask = self._masks[id(variable)]
            mask.assign(np.broadcast_to(keep, mask.shape))
            variable.assign(variable * mask)

    def apply(self) -> None:
        """Zeroes what is masked.

        The training step does so by itself. This is for values that were
        written by something else, such as averaged weights.
        """
        for variable, mask in self._masks.values():
            variable.assign(variable * mask)

    def apply_statistics(self) -> None:
        """Zeroes what is masked of the variables that no optimizer updates."""
        for variable, mask in self._masks.values():
            if not variable.trainable:
                variable.assign(variable * mask)

    def detach(self) -> None:
        """Gives the variables their own constraints back."""
        mine = {id(mask) for _, mask in self._masks.values()}
        for variable, _ in self._masks.values():
            variable.constraint = _without(
                variable.constraint, lambda c: id(c.mask) in mine
            )
        self._masks.clear()
        self.model.make_train_function(force=True)


class _Masked(keras.constraints.Constraint):
    """Multiplies a variable by a mask, after the constraint it had before."""

    def __init__(
        self,
        mask: keras.Variable,
        inner: keras.constraints.Constraint | None,
        training: Any,
    ) -> None:
        self.mask = mask
        self.inner = inner
        self.training = training

    def __call__(self, w: Any) -> Any:
        if self.inner is not None:
            w = self.inner(w)
        return ops.multiply(w, self.mask)


def _without(
    constraint: keras.constraints.Constraint | None,
    unwanted: Callable[[_Masked], bool],
) -> keras.constraints.Constraint | None:
    """A chain of masks, and what is behind it, without some of the masks."""
    if not isinstance(constraint, _Masked):
        return constraint
    constraint.inner = _without(constraint.inner, unwanted)
    return constraint.inner if unwanted(constraint) else constraint
