"""A TFLite file as C++ source for a microcontroller."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tfcompress._files import check_writable, write_atomic
from tfcompress.export._runtime import Program, open_file
from tfcompress.export.targets._micro import run_on_micro
from tfcompress.export.targets._program import operators

__all__ = ["to_c"]

# The operators that MicroMutableOpResolver has a method for (tflite-micro, 2026).
_NAMES = """
ABS ADD ADD_N ARG_MAX ARG_MIN ASSIGN_VARIABLE AVERAGE_POOL_2D BATCH_MATMUL
BATCH_TO_SPACE_ND BROADCAST_ARGS BROADCAST_TO CALL_ONCE CAST CEIL CONCATENATION
CONV_2D COS CUMSUM DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE DIV
DYNAMIC_UPDATE_SLICE ELU EMBEDDING_LOOKUP EQUAL EXP EXPAND_DIMS FILL FLOOR FLOOR_DIV
FLOOR_MOD FULLY_CONNECTED GATHER GATHER_ND GREATER GREATER_EQUAL HARD_SWISH IF
L2_NORMALIZATION L2_POOL_2D LEAKY_RELU LESS LESS_EQUAL LOG LOGICAL_AND LOGICAL_NOT
LOGICAL_OR LOGISTIC LOG_SOFTMAX MAXIMUM MAX_POOL_2D MEAN MINIMUM MIRROR_PAD MUL NEG
NOT_EQUAL PACK PAD PADV2 PRELU QUANTIZE READ_VARIABLE REDUCE_ALL REDUCE_MAX
REDUCE_MIN RELU RELU6 RESHAPE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR REVERSE_V2
ROUND RSQRT SELECT_V2 SHAPE SIN SLICE SOFTMAX SPACE_TO_BATCH_ND SPACE_TO_DEPTH SPLIT
SPLIT_V SQRT SQUARE SQUARED_DIFFERENCE SQUEEZE STRIDED_SLICE SUB SUM SVDF TANH
TRANSPOSE TRANSPOSE_CONV UNIDIRECTIONAL_SEQUENCE_LSTM UNPACK VAR_HANDLE WHILE
ZEROS_LIKE
"""
_KERNELS = frozenset(_NAMES.split())
# Methods of MicroMutableOpResolver that are not the operator's name in camel case.
_METHODS = {
    "BATCH_MATMUL": "BatchMatMul",
    "CUMSUM": "CumSum",
    "PADV2": "PadV2",
    "UNIDIRECTIONAL_SEQUENCE_LSTM": "UnidirectionalSequenceLSTM",
}
_COLUMNS = 12


def to_c(path: str | os.PathLike[str] | bytes, out: str | os.PathLike[str]) -> Path:
    """Writes a TFLite file as C++ source for TensorFlow Lite Micro.

    Three files, named after `out`:

    - `NAME.cc`: the model as an array, aligned as the interpreter needs it;
    - `NAME.h`: its size; of each input and output the number of elements, the
      shape and the quantization (real = scale · (number − zero point)); and the
      bytes of the tensor arena, if tflite-micro is installed to measure them;
    - `NAME_resolver.h`: a resolver with just the operators that the model uses,
      so that the linker leaves all others out.

    Example:

    ```python
    tfc.export.to_c("digits.tflite", "firmware/digits.cc")
    ```

    Args:
        path: a `.tflite` file, or its content as bytes.
        out: the `.cc` file to write; the others go beside it.

    Returns:
        The path of the `.cc` file.

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: if the file cannot be read, `out` cannot be written or its
            name is no C identifier, the model uses operators that
            microcontrollers have no kernel for, or tflite-micro is installed and
            cannot run it.
    """
    target = check_writable(out, argument="out", suffixes=(".cc", ".cpp"))
    name = target.stem
    if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
        raise ValueError(
            "Invalid value for argument `out`. Expected a file whose name is a C "
            f"identifier. Received: out={str(out)!r}"
        )
    # A resolver that names every operator, and no other, is what keeps firmware small:
    # the linker drops kernels that nobody mentions.
    program = open_file(path)
    content = path if isinstance(path, bytes) else Path(path).read_bytes()
    kinds = sorted({op.kind for op in operators(content)})
    _refuse([kind for kind in kinds if kind not in _KERNELS])
    arena = _arena(content)
    resolver = target.with_name(f"{name}_resolver.h")
    write_atomic(resolver, _resolver(name, kinds))
    write_atomic(target.with_suffix(".h"), _header(name, content, program, arena))
    write_atomic(target, _array(name, content))
    return target


def _arena(content: bytes) -> int | None:
    if importlib.util.find_spec("tflite_micro") is None:
        return None
    figures = run_on_micro(content)
    _refuse(figures.fallback)
    if figures.exact is None:  # a kernel refuses what it is given
        raise ValueError(
            "Invalid value for argument `path`. Expected a file that runs on "
            f"microcontrollers. Received: one that does not. {figures.note}"
        )
    return figures.ram


def _refuse(missing: Sequence[str]) -> None:
    if missing:
        raise ValueError(
            "Invalid value for argument `path`. Expected a file that runs on "
            f"microcontrollers. Received: one with {', '.join(missing)}, for which "
            "TensorFlow Lite Micro has no kernel."
        )


def _method(kind: str) -> str:
    if kind in _METHODS:
        return _METHODS[kind]
    return "".join(
        part if part[0].isdigit() else part.capitalize() for part in kind.split("_")
    )


def _resolver(name: str, kinds: list[str]) -> str:
    guard = f"{name.upper()}_RESOLVER_H_"
    adds = "\n".join(f"  resolver.Add{_method(kind)}();" for kind in kinds)
    return f"""// Operators of {name}. Generated by tfcompress.
