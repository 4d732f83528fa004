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

from tfcompress import _checks, structure
from tfcompress._files import check_writable, write_atomic
from tfcompress._samples import (
    Samples,
    call_model,
    fixed_batch,
    input_specs,
    packed,
    random_samples,
    take_samples,
)
from tfcompress.export._debug import compare_layers
from tfcompress.export._elsewhere import convert_elsewhere
from tfcompress.export._few import in_two_bits, on_few_bits, with_few_bits
from tfcompress.export._jumps import check_jumps, jumps
from tfcompress.export._parity import (
    RANDOM_SAMPLES,
    SAMPLE_LIMIT,
    Parity,
    compare_outputs,
)
from tfcompress.export._quiet import captured_output
from tfcompress.export._runtime import open_file
from tfcompress.export._trained import frozen, is_prepared, is_wide, ranges
from tfcompress.export._wide import widened
from tfcompress.ops import portable
from tfcompress.policy import named_layers
from tfcompress.quantization import calibrate, prepare
from tfcompress.structure._graph import require_graph

__all__ = ["Artifact", "Quantization", "to_tflite"]

Quantization = Literal["float16", "dynamic", "int8", "int4", "int2", "dynamic_int4"]
Io = Literal["int8", "uint8", "float32"]
_QUANTIZATIONS = (None, "float16", "dynamic", "int8", "int4", "int2", "dynamic_int4")
_STATIC = {"int8": 8, "int4": 4, "int2": 2}  # bits of the weights
_IO = (None, "int8", "uint8", "float32")

# Shares of the largest output. Rounding of float32 sums differs between kernels
# by far less than its tolerance, a wrong conversion by far more; the others leave
# room for the rounding of weights and activations. A file that was trained for
# its rounding has errors of single steps, which add up from layer to layer.
_TOLERANCES = {
    None: 1e-3,
    "float16": 0.02,
    "dynamic": 0.2,
    "int8": 0.25,
    "int4": 0.5,
    "int2": 0.5,
    "dynamic_int4": 0.5,
    "trained": 0.2,
}
# What computing in less than float32 costs in Keras itself.
_HALF = {"float16": 0.02, "bfloat16": 0.1}


