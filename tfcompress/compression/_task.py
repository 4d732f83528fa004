"""Data and quality: what is trained on, and how good a model or a file is."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras.src.backend.common.masking import get_keras_mask, set_keras_mask

from tfcompress._checks import invalid
from tfcompress.export import unpack
from tfcompress.export._runtime import open_file
from tfcompress.report._evaluate import direction, penalty
from tfcompress.structure._graph import is_of_keras, structures

__all__ = [
    "Metric",
    "Task",
    "chosen_metric",
    "loss_of_data",
    "quality_of_file",
    "scalar",
]

_BATCH = 128
_HELD_OUT = 0.1
_EXPECTED = (
    "(inputs, labels) as arrays, or a tf.data.Dataset or keras.utils.PyDataset of "
    "batches of (inputs, labels)"
)


@dataclass(frozen=True)
class Metric:
    """The metric that says how good a model is.

    Attributes:
        name: as in the logs of `evaluate`.
        grows: whether more is better.
    """

    name: str
    grows: bool

    def drop(self, original: float, value: float) -> float:
        """How much worse `value` is than the original's.

        The difference where more is better, as with accuracies; the relative
        growth where less is better, as with losses and errors.
        """
        if self.grows:
            return original - value
        return value / original - 1 if original > 0 else value - original

    def worth(self, value: float) -> float:
        """A number that is larger for a better model."""
        return value if self.grows else -value


class Task:
    """Data to train on and to choose by, checked once.

    Args:
        model: the compiled model that the data are for.
        train: what `fit` is to train on.
        validation: what to choose by; `None` holds out a tenth of arrays.
        batch_size: of arrays.
        seed: of what is held out.
    """

    def __init__(
        self,
        model: keras.Model,
        train: Any,
        validation: Any,
        *,
        batch_size: int,
        seed: int,
    ) -> None:
        self.batch_size = batch_size
        train, validation = _without_none(train), _without_none(validation)
        _check(model, train, "train")
        if validation is None:
            if not isinstance(train, tuple):
                raise ValueError(
                    "Invalid value for argument `validation`. Expected data, because "
                    "only arrays can be divided. Received: validation=None"
                )
            train, validation = _divided(train, seed)
        else:
            _check(model, validation, "validation")
        self.train, self.validation = train, validation

    def fit_arguments(self) -> dict[str, Any]:
        """What `fit` takes."""
        arguments: dict[str, Any] = {"validation_data": self.validation}
        if isinstance(self.train, tuple):
            arguments["x"], arguments["y"] = self.train[:2]
            if len(self.train) > 2:
                arguments["sample_weight"] = self.train[2]
            arguments["batch_size"] = self.batch_size
        else:
            arguments["x"] = self.train
        return arguments

    @property
    def steps(self) -> int | None:
        """Updates in an epoch, where it is known."""
        if isinstance(self.train, tuple):
            return -(-_length(self.train) // self.batch_size)
        if hasattr(self.train, "cardinality"):
            count = int(self.train.cardinality())
            return count if count > 0 else None
        return len(self.train)

    def calibration(self, count: int = 500) -> Any:
        """Typical inputs, in the structure that the model takes."""
        return self.sample(count)[0]

    def sample(self, count: int = 500) -> tuple[Any, Any]:
        """Some inputs and labels of the training data, of arrays evenly spread."""
        if isinstance(self.train, tuple):
            length = _length(self.train)
            rows = np.unique(np.linspace(0, length - 1, min(count, length)).astype(int))
            return _rows(self.train[:2], rows)
        taken: list[Any] = []
        seen = 0
        for inputs, labels, _ in _batches(self.train):
            taken.append(keras.tree.map_structure(np.asarray, (inputs, labels)))
            seen += len(keras.tree.flatten(inputs)[0])
            if seen >= count:
                break
        return keras.tree.map_structure(
            lambda *parts: np.concatenate(parts)[:count], *taken
        )

    def fingerprint(self) -> str:
        """Tells these data from others, as far as that is cheap."""
        parts = []
        for data in (self.train, self.validation):
            if isinstance(data, tuple):
                crc = 0
                for array in keras.tree.flatten(data):
                    crc = zlib.crc32(np.ascontiguousarray(array).tobytes(), crc)
                parts.append(f"{_length(data)} samples, {crc:08x}")
            else:
                spec = getattr(data, "element_spec", type(data).__name__)
                parts.append(f"{spec}")
        return "; ".join(parts)

    # Quality -----------------------------------------------------------------

    def quality(self, model: keras.Model) -> dict[str, float]:
        """Loss of the data, and metrics, of a compiled model on the validation data."""
        arguments: dict[str, Any] = {"x": self.validation}
        if isinstance(self.validation, tuple):
            arguments["x"], arguments["y"] = self.validation[:2]
            if len(self.validation) > 2:
                arguments["sample_weight"] = self.validation[2]
            arguments["batch_size"] = _BATCH
        logs = model.evaluate(**arguments, verbose=0, return_dict=True)
        values = {name: scalar(value) for name, value in logs.items()}
        return {**values, **loss_of_data(model, values)}

    def quality_of_file(self, model: keras.Model, file: Path) -> dict[str, float]:
        """Loss and metrics of an exported file on the validation data."""
        return quality_of_file(model, file, self.validation)


def quality_of_file(model: keras.Model, file: Path, data: Any) -> dict[str, float]:
    """Loss and metrics of an exported file.

    Args:
        model: the compiled model that the file comes from, whose loss and metrics
            are used. The states of its metrics are reset.
        file: a `.tflite` or `.tfcz` file.
        data: `(inputs, labels)` or `(inputs, labels, weights)` as arrays, or a
            `tf.data.Dataset` or `keras.utils.PyDataset` of batches of such.

    Returns:
        Values by name, as `evaluate` returns them, but for what regularizers of weights
        add to the loss.
    """
    # What `evaluate` does, with the file in the place of the forward pass: the outputs
    # go into the model's own loss and metrics, so that the figures can be compared with
    # those of the model.
    run = _runner(model, file)
    structure = structures(model)[1]
    model.reset_metrics()
    losses = weight = 0.0
    logs: dict[str, Any] = {}
    own_step = not is_of_keras(type(model), "test_step")
    masked = True  # until the first batch shows that it is not
    for inputs, labels, weights in _batches(data):
        answers = [keras.ops.convert_to_tensor(array) for array in run(inputs)]
        masked = masked and _copy_masks(model, inputs, answers)
        given = keras.tree.pack_sequence_as(structure, answers)
        if own_step:
            logs = _tested(model, (inputs, labels, weights), given)
            continue
        loss = model._compute_loss(inputs, labels, given, weights, training=False)
        count = len(answers[0])
        losses += float(loss) * count
        weight += count
        logs = model.compute_metrics(inputs, labels, given, weights)
    result = {name: scalar(value) for name, value in logs.items()}
    model.reset_metrics()
    if not own_step:
        result["loss"] = losses / weight
    return {**result, **loss_of_data(model, result)}


def scalar(value: Any) -> float:
    """A metric as one number: some, such as `F1Score`, have one for each class."""
    return float(np.mean(keras.ops.convert_to_numpy(value)))


def loss_of_data(model: keras.Model, logs: Mapping[str, float]) -> dict[str, float]:
    """The loss among logs without what regularizers of weights add to it.

    Pruned weights cost nothing there, so that the loss of a model that has become
    worse may fall.
    """
    if "loss" not in logs or not is_of_keras(type(model), "test_step"):
        return {}
    return {"loss": logs["loss"] - penalty(model)}


def _tested(model: keras.Model, batch: tuple[Any, Any, Any], given: Any) -> Any:
    """What a `test_step` of the user's own says about the answers of a file."""
    kind, asked = type(model), []

    def answer(self: keras.Model, *args: Any, **kwargs: Any) -> Any:
        asked.append(self)
        return given

    parts = keras.tree.map_structure(
        lambda part: None if part is None else keras.ops.convert_to_tensor(part), batch
    )
    model.__class__ = type(kind.__name__, (kind,), {"__call__": answer})
    try:
        logs = model.test_step(keras.utils.pack_x_y_sample_weight(*parts))
    finally:
        model.__class__ = kind
    if not asked:
        raise ValueError(
            "Invalid value for argument `model`. Expected a `test_step` that calls the "
            "model, in whose place an exported file can answer. Received: "
            f"{model.name!r} of class {kind.__name__}, whose own `test_step` does not"
        )
    return model._get_metrics_result_or_logs(logs)  # as `evaluate` does


