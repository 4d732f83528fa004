"""Calibration and test data as plain arrays, one for each model input."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np

from tfcompress.structure._graph import functional

__all__ = [
    "Samples",
    "call_model",
    "check_labelled",
    "checked_batches",
    "class_indices",
    "input_specs",
    "input_structure",
    "random_samples",
    "take_samples",
]

_BATCH = 128

# One array for each input of the model, all with the same first dimension.
Samples = list[np.ndarray]

_EXPECTED = (
    "an array of inputs, a tuple (inputs, labels), or a tf.data.Dataset of batches "
    "of inputs or (inputs, labels)"
)


def input_specs(model: keras.Model) -> list[tuple[str, tuple[int, ...], str]]:
    """(name, shape without the batch, dtype) of each input of `model`.

    Raises:
        ValueError: if a dimension besides the batch is unknown.
    """
    specs = []
    for tensor in model.inputs:
        shape = tuple(tensor.shape[1:])
        if None in shape:
            raise ValueError(
                "Invalid value for argument `model`. Expected a model with fixed "
                "input shapes, because a TFLite file is made for one. Received: "
                f"model={model.name!r} whose input {tensor.name!r} has shape "
                f"{tuple(tensor.shape)}. Build it with keras.Input(shape=...) "
                "without None."
            )
        specs.append(
            (tensor.name, shape, keras.backend.standardize_dtype(tensor.dtype))
        )
    return specs


def input_structure(model: keras.Model) -> Any:
    """What `model` is called with: a Keras tensor, or nested ones."""
    if isinstance(model, keras.Sequential):
        return model.inputs[0]
    return functional(model)._inputs_struct


def call_model(model: keras.Model, samples: Samples) -> list[np.ndarray]:
    """Outputs of the model at inference, leaving its compile state alone."""
    structure = input_structure(model)
    chunks = []
    for start in range(0, len(samples[0]), _BATCH):
        batch = [array[start : start + _BATCH] for array in samples]
        outputs = model(keras.tree.pack_sequence_as(structure, batch), training=False)
        chunks.append(
            [keras.ops.convert_to_numpy(o) for o in keras.tree.flatten(outputs)]
        )
    return [np.concatenate(arrays) for arrays in zip(*chunks, strict=True)]


def random_samples(model: keras.Model, count: int, seed: int = 0) -> Samples:
    """Seeded stand-ins: uniform in [0, 1); 0 or 1 for integer inputs."""
    rng = np.random.default_rng(seed)
    return [
        rng.random((count, *shape)).astype(dtype)
        if np.issubdtype(np.dtype(dtype), np.floating)
        else rng.integers(0, 2, (count, *shape)).astype(dtype)
        for _, shape, dtype in input_specs(model)
    ]


def take_samples(
    model: keras.Model, data: Any, *, limit: int, argument: str = "calibration"
) -> tuple[Samples, np.ndarray | None]:
    """Up to `limit` samples of `data`, checked against the inputs of `model`.

    Args:
        model: the model whose inputs the samples are for.
        data: an array of shape `(samples, ...)`, a tuple `(inputs, labels)`, or a
            `tf.data.Dataset` that yields batches of either. For a model with
            several inputs, `inputs` is a list of arrays in the order of
            `model.inputs` or a dict by input name.
        limit: the most samples to take. Arrays are sampled evenly, so that data
            sorted by class are covered; datasets from the start.
        argument: name of the caller's argument, for messages. Defaults to
            `"calibration"`.

    Returns:
        The inputs, and the labels where `data` has them.

    Raises:
        TypeError: if `data` is of another kind.
        ValueError: if it is empty, not finite or does not fit the model.
    """
    if _is_dataset(data):
        inputs, labels = _collect(checked_batches(model, data, argument), limit)
    else:
        inputs, labels = _checked(data, input_specs(model), argument)
        picked = np.linspace(0, len(inputs[0]) - 1, min(limit, len(inputs[0])))
        rows = np.unique(picked.round().astype(int))
        inputs = [array[rows] for array in inputs]
        labels = None if labels is None else labels[rows]
    for array in inputs:
        if not np.all(np.isfinite(array)):
            raise ValueError(
                f"Invalid value for argument `{argument}`. Expected finite inputs. "
                "Received: inputs with NaN or infinity."
            )
    return inputs, labels


def checked_batches(
    model: keras.Model, data: Any, argument: str
) -> Iterator[tuple[Samples, np.ndarray | None]]:
    """(inputs, labels) of all of `data`, batch by batch, as `take_samples` has it."""
    specs = input_specs(model)
    if _is_dataset(data):
        if iter(data) is data:
            raise TypeError(
                f"Invalid value for argument `{argument}`. Expected {_EXPECTED}. "
                f"Received: {data!r}, which can be read only once."
            )
        empty = True
        for batch in data:
            empty = False
            yield _checked(batch, specs, argument)
        if empty:
            raise ValueError(
                f"Invalid value for argument `{argument}`. Expected {_EXPECTED}. "
                "Received: a dataset without elements."
            )
    else:
        inputs, labels = _checked(data, specs, argument)
        for start in range(0, len(inputs[0]), _BATCH):
            rows = slice(start, start + _BATCH)
            yield (
                [array[rows] for array in inputs],
                None if labels is None else labels[rows],
            )


def class_indices(labels: np.ndarray) -> np.ndarray:
    """Class indices from class indices or one-hot rows."""
    if labels.ndim == 2 and labels.shape[1] > 1:
        return labels.argmax(-1)
    return labels.reshape(len(labels))


def check_labelled(model: keras.Model, data: Any) -> None:
    """Checks that `data` comes with one class label for each sample.

    Raises:
        ValueError: if it does not.
    """
    _, labels = next(checked_batches(model, data, "data"))
    if labels is None:
        raise ValueError(
            "Invalid value for argument `data`. Expected (inputs, labels), or a "
            "tf.data.Dataset that yields such batches. Received: inputs without "
            "labels"
        )
    columns = labels.reshape(len(labels), -1).shape[1]
    classes = model.outputs[0].shape[-1]
    if labels.dtype.kind not in "iufb" or columns not in (1, classes):
        raise ValueError(
            "Invalid value for argument `data`. Expected one class index for each "
            f"sample, or {classes} one-hot columns. Received: labels of shape "
            f"{labels.shape} and dtype {labels.dtype}"
        )


def _checked(
    data: Any, specs: list[tuple[str, tuple[int, ...], str]], argument: str
) -> tuple[Samples, np.ndarray | None]:
    """Inputs and labels of one batch, or of everything given as arrays."""
    raw, raw_labels = _split(data)
    inputs = _match(raw, specs, argument)
    labels = None if raw_labels is None else np.asarray(raw_labels)
    _check_lengths(inputs, labels, argument)
    return inputs, labels


def _is_dataset(data: Any) -> bool:
    return (
        isinstance(data, Iterable)
        and not isinstance(data, np.ndarray | list | tuple | Mapping)
        and not hasattr(data, "__array__")
    )


def _split(data: Any) -> tuple[Any, Any]:
    """(inputs, labels); a tuple is (inputs, labels[, weights]), as for `fit`."""
    if isinstance(data, tuple):
        return data[0], data[1] if len(data) > 1 else None
    return data, None


def _collect(
    batches: Iterator[tuple[Samples, np.ndarray | None]], limit: int
) -> tuple[Samples, np.ndarray | None]:
    inputs: list[Samples] = []
    labels: list[np.ndarray] = []
    taken = 0
    for batch, batch_labels in batches:
        room = limit - taken
        inputs.append([array[:room] for array in batch])
        if batch_labels is not None:
            labels.append(batch_labels[:room])
        taken += len(inputs[-1][0])
        if taken >= limit:
            break
    return (
        [np.concatenate(arrays) for arrays in zip(*inputs, strict=True)],
        np.concatenate(labels) if labels else None,
    )


def _match(
    raw: Any, specs: list[tuple[str, tuple[int, ...], str]], argument: str
) -> Samples:
    """One array for each input, in order, with the right shape and dtype."""
    if isinstance(raw, Mapping):
        missing = [name for name, _, _ in specs if name not in raw]
        if missing:
            raise ValueError(
                f"Invalid value for argument `{argument}`. Expected the inputs "
                f"{[name for name, _, _ in specs]}. Received: {sorted(raw)}"
            )
        arrays = [raw[name] for name, _, _ in specs]
    elif len(specs) > 1:
        if not isinstance(raw, list | tuple) or len(raw) != len(specs):
            raise ValueError(
                f"Invalid value for argument `{argument}`. Expected a list of "
                f"{len(specs)} arrays or a dict, one for each of the inputs "
                f"{[name for name, _, _ in specs]}. Received: {type(raw).__name__}"
            )
        arrays = list(raw)
    else:
        arrays = [raw]
    return [
        _as_array(array, spec, argument)
        for array, spec in zip(arrays, specs, strict=True)
    ]


def _as_array(
    raw: Any, spec: tuple[str, tuple[int, ...], str], argument: str
) -> np.ndarray:
    name, shape, dtype = spec
    try:
        array = np.asarray(raw)
    except Exception as error:
        raise _wrong_kind(raw, argument) from error
    if array.dtype.kind not in "fiub" or array.ndim == 0:
        raise _wrong_kind(raw, argument)
    if array.ndim != len(shape) + 1 or array.shape[1:] != shape:
        expected = ("samples", *shape)
        raise ValueError(
            f"Invalid value for argument `{argument}`. Expected inputs of shape "
            f"({', '.join(map(str, expected))}) for input {name!r}. Received: "
            f"shape {array.shape}"
        )
    return array.astype(dtype, copy=False)


def _wrong_kind(raw: Any, argument: str) -> TypeError:
    return TypeError(
        f"Invalid value for argument `{argument}`. Expected {_EXPECTED}. Received: "
        f"an object of type {type(raw).__name__}"
    )


def _check_lengths(inputs: Samples, labels: np.ndarray | None, argument: str) -> None:
    lengths = {len(array) for array in inputs}
    if labels is not None:
        lengths.add(len(labels) if labels.ndim else -1)
    if len(lengths) > 1 or 0 in lengths:
        raise ValueError(
            f"Invalid value for argument `{argument}`. Expected at least one sample "
            "and equally many inputs and labels. Received: lengths "
            f"{[len(array) for array in inputs]}"
            + ("" if labels is None else f" and labels of shape {labels.shape}")
        )
