"""Learning from the original while being compressed.

The losses are those of Keras' `Distiller`. A `Distiller` itself is a model around
two others, which no callback of this library could prune or shrink while it trains.
So the student is made a subclass of its own class that adds the distillation to its
loss: it stays a Functional or Sequential model, and what rebuilds it smaller builds
the same class again.
"""

from __future__ import annotations

import inspect
from typing import Any

import keras
from keras import ops

from tfcompress.structure._graph import functional

__all__ = ["become", "distilled_class", "output_kinds"]

_EPSILON = 1e-7


def distilled_class(
    model: keras.Model,
    teacher: keras.Model,
    *,
    temperature: float,
    weight: float,
) -> type[keras.Model]:
    """A subclass of `model`'s class that also learns what `teacher` answers.

    The loss in training is `(1 - weight) * loss + weight * distillation`, as in
    `keras.distillation.Distiller`; evaluation reports the plain loss.

    Args:
        model: the student.
        teacher: a model with the same inputs and outputs. It is not trained.
        temperature: that class scores are divided by.
        weight: share of the distillation, in [0, 1].

    Returns:
        A class without a constructor of its own.
    """
    base = type(model)
    kinds = output_kinds(model)
    losses = [_loss(kind, temperature) for kind in kinds]
    # A class holds the teacher: what an instance holds would become a part of the
    # student, be saved with it and be lost when the student is rebuilt.
    held = (teacher,)
    # One of a class of the user's own may be older than this argument.
    takes_training = "training" in inspect.signature(base.compute_loss).parameters

    def compute_loss(
        self: Any,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        told = {"training": training} if takes_training else {}
        own = base.compute_loss(self, x, y, y_pred, sample_weight, **told)
        if not training:
            return own
        given = keras.tree.flatten(y_pred)
        taught = keras.tree.flatten(held[0](x, training=False))
        terms = [
            loss.compute_loss(_scores(t, kind), _scores(s, kind))
            for t, s, loss, kind in zip(taught, given, losses, kinds, strict=True)
        ]
        distillation = ops.cast(ops.sum(ops.stack(terms)), own.dtype)
        return (1.0 - weight) * own + weight * distillation

    return type(base.__name__, (base,), {"compute_loss": compute_loss})


def become(model: keras.Model, kind: type[keras.Model]) -> None:
    """Makes a model one of another class with the same layers.

    Args:
        model: the model.
        kind: the class, which differs in its loss.
    """
    model.__class__ = kind
    # Keras looks once, when a model is made, whether its loss takes `training`.
    parameters = inspect.signature(kind.compute_loss).parameters
    model._compute_loss_has_training_arg = "training" in parameters


def output_kinds(model: keras.Model) -> list[str]:
    """What each output is.

    Returns:
        For each output `"probabilities"` (of classes that exclude each other),
        `"chances"` (each of its own), `"scores"` or `"values"`.
    """
    return [
        _kind(tensor, loss)
        for tensor, loss in zip(
            functional(model).outputs, _losses_of_outputs(model), strict=True
        )
    ]


def _kind(tensor: Any, loss: Any) -> str:
    operation = tensor._keras_history.operation
    while isinstance(operation, keras.Model):  # a nested model is the last layer
        tensor = functional(operation).outputs[tensor._keras_history.tensor_index]
        operation = tensor._keras_history.operation
    activation = getattr(operation, "activation", None)
    name = getattr(activation, "__name__", type(operation).__name__).lower()
    if name == "softmax":
        return "probabilities"
    if name == "sigmoid":
        return "chances"
    text = loss if isinstance(loss, str) else getattr(loss, "name", "") or ""
    if "crossentropy" in str(text).lower():
        return "scores"
    return "values"


def _losses_of_outputs(model: keras.Model) -> list[Any]:
    outputs = functional(model).outputs
    given = (
        model._compile_config.config.get("loss")
        if getattr(model, "_compile_config", None)
        else None
    )
    if isinstance(given, dict):
        by_name = [given.get(name) for name in model.output_names]
        return by_name if len(by_name) == len(outputs) else [None] * len(outputs)
    if isinstance(given, list | tuple) and len(given) == len(outputs):
        return list(given)
    return [given] * len(outputs)


def _loss(kind: str, temperature: float) -> Any:
    if kind == "values":
        return keras.distillation.LogitsDistillation(temperature=1.0, loss="mse")
    return keras.distillation.LogitsDistillation(temperature=temperature)


def _scores(outputs: Any, kind: str) -> Any:
    """Outputs as the distillation loss takes them: unnormalized scores."""
    outputs = ops.cast(outputs, "float32")
    if kind == "probabilities":
        # softmax(log p) = p, so that log p are scores, whatever they were before.
        return ops.log(ops.maximum(outputs, _EPSILON))
    if kind == "chances":
        # Of two classes, yes and no.
        chances = ops.clip(outputs, _EPSILON, 1 - _EPSILON)
        pair = ops.stack([chances, 1 - chances], axis=-1)
        return ops.log(pair)
    return outputs
