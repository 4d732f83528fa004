"""What is in a TFLite file: operators, what they cost, what they store."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfcompress.export._runtime import reference_interpreter

__all__ = ["Operator", "dominant", "operators"]

# What multiplies nothing by weights or by other tensors in sums, and runs no other part
# of the file. All kinds that are not here, nor counted below, are unknown: recurrent
# layers and those with a subgraph of their own, operators that are yet to come.
_WITHOUT = """
ABS ADD ADD_N ARG_MAX ARG_MIN ASSIGN_VARIABLE ATAN2 AVERAGE_POOL_2D BATCH_TO_SPACE_ND
BITCAST BITWISE_XOR BROADCAST_ARGS BROADCAST_TO BUCKETIZE CALL_ONCE CAST CEIL
COMPLEX_ABS CONCATENATION COS CUMSUM DENSIFY DEPTH_TO_SPACE DEQUANTIZE DILATE DIV
DYNAMIC_UPDATE_SLICE ELU EMBEDDING_LOOKUP EQUAL EXP EXPAND_DIMS FAKE_QUANT FILL FLOOR
FLOOR_DIV FLOOR_MOD GATHER GATHER_ND GELU GREATER GREATER_EQUAL HARD_SWISH IMAG
L2_NORMALIZATION L2_POOL_2D LEAKY_RELU LESS LESS_EQUAL LOCAL_RESPONSE_NORMALIZATION LOG
LOGICAL_AND LOGICAL_NOT LOGICAL_OR LOGISTIC LOG_SOFTMAX MATRIX_DIAG MATRIX_SET_DIAG
MAXIMUM MAX_POOL_2D MEAN MINIMUM MIRROR_PAD MUL MULTINOMIAL NEG NON_MAX_SUPPRESSION_V4
NON_MAX_SUPPRESSION_V5 NOT_EQUAL ONE_HOT PACK PAD PADV2 POW PRELU QUANTIZE
RANDOM_STANDARD_NORMAL RANDOM_UNIFORM RANGE RANK READ_VARIABLE REAL REDUCE_ALL
REDUCE_ANY REDUCE_MAX REDUCE_MIN REDUCE_PROD RELU RELU6 RELU_0_TO_1 RELU_N1_TO_1
RESHAPE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR REVERSE_SEQUENCE REVERSE_V2 RIGHT_SHIFT
ROUND RSQRT SCATTER_ND SEGMENT_SUM SELECT SELECT_V2 SHAPE SIGN SIN SLICE SOFTMAX
SPACE_TO_BATCH_ND SPACE_TO_DEPTH SPARSE_TO_DENSE SPLIT SPLIT_V SQRT SQUARE
SQUARED_DIFFERENCE SQUEEZE STRIDED_SLICE SUB SUM TANH TILE TOPK_V2 TRANSPOSE UNIQUE
UNPACK UNSORTED_SEGMENT_MAX UNSORTED_SEGMENT_MIN UNSORTED_SEGMENT_PROD
UNSORTED_SEGMENT_SUM VAR_HANDLE WHERE ZEROS_LIKE
"""
_NO_MACS = frozenset(_WITHOUT.split())
# What runs another part of the file, of which the interpreter lists no operators.
_CALLING = frozenset(
    ["CALL", "IF", "STABLEHLO_CASE", "STABLEHLO_COMPOSITE", "STABLEHLO_WHILE", "WHILE"]
)


@dataclass(frozen=True)
class Operator:
    """One operator of a file.

    Attributes:
        name: name of its output.
        kind: the builtin's name, such as `"CONV_2D"`.
        macs: multiply–accumulates; 0 where it has none, `None` where they cannot be
            counted.
        constants: bytes of its weights and biases.
        working: bytes of the tensors that it reads and writes.
    """

    name: str
    kind: str
    macs: int | None
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

    For `working` memory, the one that needs most at once. Empty where there is none, or
    where it may be one that is not listed or not counted.
    """
    hidden = any(op.kind in _CALLING for op in found)
    if not found or hidden or (quantity == "macs" and None in [o.macs for o in found]):
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


def _macs(kind: str, inputs: list[Any], output: Any) -> int | None:
    if kind in _NO_MACS:
        return 0
    if output is None or len(inputs) < 2 or inputs[1] is None:
        return None
    size = int(math.prod(output["shape"]))
    weights: Any = inputs[1]["shape"]
    if kind == "CONV_2D":  # (filters, height, width, channels)
        return size * int(math.prod(weights[1:]))
    if kind == "CONV_3D":  # (depth, height, width, channels, filters)
        return size * int(math.prod(weights[:4]))
    if kind == "DEPTHWISE_CONV_2D":  # (1, height, width, channels)
        return size * int(weights[1] * weights[2])
    if kind == "FULLY_CONNECTED":  # (units, inputs)
        return size * int(weights[-1])
    if kind == "TRANSPOSE_CONV" and len(inputs) > 2 and inputs[2] is not None:
        return int(math.prod(inputs[2]["shape"])) * int(math.prod(weights[:3]))
    if kind == "BATCH_MATMUL" and inputs[0] is not None:
        return size * int(inputs[0]["shape"][-1])
    return None
