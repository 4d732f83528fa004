"""What training takes: multiply–accumulates and memory accesses over all epochs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import keras

from tfcompress._checks import whole
from tfcompress.cost._results import ModelCost
from tfcompress.cost._table import quantity

__all__ = [
    "TrainingCost",
    "pruning_while_training_saving",
    "training_complexity",
    "training_cost",
    "training_latency",
    "training_memory_complexity",
]


@dataclass(frozen=True)
class TrainingCost:
    """What a training run took; 1 MAC = 2 FLOPs.

    Validation, the loss and the optimizer's own arithmetic are not in it.

    Attributes:
        epochs: how many epochs.
        samples: samples in an epoch.
        forward_macs: multiply–accumulates of the forward passes.
        backward_macs: those for the gradients of the layers' inputs.
        update_macs: those for the gradients of the weights.
        memory_accesses: elements read and written, `None` where the sizes of
            the epochs do not tell.
    """

    epochs: int
    samples: int
    forward_macs: int
    backward_macs: int
    update_macs: int
    memory_accesses: int | None

    @property
    def macs(self) -> int:
        """Multiply–accumulates of all phases."""
        return self.forward_macs + self.backward_macs + self.update_macs

    @property
    def flops(self) -> int:
        """Floating-point operations: 2 × MACs."""
        return 2 * self.macs

    def to_dict(self) -> dict[str, Any]:
        """A dictionary of plain values, for JSON."""
        return {**asdict(self), "macs": self.macs}

    def __str__(self) -> str:
        accesses = (
            "memory accesses unknown"
            if self.memory_accesses is None
            else f"{quantity(self.memory_accesses)}memory accesses"
        )
        return (
            f"{self.epochs} epochs of {self.samples} samples: "
            f"{quantity(self.macs)}MACs ({quantity(self.flops)}FLOPs = 2 × MACs), "
            f"{accesses}"
        )


def training_cost(
    sizes: Sequence[ModelCost] | Mapping[str, Sequence[float]] | Any,
    samples: int,
    *,
    batch_size: int = 1,
) -> TrainingCost:
    """What a training run took, from the size of the model in each epoch.

    A training step takes the products of the forward pass, as many for the
    gradients of the layers' inputs and as many for those of the weights. Memory
    accesses follow Table I of "Pruning filters while training" (Roy et al.,
    2020; see `ModelCost.accesses`); weights are read and written once for each
    batch.

    Example:

    ```python
    metrics = tfc.callbacks.CompressionMetrics()
    model.fit(..., callbacks=[pruning, metrics])
    print(tfc.cost.training_cost(metrics.costs, samples=50_000, batch_size=128))
    ```

    Args:
        sizes: a `ModelCost` for each epoch; or a `History` (or its dictionary)
            with `"macs"` for each epoch, of a model whose weights were all
            trained, from which memory accesses cannot be computed.
        samples: samples in an epoch.
        batch_size: samples in a batch. Defaults to 1, as in the paper.

    Returns:
        A `TrainingCost`.

    Raises:
        TypeError: if `sizes` is of another kind.
        ValueError: if it is empty, or a number is not positive.
    """
    whole("samples", samples)
    whole("batch_size", batch_size)
    if isinstance(sizes, keras.callbacks.History):
        sizes = sizes.history
    if isinstance(sizes, Mapping):
        return _from_history(sizes, samples)
    costs: list[Any] = list(sizes) if isinstance(sizes, Sequence) else [sizes]
    if not all(isinstance(cost, ModelCost) for cost in costs):
        raise TypeError(
            "Invalid value for argument `sizes`. Expected a ModelCost for each epoch, "
            f"or a training history. Received: sizes={sizes!r}"
        )
    if not costs:
        raise ValueError(
            "Invalid value for argument `sizes`. Expected at least one epoch. "
            f"Received: sizes={sizes!r}"
        )
    # Activations are read and written for every sample. Weights are used for a whole
    # batch once they are read, so that their share falls with the size of the batch.
    batches = math.ceil(samples / batch_size)
    rows = [row for cost in costs for row in cost.rows]
    accesses = [cost.accesses for cost in costs]
    return TrainingCost(
        epochs=len(costs),
        samples=samples,
        forward_macs=samples * sum(row.macs for row in rows),
        backward_macs=samples * sum(row.backward_macs for row in rows),
        update_macs=samples * sum(row.update_macs for row in rows),
        memory_accesses=sum(
            samples * each.activations + batches * each.weights for each in accesses
        ),
    )


def _from_history(history: Mapping[str, Sequence[float]], samples: int) -> TrainingCost:
    macs = history.get("macs")
    if not macs:
        raise ValueError(
            "Invalid value for argument `sizes`. Expected a history with 'macs' for "
            "each epoch, as tfcompress.callbacks.CompressionMetrics writes. Received: "
            f"a history with {sorted(history)}"
        )
    forward = samples * round(math.fsum(macs))
    return TrainingCost(len(macs), samples, forward, forward, forward, None)


def training_complexity(
    ops_reductions: Sequence[float], epochs: Sequence[float]
) -> float:
    """Training complexity of successively smaller networks, in epochs.

    Equation 4 of "Activation density driven efficient pruning in training"
    (Foldy-Porto et al., 2020): the sum over networks of training epochs divided
    by the network's OPS reduction, that is its epochs in units of epochs of the
    first network.

    Example:

    >>> tfc.cost.training_complexity([1, 6.0], [100, 210])
    135.0

    Args:
        ops_reductions: for each network, the multiply–accumulates of the first
            one divided by its own.
        epochs: for each network, how long it was trained.

    Returns:
        The training complexity, in epochs of the first network.

    Raises:
        ValueError: if the lengths differ or a number is out of range.
    """
    if len(ops_reductions) != len(epochs) or not len(epochs):
        raise ValueError(
            "Invalid value for argument `epochs`. Expected one number for each of "
            f"{len(ops_reductions)} networks. Received: epochs={epochs!r}"
        )
    for reduction in ops_reductions:
        if not reduction > 0:
            raise ValueError(
                "Invalid value for argument `ops_reductions`. Expected positive "
                f"numbers. Received: ops_reductions={ops_reductions!r}"
            )
    for number in epochs:
        if not number >= 0:
            raise ValueError(
                "Invalid value for argument `epochs`. Expected numbers of at least 0. "
                f"Received: epochs={epochs!r}"
            )
    pairs = zip(epochs, ops_reductions, strict=True)
    return math.fsum(number / reduction for number, reduction in pairs)


def training_memory_complexity(
    parameter_reductions: Sequence[float], epochs: Sequence[float]
) -> float:
    """`training_complexity` with parameter reductions for OPS reductions.

    Section IV-D of "Activation density driven efficient pruning in training".

    Args:
        parameter_reductions: for each network, the parameters of the first one
            divided by its own.
        epochs: for each network, how long it was trained.

    Returns:
        The training memory complexity, in epochs of the first network.

    Raises:
        ValueError: if the lengths differ or a number is out of range.
    """
    return training_complexity(parameter_reductions, epochs)


def pruning_while_training_saving(
    rates: Sequence[float],
    *,
    final: float,
    retraining_epochs: int = 10,
    size: Callable[[float], float] | None = None,
) -> float:
    """What pruning while training saves over pruning afterwards and retraining.

    Section V of "Pruning filters while training" (Roy et al., 2020). With n
    epochs, pruned fraction p_e in epoch e and r epochs of retraining at the
    final fraction p,

        saving = 1 − Σ_e s(p_e) / (n + r s(p)),

    where s is the size of a network of which a fraction is pruned. The paper
    takes s(p) = 1 − p, which gives its 41 %: every term of its Table I is
    proportional to the channels of one side. Counts that depend on input and
    output channels shrink by (1 − p_in)(1 − p_out) instead; give `size` for that.

    Example:

    >>> rates = [0.8 * (epoch + 0.5) / 80 for epoch in range(80)]
    >>> round(tfc.cost.pruning_while_training_saving(rates, final=0.8), 3)
    0.415

    Args:
        rates: the pruned fraction in each epoch.
        final: the fraction that is pruned at the end, and in retraining.
        retraining_epochs: epochs of retraining saved. Defaults to 10.
        size: function from the pruned fraction to the relative size, 1 for
            nothing pruned. Defaults to `1 - p`.

    Returns:
        The saved fraction.

    Raises:
        ValueError: if a fraction is outside [0, 1] or `retraining_epochs` is
            negative.
    """
    for name, fractions in (("rates", rates), ("final", (final,))):
        if not len(fractions) or not all(0 <= p <= 1 for p in fractions):
            raise ValueError(
                f"Invalid value for argument `{name}`. Expected fractions from 0 to "
                f"1. Received: {name}={rates if name == 'rates' else final!r}"
            )
    if retraining_epochs < 0:
        raise ValueError(
            "Invalid value for argument `retraining_epochs`. Expected at least 0. "
            f"Received: retraining_epochs={retraining_epochs!r}"
        )
    shrink = size or (lambda p: 1 - p)
    afterwards = len(rates) + retraining_epochs * shrink(final)
    return 1 - math.fsum(map(shrink, rates)) / afterwards


def training_latency(
    epochs: float,
    *,
    batches: float,
    batch_seconds: float,
    ranking_seconds: float = 0.0,
) -> float:
    """Time that a training run takes, in seconds.

    Section V of "Pruning filters while training" (Roy et al., 2020): n epochs of
    B mini-batches that take t_mb each, and t_L1 once an epoch for ranking the
    filters, t = n (B t_mb + t_L1). Pruning afterwards takes n + m epochs without
    the ranking, where m is the number of retraining epochs.

    Example:

    An epoch of VGG-16 on ImageNet takes the paper 7,680 s. Ten epochs of
    retraining, which pruning while training does without, take

    >>> seconds = tfc.cost.training_latency(10, batches=1, batch_seconds=7680)
    >>> round(seconds / 3600, 1)  # hours
    21.3

    Args:
        epochs: how many epochs.
        batches: mini-batches in an epoch.
        batch_seconds: what a training step on one of them takes.
        ranking_seconds: what ranking the filters takes, once an epoch. Defaults
            to 0.0.

    Returns:
        Seconds.

    Raises:
        ValueError: if a number is negative or not finite.
    """
    given = {
        "epochs": epochs,
        "batches": batches,
        "batch_seconds": batch_seconds,
        "ranking_seconds": ranking_seconds,
    }
    for name, value in given.items():
        if not 0 <= value < math.inf:
            raise ValueError(
                f"Invalid value for argument `{name}`. Expected a number of at least "
                f"0. Received: {name}={value!r}"
            )
    return epochs * (batches * batch_seconds + ranking_seconds)
