"""The one exit: from a model that was instrumented to a plain, smaller one."""

from __future__ import annotations

import warnings
from typing import Any, Literal

import keras

from tfcompress import gates, structure
from tfcompress._checks import fraction, one_of
from tfcompress._samples import read, reusable
from tfcompress.policy import named_layers
from tfcompress.structure._graph import edited, require_graph, walk

__all__ = ["finalize"]


def finalize(
    model: keras.Model,
    data: Any = None,
    *,
    threshold: float | None = None,
    dtype: Literal["float32"] | None = None,
) -> keras.Model:
    """Returns `model` as a plain Keras model without anything superfluous.

    Wrapped layers become the plain layers that compute the same (masks and
    other transformations of a kernel are written into it), gates vanish together
    with the branches and channels that they close, and channels that are
    provably zero are removed. The result needs nothing of this library to be
    loaded.

    Gates decide sample by sample, so a model with gates needs `data`: a gate
    that is open for all samples, or closed for all, is resolved without changing
    what the model computes on them. The others are an error, unless
    `threshold` says how to decide them. Then a warning tells how many they were
    and how the compiled metrics changed on `data`, if that has labels.

    A layer of your own takes part by a method `bake()` that returns the plain
    layer to put in its place, built and with its weights; or by an attribute
    `temporary = True`, which says that it vanishes.

    Example:

    ```python
    model.fit(x, y, epochs=25, callbacks=[tfc.callbacks.FilterPruning(schedule)])
    small = tfc.finalize(model)
    small.save("small.keras")
    ```

    Args:
        model: a built Functional or Sequential model; of a
            `keras.distillation.Distiller`, the student is meant. It is not modified.
        data: samples on which gates are resolved: inputs as for `fit`, a tuple
            `(inputs, labels)`, an iterable of batches of either that ends, as a
            `tf.data.Dataset`, or a `tfcompress.data.Dataset`, whose training split
            is taken. A model without gates does not need it. Defaults to `None`.
        threshold: a number in (0, 1]: gates that are neither always open nor
            always closed count as open where they are open for at least this
            fraction of the samples. Defaults to `None`, which refuses them.
        dtype: `"float32"` makes every layer compute in float32, with the same
            weights, as files for other runtimes need it after training in mixed
            precision. Defaults to `None`, which leaves the layers' policies alone.

    Returns:
        A new `keras.Model` with the same inputs and outputs. Where `model` is
        compiled, so is the result, with the optimizer's state.

    Raises:
        TypeError: if `model` is not a Keras model, or an argument of another kind.
        ValueError: if `model` is subclassed or not built; if it has gates and
            there is no data, or a gate is not polarized (it is named, with its
            ratio) and there is no threshold; if a layer has quantized weights and
            `dtype` is given.
    """
    require_graph(model)
    model = edited(model)
    if threshold is not None:
        fraction("threshold", threshold, what=" or None")
    one_of("dtype", dtype, (None, "float32"))
    if dtype is not None:
        _refuse_quantized(model, dtype)
    small = _finalized(model, data, threshold)
    return small if dtype is None else _in_dtype(small, dtype)


def _finalized(model: keras.Model, data: Any, threshold: float | None) -> keras.Model:
    if not gates.gates_of(model):
        return structure.shrink(_bake(model))
    if data is None:
        raise ValueError(
            "Invalid value for argument `data`. Expected samples, on which the gates "
            f"of {model.name!r} are measured. Received: data=None"
        )
    data = reusable(data)
    model = _bake(model)
    openings = gates.measure(model, data)
    small = gates.resolve(model, openings, threshold)
    if openings.undecided:
        warnings.warn(_effect(model, small, data, openings), stacklevel=3)
    return small


def _effect(
    before: keras.Model, after: keras.Model, data: Any, openings: gates.Openings
) -> str:
    """What deciding gates by a threshold has done."""
    told = (
        f"{len(openings.undecided)} of {len(openings.ratios)} gates were not polarized "
        "and were decided by the threshold: " + ", ".join(openings.undecided) + ". "
    )
    source = read(before, data)
    if not (source.labeled and before.compiled):
        return told + (
            "What this costs was not measured: compile the model with a metric and "
            "give data with labels."
        )
    # A copy, because an evaluation changes the state of a model's metrics.
    first, last = (
        source.evaluate(model)
        for model in (structure.wrap(before, {}, carry_optimizer=False), after)
    )
    changes = (f"{name} {first[name]:.4g} to {last[name]:.4g}" for name in last)
    return told + f"On {openings.samples} samples: " + ", ".join(changes) + "."


def _refuse_quantized(model: keras.Model, dtype: str) -> None:
    for name, layer in named_layers(model).items():
        mode = getattr(layer, "quantization_mode", None)
        if mode is not None:
            raise ValueError(
                "Invalid value for argument `dtype`. Expected None for "
                f"{model.name!r}, because layer {name!r} is quantized to {mode}. "
                f"Received: dtype={dtype!r}"
            )


def _in_dtype(model: keras.Model, dtype: str) -> keras.Model:
    """A copy whose layers compute in `dtype`, with the same weights."""
    copy = structure.wrap(model, {})
    for layer in copy._flatten_layers():
        layer.dtype_policy = dtype
    # Built anew, so that variables and the tensors between layers are of it, too.
    result = structure.wrap(copy, {})
    for layer in result._flatten_layers():
        layer.dtype_policy = dtype
    return result


def _bake(model: keras.Model) -> keras.Model:
    baking = {
        name: lambda layer: layer.bake()
        for name, layer in named_layers(model).items()
        if callable(getattr(layer, "bake", None))
    }
    model = structure.wrap(model, baking) if baking else model
    passing = [
        structure.Edit(call.outputs[0], (call.inputs[0],), lambda tensor: tensor)
        for _, call in walk(model)
        if getattr(call.operation, "temporary", False)
    ]
    return structure.rewire(model, passing) if passing else model
