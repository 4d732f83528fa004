"""Scheduled pruning of single weights by magnitude."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress import policy, schedules
from tfcompress._checks import one_of
from tfcompress.callbacks._masking import MaskedVariables
from tfcompress.callbacks._method import Method, diverged
from tfcompress.callbacks._rates import get_rates, serialize_rates
from tfcompress.constraints import BlockSparsity, NOfM
from tfcompress.structure._facts import summed_axes

__all__ = ["MagnitudePruning", "largest"]


def largest(weights: Sequence[np.ndarray], sparsity: float) -> list[np.ndarray]:
    """Which weights stay if a fraction of them, the smallest, is pruned.

    The `round(size * (1 - sparsity))`-th largest magnitude, and at least the
    largest, is the threshold; weights that equal it stay. This is the rule of
    `prune_low_magnitude` of TensorFlow Model Optimization. If the threshold is zero,
    there are more zeros than are to be pruned, and only as many of them stay as are
    needed, evenly spaced: that rule would keep them all.

    Args:
        weights: arrays that are ranked together.
        sparsity: the fraction, in [0, 1).

    Returns:
        A bool array for each of `weights`.
    """
    sizes = [np.abs(each) for each in weights]
    flat = np.concatenate([size.ravel() for size in sizes])
    # In float32, as TensorFlow Model Optimization computes it, so that the counts
    # agree.
    kept = max(1, round(float(np.float32(flat.size) * np.float32(1 - sparsity))))
    threshold = np.partition(flat, flat.size - kept)[flat.size - kept]
    if threshold > 0:
        return [size >= threshold for size in sizes]
    keep = flat > 0
    zeros = np.flatnonzero(~keep)
    room = kept - (flat.size - zeros.size)
    keep[zeros[np.arange(room) * zeros.size // room]] = True
    ends = np.cumsum([size.size for size in sizes])[:-1]
    parts = np.split(keep, ends)
    return [p.reshape(s.shape) for p, s in zip(parts, sizes, strict=True)]


@keras.saving.register_keras_serializable(package="tfcompress")
class MagnitudePruning(Method):
    """Sets a growing number of single weights to zero while the model trains.

    The method of Zhu and Gupta, "To prune, or not to prune" (2017), which
    `prune_low_magnitude` of TensorFlow Model Optimization offers for legacy Keras:
    whenever the schedule's value changes, the weights of smallest magnitude of each
    kernel are masked, as many as the value says. Between two changes masked weights
    stay at zero, whatever the optimizer, its momentum and its weight decay, because
    the mask is part of the compiled step (a constraint of the variable, after those
    that the model has). The model needs no wrappers, and nothing has to be stripped
    afterwards.

    Single zeros make a file smaller once it is compressed (`.tfcz`, zip, the weight
    memory of an NPU); a plain `.tflite` and its latency stay what they are. For a
    model that is smaller everywhere remove channels: `FilterPruning`.

    Biases, normalizations and layers that do not train are not pruned. With
    several kernels in a layer, each is pruned at the same rate. At least one weight
    of each kernel stays.

    The fraction of the selected weights that is masked is logged at the end of each
    epoch as `weight_sparsity`.

    Example:

    ```python
    pruning = tfc.callbacks.MagnitudePruning(
        tfc.schedules.Polynomial(0.0, 0.9, begin=200, end=2000, every=100)
    )
    model.fit(x, y, epochs=10, callbacks=[pruning])
    tfc.export.pack(model, "small.tfcz")
    ```

    Args:
        schedule: a `Schedule` of sparsities in [0, 1), or a number. A dict from
            layer names to schedules or numbers prunes just those layers.
        pattern: which weights are pruned together. `None` for single weights.
            `"2:4"`, or an `NOfM`, leaves at most n of every m consecutive weights
            along the input axis, as sparse tensor cores want them (of attention and
            `EinsumDense` the last axis that is summed over); the schedule has
            to end at 1 - n/m, and on its way there the smallest `round(value * m)`
            weights of every m are zero. A `BlockSparsity` prunes whole tiles, of
            which only the shape counts here: how many follows from the schedule.
            Defaults to `None`.
        scope: `"layer"` ranks the weights of each kernel by themselves, `"network"`
            those of all layers together, so that layers end at different
            sparsities. Defaults to `"layer"`.
        unit: what the schedule counts: `"step"`, the optimizer's updates, or
            `"epoch"`, from 0; a further `fit` with the callback goes on, also if the
            model is compiled again. Defaults to `"step"`.
        layers: names of the layers to prune; `None` for all that have trainable
            kernels. Not with a dict. Defaults to `None`.
        exclude: names of layers to leave alone. Defaults to `()`.
        target: the part of the model to prune; see `Method`. Defaults to `None`.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if a sparsity is outside [0, 1) at any step, or another argument
            is not valid. When training begins, before its first step: if the model
            is subclassed or not built, or a name is unknown or stands for a layer
            without a trainable kernel.
    """

    _selects = True
    _goes_on = True

    def __init__(
        self,
        schedule: schedules.Schedule | float | Mapping[str, Any],
        pattern: str | NOfM | BlockSparsity | None = None,
        scope: str = "layer",
        unit: str = "step",
        layers: Sequence[str] | None = None,
        exclude: Sequence[str] = (),
        *,
        target: keras.Model | str | None = None,
    ) -> None:
        super().__init__(layers=layers, exclude=exclude, target=target)
        self.schedule = get_rates(schedule)
        self.pattern = _pattern(pattern)
        self.scope = one_of("scope", scope, ("layer", "network"))
        self.unit = one_of("unit", unit, ("epoch", "step"))
        if isinstance(self.schedule, dict) and layers is not None:
            raise ValueError(
                "Invalid value for argument `layers`. Expected None where `schedule` "
                f"names the layers. Received: layers={layers!r}"
            )
        if self.scope == "network" and (
            self.pattern is not None or isinstance(self.schedule, dict)
        ):
            raise ValueError(
                "Invalid value for argument `scope`. Expected 'layer' where `pattern` "
                "or a dict of schedules says how many weights each layer keeps. "
                "Received: scope='network'"
            )
        if isinstance(self.pattern, NOfM):
            _check_end(self.schedule, self.pattern)
        self._masks: MaskedVariables | None = None
        self._by_layer: dict[str, schedules.Schedule] | None = None
        self._kernels: dict[str, list[keras.Variable]] = {}
        self._summed: dict[int, tuple[int, ...]] = {}  # axes, by id of the kernel
        self._last: dict[str, float] = {}

    # The life of a run -------------------------------------------------------

    def _prepare(self) -> None:
        names, argument = self.layers, "layers"
        self._by_layer = None
        if isinstance(self.schedule, dict):
            known, argument = policy.named_layers(self.network), "schedule"
            self._by_layer = policy.by_full_name(self.schedule, known, argument)
            names = tuple(self._by_layer)
        self._kernels = policy.select_kernels(
            self.network, names, self.exclude, argument
        )
        layers = policy.named_layers(self.network)
        self._summed = {
            id(kernel): summed_axes(layers[name], kernel)
            for name, own in self._kernels.items()
            for kernel in own
        }

    def _attach(self) -> None:
        self._masks = MaskedVariables(self.model)
        # A run that is continued reads its masks from the zeros. A kernel that is zero
        # as a whole was made so: pruning leaves at least one weight.
        self._masks.attach(
            (kernel, alive | ~alive.any())
            for own in self._kernels.values()
            for kernel in own
            for alive in [ops.convert_to_numpy(kernel) != 0]
        )
        self._last = {}

    def _advance(self, step: int) -> None:
        wanted = {name: self._schedule_of(name)(step) for name in self._kernels}
        if wanted == self._last or not any(wanted.values()):
            return
        assert self._masks is not None
        # All weights are ranked again. Those that are masked are zero and rank lowest,
        # so that a rate that grows only adds to them.
        values = {name: self._values(name) for name in self._kernels}
        if self.scope == "network":
            listed = [value for own in values.values() for value in own]
            ranked = largest(listed, next(iter(wanted.values())))
            # A layer whose weights are all small would be emptied, and the model cut.
            keep = iter(
                mask if mask.any() else np.abs(value) == np.abs(value).max()
                for mask, value in zip(ranked, listed, strict=True)
            )
        else:
            keep = iter(
                self._kept(value, wanted[name], self._summed[id(kernel)])
                for name, own in values.items()
                for kernel, value in zip(self._kernels[name], own, strict=True)
            )
        kernels = [kernel for own in self._kernels.values() for kernel in own]
        self._masks.update(zip(kernels, keep, strict=True))
        self._last = wanted

    def _logs(self) -> dict[str, float]:
        return {"weight_sparsity": self.sparsity}

    def _reapply(self) -> None:
        if self._masks is not None:
            self._masks.apply()

    def _detach(self) -> None:
        if self._masks is not None:
            self._masks.detach()
        self._masks = None

    def _carry(self, shrunk: Any) -> None:
        assert self._masks is not None
        self._masks = self._masks.moved(shrunk, shrunk.model)
        self._model = shrunk.model
        self._prepare()

    def _schedules(self) -> Iterable[schedules.Schedule]:
        return map(self._schedule_of, self._kernels)

    @property
    def sparsity(self) -> float:
        """Fraction of the weights of the selected kernels that is zero."""
        kernels = [
            ops.convert_to_numpy(kernel)
            for own in self._kernels.values()
            for kernel in own
        ]
        total = sum(kernel.size for kernel in kernels)
        return 1 - sum(map(np.count_nonzero, kernels)) / total

    # Steps -----------------------------------------------------------------

    def _schedule_of(self, name: str) -> schedules.Schedule:
        if self._by_layer is not None:
            return self._by_layer[name]
        assert isinstance(self.schedule, schedules.Schedule)
        return self.schedule

    def _values(self, name: str) -> list[np.ndarray]:
        values = [ops.convert_to_numpy(kernel) for kernel in self._kernels[name]]
        if not all(np.isfinite(value).all() for value in values):
            raise diverged(f"weights of {name!r} are")
        return [value.astype("float32") for value in values]

    def _kept(
        self, weights: np.ndarray, sparsity: float, summed: tuple[int, ...]
    ) -> np.ndarray:
        if self.pattern is None:
            return largest([weights], sparsity)[0]
        if getattr(self.pattern, "axis", -2) != -2 or not summed:
            return _kept_of(self.pattern, weights, sparsity)
        # As the kernel of a dense or convolution layer: output channels are the last
        # axis, input channels the one before.
        made = [axis for axis in range(weights.ndim) if axis not in summed]
        order = [*summed, *made]
        moved = weights.transpose(order)
        matrix = moved.reshape(*moved.shape[: len(summed)], -1)
        keep = _kept_of(self.pattern, matrix, sparsity).reshape(moved.shape)
        return keep.transpose(np.argsort(order))

    # Configuration ---------------------------------------------------------

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments as plain Python values."""
        pattern: Any = self.pattern
        if pattern is not None:
            pattern = keras.saving.serialize_keras_object(pattern)
        return {
            "schedule": serialize_rates(self.schedule),
            "pattern": pattern,
            "scope": self.scope,
            "unit": self.unit,
            **super().get_config(),
        }


