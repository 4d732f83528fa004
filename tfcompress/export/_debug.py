"""Which layer of an exported file computes something else."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfcompress._samples import Samples, take_samples
from tfcompress.export._runtime import Program, open_file
from tfcompress.layers import FakeQuantize
from tfcompress.structure import _graph

__all__ = ["LayerError", "LayerErrors", "compare_layers", "debug"]

_SAMPLES = 32


@dataclass(frozen=True)
class LayerError:
    """How far a layer's output in a file is from that in Keras.

    Attributes:
        name: the layer or operation; `"outer/inner"` inside nested models.
        kind: its class.
        error: root mean square of the difference, as a share of that of the
            output.
        added: how much larger it is than the largest error of its inputs.
        max_difference: largest absolute difference of any value.
        own_difference: the same, if the layer is computed in Keras from the inputs
            that it has in the file; `None` where a layer is called several times. A
            file of a model of `quantization.prepare` rounds some values to the next
            step, so that one step is not an error.
        step: distance of two values that the file can tell apart there; 0 where
            it computes in float.
    """

    name: str
    kind: str
    error: float
    added: float
    max_difference: float
    own_difference: float | None
    step: float


@dataclass(frozen=True)
class LayerErrors:
    """The layers of a file by error; `print` shows a table.

    Attributes:
        rows: one `LayerError` for each layer that has a tensor of its own in the
            file, the largest `added` first.
        merged: names of the layers that the file computes as part of others.
    """

    rows: tuple[LayerError, ...]
    merged: tuple[str, ...]

    def __str__(self) -> str:
        head = ("error", "added", "max difference", "steps", "own steps")
        lines: list[tuple[str, ...]] = [("layer", "class", *head)]
        for row in self.rows:
            figures = (f"{100 * row.error:.2f} %", f"{100 * row.added:.2f} %")
            steps = (
                "" if not row.step or value is None else f"{value / row.step:.1f}"
                for value in (row.max_difference, row.own_difference)
            )
            difference = f"{row.max_difference:.3g}"
            lines.append((row.name, row.kind, *figures, difference, *steps))
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = [
            "  ".join(
                cell.ljust(n) for cell, n in zip(line, widths, strict=True)
            ).rstrip()
            for line in lines
        ]
        if self.merged:
            text.append(f"computed as part of others: {', '.join(self.merged)}")
        return "\n".join(text)


def debug(
    model: keras.Model, path: str | os.PathLike[str] | bytes, data: Any
) -> LayerErrors:
    """Compares an exported file with the Keras model, layer by layer.

    Both are run on the same samples, and each layer's output in the file is
    compared with that in Keras. Errors of a layer continue in the layers that follow.
    `added` shows where they arise, and `own_difference` is the difference of a layer
    on the same inputs.

    Example:

    >>> print(tfc.export.debug(model, "model.tflite", x_test))

    Args:
        model: the Keras model that `path` was exported from.
        path: the `.tflite` file, or its content as bytes.
        data: inputs, in any form that `to_tflite` takes as its calibration. The
            first 32 samples of a dataset are used, of arrays 32 evenly spread.

    Returns:
        A `LayerErrors`.

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: if `data` do not fit the model, or the file cannot be read or
            has no tensor that is named after a layer of the model.
    """
    _graph.require_graph(model)
    samples, _ = take_samples(model, data, limit=_SAMPLES, argument="data")
    errors = compare_layers(model, open_file(path, keep=True), samples)
    if not errors.rows:
        raise ValueError(
            "Invalid value for argument `path`. Expected a file that was exported from "
            f"{model.name!r}. Received: a file without a tensor of any of its layers."
        )
    return errors


def compare_layers(
    model: keras.Model, program: Program, samples: Samples
) -> LayerErrors:
    """The `LayerErrors` of a file that keeps its tensors."""
    samples = [array[:_SAMPLES] for array in samples]
    expected = _values(model, samples)
    calls = [
        (prefix + call.operation.name, call)
        for prefix, call in _graph.walk(model)
        if not _graph.is_editable(call)
    ]
    found = _find(model, [name for name, _ in calls], program)
    actual = program.tensors(samples, sorted(set(found.values())))
    # A file has fewer tensors than the model has layers: the converter merges
    # convolution, bias and ReLU into one operator, and only its last layer has a
    # tensor to compare. The others are `merged`, and hand on the error of their
    # inputs, so that `added` of a layer is measured from the last tensor in common.
    # A file stores the rounded form of a tensor, where the model has one.
    rounded = {
        id(call.inputs[0]): call.outputs[0]
        for _, call in calls
        if isinstance(call.operation, FakeQuantize)
    }
    own = _own_differences(model, samples, calls, found, actual, rounded)
    rows, merged = [], []
    errors: dict[int, float] = {}  # of tensors of the model
    for name, call in calls:
        before = max((errors.get(id(t), 0.0) for t in call.inputs), default=0.0)
        tensor = call.outputs[0]
        values = expected.get(id(rounded.get(id(tensor), tensor)))
        place = found.get(name)
        if place is None or values is None or actual[place].size != values.size:
            errors.update((id(t), before) for t in call.outputs)
            if place is None and not getattr(call.operation, "temporary", False):
                merged.append(name)
            continue
        step = program.step_of(place)
        row = _row(name, call, values, actual[place], before, own.get(name), step)
        errors.update((id(t), row.error) for t in call.outputs)
        rows.append(row)
    rows.sort(key=lambda row: -row.added)
    return LayerErrors(tuple(rows), tuple(merged))


# Helpers --------------------------------------------------------------------


def _row(
    name: str,
    call: _graph.Call,
    expected: np.ndarray,
    actual: np.ndarray,
    before: float,
    own: float | None,
    step: float,
) -> LayerError:
    expected = expected.astype("float64").reshape(-1)
    difference = np.abs(actual.astype("float64").reshape(-1) - expected)
    power = float(np.sqrt(np.mean(expected**2)))
    error = float(np.sqrt(np.mean(difference**2))) / max(power, 1e-12)
    return LayerError(
        name=name,
        kind=type(call.operation).__name__,
        error=error,
        added=max(error - before, 0.0),
        max_difference=float(difference.max(initial=0.0)),
        own_difference=own,
        step=step,
    )


def _own_differences(
    model: keras.Model,
    samples: Samples,
    calls: list[tuple[str, _graph.Call]],
    found: dict[str, int],
    actual: dict[int, np.ndarray],
    rounded: dict[int, Any],
) -> dict[str, float]:
    """Largest difference of each layer that is called once, from the file's inputs.

    The model is run once more. Every tensor that the file has, too, is compared and
    then replaced by that of the file, so that no error continues in later layers.
    """
    times = Counter(name for name, _ in calls)
    owners: dict[int, list[str]] = {}  # a layer, and what rounds its output
    for name, call in calls:
        if name in found and times[name] == 1:
            tensor = call.outputs[0]
            owners.setdefault(id(rounded.get(id(tensor), tensor)), []).append(name)
    own: dict[str, float] = {}

    def replace(tensor: Any, value: Any) -> Any:
        names = owners.get(id(tensor))
        if names is None or actual[found[names[0]]].size != np.prod(value.shape):
            return None
        given = actual[found[names[0]]].reshape(value.shape)
        difference = np.abs(given - keras.ops.convert_to_numpy(value))
        own.update(dict.fromkeys(names, float(difference.max(initial=0.0))))
        return keras.ops.cast(keras.ops.convert_to_tensor(given), value.dtype)

    inputs = [keras.ops.convert_to_tensor(array) for array in samples]
    _graph.evaluate(model, inputs, replace)
    return own


def _values(model: keras.Model, samples: Samples) -> dict[int, np.ndarray]:
    """Id of a symbolic tensor -> its value; of shared layers the last one."""
    found: dict[int, np.ndarray] = {}

    def visit(tensor: Any, value: Any) -> None:
        if "float" in keras.backend.standardize_dtype(value.dtype):
            found[id(tensor)] = keras.ops.convert_to_numpy(
                keras.ops.cast(value, "float32")
            )

    inputs = [keras.ops.convert_to_tensor(array) for array in samples]
    _graph.evaluate(model, inputs, visit)
    return found


def _find(model: keras.Model, names: list[str], program: Program) -> dict[str, int]:
    """Name of a layer -> index of its tensor in the file.

    The converter calls a tensor after all operations that it merged into one,
    each with the scopes it was made in: "model_1/re_lu_1/Relu;model_1/conv_1/…".
    Keras adds one number to the scope of a layer when an export calls it again.
    The tensor is the output of the last of these layers.
    """
    patterns = {}
    for position, name in enumerate(names):
        scopes = "/".join(rf"{re.escape(part)}_\d+" for part in name.split("/"))
        patterns[name] = (position, re.compile(rf"(^|/){scopes}(/|$)"))
    found: dict[str, int] = {}
    for index, label in program.made():
        owners = [
            (position, name)
            for name, (position, pattern) in patterns.items()
            if any(pattern.search(part) for part in label.split(";"))
        ]
        if owners:
            # The others end inside of this operator. What an earlier one has made of
            # them is only a part: of a separable convolution that is merged with its
            # ReLU, the depthwise part has a tensor of its own.
            for _, name in owners:
                found.pop(name, None)
            found[max(owners)[1]] = index
    for tensor, (_, detail) in zip(
        _graph.functional(model).outputs, program.outputs, strict=True
    ):
        name = tensor._keras_history.operation.name
        if name in patterns:  # the signature renames what it returns
            found[name] = detail["index"]
    return found
