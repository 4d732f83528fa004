"""Incremental approximation: a network learns to work with approximate multipliers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress import policy
from tfcompress._checks import one_of, whole
from tfcompress.callbacks._masking import HeldVariables
from tfcompress.callbacks._method import Method, diverged
from tfcompress.callbacks._state import retrace
from tfcompress.layers import DrumMultiply, MaskedKernel
from tfcompress.layers._drum import Partition
from tfcompress.layers._kernel_wrapper import find_wrapper
from tfcompress.ops import drum_truncate

__all__ = ["IncrementalApproximation", "grow"]


def grow(
    rank: np.ndarray, free: np.ndarray, approximated: np.ndarray, count: int
) -> np.ndarray:
    """Moves the weights of lowest rank into the approximated group.

    Args:
        rank: array of what weights are ranked by, such as approximation errors.
        free: bool array, the weights that are not pruned.
        approximated: bool array, those that are approximated already.
        count: how many are to be approximated afterwards.

    Returns:
        The bool array `approximated` with further entries, all of them free and
        none that was approximated missing.
    """
    missing = count - int(np.count_nonzero(approximated & free))
    grown = approximated & free
    if missing > 0:
        candidates = np.flatnonzero(free & ~approximated)
        ranked = candidates[np.argsort(rank.flat[candidates], kind="stable")]
        grown.flat[ranked[:missing]] = True
    return grown


@keras.saving.register_keras_serializable(package="tfcompress")
class IncrementalApproximation(Method):
    """Hands a network over to approximate multipliers step by step.

    Algorithm 1 of the cross-stack paper, for layers that are wrapped in
    `layers.DrumMultiply`. The epochs of `fit` (or the first `epochs` of them) are
    divided evenly among the iterations; if there are more iterations than epochs,
    the batches are. When iteration i of N begins, in every layer

    1. the weights that are neither pruned nor approximated are ranked, by their
       absolute approximation error |T(w) - w| or as `order` says;
    2. the η = 100 / (N - i + 1) % of them that come first join the approximated
       group, so that i / N of all unpruned weights are in it;
    3. these and the pruned ones are frozen, and the others are trained to make
       up for the approximation.

    In the layer's forward pass, products of approximated weights are approximate
    (weight and activation are truncated) and the others exact. In the last
    iteration no weight of these layers is left to train: what learns then are
    biases, normalizations and layers without approximate products. From there on
    each layer is one convolution again.

    Frozen weights do not move by one bit, whatever the optimizer: they are held
    by the variable's constraint inside the compiled step, after the constraints
    that the model has. Pruned are weights that a `layers.MaskedKernel` inside or
    around `DrumMultiply` masks, or, without one, weights that are zero. Prune
    first: do not use `DynamicSurgery` in the same `fit`.

    The weights that come last have the largest errors, and nothing makes up for
    them: the more iterations, the fewer they are. Moving averages of normalizations
    need time to follow, so leave some epochs after the last of many iterations.

    Which weights are approximated is kept in a variable of the layer, and the
    iteration follows from epoch and batch. A training run that is interrupted and
    restored goes on where it was. One that is stopped early leaves its layers partly
    approximated.

    The fraction of the unpruned weights that is approximated is logged at the end
    of each epoch as `approximated`.

    Example:

    ```python
    model = tfc.layers.wrap_kernels(pruned, lambda x: tfc.layers.DrumMultiply(x, 1, 5))
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(x, y, epochs=8, callbacks=[tfc.callbacks.IncrementalApproximation(4)])
    ```

    Args:
        iterations: N, in how many parts the weights are approximated. Defaults to
            `4`.
        epochs: how many epochs are divided among the iterations; what follows
            belongs to the last one. `None` for all epochs of `fit`. Defaults to
            `None`.
        layers: names of the `DrumMultiply` layers concerned; `None` for all.
            Defaults to `None`.
        exclude: names of layers to leave as they are. Defaults to `()`.
        order: which weights are approximated first. `"error"`: those with the
            smallest approximation error, the paper's order, in which the largest
            errors come last, when no weight is left to make up for them.
            `"relative"`: the smallest error divided by the weight's magnitude.
            `"magnitude"`: the largest weights, as in incremental network
            quantization (Zhou et al., 2017), whose scheme this is. Defaults to
            `"error"`.
        target: the part of the model to work on; see `Method`. Defaults to `None`.

    Raises:
        TypeError: if `layers` or `exclude` is not a list of strings.
        ValueError: if `iterations` or `epochs` is not a positive int. When training
            begins, before its first step: if the model is subclassed or not built,
            a name is unknown or not that of a `DrumMultiply`, there are fewer
            epochs than `epochs`, or fewer batches in them than iterations, or an
            unknown number.
    """

    _selects = True

    def __init__(
        self,
        iterations: int = 4,
        *,
        epochs: int | None = None,
        layers: Sequence[str] | None = None,
        exclude: Sequence[str] = (),
        order: str = "error",
        target: keras.Model | str | None = None,
    ) -> None:
        super().__init__(layers=layers, exclude=exclude, target=target)
        self.iterations = whole("iterations", iterations)
        self.epochs = None if epochs is None else whole("epochs", epochs)
        self.order = one_of("order", order, tuple(_ORDERS))
        self._targets: list[_Target] = []
        self._held: HeldVariables | None = None
        self._epoch = self._iteration = 0

    # The life of a run -------------------------------------------------------

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Checks layers and epochs, before anything trains."""
        super().on_train_begin(logs)
        if self._length > self.params["epochs"]:
            raise ValueError(
                "Invalid value for argument `epochs`. Expected at most as many as "
                f"`fit` has, {self.params['epochs']}. Received: epochs={self.epochs}"
            )
        epochs, steps = self._length, self.params["steps"]
        if self.iterations > epochs * (steps or 1):
            known = f"batches, {epochs * steps}" if steps else f"epochs, {epochs}"
            raise ValueError(
                "Invalid value for argument `iterations`. Expected at most as many as "
                f"there are {known}. Received: iterations={self.iterations}"
            )

    def _meet_restoring(self, stop: keras.callbacks.EarlyStopping) -> None:
        # The layers compute in the end as in the last iteration, whatever weights come
        # back.
        if stop.start_from_epoch < self._length:
            raise ValueError(
                "Invalid value for argument `callbacks`. Expected no EarlyStopping "
                "that may restore the weights of an epoch in which some are exact: "
                f"give it start_from_epoch={self._length} or more, or "
                "restore_best_weights=False. Received: start_from_epoch="
                f"{stop.start_from_epoch}"
            )

    def _prepare(self) -> None:
        selection = policy.select_layers(
            self.network, _refuse, layers=self.layers, exclude=self.exclude
        )
        self._targets = [
            _Target(name, drum, find_wrapper(layer, MaskedKernel))
            for name, layer in selection.chosen.items()
            if (drum := find_wrapper(layer, DrumMultiply)) is not None
        ]

    def _attach(self) -> None:
        self._held = HeldVariables(self.model)
        self._held.attach(self._frozen())

    def _reapply(self) -> None:
        if self._held is not None:
            self._held.apply()

    def _detach(self) -> None:
        if self._held is not None:
            self._held.detach()
        self._held = None

    def _begin_epoch(self, epoch: int) -> None:
        self._epoch = epoch
        self._begin(self.iteration(epoch, self._last_step(0, 0)))

    def _begin_batch(self, batch: int) -> None:
        # An iteration may begin within an epoch.
        iteration = self.iteration(self._epoch, self._last_step(batch, batch))
        if iteration > self._iteration:
            self._begin(iteration)

    def _logs(self) -> dict[str, float]:
        return {"approximated": self.approximated}

    def _unreached(self) -> str | None:
        if self._iteration == self.iterations:
            return None
        return f"iteration {self._iteration} of {self.iterations}"

    def iteration(self, epoch: int, batch: int = 0) -> int:
        """The iteration, from 1, that a batch of an epoch, from 0, belongs to."""
        position, length = epoch, self._length
        if self.iterations > length:
            position = epoch * self.params["steps"] + batch
            length *= self.params["steps"]
        return min(position * self.iterations // length + 1, self.iterations)

    @property
    def approximated(self) -> float:
        """Fraction of the unpruned weights that is approximated."""
        groups = [group for target in self._targets for group in _groups(target)]
        free = sum(int(np.count_nonzero(g.unpruned)) for g in groups)
        done = sum(int(np.count_nonzero(g.done)) for g in groups)
        return done / free if free else 1.0

    # Steps -----------------------------------------------------------------

    @property
    def _length(self) -> int:
        """Number of epochs that are divided among the iterations."""
        return int(self.epochs or self.params["epochs"])

    def _begin(self, iteration: int) -> None:
        self._iteration = iteration
        grown = [
            group
            for target in self._targets
            for group in _grow(target, iteration, self.iterations, self.order)
        ]
        if any(grown):
            assert self._held is not None
            self._held.update(self._frozen())
        self._set_partition("all" if iteration == self.iterations else "mixed")

    def _frozen(self) -> list[tuple[keras.Variable, np.ndarray]]:
        """Approximated and pruned weights."""
        groups = [group for target in self._targets for group in _groups(target)]
        return [(g.kernel, g.done | ~g.unpruned) for g in groups]

    def _set_partition(self, partition: Partition) -> None:
        if all(target.drum.partition == partition for target in self._targets):
            return
        for target in self._targets:
            target.drum.partition = partition
        # Steps that were traced know the partition of the time of their tracing.
        retrace(self.model, inference=True)

    # Configuration ---------------------------------------------------------

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments as plain Python values."""
        return {
            "iterations": self.iterations,
            "epochs": self.epochs,
            "order": self.order,
            **super().get_config(),
        }


# Groups of weights ------------------------------------------------------------


@dataclass(frozen=True)
class _Target:
    """A layer on approximate multipliers, and its masks, inside or outside."""

    name: str
    drum: DrumMultiply
    masked: MaskedKernel | None


@dataclass(frozen=True)
class _Groups:
    """The groups that the weights of one kernel are divided into.

    Attributes:
        kernel: the variable.
        approximated: the variable that tells which weights are approximated.
        unpruned: bool array, the weights that are not pruned.
        done: bool array, those of them that are approximated.
    """

    kernel: keras.Variable
    approximated: keras.Variable
    unpruned: np.ndarray
    done: np.ndarray


def _groups(target: _Target) -> list[_Groups]:
    drum, masked = target.drum, target.masked
    masks = {id(own.kernel): own.mask for own in masked.masks} if masked else {}
    result = []
    for kernel, variable in zip(drum.kernels, drum.approximations, strict=True):
        alive = masks.get(id(kernel), kernel)
        unpruned = ops.convert_to_numpy(alive) != 0
        done = ops.convert_to_numpy(variable) & unpruned
        result.append(_Groups(kernel, variable, unpruned, done))
    return result


def _grow(target: _Target, iteration: int, iterations: int, order: str) -> list[bool]:
    """Approximates up to the share of an iteration; tells which kernels changed."""
    drum, changed = target.drum, []
    for group in _groups(target):
        kernel = ops.convert_to_numpy(group.kernel)
        if not np.isfinite(kernel).all():
            raise diverged(f"weights of {target.name!r} are")
        truncated = drum_truncate(
            group.kernel.value, drum.weight_bits, fraction_bits=drum.fraction_bits
        )
        error = np.abs(ops.convert_to_numpy(truncated) - kernel)
        # The algorithm takes 1 / (N - i + 1) of the weights that are left. With N = 4
        # that is 1/4 of all, 1/3 of 3/4, 1/2 of 2/4 and the last quarter: after
        # iteration i, i / N of all. Cumulative, so that an epoch that is begun again
        # changes nothing.
        count = int(np.count_nonzero(group.unpruned)) * iteration // iterations
        rank = _ORDERS[order](kernel, error)
        grown = grow(rank, group.unpruned, group.done, count)
        changed.append(not np.array_equal(grown, group.done))
        group.approximated.assign(grown)
    return changed


# What weights are ranked by; the lowest are approximated first.
_ORDERS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "error": lambda kernel, error: error,
    "relative": lambda kernel, error: error / np.maximum(np.abs(kernel), 1e-30),
    "magnitude": lambda kernel, error: -np.abs(kernel),
}


def _refuse(layer: keras.layers.Layer) -> str | None:
    if find_wrapper(layer, DrumMultiply) is None:
        return "is not wrapped in tfcompress.layers.DrumMultiply"
    if not policy.kernels(layer):
        return "has no trainable kernel"
    return None
