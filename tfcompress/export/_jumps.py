"""Files of networks that are step functions of their inputs.

The outputs of a network on approximate multipliers cannot be compared closely: a
sum that differs in its last bit may lie on the other side of a step. What can be
compared is each layer by itself, on the same inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from tfcompress import structure
from tfcompress._samples import Samples, call_model
from tfcompress.export._runtime import open_file
from tfcompress.structure import _graph

__all__ = ["check_jumps", "jumps"]

_SAMPLES = 8
# How far a float32 sum in another order may be off, as a share of the largest.
_ROUNDING = 2e-5


def jumps(model: keras.Model) -> dict[str, float]:
    """Name of a layer -> relative height of its steps, for layers that have any."""
    found = {}
    for prefix, call in _graph.walk(model):
        jump = float(getattr(call.operation, "jump", 0.0))
        if jump:
            found[prefix + call.operation.name] = jump
    return found


def check_jumps(
    model: keras.Model, samples: Samples, convert: Callable[[Any, Samples], bytes]
) -> str | None:
    """Compares the layers with steps, each on its inputs in the model.

    Args:
        model: the model.
        samples: inputs; few are enough.
        convert: makes a file of a model in float32, given samples.

    Returns:
        What is wrong, or `None`.
    """
    copy = structure.wrap(model, {}, carry_optimizer=False)
    calls = [
        (prefix + call.operation.name, call)
        for prefix, call in _graph.walk(copy)
        if getattr(call.operation, "jump", 0.0)
    ]
    values: dict[int, np.ndarray] = {}
    wanted = {id(call.inputs[0]) for _, call in calls}

    def visit(tensor: Any, value: Any) -> None:
        if id(tensor) in wanted:
            values[id(tensor)] = keras.ops.convert_to_numpy(value)

    few = [array[:_SAMPLES] for array in samples]
    inputs = [keras.ops.convert_to_tensor(array) for array in few]
    for tensor, value in zip(_graph.functional(copy).inputs, inputs, strict=True):
        visit(tensor, value)
    _graph.evaluate(copy, inputs, visit)
    # One model of all these layers side by side, so that one conversion is enough.
    names, ends, outputs, given = [], [], [], []
    for name, call in calls:
        if id(call.inputs[0]) not in values:
            continue
        given.append(values[id(call.inputs[0])])
        ends.append(keras.Input(given[-1].shape[1:]))
        names.append(name)
        outputs.append(_Operands(call.operation)(ends[-1]))
        outputs.append(call.operation(ends[-1]))
    if not names:
        return None
    parts = keras.Model(ends, outputs)
    content = convert(parts, given)
    program = open_file(content)
    actual = program(program.check(given if len(given) > 1 else given[0]))
    expected = call_model(parts, given)
    for number, name in enumerate(names):
        operands, sums = 2 * number, 2 * number + 1
        if not np.array_equal(actual[operands], expected[operands]):
            return f"layer {name!r} truncates its inputs to other numbers"
        error = np.abs(actual[sums] - expected[sums]).max()
        largest = np.abs(expected[sums]).max()
        layer = calls[number][1].operation
        # A separable convolution has steps of its own between its two products.
        limit = layer.jump if len(layer.kernels) > 1 else _ROUNDING
        if not error <= limit * max(largest, 1e-30):
            return (
                f"on identical inputs, layer {name!r} differs by {error:.3g} at values "
                f"up to {largest:.3g}"
            )
    return None


class _Operands(keras.Layer):
    """The inputs of a layer, truncated as its multipliers do."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self._truncated = layer.truncated

    def call(self, inputs: Any) -> Any:
        return self._truncated(inputs)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape
