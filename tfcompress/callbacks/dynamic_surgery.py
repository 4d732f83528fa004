"""Dynamic network surgery: single weights leave a network and return."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress import policy
from tfcompress._checks import name_list, number, whole
from tfcompress.callbacks._method import Method, diverged
from tfcompress.layers import MaskedKernel
from tfcompress.layers._kernel_wrapper import find_wrapper

__all__ = ["MODES", "DynamicSurgery", "mode_factors", "thresholds"]

# Factors of the first two middle layers and of the others.
MODES = {
    "conservative": (0.5, 0.5),
    "intermediate": (0.5, 0.8),
    "aggressive": (0.8, 0.8),
    "pruning_only": (1.3, 1.3),
}
_EARLY = 2


def thresholds(mean: float, std: float, factor: float) -> tuple[float, float]:
    """Below which magnitude a weight goes, and above which it comes back.

    With t = max(mean + factor · std, 0): a = 0.9 t and b = 1.1 t. Between the two
    a weight stays what it is, so that it does not flicker.

    Args:
        mean: mean of the magnitudes of a layer's weights.
        std: their standard deviation.
        factor: c, how many standard deviations above the mean.

    Returns:
        `(a, b)`.
    """
    middle = max(mean + factor * std, 0.0)
    return 0.9 * middle, 1.1 * middle


def mode_factors(mode: str, layers: Sequence[str]) -> dict[str, float]:
    """The factors that a pruning mode gives the layers of a network.

    Args:
        mode: `"conservative"`, `"intermediate"`, `"aggressive"` or
            `"pruning_only"`.
        layers: names of all layers with kernels, first to last.

    Returns:
        Name -> factor, for all but the first and the last layer.

    Raises:
        ValueError: if there is no such mode, or no layer between the first and
            the last.
    """
    if mode not in MODES:
        raise ValueError(
            "Invalid value for argument `factors`. Expected a number, a dict or one "
            f"of {', '.join(map(repr, MODES))}. Received: factors={mode!r}"
        )
    middle = layers[1:-1]
    if not middle:
        raise ValueError(
            "Invalid value for argument `factors`. Expected a dict or a number for a "
            "model without a layer between the first and the last. Received: "
            f"factors={mode!r} for a model with the layers {list(layers)}"
        )
    early, late = MODES[mode]
    return {n: early if i < _EARLY else late for i, n in enumerate(middle)}


@keras.saving.register_keras_serializable(package="tfcompress")
class DynamicSurgery(Method):
    """Prunes single weights while a model trains, and splices them back.

    The method of Guo, Yao and Chen, "Dynamic network surgery for efficient DNNs"
    (2016), as the cross-stack paper uses it. It works on layers that are wrapped
    in `layers.MaskedKernel`, whose masked weights go on learning:

    - a weight whose magnitude is at most a is masked;
    - a masked weight whose magnitude exceeds b is spliced back;
    - between a and b nothing changes,

    with a = 0.9 t and b = 1.1 t, where t = max(μ + c · σ, 0) and μ, σ are the mean
    and standard deviation of the magnitudes of a layer's weights that are neither
    masked nor zero. As in the method's published code, μ and σ are taken when the
    surgery of a layer begins and then stay: taken anew from the weights that are
    left, they would grow and prune everything in the end. The layer keeps them
    among its weights. For normally distributed weights the factor c alone
    determines the fraction that is pruned at once: 68 % for 0.5, 75 % for 0.8,
    85 % for 1.3.

    Before step k of the surgery, the masks of each layer are updated with
    probability (1 + gamma · k) ^ -power, drawn for each layer by itself, so that
    they settle while training goes on. Steps are counted by the optimizer: compile
    again to begin at 0, or set `begin`. The draws depend on `seed` and the step only,
    and masks, μ and σ are weights of the model. Therefore a training run that is
    interrupted and restored, by `keras.callbacks.BackupAndRestore` for example, goes
    on as if it had not been interrupted.

    Logged at the end of each epoch: `surgery_sparsity`, the fraction of the
    weights of the layers concerned that are masked, and `surgery_pruned` and
    `surgery_spliced`, how many times a weight was masked and spliced back in the
    epoch.

    Example:

    ```python
    model = tfc.layers.wrap_kernels(dense, tfc.layers.MaskedKernel)
    model.compile("adam", "sparse_categorical_crossentropy")
    surgery = tfc.callbacks.DynamicSurgery("aggressive", end=2000)
    model.fit(x, y, epochs=10, callbacks=[surgery])
    pruned = tfc.finalize(model)
    ```

    Args:
        factors: c, larger for more pruning: a number for all masked layers that
            train, a dict from layer names to numbers for those it names, or a mode of
            the cross-stack paper, which leaves the first and the last layer of the
            model with a kernel alone: `"conservative"` (0.5),
            `"intermediate"` (0.5 for the first two layers that are not left alone
            and 0.8 for the others), `"aggressive"` (0.8), or `"pruning_only"`
            (1.3).
        gamma: how fast updates get rarer, at least 0. Defaults to `1e-4`.
        power: how fast updates get rarer, at least 0. Defaults to `1.0`.
        begin: step at which surgery begins. Defaults to `0`.
        end: step from which the masks stay as they are; `None` for never.
            Defaults to `None`.
        seed: of the draws. Defaults to `0`.
        target: the part of the model to work on; see `Method`. Defaults to `None`.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if an argument is out of range. When training begins, before
            its first step: if the model is subclassed or not built, a name is
            unknown, or a layer that is concerned is not masked.
    """

    def __init__(
        self,
        factors: float | str | Mapping[str, float],
        *,
        gamma: float = 1e-4,
        power: float = 1.0,
        begin: int = 0,
        end: int | None = None,
        seed: int = 0,
        target: keras.Model | str | None = None,
    ) -> None:
        super().__init__(target=target)
        self.factors = _factors(factors)
        self.gamma = number("gamma", gamma)
        self.power = number("power", power)
        self.begin = whole("begin", begin, 0)
        self.end = None if end is None else whole("end", end, 0)
        self.seed = whole("seed", seed, 0)
        if self.end is not None and self.end <= self.begin:
            raise ValueError(
                "Invalid value for argument `end`. Expected a step after "
                f"begin={begin!r}. Received: end={end!r}"
            )
        self._targets: list[tuple[str, MaskedKernel, float]] = []
        self._pruned = self._spliced = 0

    # The life of a run -------------------------------------------------------

    unit = "step"

    def _prepare(self) -> None:
        layers = policy.named_layers(self.network)
        masked = {
            name: wrapper
            for name, layer in layers.items()
            if (wrapper := find_wrapper(layer, MaskedKernel)) is not None
        }
        self._targets = [
            (name, masked[name], factor)
            for name, factor in self._factors_of(layers, masked).items()
        ]

    def _begin_epoch(self, epoch: int) -> None:
        self._pruned = self._spliced = 0

    def _advance(self, step: int) -> None:
        if step < self.begin or (self.end is not None and step >= self.end):
            return
        draws = np.random.default_rng([self.seed, step]).random(len(self._targets))
        probability = self.probability(step)
        for (name, layer, factor), draw in zip(self._targets, draws, strict=True):
            if draw < probability:
                self._operate(name, layer, factor)

    def _logs(self) -> dict[str, Any]:
        return {
            "surgery_sparsity": self.sparsity,
            "surgery_pruned": self._pruned,
            "surgery_spliced": self._spliced,
        }

    def _unreached(self) -> str | None:
        # Masks that change until the last step leave weights that have not learned to
        # do without those that went; whoever names an `end` wants them to.
        step = self.updates_done
        if step <= self.begin:
            return f"step {step} (begin={self.begin})"
        if self.end is not None and step < self.end:
            return f"step {step} (end={self.end})"
        return None

    def probability(self, step: int) -> float:
        """Probability with which the masks of a layer are updated.

        Args:
            step: the optimizer's count of updates, from `begin` on.

        Returns:
            (1 + gamma · (step - begin)) ^ -power
        """
        return float((1 + self.gamma * (step - self.begin)) ** -self.power)

    @property
    def sparsity(self) -> float:
        """Fraction of the weights of the layers concerned that are masked."""
        masks = [own.mask for _, layer, _ in self._targets for own in layer.masks]
        total = sum(math.prod(mask.shape) for mask in masks)
        return 1 - sum(_count(mask) for mask in masks) / total

    # Steps -----------------------------------------------------------------

    def _factors_of(
        self,
        layers: Mapping[str, keras.layers.Layer],
        masked: Mapping[str, MaskedKernel],
    ) -> Mapping[str, float]:
        if isinstance(self.factors, float):
            if not masked:
                raise ValueError(
                    "Invalid value for argument `factors`. Expected a model with "
                    "layers wrapped in tfcompress.layers.MaskedKernel; see "
                    "tfcompress.layers.wrap_kernels. Received: a model without any."
                )
            learning = [name for name, own in masked.items() if policy.kernels(own)]
            if not learning:
                raise ValueError(
                    "Invalid value for argument `factors`. Expected layers whose "
                    "kernels train, or a dict that names others. Received: "
                    f"{', '.join(masked)}, not trainable"
                )
            return dict.fromkeys(learning, self.factors)
        factors: Mapping[str, float]
        if isinstance(self.factors, str):
            with_kernel = [n for n, layer in layers.items() if policy.kernels(layer)]
            factors = mode_factors(self.factors, with_kernel)
        else:
            factors = policy.by_full_name(self.factors, layers, "factors")
        unmasked = [name for name in factors if name not in masked]
        if unmasked:
            raise ValueError(
                "Invalid value for argument `factors`. Expected layers wrapped in "
                "tfcompress.layers.MaskedKernel; see tfcompress.layers.wrap_kernels. "
                f"Received others: {', '.join(unmasked)}"
            )
        return factors

    def _operate(self, name: str, layer: MaskedKernel, factor: float) -> None:
        for own in layer.masks:
            if not bool(ops.all(ops.isfinite(own.kernel))):
                raise diverged(f"weights of {name!r} are")
            if not np.any(ops.convert_to_numpy(own.statistics)):
                own.statistics.assign(_statistics(own.kernel, own.mask))
            mean, std = ops.convert_to_numpy(own.statistics).tolist()
            # For each weight w with mask m:
            #     |w| ≤ a: m = 0      a < |w| ≤ b: m stays      |w| > b: m = 1
            # `leaves` are weights with m = 1 and `returns` are weights with m = 0, so
            # that one exclusive or switches both. Masked weights have gone on learning,
            # which is why some exceed b.
            low, high = thresholds(mean, std, factor)
            size = ops.abs(own.kernel)
            leaves = ops.logical_and(own.mask, size <= low)
            returns = ops.logical_and(ops.logical_not(own.mask), size > high)
            self._pruned += _count(leaves)
            self._spliced += _count(returns)
            own.mask.assign(ops.logical_xor(own.mask, ops.logical_or(leaves, returns)))

    # Configuration ---------------------------------------------------------

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments as plain Python values."""
        factors = self.factors
        return {
            "factors": dict(factors) if isinstance(factors, Mapping) else factors,
            "gamma": self.gamma,
            "power": self.power,
            "begin": self.begin,
            "end": self.end,
            "seed": self.seed,
            **super().get_config(),
        }


