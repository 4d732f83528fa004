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

from tfcompress.structure._facts import IDENTITY_LAYERS

__all__ = [
    "Call",
    "calls",
    "copy_operation",
    "edited",
    "evaluate",
    "functional",
    "graphs",
    "has_graph",
    "inner_inputs",
    "input_layer",
    "is_editable",
    "is_nested_model",
    "is_of_keras",
    "own_steps",
    "rebuilt_class",
    "require_editable",
    "require_graph",
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

    Masks that travel along are left out. None if the operation is not a model whose
    graph can be walked, or if what it is given does not match its inputs one by one.
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
    return inner_inputs(call) is not None


def functional(model: keras.Model) -> Any:
    """The `Functional` behind `model` (a Sequential has one inside).

    It has `inputs`, `outputs` (flat lists of `KerasTensor`), `_inputs_struct`
    and `_outputs_struct`.
    """
    graph = _graph_of(model)
    if graph is None:
        raise ValueError(_explain(model))
    return graph


def has_graph(model: keras.Model) -> bool:
    """Whether a model computes what its graph says."""
    return _graph_of(model) is not None


def require_graph(model: Any, argument: str = "model") -> None:
    """Raises unless `model` is a built Functional or Sequential model.

    Models of a subclass that passes inputs and outputs to the constructor of
    `keras.Model` are among them; of a `keras.distillation.Distiller`, the student
    is the model with the graph (see `edited`).
    """
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"Invalid value for argument `{argument}`. Expected a keras.Model "
            f"(Functional or Sequential). Received: {model!r} of type "
            f"{type(model).__name__}. Models of legacy Keras (tf_keras) must be "
            "converted to Keras 3 first."
        )
    if _graph_of(edited(model)) is None:
        raise ValueError(_explain(model, argument))


def edited(model: Any) -> Any:
    """The model whose graph is edited: the student of a distiller, else `model`."""
    if isinstance(model, keras.distillation.Distiller):
        return model.student
    return model


def require_editable(
    model: Any, argument: str = "model", *, around: bool = True
) -> None:
    """Raises unless an edited copy of `model` would train as `model` does.

    Edits return a plain Functional model where the class of a model has a
    constructor of its own, since only that class knows what to give to it. The
    copy computes the same, but the methods of the class are gone. Whatever goes
    on to train such a copy calls this first.

    Args:
        model: what the caller was given.
        argument: what the caller's argument is called, for the message. Defaults
            to `"model"`.
        around: whether methods around the steps count, such as a `fit` that prepares
            data. Defaults to `True`.

    Raises:
        TypeError: if `model` is not a Keras 3 model.
        ValueError: if it has no graph, is a distiller, or is of a class with a
            constructor of its own that changes how a model is trained.
    """
    require_graph(model, argument)
    if edited(model) is not model:
        raise ValueError(
            f"Invalid value for argument `{argument}`. Expected a model that can be "
            f"rebuilt while it trains. Received: {model.name!r} of class "
            f"{type(model).__name__}. Train it with fit, then edit its student."
        )
    own = own_steps(model, _AROUND if around else ())
    if own and not is_of_keras(type(model), "__init__"):
        raise ValueError(
            f"Invalid value for argument `{argument}`. Expected a model that trains "
            f"the same once it is rebuilt. Received: {model.name!r} of class "
            f"{type(model).__name__}, which has a constructor of its own and defines "
            f"{', '.join(own)}: a rebuilt model would be a plain Functional one. Train "
            "with fit, or give the class the constructor of keras.Model."
        )


# Methods by which a class changes how its models are trained and evaluated.
_STEPS = (
    "train_step",
    "test_step",
    "predict_step",
    "compute_loss",
    "compute_metrics",
    "stateless_compute_loss",
    "make_train_function",
    "make_test_function",
    "make_predict_function",
)
_AROUND = ("compile", "fit", "evaluate", "predict")