def _copy_masks(model: keras.Model, inputs: Any, answers: list[Any]) -> bool:
    """Marks padding in a file's answers as the model marks it; whether there is any.

    Losses and metrics leave out the steps of a sequence that a mask of Keras hides. A
    file knows no masks.
    """
    outputs = keras.tree.flatten(model(inputs, training=False))
    masks = [get_keras_mask(output) for output in outputs]
    for answer, mask in zip(answers, masks, strict=True):
        set_keras_mask(answer, mask)
    return any(mask is not None for mask in masks)


def _runner(model: keras.Model, file: Path) -> Callable[[Any], list[np.ndarray]]:
    """A function from inputs to the flat outputs of an exported file."""
    if file.suffix == ".tfcz":
        unpacked = unpack(file)

        def call(inputs: Any) -> list[np.ndarray]:
            outputs = unpacked(inputs, training=False)
            flat = keras.tree.flatten(outputs)
            return [keras.ops.convert_to_numpy(output) for output in flat]

        return call
    program = open_file(file)
    names = [tensor.name for tensor in model.inputs]

    def run(inputs: Any) -> list[np.ndarray]:
        if isinstance(inputs, dict):
            inputs = [inputs[name] for name in names]
        flat = [np.asarray(array) for array in keras.tree.flatten(inputs)]
        return program(program.check(flat if len(flat) > 1 else flat[0]))

    return run


