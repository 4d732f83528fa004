"""The task of each output of a model, and how its decisions are compared."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

import keras
import numpy as np

from tfcompress.structure._facts import IDENTITY_LAYERS
from tfcompress.structure._graph import functional

__all__ = [
    "Task",
    "agreement_kind",
    "compile_arguments",
    "flat_labels",
    "fresh",
    "inferred_metrics",
    "losses_by_output",
    "output_names",
    "output_structure",
    "tasks_of",
]

Kind = Literal["classes", "binary", "labels", "values", "unknown"]

# Losses that tell what a network is for, in snake case.
_LOSSES: dict[str, Kind] = {
    "sparse_categorical_crossentropy": "classes",
    "categorical_crossentropy": "classes",
    "categorical_focal_crossentropy": "classes",
    "categorical_hinge": "classes",
    "mean_squared_error": "values",
    "mean_absolute_error": "values",
    "mean_absolute_percentage_error": "values",
    "mean_squared_logarithmic_error": "values",
    "mse": "values",
    "mae": "values",
    "huber": "values",
    "log_cosh": "values",
    "poisson": "values",
}
_BINARY_LOSSES = ("binary_crossentropy", "binary_focal_crossentropy", "bce")

# Layers and operations whose outputs are values of their input, or lie between them: a
# probability stays one.
_L = keras.layers
_KEEPING_LAYERS = (
    *IDENTITY_LAYERS,
    *(_L.Reshape, _L.Flatten, _L.Permute, _L.RepeatVector),
    *(_L.Cropping1D, _L.Cropping2D, _L.Cropping3D, _L.CenterCrop),
    *(_L.ZeroPadding1D, _L.ZeroPadding2D, _L.ZeroPadding3D),
    *(_L.UpSampling1D, _L.UpSampling2D, _L.UpSampling3D, _L.Resizing),
    *(_L.MaxPooling1D, _L.MaxPooling2D, _L.MaxPooling3D),
    *(_L.AveragePooling1D, _L.AveragePooling2D, _L.AveragePooling3D),
    *(_L.GlobalMaxPooling1D, _L.GlobalMaxPooling2D, _L.GlobalMaxPooling3D),
    *(_L.GlobalAveragePooling1D, _L.GlobalAveragePooling2D),
    _L.GlobalAveragePooling3D,
)
_KEEPING_OPERATIONS = (
    *("reshape", "squeeze", "expanddims", "transpose", "moveaxis", "swapaxes"),
    *("getitem", "cast", "identity", "flip", "resize", "mean", "max"),
)


@dataclass(frozen=True)
class Task:
    """What one output is for.

    Attributes:
        name: name of the output.
        kind: `"classes"` (one of several, the largest number decides),
            `"binary"` (one number, yes or no), `"labels"` (yes or no for each of
            several), `"values"` (numbers), or `"unknown"`.
        rank: number of axes of the output, with the batch.
        threshold: from which number on a yes is a yes.
    """

    name: str
    kind: Kind
    rank: int = 2
    threshold: float = 0.5

    @property
    def dense(self) -> bool:
        """Whether it decides at many positions, as a segmentation does."""
        return self.rank > 2

    def decide(self, outputs: np.ndarray) -> np.ndarray:
        """Decisions from outputs: class numbers, or true and false."""
        if self.kind == "classes":
            return outputs.argmax(-1)
        return outputs > self.threshold

    def truth(self, labels: np.ndarray, outputs: np.ndarray) -> np.ndarray:
        """What the decisions should have been."""
        if self.kind == "classes":
            if labels.ndim == outputs.ndim and labels.shape[-1] == outputs.shape[-1]:
                return labels.argmax(-1)
            return labels.reshape(outputs.shape[:-1])
        return labels.reshape(outputs.shape) > 0.5


def tasks_of(
    model: keras.Model, labels: Any, alike: keras.Model | None = None
) -> list[Task]:
    """The task of each output of `model`, in the order of `model.outputs`.

    The compiled loss decides where it can, then the labels, then the activation.

    Args:
        model: the model.
        labels: a batch of labels in the structure of the outputs; `None` where
            there are none.
        alike: a model with such outputs whose loss counts where `model` is not
            compiled.
    """
    names = output_names(model)
    flat = flat_labels(model, labels)
    losses = _loss_names(model, names, alike)
    return [
        _task(name, tensor, label, loss)
        for name, tensor, label, loss in zip(
            names, model.outputs, flat, losses, strict=True
        )
    ]


def output_structure(model: keras.Model) -> Any:
    """What `model` returns: a Keras tensor, or nested ones."""
    if isinstance(model, keras.Sequential):
        return model.outputs[0]
    return functional(model)._outputs_struct


def output_names(model: keras.Model) -> list[str]:
    """A unique name for each output."""
    names = list(getattr(model, "output_names", None) or [])
    structure = output_structure(model)
    if isinstance(structure, dict):
        names = [str(key) for key in sorted(structure)]
    if len(names) != len(model.outputs):
        names = [f"output_{i}" for i in range(len(model.outputs))]
    return [
        name if names.count(name) == 1 else f"{name}_{names[:i].count(name)}"
        for i, name in enumerate(names)
    ]


def flat_labels(model: keras.Model, labels: Any) -> list[np.ndarray | None]:
    """One array of labels for each output; `None` where they do not fit."""
    count = len(model.outputs)
    if labels is None:
        return [None] * count
    if isinstance(labels, dict) and count > 1:
        names = output_names(model)
        return [labels.get(name) for name in names]
    flat = keras.tree.flatten(labels)
    return list(flat) if len(flat) == count else [None] * count


def agreement_kind(task: Task) -> str:
    """How closely two sets of decisions agree; see `Agreement.kind`."""
    if task.kind in ("values", "unknown"):
        return "relative error"
    if task.dense:
        return "pixel"
    return {"classes": "top-1", "binary": "binary", "labels": "label"}[task.kind]


def inferred_metrics(task: Task, label: np.ndarray | None) -> list[keras.Metric]:
    """Metrics for an output that has none of its own."""
    if label is None or task.kind == "unknown":
        return []
    name = "pixel_accuracy" if task.dense else "accuracy"
    if task.kind == "classes":
        one_hot = label.ndim == task.rank and label.shape[-1] > 1
        kind = (
            keras.metrics.CategoricalAccuracy
            if one_hot
            else keras.metrics.SparseCategoricalAccuracy
        )
        return [kind(name=name)]
    if task.kind == "binary":
        return [keras.metrics.BinaryAccuracy(name, threshold=task.threshold)]
    if task.kind == "labels":
        name = "pixel_accuracy" if task.dense else "label_accuracy"
        return [keras.metrics.BinaryAccuracy(name, threshold=task.threshold)]
    return [
        keras.metrics.MeanAbsoluteError(name="mean_absolute_error"),
        keras.metrics.RootMeanSquaredError(name="root_mean_squared_error"),
    ]


def compile_arguments(model: keras.Model) -> dict[str, Any] | None:
    """Losses and metrics that `model` was compiled with, metrics as copies."""
    if not model.compiled or not hasattr(model, "_compile_config"):
        return None
    given = dict(model._compile_config.config)
    return {
        "loss": given.get("loss"),
        "loss_weights": given.get("loss_weights"),
        "metrics": keras.tree.map_structure(fresh, given.get("metrics")),
        "weighted_metrics": keras.tree.map_structure(
            fresh, given.get("weighted_metrics")
        ),
    }


def losses_by_output(given: Any, names: list[str]) -> list[Any]:
    """The loss of each output, of what `compile` took; `None` where it is not clear."""
    if isinstance(given, dict):
        return [given.get(name) for name in names]
    flat = keras.tree.flatten(given) if given is not None else []
    losses = flat * len(names) if len(flat) == 1 else flat
    return losses if len(losses) == len(names) else [None] * len(names)


def fresh(metric: Any) -> Any:
    """A copy of a metric, without its state; itself where its config makes none."""
    if not isinstance(metric, keras.Metric) or not _describes_itself(type(metric)):
        return metric
    try:
        return type(metric).from_config(metric.get_config())
    except Exception:  # whatever error the config of a user's metric raises
        return metric


def _describes_itself(kind: type[keras.Metric]) -> bool:
    """Whether the config of a metric knows the arguments that it was made with."""

    # A class with an `__init__` of its own and an inherited `get_config` would come
    # back with the defaults of its arguments.
    def place(method: str) -> int:
        return next(i for i, c in enumerate(kind.__mro__) if method in vars(c))

    made = place("__init__")
    of_keras = kind.__mro__[made].__module__.startswith("keras.")
    return of_keras or place("get_config") <= made


# One output -------------------------------------------------------------------


def _task(name: str, tensor: Any, label: np.ndarray | None, loss: Any) -> Task:
    shape = tuple(tensor.shape)
    channels = shape[-1] if len(shape) > 1 else None
    activation = _activation(tensor)
    loss_name, from_logits = loss
    # A binary loss says what it takes; without one, the last function tells.
    logits = from_logits
    if loss_name not in _BINARY_LOSSES:
        logits |= activation not in ("sigmoid", "hard_sigmoid")
    threshold = 0.0 if logits else 0.5
    several = channels is None or channels > 1
    kind: Kind
    if loss_name in _LOSSES:
        kind = _LOSSES[loss_name]
        if kind == "classes" and not several:
            kind = "unknown"
    elif loss_name in _BINARY_LOSSES:
        kind = "labels" if several else "binary"
    else:
        kind = _from_labels(label, shape, activation)
    # A loss for classes with labels of another shape is caught by the labels.
    if label is not None and not _fit(kind, label, shape):
        kind = "unknown"
    return Task(name, kind, len(shape), threshold)


def _from_labels(label: np.ndarray | None, shape: Any, activation: str) -> Kind:
    # The loss did not determine the task, so the labels do. One whole number for
    # several numbers of the output is a class. Zeros and ones in the output's shape are
    # yes or no; if every row adds up to 1, a class. Anything else is values.
    channels = shape[-1] if len(shape) > 1 else 1
    several = channels is None or channels > 1
    if label is None or label.dtype.kind not in "iufb":
        if activation == "softmax":
            return "classes" if several else "unknown"
        if activation == "sigmoid":
            return "labels" if several else "binary"
        return "values"
    whole = label.dtype.kind in "iub" or bool(np.all(label == np.rint(label)))
    if several and _is_sparse(label, shape):
        return "classes" if whole and label.min(initial=0) >= -1 else "unknown"
    if label.ndim > 1 and several and label.shape[-1] != channels and channels:
        return "unknown"
    binary = whole and bool(np.isin(label, (0, 1)).all())
    if not several:
        return "binary" if binary and activation != "relu" else "values"
    if binary and activation == "softmax":
        return "classes"
    if binary and activation == "sigmoid":
        return "labels"
    if binary and bool(np.all(label.sum(-1) == 1)):
        return "classes"
    return "values"


def _is_sparse(label: np.ndarray, shape: Any) -> bool:
    """Whether labels have one number where the output has several."""
    inner = tuple(shape[1:-1])
    given = tuple(label.shape[1:])
    if given and given[-1] == 1 and len(given) == len(inner) + 1:
        given = given[:-1]
    if len(given) != len(inner):
        return False
    return all(b in (None, a) for a, b in zip(given, inner, strict=True))


def _fit(kind: Kind, label: np.ndarray, shape: Any) -> bool:
    """Whether labels can be what the decisions of `kind` are compared with."""
    if label.dtype.kind not in "iufb":
        return False
    if kind == "classes" and _is_sparse(label, shape):
        return True
    given, wanted = tuple(label.shape[1:]), tuple(shape[1:])
    if wanted and wanted[-1] == 1 and given == wanted[:-1]:
        return True
    return len(given) == len(wanted) and all(
        b in (None, a) for a, b in zip(given, wanted, strict=True)
    )


def _activation(tensor: Any) -> str:
    """Name of the function that an output went through last.

    What only passes on, picks or averages values is looked through.
    """
    operation = tensor._keras_history.operation
    while True:
        function = getattr(operation, "activation", None)
        if function is not None:
            return str(getattr(function, "__name__", type(function).__name__)).lower()
        if isinstance(operation, keras.Model) and operation.outputs:
            index = tensor._keras_history.tensor_index
            tensor = operation.outputs[min(index, len(operation.outputs) - 1)]
            operation = tensor._keras_history.operation
            continue
        inner = getattr(operation, "layer", None)
        if isinstance(inner, keras.Layer):
            operation = inner
            continue
        name = type(operation).__name__.lower()
        # Temporary layers, as those that round for training, change little.
        keeping = (
            isinstance(operation, _KEEPING_LAYERS)
            or getattr(operation, "temporary", False)
            or name in _KEEPING_OPERATIONS
        )
        history = tensor._keras_history
        inputs = history.operation._inbound_nodes[history.node_index].input_tensors
        if not keeping or len(inputs) != 1:
            return name
        (tensor,) = inputs
        operation = tensor._keras_history.operation


def _loss_names(
    model: keras.Model, names: list[str], alike: keras.Model | None
) -> list[tuple[str, bool]]:
    """(name in snake case, whether on logits) of the loss of each output."""
    arguments = compile_arguments(model)
    if arguments is None and alike is not None:
        arguments = compile_arguments(alike)
    given = (arguments or {}).get("loss")
    return [
        (_snake(loss), bool(getattr(loss, "from_logits", False) or _logits(loss)))
        for loss in losses_by_output(given, names)
    ]


def _logits(loss: Any) -> bool:
    keywords = getattr(loss, "_fn_kwargs", None) or {}
    return bool(keywords.get("from_logits", False))


def _snake(loss: Any) -> str:
    if loss is None:
        return ""
    if isinstance(loss, str):
        name = loss
    elif callable(loss) and hasattr(loss, "__name__"):
        name = loss.__name__
    else:
        name = type(loss).__name__
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