@dataclass(frozen=True)
class Artifact:
    """An exported file.

    Attributes:
        path: where it is.
        bytes: its size.
        quantization: what was asked for; `"trained"` for models of
            `quantization.prepare`.
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
    io: Io | None = None,
    tolerance: float | None = None,
) -> Artifact:
    """Exports a model to a TFLite file and checks the file against the model.

    The file takes one sample at a time and uses TFLite's built-in operations
    only, so it runs on the plain LiteRT interpreter of phones and boards.

    | `quantization` | weights | arithmetic | inputs and outputs |
    |---|---|---|---|
    | `None` | float32 | float32 | as in Keras |
    | `"float16"` | float16 | float32 (float16 on GPUs) | as in Keras |
    | `"dynamic"` | int8 | int8, ranges found at run time | as in Keras |
    | `"int8"` | int8 | integers only | `io` |
    | `"int4"` | int4 | integers only | `io` |
    | `"int2"` | int2 in `Dense` layers, int4 | integers only | `io` |
    | `"dynamic_int4"` | int4 | as `"dynamic"` | as in Keras |
    | as `quantization.prepare` made it | as trained | integers | `io` |

    A model of `quantization.prepare` has learned its ranges, and needs neither
    `quantization` nor `calibration`: the file computes what the model computes,
    up to single steps of rounding. Weights that it has trained with 2 bits are stored
    in 4, which more runtimes read; with `"int2"` those of `Dense` layers take 2.
    LiteRT has no convolution of such weights.

    With 4 bits and less, kernels that lie on a grid of so few steps already (as
    after `constraints.Levels` and `quantization.prepare`) are stored unchanged.
    Other kernels are rounded, which costs accuracy that training with `prepare`
    keeps. Convolutions and `Dense` layers get 4 bits; transposed convolutions and,
    with `"dynamic_int4"`, depthwise convolutions get more.

    `"int8"` is what microcontrollers and integer accelerators expect, inputs
    and outputs included; its scales are in the file and `tfcompress.export.run`
    applies them. Inputs that are integers in Keras stay as they are.

    Models that compute in float16 or bfloat16 are exported in float32. A model on
    another backend of Keras than TensorFlow is converted, from a .keras file, in a
    process of its own with TensorFlow, which has to be installed.

    Layers on approximate multipliers (`layers.DrumMultiply`) are step functions: a
    sum in another order may flip the last bit that counts. Each of them is
    compared on identical inputs, its truncated operands bit for bit; the tolerance
    of the whole network is the largest such step then, 2^(1 - k) of k bits.

    A file appears at `path` only if it works: it is loaded, run and
    compared first, output by output, and then put in place in one step. A file
    beyond `tolerance` is refused, and the error names the layer that adds most
    to the difference; `debug` lists all layers.

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
            Needed for `"int8"`, `"int4"` and `"int2"`, where 100 to 500 are usually
            enough; used for the comparison with all. Defaults to `None`, which
            compares on 32 samples of seeded random numbers.
        io: what an integer file takes and returns: `"int8"`, `"uint8"` or
            `"float32"`, with which it converts by itself. Defaults to `None`:
            `"int8"`, and int16 for models that are prepared for 16 bits.
        tolerance: the largest difference of each output, as a share of its largest
            value, and the largest share of samples, close calls left out, on which
            the file makes another decision. Defaults to `None`: 0.001 without
            quantization, 0.02 for `"float16"`, 0.2 for `"dynamic"` and models of
            `quantization.prepare`, 0.25 for `"int8"`, 0.5 with 4 bits and less.

    Returns:
        An `Artifact` with the size and the parity.

    Raises:
        ImportError: if TensorFlow is not installed.
        TypeError: if an argument is of another kind.
        ValueError: if an argument is not as described, before any conversion.
        RuntimeError: if the model cannot be converted with built-in operations,
            or the file does not compute what the model does.
    """
    require_graph(model)
    if keras.backend.backend() != "tensorflow":
        if calibration is not None:
            calibration, _ = _samples(model, calibration)
        return convert_elsewhere(
            model,
            path=os.path.abspath(path),
            quantization=quantization,
            calibration=calibration,
            io=io,
            tolerance=tolerance,
        )
    _checks.one_of("quantization", quantization, _QUANTIZATIONS)
    trained = is_prepared(model)
    if trained and quantization not in (None, "int2"):
        raise ValueError(
            _checks.invalid(
                "quantization",
                f"None or 'int2' for {model.name!r}, whose bits quantization.prepare "
                "has fixed",
                quantization,
            )
        )
    kind = "trained" if trained else quantization
    _checks.one_of("io", io, _IO)
    if io in ("int8", "uint8") and trained and is_wide(model):
        raise ValueError(
            _checks.invalid("io", "None or 'float32' for 16-bit activations", io)
        )
    if io not in (None, "float32") and kind not in (*_STATIC, "trained"):
        raise ValueError(
            _checks.invalid("io", "None or 'float32' for a float file", io)
        )
    limit = _TOLERANCES[kind] if tolerance is None else None
    if tolerance is not None:
        limit = _checks.positive("tolerance", tolerance)
    if calibration is None and not trained and quantization in _STATIC:
        raise ValueError(
            "Invalid value for argument `calibration`. Expected typical inputs, "
            f"which quantization={quantization!r} needs to find the range of every "
            "tensor. Received: calibration=None"
        )
    _refuse_rounding(model, quantization)
    _refuse_text(model)
    input_specs(model)
    target = check_writable(path, suffixes=(".tflite",))
    samples, given = _samples(model, calibration)
    if quantization == "int8":
        _refuse_loops(model)
    if calibration is not None:
        _refuse_constant(samples)

    # The file is always compared with the model as it was given, without the rounding
    # that is added here, and in its own precision. Its content is made in four ways:
    # - int4 and int2: fake quantization with ranges from the calibration, and then the
    #   same conversion as for a trained model. The converter alone writes 8 bits only.
    # - dynamic_int4: a float file whose kernels become integers afterwards.
    # - trained: ranges and kernels are frozen to constants first.
    # - all others: the converter's own settings.
    expected = call_model(model, samples, remember=True)
    half = [_HALF[dtype] for dtype in _dtypes(model) & set(_HALF)]
    source = _in_float32(model) if half else model
    if kind in ("int4", "int2"):
        prepared = calibrate(
            prepare(source, weights=_STATIC[kind]),
            samples if len(samples) > 1 else samples[0],
        )
        content = _convert(frozen(prepared, recover=True), "trained", samples, io)
    elif kind == "dynamic_int4":
        content, count = with_few_bits(_convert(on_few_bits(source), None, samples, io))
        if not count:
            raise ValueError(
                _checks.invalid(
                    "quantization",
                    f"another one for {model.name!r}, which has no convolution or "
                    "Dense layer that is computed with 4 bits",
                    kind,
                )
            )
    else:
        source = frozen(source) if trained else source
        content = _convert(source, kind, samples, io)
    if trained and is_wide(model):
        content = widened(content)
    if quantization == "int2":
        content, count = in_two_bits(content)
        if not count:
            raise ValueError(
                _checks.invalid(
                    "quantization",
                    f"another one for {model.name!r}, which has no Dense layer with "
                    "weights of 2 bits that are computed with activations of 8: LiteRT "
                    "computes nothing else with 2 bits",
                    quantization,
                )
            )
    jumping = jumps(model)
    if jumping and not half:
        fault = check_jumps(
            source, samples, lambda parts, inputs: _convert(parts, None, inputs, None)
        )
        if fault is not None:
            raise RuntimeError(
                f"The TFLite file of model {model.name!r} does not compute what the "
                f"model does: {fault}. Nothing was written."
            )
    result = compare_outputs(expected, open_file(content), samples, given)
    assert limit is not None
    # A tolerance of the caller is taken as it is; the defaults make room.
    room = [*half, *jumping.values()] if tolerance is None else []
    fault = result.fault(max([limit, *room]))
    if fault is not None:
        raise RuntimeError(
            f"The TFLite file of model {model.name!r} with quantization={kind!r} does "
            f"not compute what the model does: {fault}."
            f"{_responsible(model, content, samples)} Nothing was written."
        )
    write_atomic(target, content)
    return Artifact(target, len(content), kind, result, _versions())


def _convert(
    model: keras.Model, quantization: str | None, samples: Samples, io: str | None
) -> bytes:
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
                **_settings(model, quantization, samples, io),
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
            "used there."
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
    """Raises if a layer has a reason why its weights must not be rounded."""
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
            "layers built with unroll=True can be quantized."
        )


def _settings(
    model: keras.Model, quantization: str | None, samples: Samples, io: str | None
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
    numbers = getattr(tf, io or "int8")
    ends = {"inference_input_type": numbers, "inference_output_type": numbers}
    if quantization == "trained":
        return {"target_spec": {"supported_ops": builtins}, **ends, **optimize}
    if quantization == "int8":

        def batches() -> Iterator[dict[str, np.ndarray]]:
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
            "representative_dataset": batches,
            **ends,
            **optimize,
        }
    return {"target_spec": {"supported_ops": builtins}}


def _samples(model: keras.Model, calibration: Any) -> tuple[Samples, str]:
    """The samples that the file is compared on, and whether they were given."""
    if calibration is not None:
        samples, _ = take_samples(model, calibration, limit=SAMPLE_LIMIT)
        return samples, "given"
    samples = random_samples(model, RANDOM_SAMPLES)
    for number, known in enumerate(ranges(model)):
        if known is not None:  # noise in the range that the model has learned
            low, high = known
            samples[number] = (low + (high - low) * samples[number]).astype(
                samples[number].dtype
            )
    return samples, "random"


def _refuse_text(model: keras.Model) -> None:
    """Raises if an input is text."""
    for tensor in model.inputs:
        if tensor.dtype == "string":
            raise ValueError(
                _checks.invalid(
                    "model",
                    "inputs that are numbers, because TFLite's built-in operations "
                    "read no text: split the model after its text layers",
                    f"{model.name!r} with text at input {tensor.name!r}",
                )
            )


def _refuse_constant(samples: Samples) -> None:
    """Raises if all samples consist of one and the same number."""
    if all(array.size and array.min() == array.max() for array in samples):
        raise ValueError(
            _checks.invalid(
                "calibration",
                "typical inputs, on which ranges can be found and outputs compared",
                f"inputs that are {samples[0].reshape(-1)[0]:g} everywhere",
            )
        )


def _dtypes(model: keras.Model) -> set[str]:
    return {layer.compute_dtype for layer in named_layers(model).values()}


def _in_float32(model: keras.Model) -> keras.Model:
    """A copy that computes in float32."""

    def convert(layer: Any) -> keras.Layer:
        # Under a mixed policy variables are float32 and only the computation is not:
        # another policy is enough. Variables in half precision cannot change their
        # type, so that such a layer is made anew.
        if any(variable.dtype in _HALF for variable in layer.variables):
            twin = type(layer).from_config(_single(layer.get_config()))
            twin.build_from_config(layer.get_build_config())
            for old, new in zip(layer.variables, twin.variables, strict=True):
                new.assign(keras.ops.cast(old, new.dtype))
            return twin
        for part in layer._flatten_layers():
            part.dtype_policy = "float32"
        return layer

    chosen = {
        name: convert
        for name, layer in named_layers(model).items()
        if layer.compute_dtype in _HALF
        and not isinstance(layer, keras.layers.InputLayer)
    }
    return structure.wrap(model, chosen, carry_optimizer=False)


def _single(config: Any) -> Any:
    """A config in which all dtypes of half precision are float32."""
    if isinstance(config, dict):
        if config.get("class_name") == "DTypePolicy":
            return "float32"
        return {
            key: "float32" if key == "dtype" and str(value) in _HALF else _single(value)
            for key, value in config.items()
        }
    return [_single(value) for value in config] if isinstance(config, list) else config


def _responsible(model: keras.Model, content: bytes, samples: Samples) -> str:
    """Names the layer that adds most to the error."""
    try:
        rows = compare_layers(model, open_file(content, keep=True), samples).rows
    except (ValueError, RuntimeError):  # a file that cannot keep its tensors
        return ""
    if not rows:
        return ""
    return (
        f" Layer {rows[0].name!r} adds most to the error: "
        f"{100 * rows[0].added:.3g} % of its output."
    )


def _versions() -> dict[str, str]:
    packages = ("tfcompress", "keras", "tensorflow", "ai-edge-litert", "numpy")
    return {package: importlib.metadata.version(package) for package in packages}