def own_steps(model: keras.Model, further: Sequence[str] = ()) -> list[str]:
    """The methods by which a class that is not of Keras changes how models train.

    Args:
        model: the model.
        further: names of methods to look for as well. Defaults to `()`.
    """
    names = (*_STEPS, *further)
    return [name for name in names if not is_of_keras(type(model), name)]


def is_of_keras(cls: type, name: str) -> bool:
    """Whether a class takes a method from Keras."""
    owner = next(base for base in cls.__mro__ if name in vars(base))
    return owner.__module__.startswith("keras.")


def rebuilt_class(model: keras.Model) -> type:
    """The class that an edited copy of a model is of.

    It is that of the model if it is constructed as Keras' own classes are.
    """
    # `class Mine(keras.Model)` without `__init__` is built by Mine(inputs, outputs),
    # and keeps its `train_step`. With an `__init__` of its own, such as
    # Mine(classes=10), nobody but the class knows what to give to it.
    if is_of_keras(type(model), "__init__"):
        return type(model)
    return keras.Sequential if isinstance(model, keras.Sequential) else keras.Model


def calls(model: keras.Model) -> Iterator[Call]:
    """Yields the calls of `model` in the order of execution.

    Nested models are yielded as one call each; walk them with
    `calls(call.operation)`. Calls without tensor inputs (`InputLayer`) are
    left out.
    """
    graph = functional(model)
    known = {id(tensor) for tensor in graph.inputs}
    # Keras counts depth from the outputs, so the deepest nodes run first.
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


def scope_of(model: keras.Model) -> AbstractContextManager[Any]:
    """The scope of the distribution strategy that a model was made under.

    What is made from the model, such as an edited copy, belongs to it as well.
    """
    # The public `distribute_strategy` is never None: without a strategy it is the
    # default one, whose scope must not be entered inside of another.
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
    # Rules edit attributes of the copy, such as `newshape`. The lists of nodes must not
    # be shared: a call of the copy would otherwise appear in the original's graph.
    twin = shallow_copy(operation)
    twin._inbound_nodes = []
    twin._outbound_nodes = []
    return twin


def shallow_copy(thing: Any) -> Any:
    """A copy with the same attributes (`copy.copy` would serialize Keras objects)."""
    twin = object.__new__(type(thing))
    vars(twin).update(vars(thing))
    return twin


def evaluate(
    model: keras.Model,
    inputs: Sequence[Any],
    visit: Callable[[KerasTensor, Any], Any],
) -> None:
    """Runs a model call by call at inference, without compiling anything.

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
                if isinstance(operation, IDENTITY_LAYERS):
                    # Dropout(x, training=True) draws other numbers in a model of other
                    # sizes, so that no two models could be compared.
                    args, kwargs = args[:1], {**kwargs, "training": False}
            results = keras.tree.flatten(operation(*args, **kwargs))
        for tensor, value in zip(call.outputs, results, strict=True):
            instead = visit(tensor, value)
            values[id(tensor)] = value if instead is None else instead
    return [values[id(tensor)] for tensor in graph.outputs]


def _graph_of(model: keras.Model) -> Any | None:
    if not is_of_keras(type(model), "call"):
        return None  # the graph is not what it computes
    if isinstance(model, keras.Sequential):
        if not model.built:
            return None
        return model._functional
    return model if hasattr(model, "_nodes_by_depth") else None


def _explain(model: keras.Model, argument: str = "model") -> str:
    model = edited(model)
    if hasattr(model, "_nodes_by_depth") or (
        isinstance(model, keras.Sequential) and not is_of_keras(type(model), "call")
    ):
        return (
            f"Invalid value for argument `{argument}`. Expected a Functional or "
            f"Sequential model. Received: {model.name!r} of class "
            f"{type(model).__name__}, whose `call` is its own, so that its graph is "
            "not what it computes. Pass keras.Model(model.inputs, model.outputs) if "
            "that is what you want to edit."
        )
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
        "analyze. Build it with keras.Model(inputs, outputs)."
    )
