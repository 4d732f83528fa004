"""Run and time exported files with the LiteRT interpreter."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfcompress._checks import whole
from tfcompress.export._quiet import captured_output

__all__ = [
    "Latency",
    "benchmark",
    "benchmark_together",
    "open_file",
    "reference_interpreter",
    "run",
]

# What TensorFlow calls the outputs of a function that returns no dict.
_NUMBERED = re.compile(r"(output|Identity|(Stateful)?PartitionedCall)([_:]\d+)*")


@dataclass(frozen=True)
class Latency:
    """Time of one inference, in milliseconds.

    Attributes:
        median: half of the runs were faster.
        p10: 10th percentile.
        p90: 90th percentile.
        runs: how many runs were timed.
        threads: how many threads the interpreter had.
        batch: samples in one inference.
    """

    median: float
    p10: float
    p90: float
    runs: int
    threads: int = 1
    batch: int = 1

    def __str__(self) -> str:
        return (
            f"{self.median:.3g} ms (p10 {self.p10:.3g}, p90 {self.p90:.3g}, "
            f"{self.runs} runs, {self.threads} thread{'s' * (self.threads > 1)})"
        )


def run(
    path: str | os.PathLike[str] | bytes,
    inputs: Any,
    *,
    threads: int = 1,
) -> np.ndarray | list[np.ndarray]:
    """Runs an exported file on a batch, in the model's own units.

    Inputs are quantized as the file wants them and outputs are dequantized, so
    that an int8 file is called and answers like the Keras model that it came
    from. Samples go through one by one, as they do on a device.

    Example:

    ```python
    tfc.export.to_tflite(model, "model.tflite")
    probabilities = tfc.export.run("model.tflite", x_test)
    accuracy = (probabilities.argmax(-1) == y_test).mean()
    ```

    Args:
        path: a `.tflite` file, or its content as bytes.
        inputs: array of shape `(samples, ...)`; for several inputs a list of
            arrays in the order of `model.inputs`, or a dict by the names in the
            file's signature.
        threads: threads of the interpreter. Defaults to `1`.

    Returns:
        The outputs, an array of shape `(samples, ...)`; a list of arrays where the
        file has several outputs.

    Raises:
        TypeError: if `path`, `inputs` or `threads` are of another kind.
        ValueError: if the file cannot be read or the inputs do not fit it.
    """
    program = open_file(path, threads=threads)
    outputs = program(program.check(inputs))
    return outputs[0] if len(outputs) == 1 else outputs


def benchmark(
    path: str | os.PathLike[str] | bytes,
    threads: int = 1,
    *,
    warmup: int = 10,
    runs: int = 100,
) -> Latency:
    """Times an exported file on random input with the LiteRT interpreter.

    One thread gives the steadiest figure. To compare files, time them on a quiet
    machine; `tfcompress.report.compare` does it in turns.

    Example:

    >>> tfc.export.benchmark("model.tflite").median  # milliseconds
    0.084

    Args:
        path: a `.tflite` file, or its content as bytes.
        threads: threads of the interpreter. Defaults to `1`.
        warmup: runs before the clock starts. Defaults to `10`.
        runs: runs that are timed. Defaults to `100`.

    Returns:
        A `Latency`.

    Raises:
        TypeError: if a number is not an integer.
        ValueError: if a number is out of range or the file cannot be read.
    """
    return benchmark_together([path], threads=threads, warmup=warmup, runs=runs)[0]


def benchmark_together(
    paths: Sequence[str | os.PathLike[str] | bytes],
    *,
    threads: int = 1,
    warmup: int = 10,
    runs: int = 100,
    rounds: int = 5,
) -> list[Latency]:
    """Times several files in turns, so that a noisy machine is fair to all."""
    whole("warmup", warmup, least=0)
    whole("runs", runs)
    programs = [open_file(path, threads=threads) for path in paths]
    for program in programs:
        program.feed_random()
        for _ in range(warmup):
            program.invoke()
    seconds: list[list[float]] = [[] for _ in programs]
    # Rounds, not one file after the other: a slow minute of the machine then falls on
    # all files, and not on the one that happened to run in it.
    for part in np.array_split(np.arange(runs), min(rounds, runs)):
        for program, times in zip(programs, seconds, strict=True):
            for _ in part:
                start = time.perf_counter()
                program.invoke()
                times.append(time.perf_counter() - start)
    latencies = []
    for program, times in zip(programs, seconds, strict=True):
        p10, median, p90 = (float(1e3 * np.percentile(times, q)) for q in (10, 50, 90))
        latencies.append(Latency(median, p10, p90, runs, threads, program.batch))
    return latencies


def open_file(
    path: str | os.PathLike[str] | bytes, *, threads: int = 1, keep: bool = False
) -> Program:
    """A `Program` for a `.tflite` file or its content; may keep all tensors."""
    whole("threads", threads)
    if isinstance(path, bytes):
        return Program(path, threads, "the given bytes", keep)
    if not isinstance(path, str | os.PathLike):
        raise TypeError(
            "Invalid value for argument `path`. Expected the path of a .tflite file. "
            f"Received: path={path!r}"
        )
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(
            "Invalid value for argument `path`. Expected the path of a .tflite file. "
            f"Received: path={str(path)!r} ({error.strerror})"
        ) from error
    return Program(content, threads, str(path), keep)


def reference_interpreter(content: bytes) -> Any:
    """An interpreter of a file with LiteRT's reference kernels.

    No delegate is used, because it would merge operators.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(
        model_content=content,
        experimental_op_resolver_type=OpResolverType.BUILTIN_REF,
    )
    interpreter.allocate_tensors()
    return interpreter