def chosen_metric(
    logs: dict[str, float], monitor: str | None, model: keras.Model
) -> Metric:
    """The metric to choose by.

    Args:
        logs: what `evaluate` returned.
        monitor: its name; `None` for the first accuracy, else the first metric,
            else the loss; the loss where several outputs have metrics of their
            own and none is an accuracy, or nothing tells whether more of the only
            metric is better.
        model: the model that was evaluated.

    Raises:
        ValueError: if there is no metric of that name, or nothing tells whether
            more of it is better.
    """
    kinds = {
        inner.name: inner
        for metric in model.metrics
        for inner in (getattr(metric, "metrics", None) or [metric])
    }

    def known(name: str) -> tuple[str, str | None]:
        """The name without that of an output, and where the metric is better."""
        # An output may be called "accel": its "accel_mae" is no accuracy.
        ends = [kind for kind in kinds if f"_{name}".endswith(f"_{kind}")]
        own = max(ends, key=len, default=name)
        return own, direction(own, kinds.get(own))

    if monitor is not None:
        name = monitor.removeprefix("val_")
        if name not in logs:
            raise ValueError(invalid("monitor", f"one of {sorted(logs)}", monitor))
        _, better = known(name)
        if better is None:
            expected = (
                "a metric of Keras, or one whose name has a word such as 'accuracy' or "
                "'error', so that it is known whether more is better"
            )
            raise ValueError(invalid("monitor", expected, monitor))
        return Metric(name, better == "up")
    for name in logs:
        own, better = known(name)
        if "acc" in own.lower() and better == "up":
            return Metric(name, True)
    others = [name for name in logs if not name.endswith("loss")]
    if len(others) == 1 and (better := known(others[0])[1]):
        return Metric(others[0], better == "up")
    return Metric("loss", False)


