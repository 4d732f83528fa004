"""Density of non-zero activations, and when it has settled."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import keras
import numpy as np

from tfcompress._checks import number, one_of, whole
from tfcompress._meters import DensityMeter
from tfcompress._samples import read, reusable
from tfcompress._taps import Tap, activation_taps
from tfcompress.callbacks._method import Method, diverged
from tfcompress.callbacks._state import StepState, retrace
from tfcompress.structure._graph import scope_of

__all__ = ["ActivationDensity", "is_saturated", "trend"]

Trend = Literal["convex", "flat", "concave"]


def is_saturated(
    curve: Sequence[float], patience: int = 2, min_delta: float = 1e-3
) -> bool:
    """Whether a density has settled: the criterion ρ.

    Section III-A of "Activation Density driven Efficient Pruning in Training"
    (Foldy-Porto et al., 2020).

    Args:
        curve: the density of each epoch.
        patience: how many epochs in a row must differ from the one before by
            less than `min_delta`. Defaults to `2`.
        min_delta: the difference from which on a change counts. Defaults to
            `1e-3`.

    Returns:
        A bool.
    """
    changes = np.abs(np.diff(curve))[-patience:]
    return len(changes) == patience and bool((changes < min_delta).all())


def trend(curve: Sequence[float], tolerance: float = 0.02) -> Trend:
    """Where a density goes while a network trains: the criterion δ.

    The words are those of "Activation Density driven Efficient Pruning in
    Training", section III-A: a network whose density falls ("convex") has
    learned to ignore redundant connections; one whose density rises ("concave")
    has learned to use more of them, and should not be made smaller.

    The slope is the Theil–Sen estimate, the median of the slopes of all pairs of
    epochs, which single outliers do not move.

    Args:
        curve: the density of each epoch.
        tolerance: the trend is "flat" if the line of that slope rises or falls
            by less than this over the whole curve. Defaults to `0.02`.

    Returns:
        "convex" (falling), "flat" or "concave" (rising).
    """
    if len(curve) < 2:
        return "flat"
    from scipy.stats import theilslopes

    slope = theilslopes(np.asarray(curve, "float64")).slope
    if abs(slope) * (len(curve) - 1) < tolerance:
        return "flat"
    return "concave" if slope > 0 else "convex"


@keras.saving.register_keras_serializable(package="tfcompress")
class ActivationDensity(Method):
    r"""Measures how many activations are not zero, and stops when that settles.

    "Activation Density driven Efficient Pruning in Training" (Foldy-Porto,
    Venkatesha and Panda, 2020), equation 1, for every layer and in total:

    $$AE = \frac{\#\text{nonzero activations}}{\#\text{total activations}}$$

    A convolution's or dense layer's activations are read behind the activation
    function that follows it, wherever that is: in the layer, behind its
    normalization, or behind a residual addition, where the layers that are added
    share them. They count once in the total. Layers that no activation function
    with f(0) = 0 follows, such as the classifier and linear bottlenecks, are
    left out; `skipped` says why.

    At the end of each epoch it logs `density` and, for each layer,
    `density/NAME`. When `density` has changed by less than `min_delta` for
    `patience` epochs in a row (the paper's criterion ρ), the training has
    saturated; with `stop=True` it ends there. `training.resize_by_density` then
    makes every layer as wide as its density says.

    With `data`, densities are those of a sample at the end of each epoch, with
    the model in inference mode. Without, they are counted inside the training
    step, in training mode, on the first eighth of the samples of each batch: data
    should be shuffled. Either way the model's results stay as they are. After a run
    that ends in an exception, the model goes on counting until the next `fit` with a
    method of this library.

    GELU, swish and the like are never exactly zero. For these a `threshold` is
    needed, and a warning says so where there is none.

    Example:

    ```python
    density = tfc.callbacks.ActivationDensity(min_delta=1e-3)
    model.fit(x, y, epochs=100, callbacks=[density])
    print(density.saturation, density.trend)
    density.layers["conv1"]  # one number for each epoch
    ```

    Args:
        data: samples to measure on: inputs as for `fit`, a tuple `(inputs,
            labels)`, an iterable of batches of either that ends, as a
            `tf.data.Dataset`, or a `tfcompress.data.Dataset`, whose training split
            is taken. `None` counts while training. Defaults to `None`.
        patience: number of epochs in a row without a change after which the
            density has saturated. Defaults to `2`.
        min_delta: the difference from which on a change counts. Defaults to
            `1e-3`.
        stop: whether training stops when the density has saturated. Defaults to
            `True`.
        threshold: an activation counts as non-zero if its magnitude is larger
            than this. Defaults to `0.0`.
        total: what `density` is: `"activations"`, the fraction of all activations
            (equation 1 over the whole network), in which layers with large maps
            weigh most, or `"layers"`, the mean of the layers' densities, as in the
            caption of the paper's Figure 1. Defaults to `"activations"`.
        target: the part of the model to measure; see `Method`. `data` are inputs of
            that part. Defaults to `None`.

    Attributes:
        curve: the total density, for each epoch of the last run.
        layers: layer name -> its density, for each epoch.
        saturation: number of epochs after which the density had saturated, or
            `None`.
        skipped: layer name -> why its density is not measured.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if a number is out of range. When training begins, before its
            first step: if the model is subclassed or not built, no layer can be
            measured, or `data` does not fit the model. At the end of an epoch: if
            the training has diverged, so that the loss or activations are NaN.
    """

    leaves_record = False

    def __init__(
        self,
        data: Any = None,
        patience: int = 2,
        min_delta: float = 1e-3,
        stop: bool = True,
        *,
        threshold: float = 0.0,
        total: str = "activations",
        target: keras.Model | str | None = None,
    ) -> None:
        super().__init__(target=target)
        self.data = reusable(data)
        self.patience = whole("patience", patience)
        self.min_delta = number("min_delta", min_delta)
        self.stop = bool(stop)
        self.threshold = number("threshold", threshold)
        self.total = one_of("total", total, ("activations", "layers"))
        self.curve: list[float] = []
        self.layers: dict[str, list[float]] = {}
        self.saturation: int | None = None
        self.skipped: dict[str, str] = {}
        self._meter: DensityMeter | None = None
        self._state: StepState | None = None

    @property
    def trend(self) -> Trend:
        """Whether the density falls ("convex"), stays or rises ("concave")."""
        return trend(self.curve)

    # The life of a run -------------------------------------------------------

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Finds the activations, before anything trains."""
        self.curve = list(self._restored.get("curve", []))
        self.layers = {n: list(v) for n, v in self._restored.get("layers", {}).items()}
        self.saturation = self._restored.get("saturation")
        super().on_train_begin(logs)
        _warn_of_dense(self._taps, self.threshold)

    def _prepare(self) -> None:
        self._taps, self.skipped = activation_taps(self.network)
        if not self._taps:
            raise ValueError(
                "Invalid value for argument `model`. Expected a model with a "
                "convolution or dense layer that an activation function follows. "
                f"Received: {self.network.name!r} without one: {self.skipped}"
            )
        if self.data is not None:
            read(self.network, self.data)  # refuses what does not fit

    def _attach(self) -> None:
        with scope_of(self.model):
            if self.data is not None:
                self._meter = DensityMeter(self._taps, self.threshold)
                return
            self._meter = DensityMeter.for_training(self._taps, self.threshold)
        self._meter.active = False
        self._meter.attach()
        self._state = StepState(self.model)
        for variable in self._meter.variables():
            self._state.track_for_loss(variable)
        # A step that was traced before does not count.
        retrace(self.model)

    def _detach(self) -> None:
        if self._meter is not None and self.data is None:
            self._meter.detach()
            retrace(self.model)
        if self._state is not None:
            self._state.release()
        self._meter = self._state = None

    def _begin_epoch(self, epoch: int) -> None:
        assert self._meter is not None
        self._meter.reset()

    def _begin_batch(self, batch: int) -> None:
        # A training step follows, which counts.
        if self.data is None and self._meter is not None:
            self._meter.active = True

    def on_train_batch_end(
        self, batch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Does not count what follows: perhaps a validation."""
        if self.data is None and self._meter is not None:
            self._meter.active = False

    def _end_epoch(self, epoch: int) -> None:
        assert self._meter is not None
        if self.data is not None:
            self._measure(self._meter)
        if self._meter.diverged:
            raise diverged(f"activations of {', '.join(self._meter.diverged)} are")
        densities = self._meter.layers()
        for name, value in densities.items():
            self.layers.setdefault(name, []).append(value)
        over_layers = self.total == "layers"
        self.curve.append(
            float(np.mean(list(densities.values())))
            if over_layers
            else self._meter.total()
        )
        settled = is_saturated(self.curve, self.patience, self.min_delta)
        if self.saturation is None and settled:
            self.saturation = len(self.curve)
        if self.stop and self.saturation is not None:
            self.model.stop_training = True

    def _logs(self) -> dict[str, float]:
        layers = {f"density/{name}": v[-1] for name, v in self.layers.items()}
        return {"density": self.curve[-1]} | layers

    # What `training.fit_shrinking` needs to resume ----------------------------

    def get_state(self) -> dict[str, Any]:
        """Returns the densities so far, JSON-compatible."""
        return {
            "curve": self.curve,
            "layers": self.layers,
            "saturation": self.saturation,
        }

    # Steps -----------------------------------------------------------------

    def _measure(self, meter: DensityMeter) -> None:
        meter.measure(read(self.network, self.data))

    # Configuration ---------------------------------------------------------

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments as plain Python values.

        Raises:
            ValueError: if the callback holds data, which is no configuration.
        """
        if self.data is not None:
            raise ValueError(
                "ActivationDensity with `data` has no configuration: data is not "
                "stored in one. Create it anew with the data."
            )
        return {
            "patience": self.patience,
            "min_delta": self.min_delta,
            "stop": self.stop,
            "threshold": self.threshold,
            "total": self.total,
            **super().get_config(),
        }


def _warn_of_dense(taps: Mapping[str, Tap], threshold: float) -> None:
    dense = [name for name, tap in taps.items() if not tap.sparse]
    if dense and not threshold:
        shown = ", ".join(dense[:5]) + (", …" if len(dense) > 5 else "")
        warnings.warn(
            f"The activation functions behind {len(dense)} layers ({shown}) are never "
            "exactly zero, so that their density is about 1 whatever the network "
            "learns. Pass ActivationDensity(threshold=…), below which an activation "
            "counts as zero.",
            stacklevel=2,
        )
