"""Weights that stay as they are while the others train."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import keras
import numpy as np
from keras import ops

from tfcompress import policy
from tfcompress._checks import one_of
from tfcompress.callbacks._masking import HeldVariables, MaskedVariables
from tfcompress.callbacks._method import Method

__all__ = ["HoldWeights"]


@keras.saving.register_keras_serializable(package="tfcompress")
class HoldWeights(Method):
    """Keeps pruned weights at zero, or all weights at their values, in training.

    With `what="zeros"` this is masked retraining: kernel entries that are zero
    when training begins stay zero, the others learn. With `what="values"` whole
    kernels stay, and only biases, normalizations and layers that are left out
    learn, which is the retraining that follows quantization.

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
        target: the part of the model to work on; see `Method`. Defaults to `None`.

    Raises:
        TypeError: if `layers` or `exclude` is not a list of strings.
        ValueError: if `what` is neither of the two. When training begins: if a
            name is unknown.
    """

    _selects = True

    def __init__(
        self,
        what: Literal["zeros", "values"] = "zeros",
        layers: Sequence[str] | None = None,
        exclude: Sequence[str] = (),
        *,
        target: keras.Model | str | None = None,
    ) -> None:
        super().__init__(layers=layers, exclude=exclude, target=target)
        self.what = one_of("what", what, tuple(_KINDS))
        self._held: MaskedVariables | HeldVariables | None = None
        self._kernels: dict[str, keras.Variable] = {}

    def _prepare(self) -> None:
        selected = policy.select_kernels(self.network, self.layers, self.exclude)
        self._kernels = {
            f"{name}/{index}": kernel
            for name, own in selected.items()
            for index, kernel in enumerate(own)
        }

    def _attach(self) -> None:
        self._held = _KINDS[self.what](self.model)
        self._held.attach(
            (kernel, self._restored.get(name, self._choice(kernel)))
            for name, kernel in self._kernels.items()
        )

    def _choice(self, kernel: keras.Variable) -> np.ndarray:
        if self.what == "zeros":
            return ops.convert_to_numpy(kernel) != 0
        return np.ones(kernel.shape, bool)

    def _reapply(self) -> None:
        if self._held is not None:
            self._held.apply()

    def _detach(self) -> None:
        if self._held is not None:
            self._held.detach()
        self._held = None

    def _carry(self, shrunk: Any) -> None:
        assert self._held is not None
        self._held = self._held.moved(shrunk, shrunk.model)
        self._model = shrunk.model
        self._prepare()

    def get_state(self) -> dict[str, Any]:
        """Returns which entries are held, by kernel."""
        held = {} if self._held is None else self._held.choices()
        entries = {id(variable): chosen for variable, chosen in held}
        return {
            name: entries[id(kernel)].astype(bool)
            for name, kernel in self._kernels.items()
            if id(kernel) in entries
        }

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments as plain Python values."""
        return {
            "what": self.what,
            **super().get_config(),
        }


_KINDS: dict[str, type[MaskedVariables] | type[HeldVariables]] = {
    "zeros": MaskedVariables,
    "values": HeldVariables,
}
