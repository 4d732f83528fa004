"""The penalties that make gates agree, and close."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from tfcompress import schedules
from tfcompress._checks import one_of
from tfcompress.callbacks._method import Method, diverged
from tfcompress.layers._gates import Gate
from tfcompress.policy import named_layers

__all__ = ["GatePenalty"]


@keras.saving.register_keras_serializable(package="tfcompress")
class GatePenalty(Method):
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
    tracing. They are in force from the first epoch (or step), and are set back to
    zero when training ends. A run that ends in an exception leaves them in force
    until the next `fit` with a method of this library. The validation loss contains
    the penalties as well.

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
        target: the part of the model whose gates are meant; see `Method`. Defaults
            to `None`.

    Attributes:
        openings: gate -> mean fraction of the samples for which its outputs were
            open, for each epoch of the last training run.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if a weight is negative at some step or `unit` is unknown;
            when training begins, if the model is subclassed or has no gates.
    """

    _adds_to_loss = True

    def __init__(
        self,
        polarization: schedules.Schedule | float = 1.0,
        activation: schedules.Schedule | float = 0.0,
        unit: str = "epoch",
        *,
        target: keras.Model | str | None = None,
    ) -> None:
        super().__init__(target=target)
        self.polarization = _weights("polarization", polarization)
        self.activation = _weights("activation", activation)
        self.unit = one_of("unit", unit, ("epoch", "step"))
        self.openings: dict[str, list[float]] = {}
        self._gates: dict[str, Gate] = {}
        self._set: tuple[float, float] | None = None

    def _prepare(self) -> None:
        self._gates = {
            name: layer
            for name, layer in named_layers(self.network).items()
            if isinstance(layer, Gate)
        }
        if not self._gates:
            raise ValueError(
                "Invalid value for argument `model`. Expected a model with gates, as "
                "from tfcompress.gates.add_layer_gates. Received: "
                f"{self.network.name!r}, which has none."
            )

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Checks that there are gates."""
        super().on_train_begin(logs)
        before = self._restored.get("openings") or dict.fromkeys(self._gates, ())
        self.openings = {name: list(values) for name, values in before.items()}

    def _attach(self) -> None:
        self._set = None

    def _begin_epoch(self, epoch: int) -> None:
        for gate in self._gates.values():
            gate.reset()
        super()._begin_epoch(epoch)

    def _advance(self, step: int) -> None:
        # Each gate adds its own term to the loss. The factor 1 / L of equations 8, 9
        # and 11 is in the weights, so that the sum over the gates is the mean of the
        # paper.
        wanted = self.polarization(step), self.activation(step)
        if wanted != self._set:
            for gate in self._gates.values():
                gate.set_penalty(*(weight / len(self._gates) for weight in wanted))
            self._set = wanted

    def _schedules(self) -> Iterable[schedules.Schedule]:
        return self.polarization, self.activation

    def _end_epoch(self, epoch: int) -> None:
        for name, gate in self._gates.items():
            opening = float(np.mean(gate.opening))
            if not np.isfinite(opening):
                raise diverged(f"decisions of the gate {name!r} are")
            self.openings[name].append(opening)

    def _logs(self) -> dict[str, float]:
        means = [self.openings[name][-1] for name in self._gates]
        return {
            "r_polar": float(np.mean([g.polarity for g in self._gates.values()])),
            "r_act": float(np.mean(means)),
        }

    def _detach(self) -> None:
        for gate in self._gates.values():
            gate.set_penalty(0.0, 0.0)

    # What `training.fit_shrinking` needs to resume ----------------------------

    def get_state(self) -> dict[str, Any]:
        """Returns the opening ratios of the epochs so far, JSON-compatible."""
        return {"openings": self.openings}

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments as plain Python values."""
        return {
            "polarization": schedules.serialize(self.polarization),
            "activation": schedules.serialize(self.activation),
            "unit": self.unit,
            **super().get_config(),
        }


def _weights(argument: str, value: Any) -> schedules.Schedule:
    schedule = schedules.get(value)
    if schedule.bounds()[0] < 0:
        raise ValueError(
            f"Invalid value for argument `{argument}`. Expected weights that are not "
            f"negative. Received: {argument}={value!r}"
        )
    return schedule
