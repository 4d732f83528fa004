"""Models that were trained with fake quantization, as converters read them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import keras

from tfcompress import structure
from tfcompress.layers import FakeQuantize, InFloat, KernelWrapper, QuantizedKernel
from tfcompress.policy import named_layers
from tfcompress.structure import _graph

__all__ = ["frozen", "is_prepared", "is_wide", "ranges"]


def is_prepared(model: keras.Model) -> bool:
    """Whether a model computes with fake quantization."""
    return any(isinstance(x, FakeQuantize) for x in named_layers(model).values())


def is_wide(model: keras.Model) -> bool:
    """Whether its activations have 16 bits."""
    grids = named_layers(model).values()
    return any(isinstance(x, FakeQuantize) and x.bits == 16 for x in grids)


def frozen(model: keras.Model, *, recover: bool = False) -> keras.Model:
    """A copy whose kernels and ranges are constants, in a form for the converter.

    With `recover`, kernels that lie on a grid already keep it.

    Raises:
        ValueError: if a range has not been learned yet.
    """
    layers = named_layers(model)
    unknown = [
        name
        for name, layer in layers.items()
        if isinstance(layer, FakeQuantize) and layer.range is None
    ]
    if unknown:
        raise ValueError(
            "Invalid value for argument `model`. Expected a model that has learned "
            "its ranges: fit it, or pass it to quantization.calibrate with typical "
            f"inputs. Received: {model.name!r}, in which {len(unknown)} ranges are "
            f"not known, {unknown[0]!r} among them."
        )

    inputs = _input_steps(model)

    # The converter reads scales from fake quantizations with constant ranges around
    # constant kernels. What wrappers do to a kernel (a mask, clusters) is computed
    # here once, from the outside in, in the order of a training step. The quantizer
    # then stands alone in the copy, with the result as its constant.
    def freeze(name: str, layer: Any) -> keras.Layer:
        inner = _quantized(layer)
        if inner is None:
            return layer.freeze()

        def given(kernel: keras.Variable) -> Any:
            value, wrapper = kernel.value, layer
            while wrapper is not inner:  # wrappers around it are applied first
                value = wrapper.effective_kernel(kernel, value)
                wrapper = wrapper.layer
            return value

        return inner.freeze(given, recover, inputs.get(id(layers[name])))

    changed = {
        name: partial(freeze, name)
        for name, layer in layers.items()
        if isinstance(layer, InFloat | FakeQuantize) or _quantized(layer) is not None
    }
    return structure.wrap(model, changed, carry_optimizer=False)


def ranges(model: keras.Model) -> list[tuple[float, float] | None]:
    """The learned range of each input of a model; `None` where it has none."""
    found: list[tuple[float, float] | None] = []
    for tensor in model.inputs:
        readers = [
            node.operation
            for node in tensor._keras_history.operation._outbound_nodes
            if isinstance(node.operation, FakeQuantize)
        ]
        found.append(readers[0].range if readers else None)
    return found


def _input_steps(model: keras.Model) -> dict[int, float]:
    """Id of a layer with a quantized kernel -> the smallest step of its inputs."""
    found: dict[int, float] = {}

    def follow(graph: keras.Model, given: Sequence[float | None]) -> list[float | None]:
        steps = dict(zip(map(id, _graph.functional(graph).inputs), given, strict=True))
        for call in _graph.calls(graph):
            operation, inside = call.operation, _graph.inner_inputs(call)
            # What only moves values hands their grid on. What computes is followed by a
            # grid of its own, so that it does not matter what stands for it here.
            before = [step for t in call.inputs if (step := steps[id(t)]) is not None]
            after = [min(before, default=None)] * len(call.outputs)
            if inside is not None:
                after = follow(operation, [steps[id(t)] for t in inside])
            elif isinstance(operation, FakeQuantize):
                after = [operation.step]
            elif _quantized(operation) is not None and before:
                known = found.get(id(operation), before[0])
                found[id(operation)] = min(known, *before)
            steps.update(zip(map(id, call.outputs), after, strict=True))
        return [steps[id(t)] for t in _graph.functional(graph).outputs]

    follow(model, [None] * len(model.inputs))
    return found


def _quantized(layer: Any) -> QuantizedKernel | None:
    """The wrapper inside all others that quantizes."""
    while isinstance(layer, KernelWrapper) and not isinstance(layer, QuantizedKernel):
        layer = layer.layer
    return layer if isinstance(layer, QuantizedKernel) else None
