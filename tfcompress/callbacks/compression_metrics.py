"""Size, work and energy of a model while it trains."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import keras

from tfcompress.cost import ModelCost, energy, profile
from tfcompress.cost._live import LiveCost
from tfcompress.structure._graph import require_graph

__all__ = ["CompressionMetrics"]


@keras.saving.register_keras_serializable(package="tfcompress")
class CompressionMetrics(keras.callbacks.Callback):
    """Writes how small the model has become into the logs of each epoch.

    - `sparsity`: fraction of the kernels' elements that are zero.
    - `parameters`, `macs`: parameters, and multiply–accumulates for one sample (1
      MAC = 2 FLOPs), without the channels that are zero, that is what `finalize`
      leaves of the model.
    - `energy`: modelled energy of one inference in joules, likewise.

    `History` records them, and so do `CSVLogger`, `TensorBoard` and
    `ModelCheckpoint` when they come after this callback in the list. The model
    is analysed once when training begins; an epoch only adds the search for
    zeros.

    Example:

    ```python
    metrics = tfc.callbacks.CompressionMetrics()
    history = model.fit(x, y, epochs=20, callbacks=[pruning, metrics])
    history.history["macs"]
    tfc.cost.training_cost(metrics.costs, samples=len(x), batch_size=32)
    ```

    Args:
        hardware: hardware profile of the energy, by name or path; `None` leaves
            the energy out. Defaults to `"horowitz_45nm"`.

    Attributes:
        costs: the `ModelCost` at the end of each epoch of the last training,
            without the channels that are zero.

    Raises:
        TypeError: if `hardware` is of another kind.
        ValueError: if the profile does not exist or is not valid; when training
            begins, if the model is subclassed or leaves sizes open.
    """

    def __init__(
        self, hardware: str | os.PathLike[str] | None = "horowitz_45nm"
    ) -> None:
        super().__init__()
        self.hardware = None if hardware is None else os.fspath(hardware)
        self._profile = None if hardware is None else profile(hardware)
        self._live: LiveCost | None = None
        self.costs: list[ModelCost] = []
        self._restored: list[ModelCost] = []

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Analyses the model."""
        self.costs, self._restored = self._restored, []
        self._analyse()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Writes the present figures into the logs."""
        if self._live is None or self._live.model is not self.model:
            self._analyse()
        assert self._live is not None
        cost, sparsity = self._live.measure()
        self.costs.append(cost)
        if logs is None:
            return
        logs["sparsity"] = sparsity
        logs["parameters"] = cost.parameters
        logs["macs"] = cost.macs
        if self._profile is not None:
            logs["energy"] = energy(cost, self._profile).total

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Lets go of the model."""
        self._live = None

    def _analyse(self) -> None:
        require_graph(self.model)
        self._live = LiveCost(self.model)

    # What `training.fit_shrinking` needs to resume ----------------------------

    def get_state(self) -> dict[str, Any]:
        """Returns the costs of the epochs so far, JSON-compatible."""
        return {"costs": [cost.to_dict() for cost in self.costs]}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Takes over, before training begins, what `get_state` returned.

        Args:
            state: the dict.
        """
        self._restored = [ModelCost.from_dict(cost) for cost in state["costs"]]

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments as plain Python values."""
        return {"hardware": self.hardware}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> CompressionMetrics:
        """Creates a callback from what `get_config` returned."""
        return cls(**config)
