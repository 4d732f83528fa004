"""Data for a model whose needs are read from the model itself."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import keras
import numpy as np

from tfcompress import data
from tfcompress.structure._graph import (
    calls,
    evaluate,
    functional,
    inner_inputs,
    is_editable,
)

__all__ = ["data_for", "range_fault", "warn_of_range"]

# Arrays are not resized.
_AS_IT_IS = ("npz:", "csv:")
_LOOKED_AT = 64
_SPLITS = ("train", "validation", "test")
_LUMINANCE = np.array([0.299, 0.587, 0.114], "float32")
# What reaches the first layer with weights: values that vary by so little, while
# the data vary by more, come from layers made for another range.
_LEAST_SPREAD = 0.02
_LARGEST = 50.0


def data_for(model: keras.Model, name: str, **options: Any) -> data.Dataset:
    """Loads a set of samples in the size that `model` takes.

    Args:
        model: the model.
        name: as for `tfcompress.data.load`. Images become gray for a model of one
            channel.
        **options: as for `tfcompress.data.load`.

    Returns:
        The set.

    Raises:
        ValueError: as `tfcompress.data.load` does.
    """
    shape = tuple(model.inputs[0].shape[1:])
    if len(shape) == 3 and None not in shape[:2] and not name.startswith(_AS_IT_IS):
        options["image_size"] = (shape[0], shape[1])
    loaded = data.load(name, **options)
    if shape[-1:] == (1,) and getattr(loaded.train.images, "shape", ())[3:] == (3,):
        parts: Any = {split: _gray(getattr(loaded, split)) for split in _SPLITS}
        loaded = dataclasses.replace(loaded, **parts)
    return loaded


def _gray(split: data.Split) -> data.Split:
    """Images in gray, as decoders of PNG make them; gray ones stay as they are."""
    return data.Split(split.images @ _LUMINANCE[:, np.newaxis], split.labels)


def warn_of_range(model: keras.Model, images: Any, advice: str) -> None:
    """Warns where `range_fault` finds something.

    Args:
        model: a built Functional or Sequential model with one input.
        images: the data, (samples, ...).
        advice: what to do about it.
    """
    fault = range_fault(model, images)
    if fault:
        warnings.warn(f"{fault} {advice}", stacklevel=2)


def range_fault(model: keras.Model, images: Any) -> str | None:
    """What is wrong with the range of the data, as the first layers see it.

    A model that rescales or normalizes its input inside shows in these layers which
    range it was trained on: what leaves them has a spread of the order of
    one. A model without such layers tells nothing.

    Args:
        model: a built Functional or Sequential model.
        images: the data, (samples, ...).

    Returns:
        One sentence, or `None`.
    """
    if isinstance(images, dict) or len(model.inputs) != 1:
        return None
    if np.asarray(images[:1]).dtype.kind not in "fiu":
        return None
    given = np.asarray(images[:_LOOKED_AT])
    if _takes_whole_numbers(model) and np.any(given % 1):
        return (
            f"The data do not fit what {model.name!r} expects, which takes whole "
            f"numbers: they hold others, such as {given[given % 1 != 0][0]:.3g}."
        )
    batch = given.astype(model.inputs[0].dtype)
    if batch.shape[1:] != tuple(
        given if size is None else size
        for given, size in zip(batch.shape[1:], model.inputs[0].shape[1:], strict=False)
    ):
        return None
    reached = _what_reaches_weights(model, batch)
    if reached is None:
        return None
    spread, largest = float(reached.std()), float(np.abs(reached).max())
    values = f"from {batch.min():.4g} to {batch.max():.4g}"
    if batch.std() > 0 and spread < _LEAST_SPREAD:
        return (
            f"The data do not fit what {model.name!r} expects: their values, {values}, "
            f"vary by only {spread:.2g} after the layers that rescale them."
        )
    if largest > _LARGEST:
        return (
            f"The data do not fit what {model.name!r} expects: their values, {values}, "
            f"reach {largest:.3g} after the layers that rescale them."
        )
    return None


def _takes_whole_numbers(model: keras.Model) -> bool:
    """Whether what goes in are numbers of words, for example."""
    (tensor,) = model.inputs
    return str(tensor.dtype).startswith(("int", "uint")) or any(
        isinstance(call.operation, keras.layers.Embedding)
        and call.inputs[:1] == (tensor,)
        for call in calls(model)
    )


class _Reached(Exception):
    """Carries a value out of a walk that has seen enough."""


def _what_reaches_weights(model: keras.Model, batch: np.ndarray) -> np.ndarray | None:
    """The input of the first layer that learns; None if nothing comes before it."""
    tensor = _first_learning_input(model)
    if tensor is None:
        return None

    def visit(symbolic: Any, value: Any) -> None:
        if symbolic is tensor:
            raise _Reached(keras.ops.convert_to_numpy(value))

    try:
        evaluate(model, [keras.ops.convert_to_tensor(batch)], visit)
    except _Reached as reached:
        return reached.args[0]
    return None


def _first_learning_input(model: keras.Model, fed: Any = None) -> Any | None:
    """The symbolic tensor that goes into the first layer that learns.

    `fed` is what an outer model feeds into this one: a nested model's own input
    is not computed by any layer.
    """
    for call in calls(model):
        if not call.inputs:
            continue
        is_input = any(call.inputs[0] is tensor for tensor in functional(model).inputs)
        source = fed if is_input else call.inputs[0]
        if inner_inputs(call) is not None and is_editable(call):
            found = _first_learning_input(call.operation, source)
            if found is not None or call.operation.weights:
                return found
        elif _learns(call.operation):
            return source
    return None


def _learns(operation: Any) -> bool:
    # Frozen layers learned once; the statistics of a Normalization never did.
    return any(
        getattr(variable, "trainable", False) or len(variable.shape) > 1
        for variable in getattr(operation, "weights", ())
    ) and not isinstance(operation, keras.layers.Normalization)
