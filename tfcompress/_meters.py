"""What layers hand on, measured while a model runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress._samples import Source, inference
from tfcompress._taps import Tap, filter_taps

__all__ = ["ActivationMeter", "DensityMeter", "watch"]

# An eighth of each training batch is counted: enough samples, at an eighth of the
# price.
_SHARE = 8


class _Meter(ABC):
    """Looks at the outputs of operations.

    Between `attach` and `detach` every run of the model, eager or inside a
    compiled step, is measured while `active`; inside compiled steps that is
    decided when the step is traced.
    """

    def __init__(self) -> None:
        self.active = True
        self._watched: list[Any] = []

    def attach(self) -> None:
        """Begins to measure."""
        for operation, measure in self._measures():
            _observers(operation).append(self._observer(measure))
            self._watched.append(operation)

    def detach(self) -> None:
        """Stops measuring and restores the operations."""
        for operation in self._watched:
            observers = _observers(operation)
            observers[:] = [o for o in observers if o.meter is not self]
            if not observers:
                # The method of the class shows again.
                object.__delattr__(operation, "call")
        self._watched.clear()

    def measure(self, source: Source) -> None:
        """Measures anew, on all of `source`, with its model in inference mode."""
        self.reset()
        self.attach()
        try:
            with inference(source.model) as run:
                for batch in source:
                    run(batch.inputs)
        finally:
            self.detach()

    def reset(self) -> None:
        """Forgets what was measured."""
        for variable in self.variables():
            variable.assign(ops.zeros(variable.shape, variable.dtype))

    @abstractmethod
    def _measures(self) -> Iterable[tuple[Any, Callable[[Any], None]]]:
        """Operations, and what is to be done with the outputs of each."""

    @abstractmethod
    def variables(self) -> Iterable[keras.Variable]:
        """What is measured."""

    def _observer(self, measure: Callable[[Any], None]) -> Callable[[Any], None]:
        def observe(output: Any) -> None:
            if self.active and not isinstance(output, keras.KerasTensor):
                measure(output)

        observe.meter = self  # type: ignore[attr-defined]
        return observe


def _observers(operation: Any) -> list[Any]:
    """Who looks at the outputs of an operation; several meters may."""
    observers = getattr(operation.call, "observers", None)
    if observers is None:
        call = operation.call
        observers = []

        def observed(*args: Any, **kwargs: Any) -> Any:
            output = call(*args, **kwargs)
            for observe in observers:
                observe(output)
            return output

        observed.observers = observers  # type: ignore[attr-defined]
        operation.call = observed
    return observers


def _sum(value: Any, dtype: str) -> keras.Variable:
    """A variable to which every replica of a strategy adds."""
    return keras.Variable(value, trainable=False, dtype=dtype, aggregation="sum")


# Counts have to be exact, and a float32 loses ones beyond 2^24. JAX has nothing wider
# than 32 bits unless it is told so. There a count is kept in three digits to the base
# 1024, each summed in an int32 of its own: with at most 1023 a step, or 2^31 / 2^20 for
# the last one, they are exact for a million steps.
_BASE = 1 << 10


def _digits() -> tuple[int, ...]:
    """What the digits of a count are multiplied with."""
    return (1, _BASE, _BASE**2) if keras.backend.backend() == "jax" else (1,)


def _count_dtype() -> str:
    return "int32" if keras.backend.backend() == "jax" else "float64"


def _split(counts: Any) -> Any:
    """The digits of counts, on a new last axis."""
    digits = _digits()
    if len(digits) > 1:
        parts = [counts // each for each in digits]
        parts = [ops.mod(part, _BASE) for part in parts[:-1]] + parts[-1:]
    else:
        parts = [counts]
    return ops.cast(ops.stack(parts, axis=-1), _count_dtype())


def _counted(variable: keras.Variable) -> np.ndarray:
    """Counts from the sums of their digits."""
    return ops.convert_to_numpy(variable).astype("float64") @ np.array(_digits())


class ActivationMeter(_Meter):
    """Accumulates the mean absolute activation of each output channel of layers.

    A layer's activation is read where the next layer reads it: after the
    normalization and the activation function, as far as each is the only reader
    of what comes before it.

    Args:
        model: a `keras.Model`.
        members: the kernels (`Member`s of channel groups) whose layers are
            watched.

    Raises:
        ValueError: if a layer's output does not show its filters on an axis.
    """

    def __init__(self, model: keras.Model, members: Sequence[Any]) -> None:
        super().__init__()
        watched = {member.layer_name: member for member in members}
        self._taps = filter_taps(model, members)
        self._sums = {
            name: _sum(np.zeros(len(watched[name].channels)), "float32")
            for name in self._taps
        }
        self._counts = {name: _sum(0.0, "float32") for name in self._taps}

    @property
    def count(self) -> int:
        """Number of samples seen by the layer that has seen the fewest."""
        return int(min(float(ops.convert_to_numpy(c)) for c in self._counts.values()))

    def result(self) -> dict[str, np.ndarray]:
        """Mean absolute activation of each output channel, by layer name.

        NaN for a channel that has ever been NaN.
        """
        return {
            name: ops.convert_to_numpy(total).astype("float64")
            / max(float(ops.convert_to_numpy(self._counts[name])), 1.0)
            for name, total in self._sums.items()
        }

    def _measures(self) -> Iterator[tuple[Any, Callable[[Any], None]]]:
        for name, (operation, axis) in self._taps.items():
            yield operation, self._adder(name, axis)

    def variables(self) -> Iterator[keras.Variable]:
        yield from self._sums.values()
        yield from self._counts.values()

    def _adder(self, name: str, axis: int) -> Callable[[Any], None]:
        def add(output: Any) -> None:
            others = [i for i in range(len(output.shape)) if i != axis]
            magnitude = ops.abs(ops.cast(output, "float32"))
            # By samples, because the last batch may be a smaller one.
            size = ops.cast(ops.shape(output)[0], "float32")
            self._sums[name].assign_add(ops.mean(magnitude, axis=others) * size)
            self._counts[name].assign_add(size)

        return add


class DensityMeter(_Meter):
    """Counts activations that are not zero.

    Activations that are not a number are neither active nor inactive. Where there
    are any, densities are NaN, and `diverged` tells how many.

    Args:
        taps: layer name -> `Tap`.
        threshold: an activation counts if its magnitude is larger than this.
        share: one of how many samples of each batch is looked at, from its
            beginning. Defaults to `1`, all.
    """

    def __init__(
        self, taps: Mapping[str, Tap], threshold: float = 0.0, share: int = 1
    ) -> None:
        super().__init__()
        self.taps = dict(taps)
        self.threshold = threshold
        self.share = share
        self._counts: dict[tuple[int, bytes], tuple[Tap, keras.Variable]] = {}
        for tap in self.taps.values():
            if tap.key not in self._counts:
                # Activations that are not zero, those that are NaN, and all.
                counts = _sum(np.zeros((3, len(_digits()))), _count_dtype())
                self._counts[tap.key] = (tap, counts)

    @classmethod
    def for_training(cls, taps: Mapping[str, Tap], threshold: float) -> DensityMeter:
        """One that is cheap enough to run in every training step."""
        return cls(taps, threshold, _SHARE)

    def layers(self) -> dict[str, float]:
        """Density of each layer's activations; NaN where nothing was seen."""
        return {name: self._density([tap.key]) for name, tap in self.taps.items()}

    def total(self) -> float:
        """Density of all activations; those that layers share count once."""
        return self._density(list(self._counts))

    @property
    def diverged(self) -> dict[str, int]:
        """Number of activations that were NaN, for each layer that had any."""
        found = {
            name: int(_counted(self._counts[tap.key][1])[1])
            for name, tap in self.taps.items()
        }
        return {name: count for name, count in found.items() if count}

    def _density(self, keys: Sequence[tuple[int, bytes]]) -> float:
        counts = [_counted(self._counts[key][1]) for key in keys]
        nonzero, nan, everything = np.sum(counts, axis=0)
        return float(nonzero / everything) if everything and not nan else float("nan")

    def _measures(self) -> Iterator[tuple[Any, Callable[[Any], None]]]:
        for tap, counts in self._counts.values():
            yield tap.operation, self._counter(tap, counts)

    def variables(self) -> Iterator[keras.Variable]:
        for _, counts in self._counts.values():
            yield counts

    def _counter(self, tap: Tap, counts: keras.Variable) -> Callable[[Any], None]:
        def count(output: Any) -> None:
            size = ops.shape(output)[0]
            output = output[: (size + self.share - 1) // self.share]
            nan = ops.isnan(output)
            if self.threshold:
                live = ops.greater(ops.abs(output), self.threshold)
            else:
                live = ops.not_equal(output, 0)
            everything = ops.size(output)
            if tap.positions is not None:
                live = ops.logical_and(live, tap.positions)
                nan = ops.logical_and(nan, tap.positions)
                share = int(tap.positions.sum())
                everything = everything // tap.positions.size * share
            nonzero, lost = (ops.sum(ops.cast(which, "int32")) for which in (live, nan))
            sums = [ops.cast(n, "int32") for n in (nonzero, lost, everything)]
            counts.assign_add(_split(ops.stack(sums)))

        return count


class _Recorder(_Meter):
    """Keeps the last outputs of operations."""

    def __init__(self, taps: Sequence[Tap]) -> None:
        super().__init__()
        self.taps = taps
        self.outputs: dict[int, np.ndarray] = {}

    def _measures(self) -> Iterator[tuple[Any, Callable[[Any], None]]]:
        for tap in self.taps:
            yield tap.operation, self._keeper(tap)

    def variables(self) -> Iterator[keras.Variable]:
        yield from ()

    def _keeper(self, tap: Tap) -> Callable[[Any], None]:
        def keep(output: Any) -> None:
            self.outputs[id(tap)] = ops.convert_to_numpy(output)

        return keep


def watch(model: keras.Model, taps: Sequence[Tap], inputs: Any) -> list[np.ndarray]:
    """Runs a model in inference mode and returns the activations at `taps`."""
    recorder = _Recorder(taps)
    recorder.attach()
    try:
        model(inputs, training=False)
    finally:
        recorder.detach()
    return [recorder.outputs[id(tap)] for tap in taps]
