"""How close an exported file is to the Keras model it came from."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfcompress._samples import Samples, call_model, random_samples, take_samples
from tfcompress.export._runtime import open_file
from tfcompress.structure._graph import require_graph

__all__ = [
    "RANDOM_SAMPLES",
    "SAMPLE_LIMIT",
    "OutputParity",
    "Parity",
    "compare_outputs",
    "parity",
]

SAMPLE_LIMIT = 1000
RANDOM_SAMPLES = 32
# What a sum of float32 in another order may change, as a share of the largest value: a
# hundred times the distance of two floats.
_ROUNDING = 1e-5


@dataclass(frozen=True)
class OutputParity:
    """Difference of one output.

    Attributes:
        max_difference: largest absolute difference of any value.
        mean_difference: mean absolute difference.
        output_range: largest absolute value of the Keras model.
        step: distance of two values that the file can tell apart; 0 where it
            computes them in float.
        top1_agreement: fraction of samples with the same largest value; `None`
            where the output is not of shape `(batch, classes)`.
        changed: fraction of samples with another decision among those on which
            the Keras model decides by more than two steps, or by more than floats
            are rounded; `None` as above, and where there are none.
    """

    max_difference: float
    mean_difference: float
    output_range: float
    step: float
    top1_agreement: float | None
    changed: float | None


@dataclass(frozen=True)
class Parity:
    """Difference between an exported file and the Keras model.

    Attributes:
        max_difference: largest absolute difference of any output value.
        output_range: largest absolute output value of the Keras model, which
            `max_difference` is to be seen against.
        top1_agreement: fraction of samples with the same largest output, the
            lowest of all outputs of shape `(batch, classes)`; `None` where there
            is no such output.
        samples: how many samples were compared.
        data: `"given"`, or `"random"` where no data were given and seeded
            uniform noise was used; agreement on noise says little.
        outputs: the same for each output.
    """

    max_difference: float
    output_range: float
    top1_agreement: float | None
    samples: int
    data: str
    outputs: tuple[OutputParity, ...] = ()

    def __str__(self) -> str:
        kind = "" if self.data == "given" else "random "
        agreement = (
            ""
            if self.top1_agreement is None
            else f", top-1 agreement {100 * self.top1_agreement:.2f} %"
        )
        return (
            f"maximum difference {self.max_difference:.2e}{agreement} "
            f"({self.samples} {kind}samples)"
        )

    def fault(self, tolerance: float) -> str | None:
        """Says what is beyond a tolerance, or returns `None`.

        Args:
            tolerance: the largest difference of each output, as a share of its
                range, and the largest share of changed decisions. One step of an
                integer output, and half of one for its rounding, is always allowed.
        """
        for number, output in enumerate(self.outputs):
            name = f"output {number}: " if len(self.outputs) > 1 else ""
            limit = max(tolerance * output.output_range, 1.5 * output.step, 1e-9)
            # Written so that NaN fails, too.
            if not output.max_difference <= limit:
                return (
                    f"{name}the largest difference is {output.max_difference:.3g}, at "
                    f"most {limit:.3g} is tolerated at values up to "
                    f"{output.output_range:.3g}"
                )
            if output.changed is not None and output.changed > tolerance:
                return (
                    f"{name}it decides otherwise on {100 * output.changed:.1f} % of "
                    "the samples that are no close call, at most "
                    f"{100 * tolerance:.3g} % are tolerated"
                )
        return None


def parity(
    model: keras.Model, path: str | os.PathLike[str] | bytes, data: Any = None
) -> Parity:
    """Compares an exported file with the Keras model it came from.

    Args:
        model: the Keras model.
        path: the exported `.tflite` file, or its content as bytes, or a model that
            takes and returns the same.
        data: samples for `model`: arrays as for `fit`, a tuple `(inputs,
            labels)`, an iterable of batches of either that ends, or a
            `tfcompress.data.Dataset`, whose test split is taken; all samples are
            compared. Defaults to `None`, which compares on 32 samples of seeded
            random numbers.

    Returns:
        A `Parity`.

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: if `data` do not fit the model or the file cannot be read.
    """
    require_graph(model)
    if data is None:
        samples = random_samples(model, RANDOM_SAMPLES)
    else:
        samples, _ = take_samples(
            model, data, limit=None, argument="data", split="test"
        )
    kind = "random" if data is None else "given"
    if isinstance(path, keras.Model):
        _check_same_outputs(model, path)
        program: Any = _ModelProgram(path)
    else:
        program = open_file(path)
    expected = call_model(model, samples, remember=True)
    return compare_outputs(expected, program, samples, kind)


def _check_same_outputs(model: keras.Model, other: keras.Model) -> None:
    require_graph(other, "path")
    expected, received = (
        [tuple(tensor.shape[1:]) for tensor in m.outputs] for m in (model, other)
    )
    if expected != received:
        raise ValueError(
            "Invalid value for argument `path`. Expected a model with outputs of the "
            f"shapes {expected}. Received: {received}"
        )


class _ModelProgram:
    """A Keras model that is run as an exported file is."""

    def __init__(self, model: keras.Model) -> None:
        self._model = model

    def check(self, inputs: Any) -> Samples:
        """`inputs` as arrays that fit the model."""
        return take_samples(self._model, inputs, limit=None, argument="data")[0]

    def __call__(self, samples: Samples) -> list[np.ndarray]:
        """The model's outputs."""
        return call_model(self._model, samples, remember=True)

    def step(self, output: int) -> float:
        """A model answers in float."""
        return 0.0


def compare_outputs(
    expected: Sequence[np.ndarray], program: Any, samples: Samples, kind: str
) -> Parity:
    """The `Parity` of a loaded file with the outputs of the model on samples."""
    actual = program(program.check(samples if len(samples) > 1 else samples[0]))
    outputs = tuple(
        _compare(
            np.asarray(e, "float64"), np.asarray(a, "float64"), program.step(number)
        )
        for number, (e, a) in enumerate(zip(expected, actual, strict=True))
    )
    agreements = [o.top1_agreement for o in outputs if o.top1_agreement is not None]
    return Parity(
        max_difference=float(np.max([output.max_difference for output in outputs])),
        output_range=max(output.output_range for output in outputs),
        top1_agreement=min(agreements, default=None),
        samples=len(samples[0]),
        data=kind,
        outputs=outputs,
    )


def _compare(expected: np.ndarray, actual: np.ndarray, step: float) -> OutputParity:
    """The difference of one output."""
    difference = np.abs(actual - expected)
    agreement = changed = None
    if expected.ndim == 2 and expected.shape[1] > 1:
        # An integer output has few values, and floats are rounded. Two classes that
        # Keras tells apart by less than a step or two may change places by rounding
        # alone, which is no fault of the file: only samples with a clear winner count
        # as changed decisions.
        same = expected.argmax(-1) == actual.argmax(-1)
        agreement = float(same.mean())
        second, first = np.sort(expected, -1)[:, -2:].T
        rounding = _ROUNDING * np.abs(expected).max(initial=0.0)
        clear = first - second > 2 * max(step, rounding)
        changed = float((~same)[clear].mean()) if clear.any() else None
    return OutputParity(
        max_difference=float(difference.max(initial=0.0)),
        mean_difference=float(difference.mean()) if difference.size else 0.0,
        output_range=float(np.abs(expected).max(initial=0.0)),
        step=step,
        top1_agreement=agreement,
        changed=changed,
    )
