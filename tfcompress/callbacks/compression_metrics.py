"""Size, work and energy of a model while it trains."""

from __future__ import annotations

import os
from typing import Any

import keras

from tfcompress.callbacks._method import Method
from tfcompress.cost import ModelCost, energy, profile
from tfcompress.cost._live import LiveCost

__all__ = ["CompressionMetrics"]


@keras.saving.register_keras_serializable(package="tfcompress")
class CompressionMetrics(Method):
    """Writes how small the model has become into the logs of each epoch.

    - `sparsity`: fraction of the kernels' elements that are zero.
    - `parameters`, `macs`: parameters, and multiply–accumulates for one sample (1
      MAC = 2 FLOPs), without the channels that are zero, that is what `finalize`
      leaves of the model.
    - `energy`: modeled energy of one inference in joules, likewise.

    `History`, `CSVLogger`, `TensorBoard` and `ModelCheckpoint` record them if they
    come after this callback in the list. The model is analyzed once when training
    begins; an epoch only adds the search for zeros.

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
        target: the part of the model to count; see `Method`. Defaults to `None`.

    Attributes:
        costs: the `ModelCost` at the end of each epoch of the last training run,
            without the channels that are zero.

    Raises:
        TypeError: if `hardware` is of another kind.
        ValueError: if the profile does not exist or is not valid; when training
            begins, if the model is subclassed or leaves sizes open.
    """

    leaves_record = False

    def __init__(
        self,
        hardware: str | os.PathLike[str] | None = "horowitz_45nm",
        *,
        target: keras.Model | str | None = None,
    ) -> None:
        super().__init__(target=target)
        self.hardware = None if hardware is None else os.fspath(hardware)
        self._profile = None if hardware is None else profile(hardware)
        self._live: LiveCost | None = None
        self._sparsity = 0.0
        self.costs: list[ModelCost] = []

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Analyzes the model."""
        before = self._restored.get("costs", ())
        self.costs = [ModelCost.from_dict(cost) for cost in before]
        super().on_train_begin(logs)

    def _prepare(self) -> None:
        self._live = LiveCost(self.network)

    def _end_epoch(self, epoch: int) -> None:
        assert self._live is not None
        cost, self._sparsity = self._live.measure()
        self.costs.append(cost)

    def _logs(self) -> dict[str, float]:
        cost = self.costs[-1]
        logs: dict[str, float] = {"sparsity": self._sparsity}
        logs |= {"parameters": cost.parameters, "macs": cost.macs}
        if self._profile is not None:
            logs["energy"] = energy(cost, self._profile).total
        return logs

    def _detach(self) -> None:
        self._live = None

    # What `training.fit_shrinking` needs to resume ----------------------------

    def get_state(self) -> dict[str, Any]:
        """Returns the costs of the epochs so far, JSON-compatible."""
        return {"costs": [cost.to_dict() for cost in self.costs]}

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments as plain Python values."""
        return {"hardware": self.hardware, **super().get_config()}
