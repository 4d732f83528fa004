"""Means of what layers hand on, measured while a model runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress.structure._graph import Call, calls, is_nested_model

__all__ = ["ActivationMeter"]

# Operations that may stand between a filter and its activation function.
_TRANSPARENT = (
    keras.layers.BatchNormalization,
    keras.layers.Dropout,
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
    keras.layers.SpatialDropout3D,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
)
_ACTIVATIONS = (
    keras.layers.Activation,
    keras.layers.ReLU,
    keras.layers.LeakyReLU,
    keras.layers.PReLU,
    keras.layers.ELU,
)


class ActivationMeter:
    """Accumulates the mean absolute activation of each output channel of layers.

    Between `attach` and `detach` every run of the model, eager or inside a
    compiled step, adds to the sums. A layer's activation is read where the
    next layer reads it: after the normalisation and the activation function, as
    far as each is the only reader of what comes before it.

    Args:
        model: a `keras.Model`.
        members: the kernels (`Member`s of channel groups) whose layers are
            watched.

    Raises:
        ValueError: if a layer's output does not show its filters on an axis.
    """

    def __init__(self, model: keras.Model, members: Sequence[Any]) -> None:
        watched = {member.layer_name: member for member in members}
        self._taps: dict[str, tuple[Any, int]] = {}
        for name, call, readers in _calls_by_name(model):
            if name in watched and name not in self._taps:
                axis = _filter_axis(name, call, watched[name])
                self._taps[name] = (_last_operation(call, readers), axis)
        self._sums = {
            name: keras.Variable(
                np.zeros(len(watched[name].channels), "float32"), trainable=False
            )
            for name in self._taps
        }
        self._counts = {
            name: keras.Variable(0.0, trainable=False, dtype="float32")
            for name in self._taps
        }
        self._originals: list[Any] = []

    @property
    def count(self) -> int:
        """Number of batches seen by the layer that has seen the fewest."""
        return int(min(float(ops.convert_to_numpy(c)) for c in self._counts.values()))

    def attach(self) -> None:
        """Begins to measure."""
        for name, (operation, axis) in self._taps.items():
            self._originals.append(operation)
            operation.call = self._observed(name, operation.call, axis)

    def detach(self) -> None:
        """Stops to measure and leaves the layers as they were."""
        for operation in self._originals:
            # The method of the class shows again.
            object.__delattr__(operation, "call")
        self._originals.clear()

    def reset(self) -> None:
        """Forgets what was measured."""
        for variable in (*self._sums.values(), *self._counts.values()):
            variable.assign(ops.zeros_like(variable))

    def result(self) -> dict[str, np.ndarray]:
        """Mean absolute activation of each output channel, by layer name."""
        return {
            name: ops.convert_to_numpy(total).astype("float64")
            / max(float(ops.convert_to_numpy(self._counts[name])), 1.0)
            for name, total in self._sums.items()
        }

    def _observed(self, name: str, call: Any, axis: int) -> Any:
        def observed(*args: Any, **kwargs: Any) -> Any:
            output = call(*args, **kwargs)
            if not isinstance(output, keras.KerasTensor):
                others = [i for i in range(len(output.shape)) if i != axis]
                magnitude = ops.abs(ops.cast(output, "float32"))
                self._sums[name].assign_add(ops.mean(magnitude, axis=others))
                self._counts[name].assign_add(1.0)
            return output

        return observed


def _calls_by_name(
    model: keras.Model, prefix: str = ""
) -> Iterator[tuple[str, Call, dict[int, list[Call]]]]:
    """Every call of a layer, by the layer's name, with who reads its tensors."""
    listed = list(calls(model))
    readers: dict[int, list[Call]] = {}
    for call in listed:
        for tensor in call.inputs:
            readers.setdefault(id(tensor), []).append(call)
    for call in listed:
        if is_nested_model(call.operation):
            yield from _calls_by_name(call.operation, f"{prefix}{call.operation.name}/")
        else:
            yield f"{prefix}{call.operation.name}", call, readers


def _filter_axis(name: str, call: Call, member: Any) -> int:
    shape = call.outputs[0].shape
    channels_first = getattr(call.operation, "data_format", "") == "channels_first"
    axis = 1 if channels_first else len(shape) - 1
    if shape[axis] != len(member.channels):
        raise ValueError(
            "Invalid value for argument `criterion`. Expected layers whose output has "
            "one channel for each filter, as MeanActivation needs. Received: layer "
            f"{name!r} with {len(member.channels)} filters and output shape {shape}. "
            "Name it in `exclude`, or use another criterion."
        )
    return axis


def _last_operation(call: Call, readers: dict[int, list[Call]]) -> Any:
    """The operation whose output is the activation of the filters of `call`."""
    while not _is_activated(call.operation):
        following = readers.get(id(call.outputs[0]), [])
        if len(following) != 1:
            break
        operation = following[0].operation
        if not isinstance(operation, (*_TRANSPARENT, *_ACTIVATIONS)):
            break
        if len(operation._inbound_nodes) != 1:
            break  # a shared layer: its output is not this layer's alone
        call = following[0]
    return call.operation


def _is_activated(operation: Any) -> bool:
    if isinstance(operation, _ACTIVATIONS):
        return True
    activation = getattr(operation, "activation", None)
    return activation is not None and activation is not keras.activations.linear
