"""The graph of a Keras model as a flat list of calls.

The only file that touches private Keras graph attributes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
from keras import KerasTensor

__all__ = ["Call", "calls", "functional", "is_nested_model", "require_graph"]


@dataclass(frozen=True)
class Call:
    """One use of an operation in a graph.

    Attributes:
        operation: the `keras.Operation` (a layer, a nested model or a
            `keras.ops` operation) that is called.
        inputs: flat tuple of the `KerasTensor`s that go in.
        outputs: flat tuple of the `KerasTensor`s that come out.
        node: the Keras node; `node.arguments` holds `args` and `kwargs`.
    """

    operation: keras.Operation
    inputs: tuple[KerasTensor, ...]
    outputs: tuple[KerasTensor, ...]
    node: Any


def is_nested_model(operation: keras.Operation) -> bool:
    """Whether `operation` is a model whose own graph can be walked."""
    return isinstance(operation, keras.Model) and _graph_of(operation) is not None


def functional(model: keras.Model) -> Any:
    """The `Functional` behind `model` (a Sequential has one inside).

    It has `inputs`, `outputs` (flat lists of `KerasTensor`), `_inputs_struct`
    and `_outputs_struct`.
    """
    graph = _graph_of(model)
    if graph is None:
        raise ValueError(_explain(model))
    return graph


def require_graph(model: Any, argument: str = "model") -> None:
    """Raises unless `model` is a built Functional or Sequential model."""
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"Invalid value for argument `{argument}`. Expected a keras.Model "
            f"(Functional or Sequential). Received: {model!r} of type "
            f"{type(model).__name__}. Models of legacy Keras (tf_keras) must be "
            "converted to Keras 3 first."
        )
    if _graph_of(model) is None:
        raise ValueError(_explain(model, argument))


def calls(model: keras.Model) -> Iterator[Call]:
    """Yields the calls of `model` in the order of execution.

    Nested models are yielded as one call each; walk them with
    `calls(call.operation)`. Calls without tensor inputs (`InputLayer`) are
    left out.
    """
    graph = functional(model)
    known = {id(tensor) for tensor in graph.inputs}
    for depth in sorted(graph._nodes_by_depth, reverse=True):
        for node in graph._nodes_by_depth[depth]:
            if node.is_input or not node.operation:
                continue
            if any(id(tensor) not in known for tensor in node.input_tensors):
                continue  # not computable from the inputs, as Keras does
            known.update(id(tensor) for tensor in node.outputs)
            yield Call(
                node.operation,
                tuple(node.input_tensors),
                tuple(node.outputs),
                node,
            )


def _graph_of(model: keras.Model) -> Any | None:
    if isinstance(model, keras.Sequential):
        if not model.built:
            return None
        return model._functional
    return model if hasattr(model, "_nodes_by_depth") else None


def _explain(model: keras.Model, argument: str = "model") -> str:
    if isinstance(model, keras.Sequential):
        return (
            f"Invalid value for argument `{argument}`. Expected a built model. "
            f"Received: Sequential model {model.name!r} whose input shape is not "
            "known. Add a keras.Input as its first layer, or call "
            "model.build(input_shape)."
        )
    return (
        f"Invalid value for argument `{argument}`. Expected a Functional or "
        f"Sequential model. Received: {model.name!r} of class "
        f"{type(model).__name__}, a subclassed model, which has no graph to "
        "analyse. Build it with keras.Model(inputs, outputs)."
    )
