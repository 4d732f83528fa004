"""Keras to TFLite."""

from __future__ import annotations

import importlib.metadata
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np

from tfcompress._files import check_writable, write_atomic
from tfcompress._samples import (
    Samples,
    fixed_batch,
    input_specs,
    packed,
    random_samples,
    take_samples,
)
from tfcompress.export._parity import (
    RANDOM_SAMPLES,
    SAMPLE_LIMIT,
    Parity,
    compare_outputs,
)
from tfcompress.export._quiet import captured_output
from tfcompress.export._runtime import open_file
from tfcompress.ops import portable
from tfcompress.structure._graph import require_graph

__all__ = ["Artifact", "Quantization", "to_tflite"]

Quantization = Literal["float16", "dynamic", "int8"]
_QUANTIZATIONS = (None, "float16", "dynamic", "int8")

# Rounding of float32 sums differs between kernels by far less than this share
# of the largest output; a wrong conversion by far more.
_FLOAT32_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Artifact:
    """An exported file.

    Attributes:
        path: where it is.
        bytes: its size.
        quantization: `None`, `"float16"`, `"dynamic"` or `"int8"`.
        parity: how close it is to the Keras model.
        versions: versions of the packages that made and ran it.
    """

    path: Path
    bytes: int
    quantization: str | None
    parity: Parity
    versions: dict[str, str]

    def __str__(self) -> str:
        kind = self.quantization or "float32"
        return f"{self.path} ({kind}, {self.bytes:,} bytes): {self.parity}"


def to_tflite(
    model: keras.Model,
    path: str | os.PathLike[str],
    *,
    quantization: Quantization | None = None,
    calibration: Any = None,
) -> Artifact:
    """Exports a model to a TFLite file and checks the file against the model.

    The file takes one sample at a time and uses TFLite's built-in operations
    only, so it runs on the plain LiteRT interpreter of phones and boards.

    | `quantization` | weights | arithmetic | inputs and outputs |
    |---|---|---|---|
    | `None` | float32 | float32 | as in Keras |
    | `"float16"` | float16 | float32 (float16 on GPUs) | as in Keras |
    | `"dynamic"` | int8 | int8 with ranges found at run time | as in Keras |
    | `"int8"` | int8 | integers only | int8 |

    `"int8"` is what microcontrollers and integer accelerators expect, inputs
    and outputs included; its scales are in the file and `tfcompress.export.run`
    applies them. Inputs that are integers in Keras stay as they are.

    Nothing is left at `path` unless the file works: it is loaded, run and
    compared first, and then put in place in one step.

    Example:

    ```python
    artifact = tfc.export.to_tflite(
        model, "model.tflite", quantization="int8", calibration=x_train[:500]
    )
    print(artifact)
    ```

    Args:
        model: a built Functional or Sequential model.
        path: the file to write; ends in `.tflite`. Missing folders are made.
        quantization: see the table. Defaults to `None`.
        calibration: typical inputs: an array of shape `(samples, ...)`, for
            several inputs a list in the order of `model.inputs` or a dict by input
            name; a tuple `(inputs, labels)`; an iterable of batches of either,
            such as a `tf.data.Dataset`, `keras.utils.PyDataset` or generator; or a
            `tfcompress.data.Dataset`, whose training split is taken. Up to 1,000
            samples are used, of arrays evenly spread.
            Needed for `"int8"`, where 100 to 500 are usually enough; used for the
            comparison with all. Defaults to `None`, which compares on 32 samples
            of seeded random numbers.

    Returns:
        An `Artifact` with the size and the parity.

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: if an argument is not as described, before any conversion.
        RuntimeError: if the model cannot be converted with built-in operations,
            or the file does not compute what the model does.
    """
    require_graph(model)
    if quantization not in _QUANTIZATIONS:
        raise ValueError(
            "Invalid value for argument `quantization`. Expected one of "
            f"{_QUANTIZATIONS}. Received: quantization={quantization!r}"
        )
    if calibration is None and quantization == "int8":
        raise ValueError(
            "Invalid value for argument `calibration`. Expected typical inputs, "
            "which quantization='int8' needs to find the range of every tensor. "
            "Received: calibration=None"
        )
    _refuse_rounding(model, quantization)
    input_specs(model)
    target = check_writable(path, suffixes=(".tflite",))
    if calibration is None:
        samples, kind = random_samples(model, RANDOM_SAMPLES), "random"
    else:
        samples, _ = take_samples(model, calibration, limit=SAMPLE_LIMIT)
        kind = "given"
    if quantization == "int8":
        _refuse_loops(model)

    content = _convert(model, quantization, samples)
    result = compare_outputs(model, open_file(content), samples, kind)
    _refuse_wrong(model, quantization, result)
    write_atomic(target, content)
    return Artifact(target, len(content), quantization, result, _versions())