def _kept_of(
    pattern: NOfM | BlockSparsity, weights: np.ndarray, sparsity: float
) -> np.ndarray:
    """Which weights of a kernel (…, in, out) stay, by a pattern."""
    # A weight that happens to be zero may stay.
    sizes = np.maximum(np.abs(weights.astype("float64")), 1e-300)
    if isinstance(pattern, NOfM):
        pruned = min(round(sparsity * pattern.m), pattern.m - 1)
        rule: Any = NOfM(pattern.m - pruned, pattern.m, pattern.axis)
    else:
        rows, columns = pattern.rows, pattern.columns
        matrix = weights.reshape(-1, weights.shape[-1]).shape
        tiles = -(-matrix[0] // rows) * -(-matrix[1] // columns)
        count = max(1, round(tiles * (1 - sparsity)))
        rule = BlockSparsity(rows, columns, count=count)
    return rule.project(sizes) != 0


def _pattern(value: Any) -> NOfM | BlockSparsity | None:
    expected = 'Expected None, text such as "2:4", an NOfM or a BlockSparsity. '
    if isinstance(value, Mapping):
        value = keras.saving.deserialize_keras_object(dict(value))
    if isinstance(value, str):
        found = re.fullmatch(r"(\d+):(\d+)", value)
        if not found or not 0 < int(found[1]) < int(found[2]):
            raise ValueError(
                f"Invalid value for argument `pattern`. {expected}"
                f"Received: pattern={value!r}"
            )
        return NOfM(int(found[1]), int(found[2]))
    if not (value is None or isinstance(value, NOfM | BlockSparsity)):
        raise TypeError(
            f"Invalid value for argument `pattern`. {expected}"
            f"Received: pattern={value!r}"
        )
    return value


def _check_end(schedule: Any, pattern: NOfM) -> None:
    """A schedule must end where the pattern does, or the file has no pattern."""
    final = 1 - pattern.n / pattern.m
    each = schedule.values() if isinstance(schedule, dict) else [schedule]
    for one in each:
        if round(one.bounds()[1] * pattern.m) != pattern.m - pattern.n:
            raise ValueError(
                "Invalid value for argument `schedule`. Expected one that ends at a "
                f"sparsity of {final:g}, that of {pattern.n} kept weights in "
                f"{pattern.m}. Received: a schedule that ends at {one.bounds()[1]:g}"
            )