#ifndef {guard}
#define {guard}

#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"

constexpr unsigned int {name}_operators = {len(kinds)};

inline tflite::MicroMutableOpResolver<{name}_operators> {name}_resolver() {{
  tflite::MicroMutableOpResolver<{name}_operators> resolver;
{adds}
  return resolver;
}}

#endif  // {guard}
"""


def _header(name: str, content: bytes, program: Program, arena: int | None) -> str:
    guard = f"{name.upper()}_H_"
    lines = [
        f"// The model {name}. Generated by tfcompress.",
        f"#ifndef {guard}",
        f"#define {guard}",
        "",
        "#include <cstddef>",
        "",
        f"extern const unsigned char {name}_model[];",
        f"constexpr std::size_t {name}_model_size = {len(content)};",
        "",
    ]
    if arena is None:
        lines += [
            "// The size of the tensor arena was not measured: that takes tflite-micro",
            "// where this file is made.",
        ]
    else:
        lines += [
            "// Bytes of the tensor arena, measured with the reference kernels. Others",
            "// may need more.",
            f"constexpr std::size_t {name}_arena_size = {arena};",
        ]
    for side, tensors in (("input", program.inputs), ("output", program.outputs)):
        for index, (label, detail) in enumerate(tensors):
            lines += ["", *_tensor(f"{name}_{side}{index}", label, detail)]
    return "\n".join([*lines, "", f"#endif  // {guard}", ""])


def _tensor(prefix: str, label: str, detail: dict[str, Any]) -> list[str]:
    shape = [int(size) for size in detail["shape"]]
    elements = 1
    for size in shape:
        elements *= size
    dtype = detail["dtype"].__name__
    lines = [
        f"// {re.sub(r'[^ -~]', '?', label)}: {dtype} ({', '.join(map(str, shape))})",
        f"constexpr std::size_t {prefix}_elements = {elements};",
    ]
    scale, zero_point = detail["quantization"]
    if scale:
        lines += [
            f"constexpr float {prefix}_scale = {float(scale)!r}f;",
            f"constexpr int {prefix}_zero_point = {int(zero_point)};",
        ]
    return lines


def _array(name: str, content: bytes) -> str:
    rows = (
        "  " + " ".join(f"0x{byte:02x}," for byte in content[start : start + _COLUMNS])
        for start in range(0, len(content), _COLUMNS)
    )
    data = "\n".join(rows)
    return f"""// The model {name}. Generated by tfcompress.
#include "{name}.h"

alignas(16) const unsigned char {name}_model[] = {{
{data}
}};
"""
