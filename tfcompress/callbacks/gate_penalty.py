"""The penalties that make gates agree, and close."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from tfcompress import schedules
from tfcompress.layers._gates import Gate
from tfcompress.policy import named_layers
from tfcompress.structure._graph import require_graph

__all__ = ["GatePenalty"]


@keras.saving.register_keras_serializable(package="tfcompress")
class GatePenalty(keras.callbacks.Callback):
    r"""Adds the penalties on a model's gates to its loss, and logs them.

    Equations 8 to 11 of Zhi et al., "A New Baseline for GreenAI: Finding the
    Optimal Sub-Network via Layer and Channel Pruning" (2023). With ḡ the
    fraction of the batch for which a gate is open, over L gates (for channel
    gates: the mean over their channels),

    $$\mathcal{L} = \mathcal{L}_{task}
      + \lambda_{polar} \frac{1}{L} \sum_l (1 - \bar g_l)\, \bar g_l
      + \lambda_{act} \frac{1}{L} \sum_l \bar g_l.$$

    The first is zero when every gate treats all samples alike, the second when
    all gates are closed. Both weights follow schedules; what the paper calls
    λ↑ is `Piecewise({0: 0.0, 125: 2.0, 190: 3.0})`.

    The weights are variables of the gates, so that a new value needs no new
    tracing; they are in force from the first epoch (or step) and back at zero
    when training ends (one that ends in an exception leaves them in force until
    the next with this callback). The validation loss contains the penalties as
    well.

    At the end of each epoch it logs, over the epoch's batches, `r_polar` (the
    mean of the first sum) and `r_act` (the mean fraction of open gates), and
    appends each gate's opening ratio to `openings`.

    Example:

    ```python
    penalty = tfc.callbacks.GatePenalty(
        polarization=tfc.schedules.Piecewise({0: 0.0, 10: 2.0}), activation=0.5
    )
    gated.fit(x, y, epochs=20, callbacks=[penalty])
    penalty.openings["add1_1_layer_gate"]  # one number for each epoch
    ```

    Args:
        polarization: λ_polar: a `Schedule` of numbers that are not negative, or
            a number. Defaults to `1.0`.
        activation: λ_act, likewise. Defaults to `0.0`.
        unit: what the schedules count: `"epoch"`, from 0, or `"step"`, the
            optimizer's updates. Defaults to `"epoch"`.

    Attributes:
        openings: gate -> mean fraction of the samples for which its outputs were
            open, for each epoch of the last training.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if a weight is negative at some step or `unit` is unknown;
            when training begins, if the model is subclassed or has no gates.
    """

    def __init__(
        self,
        polarization: schedules.Schedule | float = 1.0,
        activation: schedules.Schedule | float = 0.0,
        unit: str = "epoch",
    ) -> None:
        super().__init__()
        self.polarization = _weights("polarization", polarization)
        self.activation = _weights("activation", activation)
        if unit not in ("epoch", "step"):
            raise ValueError(
                "Invalid value for argument `unit`. Expected 'epoch' or 'step'. "
                f"Received: unit={unit!r}"
            )
        self.unit = unit
        self.openings: dict[str, list[float]] = {}
        self._restored: dict[str, list[float]] = {}
        self._present: list[Gate] = []
        self._set: tuple[float, float] | None = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Checks that there are gates."""
        require_graph(self.model)
        gates = self._gates()
        if not gates:
            raise ValueError(
                "Invalid value for argument `model`. Expected a model with gates, as "
                "from tfcompress.gates.add_layer_gates. Received: "
                f"{self.model.name!r}, which has none."
            )
        self.openings = self._restored or {name: [] for name in gates}
        self._restored = {}

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Sets the weights of this epoch and begins to count anew."""
        # Found anew: the model may have been replaced since the last epoch.
        self._present = list(self._gates().values())
        self._set = None
        for gate in self._present:
            gate.reset()
        if self.unit == "epoch":
            self._update(epoch)

    def on_train_batch_begin(
        self, batch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Sets the weights of this step."""
        if self.unit == "step":
            self._update(int(self.model.optimizer.iterations))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Logs what the gates did."""
        gates = self._gates()
        means = {name: float(np.mean(gate.opening)) for name, gate in gates.items()}
        for name, value in means.items():
            self.openings[name].append(value)
        if logs is not None:
            logs["r_polar"] = float(np.mean([g.polarity for g in gates.values()]))
            logs["r_act"] = float(np.mean(list(means.values())))

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Takes the penalties back."""
        for gate in self._gates().values():
            gate.set_penalty(0.0, 0.0)

    # What `training.fit_shrinking` needs to resume ----------------------------

    def get_state(self) -> dict[str, Any]:
        """Returns the opening ratios of the epochs so far, JSON-compatible."""
        return {"openings": self.openings}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Takes over, before training begins, what `get_state` returned.

        Args:
            state: the dict.
        """
        self._restored = {name: list(v) for name, v in state["openings"].items()}

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments as plain Python values."""
        return {
            "polarization": schedules.serialize(self.polarization),
            "activation": schedules.serialize(self.activation),
            "unit": self.unit,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> GatePenalty:
        """Creates a callback from what `get_config` returned."""
        return cls(**config)

    def _gates(self) -> dict[str, Gate]:
        return {
            name: layer
            for name, layer in named_layers(self.model).items()
            if isinstance(layer, Gate)
        }

    def _update(self, step: float) -> None:
        wanted = self.polarization(step), self.activation(step)
        if wanted != self._set:
            for gate in self._present:
                gate.set_penalty(*(weight / len(self._present) for weight in wanted))
            self._set = wanted


def _weights(argument: str, value: Any) -> schedules.Schedule:
    schedule = schedules.get(value)
    if schedule.bounds()[0] < 0:
        raise ValueError(
            f"Invalid value for argument `{argument}`. Expected weights that are not "
            f"negative. Received: {argument}={value!r}"
        )
    return schedule
