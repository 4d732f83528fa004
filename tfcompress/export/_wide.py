"""Integer files with activations of 16 bits.

The converter has fake quantization of 8 bits only. A file for 16 is made as one
for 8, with the steps that 16 bits have; nothing in it but the types of its tensors
says 8, so that these are all that has to change.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["widened"]

_WITH_KERNELS = (
    "CONV_2D",
    "DEPTHWISE_CONV_2D",
    "FULLY_CONNECTED",
    "TRANSPOSE_CONV",
)
# TFLite fixes the step of what these return.
_FIXED = ("SOFTMAX", "LOGISTIC", "TANH")


def widened(content: bytes) -> bytes:
    """The content of a file whose activations and sums are twice as wide."""
    import flatbuffers
    from tensorflow.lite.python import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(content, 0))
    names = {
        value: name
        for name, value in vars(schema.BuiltinOperator).items()
        if isinstance(value, int)
    }
    # LiteRT's scheme for 16 bits differs from that for 8 in four ways. Activations are
    # int16 and symmetric, so that their zero point is 0. Kernels stay int8. Biases,
    # which are added to sums of int16 times int8, are int64. And the outputs of
    # softmax, sigmoid and tanh have the fixed step 1/32768. Scales are not touched
    # elsewhere: `layers.FakeQuantize` gave the 8-bit file the steps of 16 bits.
    for graph in model.subgraphs:
        kernels: set[int] = set()
        sums: set[int] = set()
        for operation in graph.operators:
            code = model.operatorCodes[operation.opcodeIndex]
            # The older field has one byte, the newer one is 0 in older files.
            name = names[max(code.builtinCode, code.deprecatedBuiltinCode)]
            if name in _WITH_KERNELS:
                kernels.add(int(operation.inputs[1]))
                sums.update(map(int, operation.inputs[2:3]))
            if name in _FIXED:
                grid = graph.tensors[operation.outputs[0]].quantization
                grid.scale = np.array([1 / 32768], "float32")
                grid.zeroPoint = np.array([0], "int64")
            options = operation.builtinOptions
            # By default int16 sums want scales that are powers of two.
            if hasattr(options, "potScaleInt16"):
                options.potScaleInt16 = False
        for index, tensor in enumerate(graph.tensors):
            buffer = model.buffers[tensor.buffer]
            if index in sums and tensor.type == schema.TensorType.INT32:
                _cast(buffer, "int32", "int64")
                tensor.type = schema.TensorType.INT64
            elif index not in kernels and tensor.type == schema.TensorType.INT8:
                # real = scale · (q - zero point): the same number with zero point 0.
                offset = int(tensor.quantization.zeroPoint[0])
                _cast(buffer, "int8", "int16", offset)
                tensor.quantization.zeroPoint = np.array([0], "int64")
                tensor.type = schema.TensorType.INT16
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _cast(buffer: Any, old: str, new: str, offset: int = 0) -> None:
    """Rewrites the constants of a buffer, if it has any."""
    if buffer.data is None or not len(buffer.data):
        return
    values = np.frombuffer(bytes(bytearray(buffer.data)), old)
    wide = values.astype(new) - np.array(offset, new)
    buffer.data = np.frombuffer(wide.tobytes(), "uint8")
