"""Microcontrollers: the interpreter of TensorFlow Lite Micro."""

from __future__ import annotations

import importlib.metadata
import re
from typing import Any

import numpy as np

from tfcompress.export._quiet import captured_output
from tfcompress.export._runtime import reference_interpreter
from tfcompress.export.targets._figures import TargetFigures

__all__ = ["MICROCONTROLLER", "run_on_micro"]

MICROCONTROLLER = "microcontroller"
_SAMPLES = 8


def run_on_micro(content: bytes) -> TargetFigures:
    """Runs a file with the reference kernels and reads the arena it needs."""
    from tflite_micro import runtime

    tool = f"tflite-micro {importlib.metadata.version('tflite-micro')}"
    with captured_output() as log:
        try:
            micro = runtime.Interpreter.from_bytes(content)
            difference = _difference(micro, content)
            micro.print_allocations()
        except (RuntimeError, ValueError) as error:
            missing = _missing(log(), str(error))
            names = ", ".join(missing)
            why = f"no kernel for {names}." if missing else _last(log(), error)
            return TargetFigures(
                target=MICROCONTROLLER,
                tool=tool,
                kind="measured",
                flash=len(content),
                fallback=tuple(missing),
                note=f"The file does not run there: {why}",
            )
        text = log()
    arena = re.search(r"Arena allocation total (\d+) bytes", text)
    return TargetFigures(
        target=MICROCONTROLLER,
        tool=tool,
        kind="measured",
        flash=len(content),
        ram=int(arena.group(1)) if arena else None,
        exact=difference == 0,
        note="Flash is the model without the interpreter, whose size depends on the "
        "operators and the compiler. RAM is the tensor arena."
        + ("" if difference == 0 else f" Outputs differ by up to {difference:.3g}."),
    )


def _difference(micro: Any, content: bytes) -> float:
    """Largest difference to the outputs of LiteRT's reference kernels.

    In steps of the output where it is an integer.
    """
    reference = reference_interpreter(content)
    inputs = reference.get_input_details()
    outputs = reference.get_output_details()
    rng = np.random.default_rng(0)
    largest = 0.0
    for _ in range(_SAMPLES):
        for index, detail in enumerate(inputs):
            value = _random(rng, detail)
            reference.set_tensor(detail["index"], value)
            micro.set_input(value, index)
        reference.invoke()
        micro.invoke()
        for index, detail in enumerate(outputs):
            expected = reference.get_tensor(detail["index"]).astype("float64")
            apart = np.abs(expected - micro.get_output(index))
            largest = max(largest, float(apart.max(initial=0.0)))
    return largest


def _random(rng: np.random.Generator, detail: dict[str, Any]) -> np.ndarray:
    dtype = np.dtype(detail["dtype"])
    if dtype.kind == "f":
        return rng.random(detail["shape"]).astype(dtype)
    if not detail["quantization"][0]:  # indices or flags: 0 and 1 are in range
        return rng.integers(0, 2, detail["shape"]).astype(dtype)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, detail["shape"], dtype, endpoint=True)


def _missing(*logs: str) -> list[str]:
    """Operators that the interpreter has no kernel for."""
    patterns = (
        r"Didn't find op for builtin opcode '(\w+)'",
        r"Failed to get registration from op code (\w+)",
        r"builtin op '(\w+)' not found",
    )
    found = [name for log in logs for p in patterns for name in re.findall(p, log)]
    return list(dict.fromkeys(found))


def _last(log: str, error: Exception) -> str:
    lines = [line for line in log.strip().splitlines() if line.strip()]
    return lines[-1] if lines else str(error)
