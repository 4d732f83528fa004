"""Every use of every operation of a model, with concrete shapes at batch 1."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
from keras import KerasTensor

from tfcompress.structure._graph import calls, functional, inner_inputs

__all__ = ["Shape", "Use", "elements", "uses"]

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Use:
    """One use of an operation: what goes in and out, at batch 1.

    Attributes:
        operation: the layer, or the `keras.ops` operation.
        path: its name, "outer/inner" where it is nested.
        inputs: flat tuple of the tensors that go in, all sizes known.
        outputs: flat tuple of the tensors that come out.
        args: positional arguments of the call, with the tensors of `inputs`.
        kwargs: keyword arguments of the call.
        symbols: the model's own symbolic tensors behind `inputs` and `outputs`.
    """

    operation: keras.Operation
    path: str
    inputs: tuple[KerasTensor, ...]
    outputs: tuple[KerasTensor, ...]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    symbols: tuple[tuple[KerasTensor, ...], tuple[KerasTensor, ...]] = ((), ())

    def within(
        self,
        operation: keras.Operation,
        inputs: Sequence[Shape],
        outputs: Sequence[Shape],
    ) -> Use:
        """The use of a layer inside this one."""
        given = tuple(KerasTensor(shape, self.inputs[0].dtype) for shape in inputs)
        made = tuple(KerasTensor(shape, self.outputs[0].dtype) for shape in outputs)
        return Use(operation, self.path, given, made, given)

    def argument(self, position: int, name: str) -> Any:
        """The argument of the call at `position`, or called `name`."""
        if position < len(self.args):
            return self.args[position]
        return self.kwargs.get(name)


def elements(tensor: Any) -> int:
    """Number of elements of a tensor."""
    return math.prod(tensor.shape)


def uses(
    model: keras.Model, input_shape: Shape | Sequence[Shape] | None = None
) -> Iterator[Use]:
    """Yields the uses in `model`, nested models included, in order of execution."""
    symbolic = functional(model).inputs
    shapes = _input_shapes(symbolic, input_shape)
    given = [
        KerasTensor(shape, tensor.dtype)
        for tensor, shape in zip(symbolic, shapes, strict=True)
    ]
    yield from _walk(model, given, "")[0]


def _input_shapes(
    symbolic: Sequence[KerasTensor], given: Shape | Sequence[Shape] | None
) -> list[Shape]:
    known = [tuple(tensor.shape[1:]) for tensor in symbolic]
    if given is None:
        if any(None in shape for shape in known):
            raise ValueError(
                "Invalid value for argument `input_shape`. Expected the sizes of the "
                "inputs, without the batch axis, because the model leaves some of "
                f"them open: {known}. Received: input_shape=None"
            )
        return [(1, *shape) for shape in known]
    shapes: list[Any] = list(given) if isinstance(given, tuple | list) else []
    if all(isinstance(n, int) for n in shapes):
        shapes = [given]
    if len(shapes) != len(known) or not all(map(_fits, shapes, known)):
        raise ValueError(
            "Invalid value for argument `input_shape`. Expected one shape for each "
            "input, without the batch axis, that agrees with "
            f"{known}. Received: input_shape={given!r}"
        )
    return [(1, *shape) for shape in shapes]


def _fits(shape: Any, known: tuple[int | None, ...]) -> bool:
    return (
        isinstance(shape, tuple | list)
        and len(shape) == len(known)
        and all(isinstance(n, int) and n > 0 for n in shape)
        and all(k in (None, n) for n, k in zip(shape, known, strict=True))
    )


def _walk(
    model: keras.Model, given: Sequence[KerasTensor], prefix: str
) -> tuple[list[Use], list[KerasTensor]]:
    """Uses in `model` when it is called on `given`, and what comes out."""
    # Inferring shapes traces every layer, which is slow. The shapes that the graph
    # already holds are enough where only the batch is unknown.
    graph = functional(model)
    infer = not _shapes_are_final(model, given)
    values: dict[int, KerasTensor] = dict(
        zip(map(id, graph.inputs), given, strict=True)
    )
    found: list[Use] = []
    for call in calls(model):
        operation = call.operation
        path = prefix + operation.name
        inputs = tuple(values[id(tensor)] for tensor in call.inputs)
        args, kwargs = call.node.arguments.fill_in(values)
        entered = inner_inputs(call)
        if entered is not None:
            fed = [values[id(tensor)] for tensor in entered]
            inner, outputs = _walk(operation, fed, path + "/")
            found.extend(inner)
        else:
            if infer:
                outputs = _infer(operation, path, args, kwargs)
            else:
                outputs = [_at_batch_one(tensor) for tensor in call.outputs]
            found.append(
                Use(
                    operation,
                    path,
                    inputs,
                    tuple(outputs),
                    tuple(args),
                    kwargs,
                    (call.inputs, call.outputs),
                )
            )
        values.update(zip(map(id, call.outputs), outputs, strict=True))
    return found, [values[id(tensor)] for tensor in graph.outputs]


def _shapes_are_final(model: keras.Model, given: Sequence[KerasTensor]) -> bool:
    """Whether the model's own shapes hold, with 1 for the batch.

    The layers of Keras keep the batch axis. An operation such as
    `keras.ops.reshape`, or a custom layer, may fold it into another axis, and then
    only inferring the shapes again tells.
    """
    graph = functional(model)
    same = all(
        tuple(tensor.shape[1:]) == tuple(concrete.shape[1:]) and concrete.shape[0] == 1
        for tensor, concrete in zip(graph.inputs, given, strict=True)
    )
    batch = graph.inputs[0].shape[0] if graph.inputs else None
    return same and all(
        _keeps_batch(call.operation)
        and all(
            tensor.shape and tensor.shape[0] == batch and None not in tensor.shape[1:]
            for tensor in (*call.inputs, *call.outputs)
        )
        for call in calls(model)
    )


def _keeps_batch(operation: keras.Operation) -> bool:
    """Whether the batch axis of what goes in is surely that of what comes out."""
    kind = type(operation)
    if isinstance(operation, keras.Layer):
        return kind.__module__.startswith("keras.") and kind is not keras.layers.Lambda
    return kind.__name__ not in _MAY_FOLD_BATCH


# They can move the batch axis, fold it into another one, or join several batches.
_MAY_FOLD_BATCH = frozenset(
    {
        *("Reshape", "Ravel", "Transpose", "Swapaxes", "Moveaxis", "Rearrange"),
        *("Einsum", "Tensordot", "Dot", "Outer", "Vdot", "Inner", "Concatenate"),
        *("Stack", "Vstack", "Split", "Unstack", "GetItem", "ExpandDims", "Squeeze"),
        *("Tile", "Repeat", "BroadcastTo", "Take", "Flip", "Roll", "Pad"),
    }
)


def _at_batch_one(tensor: KerasTensor) -> KerasTensor:
    return KerasTensor((1, *tensor.shape[1:]), tensor.dtype)


def _infer(
    operation: keras.Operation, path: str, args: Any, kwargs: Any
) -> list[KerasTensor]:
    try:
        outputs = keras.tree.flatten(operation.compute_output_spec(*args, **kwargs))
        if any(None in tensor.shape for tensor in outputs):
            # Some layers answer from their arguments alone; tracing them tells.
            spec = keras.Operation.compute_output_spec(operation, *args, **kwargs)
            outputs = keras.tree.flatten(spec)
    except Exception as error:
        raise ValueError(
            "Invalid value for argument `model`. Expected a model that can be traced "
            f"with one sample. Received: a model whose {path!r} "
            f"({type(operation).__name__}) cannot: {error}"
        ) from error
    if any(None in tensor.shape for tensor in outputs):
        raise ValueError(
            "Invalid value for argument `model`. Expected a model whose shapes follow "
            f"from those of its inputs. Received: a model whose {path!r} "
            f"({type(operation).__name__}) gives {[t.shape for t in outputs]}"
        )
    return outputs