def _count(entries: Any) -> int:
    return int(np.count_nonzero(ops.convert_to_numpy(entries)))


def _statistics(kernel: keras.Variable, mask: keras.Variable) -> np.ndarray:
    """Mean and standard deviation of the magnitudes that are alive and not zero."""
    sizes = np.abs(ops.convert_to_numpy(kernel).astype("float64"))
    alive = sizes[(sizes != 0) & ops.convert_to_numpy(mask)]
    return np.array([alive.mean(), alive.std()]) if alive.size else np.zeros(2)


def _factors(factors: Any) -> float | str | dict[str, float]:
    if isinstance(factors, str):
        mode_factors(factors, ["first", "middle", "last"])  # raises if unknown
        return factors
    if isinstance(factors, Mapping):
        if not factors:
            raise ValueError(
                "Invalid value for argument `factors`. Expected at least one layer. "
                "Received: an empty dict"
            )
        name_list("factors", factors)
        return {name: _factor(factor) for name, factor in factors.items()}
    return _factor(factors)


def _factor(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(
            "Invalid value for argument `factors`. Expected a number, the name of a "
            f"mode, or a dict from layer names to numbers. Received: {value!r}"
        )
    if not math.isfinite(value):
        raise ValueError(
            "Invalid value for argument `factors`. Expected finite numbers. "
            f"Received: {value!r}"
        )
    return float(value)
