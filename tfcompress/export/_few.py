"""Weights of 4 and of 2 bits that the converter does not write.

LiteRT's hybrid products read integer weights and floats, which they round for
themselves. The converter makes such files with 8 bits only; here the weights of a
float file become integers of 4 bits where they lie on such a grid, which rounds
nothing. And weights of 2 bits, which the converter stores in 4, are packed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from tfcompress import structure
from tfcompress.layers._quantized import CLIPPING, grid_of
from tfcompress.policy import named_layers

__all__ = ["in_two_bits", "on_few_bits", "with_few_bits"]

# Position of the output channels in a kernel. Depthwise products cannot read 4 bits.
_KERNELS = {"CONV_2D": 0, "FULLY_CONNECTED": 0}


def on_few_bits(model: keras.Model) -> keras.Model:
    """A copy whose kernels lie on grids of 4 bits, one for each channel.

    Kernels that lie on such a grid already stay what they are.
    """
    kinds = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Dense)

    def round_kernel(layer: Any) -> keras.Layer:
        kernel = keras.ops.convert_to_numpy(layer.kernel)
        axes = tuple(range(kernel.ndim - 1))
        if grid_of(kernel, axes, most=7) is None:
            # As in `layers.QuantizedKernel`: clipped at c · RMS of what is not zero.
            power = (kernel**2).sum(axes) / np.maximum((kernel != 0).sum(axes), 1)
            limit = np.minimum(np.abs(kernel).max(axes), CLIPPING[4] * np.sqrt(power))
            step = np.where(limit > 0, limit, 1.0) / 7
            layer.kernel.assign(np.clip(np.rint(kernel / step), -7, 7) * step)
        return layer

    chosen = {
        name: round_kernel
        for name, layer in named_layers(model).items()
        if isinstance(layer, kinds) and type(layer).__module__.startswith("keras.")
    }
    return structure.wrap(model, chosen, carry_optimizer=False)


def with_few_bits(content: bytes) -> tuple[bytes, int]:
    """A float file with 4-bit weights, and how many kernels have them."""
    from tensorflow.lite.python import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(content, 0))
    count = 0
    for name, operation, tensor in _kernels(schema, model):
        if tensor.type != schema.TensorType.FLOAT32:
            continue
        if _rewrite(schema, model, tensor, _KERNELS[name]):
            count += 1
            if hasattr(operation.builtinOptions, "asymmetricQuantizeInputs"):
                operation.builtinOptions.asymmetricQuantizeInputs = True
    return _written(model), count


def in_two_bits(content: bytes) -> tuple[bytes, int]:
    """A file whose weights of 2 bits take 2, and how many kernels do.

    LiteRT has products of such weights in fully connected layers alone. (Its
    convolutions refuse them, and its hybrid ones return NaN.)
    """
    from tensorflow.lite.python import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(content, 0))
    found = list(_kernels(schema, model))
    others = {id(tensor) for name, _, tensor in found if name != "FULLY_CONNECTED"}
    count = 0
    for _, _, tensor in found:
        if id(tensor) in others or tensor.type != schema.TensorType.INT4:
            continue
        buffer = model.buffers[tensor.buffer]
        if buffer.data is None or not len(buffer.data):
            continue
        pairs = np.frombuffer(bytes(bytearray(buffer.data)), "uint8")
        # Two's complement, the first weight in the lowest bits: 1, -1 in 4 bits each
        # are the byte 0xF1, and 1, -1, 0, 1 in 2 bits each the byte 0b01001101.
        size = int(np.prod(tensor.shape))
        levels = np.stack([pairs & 15, pairs >> 4], axis=1).reshape(-1)[:size]
        if np.isin(levels, (0, 1, 15)).all():  # 15 is -1
            levels = np.append(levels, np.zeros(-size % 4, "uint8")) & 3
            first, second, third, fourth = levels.reshape(-1, 4).T
            buffer.data = first | second << 2 | third << 4 | fourth << 6
            tensor.type = schema.TensorType.INT2
            count += 1
    return _written(model), count


def _kernels(schema: Any, model: Any) -> Iterator[tuple[str, Any, Any]]:
    """Products with the kernels of `_KERNELS`: name, operation and kernel."""
    names = {
        value: name
        for name, value in vars(schema.BuiltinOperator).items()
        if isinstance(value, int)
    }
    for graph in model.subgraphs:
        for operation in graph.operators:
            code = model.operatorCodes[operation.opcodeIndex]
            # The older field has one byte, the newer one is 0 in older files.
            name = names[max(code.builtinCode, code.deprecatedBuiltinCode)]
            if name in _KERNELS:
                yield name, operation, graph.tensors[operation.inputs[1]]


def _written(model: Any) -> bytes:
    import flatbuffers

    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _rewrite(schema: Any, model: Any, tensor: Any, axis: int) -> bool:
    """Makes a constant one of 4 bits, where it lies on such a grid."""
    buffer = model.buffers[tensor.buffer]
    if buffer.data is None or not len(buffer.data):
        return False
    values = np.frombuffer(bytes(bytearray(buffer.data)), "float32")
    values = values.reshape(tensor.shape)
    others = tuple(i for i in range(values.ndim) if i != axis)
    grid = grid_of(values, others, most=7)
    if grid is None:
        return False
    levels, step = grid
    flat = levels.reshape(-1)
    flat = np.append(flat, np.zeros(flat.size % 2, "int8")).view("uint8") & 15
    buffer.data = (flat[::2] | flat[1::2] << 4).astype("uint8")
    known = schema.QuantizationParametersT()
    known.scale = step.reshape(-1).astype("float32")
    known.zeroPoint = np.zeros(step.size, "int64")
    known.quantizedDimension = axis
    tensor.quantization = known
    tensor.type = schema.TensorType.INT4
    return True
