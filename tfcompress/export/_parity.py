"""How close an exported file is to the Keras model it came from."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfcompress._samples import Samples, call_model, random_samples, take_samples
from tfcompress.export._runtime import Program, open_file
from tfcompress.structure._graph import require_graph

__all__ = ["RANDOM_SAMPLES", "SAMPLE_LIMIT", "Parity", "compare_outputs", "parity"]

SAMPLE_LIMIT = 1000
RANDOM_SAMPLES = 32


@dataclass(frozen=True)
class Parity:
    """Difference between an exported file and the Keras model.

    Attributes:
        max_difference: largest absolute difference of any output value.
        output_range: largest absolute output value of the Keras model, which
            `max_difference` is to be seen against.
        top1_agreement: fraction of samples with the same largest output; `None`
            where the model has not one output of shape `(batch, classes)`.
        samples: how many samples were compared.
        data: `"given"`, or `"random"` where no data were given and seeded
            uniform noise was used; agreement on noise says little.
    """

    max_difference: float
    output_range: float
    top1_agreement: float | None
    samples: int
    data: str

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


def parity(
    model: keras.Model,
    path: str | os.PathLike[str] | bytes | keras.Model,
    data: Any = None,
) -> Parity:
    """Compares an exported file, or another model, with a Keras model.

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
        return compare_outputs(model, _ModelProgram(path), samples, kind)
    return compare_outputs(model, open_file(path), samples, kind)


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


def compare_outputs(
    model: keras.Model, program: Program | _ModelProgram, samples: Samples, kind: str
) -> Parity:
    """The `Parity` of a loaded file on checked samples."""
    expected = call_model(model, samples, remember=True)
    actual = program(program.check(samples if len(samples) > 1 else samples[0]))
    differences = [
        np.abs(a.astype(np.float64) - e.astype(np.float64)).max(initial=0.0)
        for a, e in zip(actual, expected, strict=True)
    ]
    agreement = None
    if len(expected) == 1 and expected[0].ndim == 2 and expected[0].shape[1] > 1:
        same = expected[0].argmax(-1) == actual[0].argmax(-1)
        agreement = float(same.mean())
    return Parity(
        max_difference=float(np.max(differences)),
        output_range=float(max(np.abs(e).max(initial=0.0) for e in expected)),
        top1_agreement=agreement,
        samples=len(samples[0]),
        data=kind,
    )
