"""Weights that stay as they are while the others train."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import keras
import numpy as np
from keras import ops

from tfcompress import policy
from tfcompress.callbacks._kernels import select_kernels
from tfcompress.callbacks._masking import HeldVariables, MaskedVariables

__all__ = ["HoldWeights"]


@keras.saving.register_keras_serializable(package="tfcompress")
class HoldWeights(keras.callbacks.Callback):
    """Keeps pruned weights at zero, or all weights at their values, in training.

    With `what="zeros"` this is masked retraining: kernel entries that are zero
    when training begins stay zero, the others learn. With `what="values"` whole
    kernels stay, and only biases, normalisations and layers that are left out
    learn, which is the retraining that follows quantisation.

    The weights are held by the variables' constraints inside the compiled step,
    so no momentum or weight decay moves them; the constraints that the model has
    are applied first, and are given back when training ends.

    Example:

    ```python
    model.fit(x, y, callbacks=[tfc.callbacks.HoldWeights("zeros")])
    ```

    Args:
        what: `"zeros"` or `"values"`. Defaults to `"zeros"`.
        layers: names of the layers whose kernels are held; `None` for all that
            have kernels. Defaults to `None`.
        exclude: names of layers to leave alone. Defaults to `()`.

    Raises:
        TypeError: if `layers` or `exclude` is not a list of strings.
        ValueError: if `what` is neither of the two. When training begins: if a
            name is unknown.
    """

    def __init__(
        self,
        what: Literal["zeros", "values"] = "zeros",
        layers: Sequence[str] | None = None,
        exclude: Sequence[str] = (),
    ) -> None:
        super().__init__()
        if what not in ("zeros", "values"):
            raise ValueError(
                "Invalid value for argument `what`. Expected 'zeros' or 'values'. "
                f"Received: what={what!r}"
            )
        self.what = what
        self.layers = None if layers is None else policy.check_list(layers, "layers")
        self.exclude = policy.check_list(exclude, "exclude")
        self._held: MaskedVariables | HeldVariables | None = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Checks names before anything trains."""
        # A training that ended in an exception was never told that it ended.
        self._release()
        select_kernels(self.model, self.layers, self.exclude)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Attaches the constraints, once."""
        # Not in `on_train_begin`: a callback that restores an interrupted
        # training may come after this one in the list.
        if self._held is not None:
            return
        selected = select_kernels(self.model, self.layers, self.exclude)
        variables = [kernel for own in selected.values() for kernel in own]
        if self.what == "zeros":
            self._held = MaskedVariables(self.model, self.params)
            self._held.attach((v, ops.convert_to_numpy(v) != 0) for v in variables)
        else:
            self._held = HeldVariables(self.model, self.params)
            self._held.attach((v, np.ones((1,) * v.ndim)) for v in variables)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Gives the variables their own constraints back."""
        if self._held is not None:
            # Keras may just have replaced the weights by their moving average.
            self._held.apply()
        self._release()

    def _release(self) -> None:
        if self._held is not None:
            self._held.detach()
        self._held = None

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments as plain Python values."""
        return {
            "what": self.what,
            "layers": None if self.layers is None else list(self.layers),
            "exclude": list(self.exclude),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> HoldWeights:
        """Creates a callback from what `get_config` returned."""
        return cls(**config)
