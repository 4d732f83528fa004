"""What is in a TFLite file: operators, what they cost, what they store."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfcompress.export._runtime import reference_interpreter

__all__ = ["Operator", "dominant", "operators"]


@dataclass(frozen=True)
class Operator:
    """One operator of a file.

    Attributes:
        name: name of its output.
        kind: the builtin's name, such as `"CONV_2D"`.
        macs: multiply–accumulates; 0 where it has none.
        constants: bytes of its weights and biases.
        working: bytes of the tensors that it reads and writes.
    """

    name: str
    kind: str
    macs: int
    constants: int
    working: int


def operators(content: bytes) -> list[Operator]:
    """The operators of a file, in order of execution."""
    interpreter = reference_interpreter(content)
    details = interpreter._get_ops_details()  # the only list of operators there is
    tensors = {detail["index"]: detail for detail in interpreter.get_tensor_details()}
    # A tensor that no operator makes and that is no input is a constant of the file.
    made = {int(index) for op in details for index in op["outputs"]}
    made |= {int(detail["index"]) for detail in interpreter.get_input_details()}
    result = []
    for op in details:
        inputs = [int(i) for i in op["inputs"] if i >= 0]
        outputs = [int(i) for i in op["outputs"] if i >= 0]
        constants = [tensors[i] for i in inputs if i in tensors and i not in made]
        moving = [tensors[i] for i in inputs + outputs if i in tensors and i in made]
        first = tensors.get(outputs[0]) if outputs else None
        result.append(
            Operator(
                name=str(first["name"]) if first else op["op_name"],
                kind=op["op_name"],
                macs=_macs(op["op_name"], [tensors.get(i) for i in inputs], first),
                constants=sum(map(_bytes, constants)),
                working=sum(map(_bytes, moving)),
            )
        )
    return result


def dominant(found: list[Operator], quantity: str) -> str:
    """The operator with the largest share of `macs` or `constants`, in words.

    For `working` memory, the one that needs most at once.
    """
    if not found:
        return ""
    largest = max(found, key=lambda op: getattr(op, quantity))
    value = getattr(largest, quantity)
    if not value:
        return ""
    name = largest.name.split(";")[0]
    if quantity == "working":
        return f"{name}, {value / 1024:,.1f} KiB in and out"
    total = sum(getattr(op, quantity) for op in found)
    return f"{name}, {100 * value / total:.0f} %"


def _bytes(detail: dict[str, Any]) -> int:
    return int(math.prod(detail["shape"])) * np.dtype(detail["dtype"]).itemsize


def _macs(kind: str, inputs: list[Any], output: Any) -> int:
    if output is None or len(inputs) < 2:
        return 0
    size = int(math.prod(output["shape"]))
    weights: Any = inputs[1]["shape"] if inputs[1] is not None else ()
    if kind == "CONV_2D":  # (filters, height, width, channels)
        return size * int(math.prod(weights[1:]))
    if kind == "DEPTHWISE_CONV_2D":  # (1, height, width, channels)
        return size * int(weights[1] * weights[2])
    if kind == "FULLY_CONNECTED":  # (units, inputs)
        return size * int(weights[-1])
    if kind == "TRANSPOSE_CONV" and len(inputs) > 2 and inputs[2] is not None:
        return int(math.prod(inputs[2]["shape"])) * int(math.prod(weights[:3]))
    if kind == "BATCH_MATMUL" and inputs[0] is not None:
        return size * int(inputs[0]["shape"][-1])
    return 0