class Program:
    """A loaded `.tflite` file: called with a list of arrays, in real units."""

    def __init__(self, content: bytes, threads: int, name: str, keep: bool = False):
        from ai_edge_litert.interpreter import Interpreter

        with captured_output() as log:
            try:
                self._interpreter = Interpreter(
                    model_content=content,
                    num_threads=threads,
                    experimental_preserve_all_tensors=keep,
                )
                self._interpreter.allocate_tensors()
            except (ValueError, RuntimeError) as error:
                raise ValueError(
                    "Invalid value for argument `path`. Expected a TFLite file that "
                    "this machine can run with built-in operations. Received: "
                    f"{name} ({error}){log()}"
                ) from error
        self.inputs = _ordered(self._interpreter, "inputs")
        self.outputs = _ordered(self._interpreter, "outputs")

    @property
    def batch(self) -> int:
        """Samples that the file takes at once."""
        return int(self.inputs[0][1]["shape"][0])

    def step(self, output: int) -> float:
        """Distance of two values of an output; 0 where it is computed in float."""
        detail = self.outputs[output][1]
        # An integer file that answers in float (`io="float32"`) ends in the operator
        # that makes floats of integers, and has no more values than those have.
        for operation in self._interpreter._get_ops_details():
            made = detail["index"] in map(int, operation["outputs"])
            if made and operation["op_name"] == "DEQUANTIZE":
                return self.step_of(int(operation["inputs"][0]))
        return _scale(detail)

    def step_of(self, tensor: int) -> float:
        """Distance of two values of a tensor; 0 where it is in float."""
        return _scale(self._interpreter._get_tensor_details(tensor, 0))

    def made(self) -> list[tuple[int, str]]:
        """(index, name) of the tensors that are computed, in the order of that."""
        found = []
        for operation in self._interpreter._get_ops_details():
            if operation["op_name"] != "DELEGATE":
                for index in map(int, operation["outputs"]):
                    if index >= 0:
                        detail = self._interpreter._get_tensor_details(index, 0)
                        found.append((index, detail["name"]))
        return found

    def tensors(
        self, inputs: list[np.ndarray], indices: Sequence[int]
    ) -> dict[int, np.ndarray]:
        """Index of a tensor -> its values for all samples, in real units.

        For files that were opened to keep their tensors. Without the batch, the
        shape may differ from that in Keras.
        """
        # The interpreter reuses memory: a tensor in the middle is overwritten by later
        # operators unless the file was opened with `keep`.
        found: dict[int, list[np.ndarray]] = {index: [] for index in indices}
        details = {i: self._interpreter._get_tensor_details(i, 0) for i in indices}
        count = len(inputs[0])
        for start in range(0, count, self.batch):
            self._feed(inputs, start)
            self._interpreter.invoke()
            for index, values in found.items():
                try:
                    raw = self._interpreter.get_tensor(index)
                except ValueError:
                    continue  # part of a delegate or a subgraph
                value = _dequantize(raw, details[index])
                room = min(self.batch, count - start)
                if value.ndim and len(value) == self.batch:
                    value = value[:room]
                values.append(value)
        return {
            index: np.concatenate([value.reshape(-1) for value in values])
            if values
            else np.empty(0)
            for index, values in found.items()
        }

    def check(self, inputs: Any) -> list[np.ndarray]:
        """`inputs` as one array for each input of the file, in order."""
        names = [name for name, _ in self.inputs]
        if isinstance(inputs, Mapping) and set(inputs) == set(names):
            arrays = [np.asarray(inputs[name]) for name in names]
        elif len(names) == 1 and not isinstance(inputs, Mapping):
            arrays = [np.asarray(inputs)]
        elif isinstance(inputs, list | tuple) and len(inputs) == len(names):
            arrays = [np.asarray(array) for array in inputs]
        else:
            raise ValueError(
                "Invalid value for argument `inputs`. Expected "
                f"{len(names)} arrays for the inputs {names}. Received: "
                f"{sorted(inputs) if isinstance(inputs, Mapping) else type(inputs)}"
            )
        for array, (name, detail) in zip(arrays, self.inputs, strict=True):
            if array.dtype.kind not in "fiub":
                raise TypeError(
                    "Invalid value for argument `inputs`. Expected numbers. "
                    f"Received: dtype {array.dtype} for input {name!r}"
                )
            shape = tuple(int(size) for size in detail["shape"][1:])
            if array.shape[1:] != shape or len(array) != len(arrays[0]):
                raise ValueError(
                    "Invalid value for argument `inputs`. Expected shape "
                    f"({', '.join(map(str, ('samples', *shape)))}) for input "
                    f"{name!r}. Received: shape {array.shape}"
                )
        return arrays

    def __call__(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        """Outputs for all samples of `inputs`, chunk by chunk."""
        results: list[list[np.ndarray]] = [[] for _ in self.outputs]
        count = len(inputs[0])
        for start in range(0, count, self.batch):
            self._feed(inputs, start)
            self._interpreter.invoke()
            for result, (_, detail) in zip(results, self.outputs, strict=True):
                raw = self._interpreter.get_tensor(detail["index"])
                result.append(_dequantize(raw, detail)[: count - start])
        if not count:
            return [
                np.empty((0, *detail["shape"][1:]), np.float32)
                for _, detail in self.outputs
            ]
        return [np.concatenate(result) for result in results]

    def _feed(self, inputs: list[np.ndarray], start: int) -> None:
        """Sets the inputs to one batch; the last sample fills what is left."""
        for array, (_, detail) in zip(inputs, self.inputs, strict=True):
            chunk = array[start : start + self.batch]
            short = self.batch - len(chunk)
            if short:
                chunk = np.concatenate([chunk, np.repeat(chunk[-1:], short, 0)])
            self._interpreter.set_tensor(detail["index"], _quantize(chunk, detail))

    def feed_random(self, seed: int = 0) -> None:
        """Sets every input to seeded random numbers."""
        rng = np.random.default_rng(seed)
        for _, detail in self.inputs:
            dtype = np.dtype(detail["dtype"])
            if dtype.kind == "f":
                value = rng.random(detail["shape"]).astype(dtype)
            elif _scale(detail):
                limits = np.iinfo(dtype)
                value = rng.integers(
                    limits.min, limits.max, detail["shape"], dtype, endpoint=True
                )
            else:  # indices or flags: 0 and 1 are always in range
                value = rng.integers(0, 2, detail["shape"]).astype(dtype)
            self._interpreter.set_tensor(detail["index"], value)

    def invoke(self) -> None:
        """One inference on the inputs that are set."""
        self._interpreter.invoke()


def _ordered(interpreter: Any, side: str) -> list[tuple[str, dict[str, Any]]]:
    """(name, tensor details) of the inputs or outputs, in the model's order.

    Signature names end in a number where Keras has an order (`args_0_1`,
    `output_1`) and are listed alphabetically, so 10 would come before 2. The outputs
    of a model that returns a dict have its keys, in the order of Keras, which is the
    alphabetical one.
    """
    details = {
        "inputs": interpreter.get_input_details,
        "outputs": interpreter.get_output_details,
    }[side]()
    signatures = interpreter.get_signature_list()
    if not signatures:
        return [(detail["name"], detail) for detail in details]
    key = next(iter(signatures))
    runner = interpreter.get_signature_runner(key)
    named = {
        "inputs": runner.get_input_details,
        "outputs": runner.get_output_details,
    }[side]()

    def natural(name: str) -> list[Any]:
        parts = re.split(r"(\d+)", name)
        return [int(part) if part.isdigit() else part for part in parts]

    numbered = side == "inputs" or all(map(_NUMBERED.fullmatch, named))
    order = sorted(named, key=natural if numbered else None)
    return [(name, named[name]) for name in order]


def _scale(detail: dict[str, Any]) -> float:
    return float(detail["quantization"][0])


def _quantize(array: np.ndarray, detail: dict[str, Any]) -> np.ndarray:
    dtype = np.dtype(detail["dtype"])
    # LiteRT's grid is affine: real = scale · (q - zero point). Inputs in [0, 1] have
    # the scale 1/255 and the zero point -128 as int8, so that 0.0 is -128. A tensor in
    # float has the scale 0.
    scale, zero_point = detail["quantization"]
    if not scale:
        return array.astype(dtype, copy=False)
    limits = np.iinfo(dtype)
    steps = np.rint(array / scale) + zero_point
    return np.clip(steps, limits.min, limits.max).astype(dtype)


def _dequantize(array: np.ndarray, detail: dict[str, Any]) -> np.ndarray:
    scale, zero_point = detail["quantization"]
    if not scale:
        return array.copy()
    return (array.astype(np.float32) - zero_point) * np.float32(scale)
