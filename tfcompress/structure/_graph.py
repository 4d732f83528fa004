"""The graph of a Keras model as a flat list of calls.

The only file that touches private Keras graph attributes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import keras
from keras import KerasTensor

__all__ = [
    "Call",
    "calls",
    "copy_operation",
    "evaluate",
    "functional",
    "graphs",
    "has_plain_constructor",
    "inner_inputs",
    "input_layer",
    "is_editable",
    "is_nested_model",
    "require_graph",
    "require_plain_constructor",
    "scope_of",
    "shallow_copy",
    "structures",
    "walk",
]


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

    @property
    def arrays(self) -> list[Any]:
        """Arguments that are arrays, but not tensors of the graph."""
        return [
            argument
            for argument in self.node.arguments._flat_arguments
            if hasattr(argument, "shape") and not isinstance(argument, KerasTensor)
        ]


def is_nested_model(operation: keras.Operation) -> bool:
    """Whether `operation` is a model whose own graph can be walked."""
    return isinstance(operation, keras.Model) and _graph_of(operation) is not None


def inner_inputs(call: Call) -> tuple[KerasTensor, ...] | None:
    """What a call feeds into a nested model, in the order of its own inputs.

    Masks that travel along are left out. None if the operation is no model whose
    graph can be walked.
    """
    model = call.operation
    if not is_nested_model(model):
        return None
    arguments = call.node.arguments
    given = arguments.args[0] if arguments.args else arguments.kwargs.get("inputs")
    known = functional(model).inputs
    names = [tensor.name for tensor in known]
    if (
        isinstance(given, dict)
        and not isinstance(functional(model)._inputs_struct, dict)
        and set(names) <= set(given)
    ):
        given = [given[name] for name in names]  # Keras pairs these by name
    flat = keras.tree.flatten(given)
    if len(flat) != len(known) or not all(isinstance(t, KerasTensor) for t in flat):
        return None
    return tuple(flat)


def is_editable(call: Call) -> bool:
    """Whether a call is of a nested model that can be rebuilt from its graph."""
    return inner_inputs(call) is not None and has_plain_constructor(call.operation)


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


def walk(model: keras.Model, prefix: str = "") -> Iterator[tuple[str, Call]]:
    """Yields every call of a model, those inside of nested models as well.

    The calls inside of a nested model come before the call of it, and once, also
    where it is called several times. Nested models that cannot be edited count
    as layers.

    Args:
        model: the model.
        prefix: stands before the names. Defaults to `""`.

    Yields:
        The prefix of the graph that the call is in ("outer/"), and the call.
    """
    entered: set[int] = set()

    def enter(graph: keras.Model, prefix: str) -> Iterator[tuple[str, Call]]:
        for call in calls(graph):
            operation = call.operation
            if is_editable(call) and id(operation) not in entered:
                entered.add(id(operation))
                yield from enter(operation, f"{prefix}{operation.name}/")
            yield prefix, call

    yield from enter(model, prefix)


def graphs(model: keras.Model) -> list[tuple[str, keras.Model]]:
    """A model and the nested models that can be edited, each of them once.

    Returns:
        Pairs of the prefix of the names inside ("outer/") and the model.
    """
    nested = {
        id(call.operation): (f"{prefix}{call.operation.name}/", call.operation)
        for prefix, call in walk(model)
        if is_editable(call)
    }
    return [("", model), *nested.values()]


def require_plain_constructor(model: keras.Model) -> None:
    """Raises if the class of `model` has a constructor of its own.

    Such a class cannot be built from inputs and outputs.
    """
    if not has_plain_constructor(model):
        raise ValueError(
            "Invalid value for argument `model`. Expected a model whose class has no "
            f"constructor of its own. Received: {model.name!r} of class "
            f"{type(model).__name__}. Pass keras.Model(model.inputs, model.outputs) "
            "instead."
        )


def has_plain_constructor(model: keras.Model) -> bool:
    """Whether a model's class is constructed as Keras' own model classes are."""
    owner = next(cls for cls in type(model).__mro__ if "__init__" in vars(cls))
    return owner.__module__.startswith("keras.")


def scope_of(model: keras.Model) -> AbstractContextManager[Any]:
    """The scope of the distribution strategy that a model was made under.

    What is made from the model, such as an edited copy, belongs to it as well.
    """
    strategy = getattr(model, "_distribute_strategy", None)
    return nullcontext() if strategy is None else strategy.scope()


def structures(model: keras.Model) -> tuple[Any, Any]:
    """The (possibly nested) structures of symbolic inputs and outputs."""
    graph = functional(model)
    return graph._inputs_struct, graph._outputs_struct


def input_layer(tensor: KerasTensor) -> keras.Layer:
    """The `InputLayer` that a model's symbolic input comes from."""
    return tensor._keras_history.operation


def copy_operation(operation: keras.Operation) -> keras.Operation:
    """A copy of an operation without weights, without its place in a graph."""
    twin = shallow_copy(operation)
    twin._inbound_nodes = []
    twin._outbound_nodes = []
    return twin


def shallow_copy(thing: Any) -> Any:
    """A copy with the same attributes (`copy.copy` would serialise Keras objects)."""
    twin = object.__new__(type(thing))
    vars(twin).update(vars(thing))
    return twin


def evaluate(
    model: keras.Model,
    inputs: Sequence[Any],
    visit: Callable[[KerasTensor, Any], Any],
) -> None:
    """Runs a model call by call, without compiling anything.

    Args:
        model: the model.
        inputs: one array for each of the flat symbolic inputs.
        visit: called with every symbolic tensor, of nested models too, and its
            value; what it returns takes the value's place, unless it is None.
    """
    _evaluate(model, inputs, visit)


def _evaluate(
    model: keras.Model,
    inputs: Sequence[Any],
    visit: Callable[[KerasTensor, Any], Any],
) -> list[Any]:
    graph = functional(model)
    values = dict(zip(map(id, graph.inputs), inputs, strict=True))
    for call in calls(model):
        operation = call.operation
        inner = inner_inputs(call)
        if inner is not None and is_editable(call):
            given = [values[id(tensor)] for tensor in inner]
            results = _evaluate(operation, given, visit)
        else:
            args, kwargs = call.node.arguments.fill_in(values)
            if isinstance(operation, keras.Layer) and operation._call_has_training_arg:
                kwargs = {"training": False, **kwargs}
            results = keras.tree.flatten(operation(*args, **kwargs))
        for tensor, value in zip(call.outputs, results, strict=True):
            instead = visit(tensor, value)
            values[id(tensor)] = value if instead is None else instead
    return [values[id(tensor)] for tensor in graph.outputs]


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