def _convert(model: keras.Model, quantization: str | None, samples: Samples) -> bytes:
    """The content of the TFLite file."""
    with (
        tempfile.TemporaryDirectory() as folder,
        captured_output() as log,
        portable(),
    ):
        path = Path(folder) / "model.tflite"
        try:
            model.export(
                str(path),
                format="litert",
                input_signature=_signature(model),
                verbose=False,
                **_settings(model, quantization, samples),
            )
        except Exception as error:
            raise RuntimeError(
                f"The TFLite converter could not convert model {model.name!r} with "
                f"quantization={quantization!r} and built-in operations. "
                + _reason(f"{error}\n{log()}")
            ) from error
        return path.read_bytes()


def _reason(text: str) -> str:
    """The part of the converter's output that helps."""
    # What TFLite can express is called tfl.*, what is left over tf.*.
    left_over = sorted(set(re.findall(r'"tf\.([A-Z]\w*)"', text)))
    if left_over:
        return (
            f"TFLite has no built-in operation for {', '.join(left_over)} as it is "
            "used there. Models that compute in float16 or bfloat16 must be rebuilt "
            "with a float32 dtype policy."
        )
    return "Its last words:\n" + "\n".join(text.strip().splitlines()[-20:])


def _signature(model: keras.Model) -> list[Any]:
    """The model's own input structure with a batch of one.

    A free batch would leave shape arithmetic in the file and cut it into pieces
    for the delegate. The numbered names keep the order of `model.inputs`, which
    the converter would otherwise sort by name.
    """
    flat = [
        keras.InputSpec(
            dtype=dtype, shape=(tensor.shape[0] or 1, *shape), name=f"input_{index}"
        )
        for index, (tensor, (_, shape, dtype)) in enumerate(
            zip(model.inputs, input_specs(model), strict=True)
        )
    ]
    return [packed(model, flat)]


def _refuse_rounding(model: keras.Model, quantization: str | None) -> None:
    """Raises where a layer says why its weights must stay what they are."""
    if quantization is None:
        return
    for layer in model._flatten_layers():
        reason = getattr(layer, "refuses_quantization", None)
        if reason:
            raise ValueError(
                "Invalid value for argument `quantization`. Expected None for model "
                f"{model.name!r}, because of layer {layer.name!r}: {reason}. "
                f"Received: quantization={quantization!r}"
            )


def _refuse_loops(model: keras.Model) -> None:
    """Raises where the converter's calibration would crash the process."""
    import tensorflow as tf

    specs = keras.tree.map_structure(
        lambda spec: tf.TensorSpec(spec.shape, spec.dtype), _signature(model)
    )
    function = tf.function(lambda inputs: model(inputs, training=False))
    graph = function.get_concrete_function(*specs).graph.as_graph_def()
    kinds = {node.op for node in graph.node}
    for inner in graph.library.function:
        kinds.update(node.op for node in inner.node_def)
    if kinds & {"While", "StatelessWhile"}:
        raise ValueError(
            "Invalid value for argument `quantization`. Expected None, 'float16' or "
            f"'dynamic' for model {model.name!r}, because it contains a loop, which "
            "TFLite cannot calibrate. Received: quantization='int8'. Recurrent "
            "layers built with unroll=True can be quantised."
        )


def _settings(
    model: keras.Model, quantization: str | None, samples: Samples
) -> dict[str, Any]:
    """Attributes of the TFLite converter."""
    import tensorflow as tf

    builtins = [tf.lite.OpsSet.TFLITE_BUILTINS]  # Flex kernels are forbidden
    optimize = {"optimizations": [tf.lite.Optimize.DEFAULT]}
    if quantization == "float16":
        target = {"supported_ops": builtins, "supported_types": [tf.float16]}
        return {"target_spec": target, **optimize}
    if quantization == "dynamic":
        return {"target_spec": {"supported_ops": builtins}, **optimize}
    if quantization == "int8":

        def one_by_one() -> Iterator[dict[str, np.ndarray]]:
            size = fixed_batch(model) or 1
            for start in range(0, len(samples[0]), size):
                # A last, smaller batch is completed by its last sample.
                rows = np.minimum(np.arange(start, start + size), len(samples[0]) - 1)
                yield {
                    f"input_{number}": array[rows]
                    for number, array in enumerate(samples)
                }

        return {
            "target_spec": {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]},
            "representative_dataset": one_by_one,
            "inference_input_type": tf.int8,
            "inference_output_type": tf.int8,
            **optimize,
        }
    return {"target_spec": {"supported_ops": builtins}}


def _refuse_wrong(model: keras.Model, quantization: str | None, result: Parity) -> None:
    """Raises where the file is not what the model computes."""
    limit = np.inf
    if quantization is None and model.compute_dtype == "float32":
        limit = _FLOAT32_TOLERANCE * max(result.output_range, 1e-6)
    # Written so that NaN fails, too.
    if not (result.max_difference <= limit and np.isfinite(result.max_difference)):
        raise RuntimeError(
            f"The TFLite file of model {model.name!r} with "
            f"quantization={quantization!r} does not compute what the model does: "
            f"{result}. Nothing was written."
        )


def _versions() -> dict[str, str]:
    packages = ("tfcompress", "keras", "tensorflow", "ai-edge-litert", "numpy")
    return {package: importlib.metadata.version(package) for package in packages}