def _check(model: keras.Model, data: Any, argument: str) -> None:
    """Raises unless `data` are finite, labeled and for this model."""
    if isinstance(data, tuple):
        if not 2 <= len(data) <= 3 or data[1] is None:
            raise ValueError(invalid(argument, _EXPECTED, f"a tuple of {len(data)}"))
        lengths = {len(array) for array in keras.tree.flatten(data)}
        if len(lengths) != 1 or lengths == {0}:
            raise ValueError(
                invalid(argument, "as many labels as inputs", sorted(lengths))
            )
        inputs = data[0]
    elif isinstance(data, keras.utils.PyDataset) or hasattr(data, "element_spec"):
        if hasattr(data, "cardinality") and int(data.cardinality()) == -1:
            raise ValueError(
                f"Invalid value for argument `{argument}`. Expected data that end. "
                "Received: a dataset that goes on for ever; end it with take(steps)."
            )
        first = next(iter(_raw_batches(data)), None)
        if first is None:
            raise ValueError(invalid(argument, _EXPECTED, "a dataset without elements"))
        if not isinstance(first, tuple) or len(first) < 2:
            raise ValueError(
                f"Invalid value for argument `{argument}`. Expected {_EXPECTED}. "
                "Received: inputs without labels"
            )
        inputs = first[0]
    else:
        raise TypeError(
            f"Invalid value for argument `{argument}`. Expected {_EXPECTED}. "
            f"Received: an object of type {type(data).__name__}"
        )
    _check_inputs(model, inputs, argument)


def _without_none(data: Any) -> Any:
    """(x, y, None), as `keras.utils.unpack_x_y_sample_weight` returns it, is (x, y)."""
    if isinstance(data, tuple) and len(data) == 3 and data[2] is None:
        return data[:2]
    return data


def _check_inputs(model: keras.Model, inputs: Any, argument: str) -> None:
    flat = keras.tree.flatten(inputs)
    expected = [tuple(tensor.shape[1:]) for tensor in model.inputs]
    received = [tuple(np.shape(array)[1:]) for array in flat]
    fits = len(expected) == len(received) and all(
        len(e) == len(r) and all(a in (None, b) for a, b in zip(e, r, strict=True))
        for e, r in zip(expected, received, strict=True)
    )
    if isinstance(inputs, dict):  # by name, in any order
        names = {tensor.name for tensor in model.inputs}
        if not names <= set(inputs):
            raise ValueError(
                f"Invalid value for argument `{argument}`. Expected inputs of the "
                f"names {sorted(names)}. Received: {sorted(inputs)}"
            )
        fits = len(expected) == len(received)
    if not fits:
        raise ValueError(
            f"Invalid value for argument `{argument}`. Expected inputs of the shapes "
            f"{expected} for each sample. Received: {received}"
        )


def _divided(train: tuple[Any, ...], seed: int) -> tuple[Any, Any]:
    """(what stays, what is held out), drawn by `seed`."""
    length = _length(train)
    count = max(1, round(_HELD_OUT * length))
    if count >= length:
        raise ValueError(invalid("train", "at least two samples", length))
    order = np.random.default_rng(seed).permutation(length)
    held_out, stays = np.sort(order[:count]), np.sort(order[count:])

    return _rows(train, stays), _rows(train, held_out)


def _rows(data: Any, index: Any) -> Any:
    return keras.tree.map_structure(lambda array: np.asarray(array)[index], data)


def _length(data: tuple[Any, ...]) -> int:
    return len(keras.tree.flatten(data)[0])


def _raw_batches(data: Any) -> Iterator[Any]:
    if isinstance(data, keras.utils.PyDataset):
        count = data.num_batches
        for index in range(len(data) if count is None else count):
            yield data[index]
    else:
        yield from data


def _batches(data: Any) -> Iterator[tuple[Any, Any, Any]]:
    """(inputs, labels, weights or None) of all data."""
    if isinstance(data, tuple):
        length = _length(data)
        for start in range(0, length, _BATCH):
            part = _rows(data, slice(start, start + _BATCH))
            yield keras.utils.unpack_x_y_sample_weight(part)
    else:
        for batch in _raw_batches(data):
            yield keras.utils.unpack_x_y_sample_weight(batch)
