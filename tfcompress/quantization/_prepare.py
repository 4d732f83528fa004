"""Fake quantization in a plain Keras model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from tfcompress import _checks, structure
from tfcompress.layers import ClusteredKernel, FakeQuantize, InFloat, QuantizedKernel
from tfcompress.quantization._plan import Bits, Request, Step, steps
from tfcompress.quantization._rules import activation
from tfcompress.structure import _graph
from tfcompress.structure._carry import carry_compile
from tfcompress.structure._rebuild import Edit, Rebuild
from tfcompress.structure._walk import trace

__all__ = ["prepare"]


def prepare(
    model: keras.Model,
    weights: Bits = 8,
    activations: int = 8,
    layers: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
) -> keras.Model:
    """A copy of `model` that computes as its integer file will.

    Kernels are rounded to the grid of a few bits (`layers.QuantizedKernel`) and
    the tensors between layers to that of 8 or 16 (`layers.FakeQuantize`), at the
    places where an integer file has them: after a convolution with its
    activation, an addition, a concatenation, …, and on inputs and outputs. Train
    the copy with plain `fit`, beside any callback; a few epochs at a small
    learning rate are usual. `calibrate` finds the ranges without training. Then

    - `export.to_tflite(qat, path)` writes the integer file, which needs no
      calibration: the ranges were learned;
    - `finalize(qat)` leaves the plain float model with its kernels on the grid.

    Batch normalizations are folded into the layers before them, as in every
    integer file, and so train as part of their kernels. A batch normalization that
    cannot be folded becomes a depthwise convolution of size 1. A layer that is
    unknown, or that LiteRT does not compute on integers, stays in float; `plan` lists
    these layers with the reasons.

    Example:

    ```python
    qat = tfc.quantization.prepare(model, weights={"conv1": 8, "conv2": 4})
    qat.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    qat.fit(x_train, y_train, epochs=2)
    tfc.export.to_tflite(qat, "model.tflite")
    ```

    Args:
        model: a built Functional or Sequential model. It is not modified.
        weights: bits of the kernels, from 2 to 8; or a dict from layer names to
            bits, in which layers that are not named get 8. Defaults to `8`.
        activations: bits of all other tensors, 8 or 16; one figure, because
            LiteRT has no products of mixed widths. Defaults to `8`.
        layers: names of the layers and operations to quantize, `"outer/inner"`
            inside nested models; `None` for all. Defaults to `None`.
        exclude: names of those to leave in float. Defaults to `()`.

    Returns:
        A new model with the weights and the compile state of `model`. Its outputs
        keep their names for losses, metrics and logs. Keras does not save these: a
        copy that is loaded from a file calls its outputs `"cls_quantize"` instead of
        `"cls"`.

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: if `model` is subclassed, not built or prepared already, if the
            copy would lose a `train_step` of its class, bits are out of range, a name
            is unknown, or nothing would be quantized.
    """
    # Why the file equals the copy: a float that fake quantization has rounded is
    # scale · (q - zero point), the number that the file's integer q stands for.
    # Products and sums of such numbers are those of the integers, up to float32
    # rounding far below a step, and the next grid rounds them where the file does. So
    # both can differ only where a sum lies almost halfway between two steps.
    # This holds only if the copy has the operators and kernels of the file. The file
    # stores kernels with the batch normalization folded in, and rounding such a kernel
    # differs from rounding the one before. So normalizations are folded first.
    _graph.require_editable(model, around=False)
    request = Request(model, weights, activations, layers, exclude)
    folded = structure.fold_batch_norm(model)
    found = steps(folded, request)
    kernels = [step for step in found if step.decision.kind == "kernel"]
    if not kernels:
        reasons = "; ".join(
            f"{step.row.name}: {step.row.note}" for step in found if step.row.in_float
        )
        raise ValueError(
            _checks.invalid(
                "model",
                "at least one convolution or Dense layer to quantize",
                f"{model.name!r} ({reasons or 'no layers with kernels'})",
            )
        )
    wrap = {id(step.call.operation): _Wrap(step, request) for step in kernels}
    edits = _Grids(request.activations).edits(folded, found)
    for step in kernels:
        if step.decision.activation is not None:
            _drop_activation(_core(step.call.operation))
    rebuild = Rebuild(folded, trace(folded), wrap=wrap, edits=edits)
    carry_compile(folded, rebuild, slots=True)
    return rebuild.model


class _Wrap:
    """Wraps the copy of a layer."""

    def __init__(self, step: Step, request: Request) -> None:
        self.bits = request.bits(step.row.name)
        self.activations = request.activations

    def __call__(self, layer: Any) -> keras.Layer:
        clustered = isinstance(layer, ClusteredKernel)
        inner = layer.layer if clustered else layer
        quantized = QuantizedKernel(
            inner,
            self.bits,
            # One step for all: several would make several values of a centroid.
            per_channel=False if clustered else None,
            activation_bits=self.activations,
            trainable=inner.trainable,
        )
        return layer.around(quantized) if clustered else quantized


class _Grids:
    """Makes the edits that put tensors on grids."""

    def __init__(self, bits: int) -> None:
        # `_of`, which `edits` begins anew: id of a tensor -> the layer whose grid it
        # lies on. The output of an operation of kind "pass" has the entry of its input,
        # so that a later one of kind "same" rounds to that grid, not to a second one.
        self.bits = bits
        self._names: dict[str, int] = {}

    def edits(self, model: keras.Model, found: list[Step]) -> list[Edit]:
        """The edits for all steps, and for the inputs of the model."""
        self._of: dict[int, FakeQuantize] = {}
        edits = []
        for tensor in _graph.functional(model).inputs:
            if "float" in keras.backend.standardize_dtype(tensor.dtype):
                edits.append(self._edit(tensor, self._layer(tensor.name)))
        for step in found:
            edits += self._step(step)
        return edits

    def _step(self, step: Step) -> list[Edit]:
        call, decision = step.call, step.decision
        edits = [
            Edit(tensor, (tensor,), self._bar(call), call.node)
            for tensor in step.barred
        ]
        if decision.kind == "pass":
            shared = self._of.get(id(call.inputs[0])) if call.inputs else None
            if shared is not None:
                self._of.update((id(tensor), shared) for tensor in call.outputs)
            return edits
        if decision.kind == "instead" and not step.rounded:
            build = _Instead(self, call.operation.name, decision.build, None)
            return [*edits, Edit(call.outputs[0], tuple(call.inputs), build)]
        for tensor in step.rounded:
            name = call.operation.name
            if decision.kind == "same" and id(call.inputs[0]) in self._of:
                shared = self._of[id(call.inputs[0])]
                self._of[id(tensor)] = shared
                edits.append(Edit(tensor, (tensor,), _Round(shared)))
            elif decision.kind == "instead":
                grid = self._layer(name)
                self._of[id(tensor)] = grid
                build = _Instead(self, name, decision.build, grid)
                edits.append(Edit(tensor, tuple(call.inputs), build))
            elif decision.activation is not None:
                activate = _Activate(self, call.operation, decision.activation)
                self._of[id(tensor)] = activate.grid
                edits.append(Edit(tensor, (tensor,), activate))
            else:
                fixed = decision.kind if decision.kind in ("unit", "signed") else None
                bar = self._bar(call) if decision.kind == "float" else None
                edits.append(self._edit(tensor, self._layer(name, fixed), bar))
        return edits

    def _edit(self, tensor: Any, grid: FakeQuantize, bar: Any = None) -> Edit:
        # What is computed in float has a bar on either side. The converter would take
        # the grid behind an average pooling for that of its input, too, and cut the
        # input off there: means have a narrower range than the values.
        self._of[id(tensor)] = grid
        return Edit(tensor, (tensor,), grid if bar is None else lambda t: grid(bar(t)))

    def _layer(self, name: str, fixed: Any = None) -> FakeQuantize:
        return FakeQuantize(self.bits, fixed=fixed, name=self.name(name, "quantize"))

    def _bar(self, call: Any) -> InFloat:
        return InFloat(name=self.name(call.operation.name, "in_float"))

    def name(self, name: str, what: str) -> str:
        """A name that is not given twice."""
        full = f"{name}_{what}"
        count = self._names[full] = self._names.get(full, 0) + 1
        return full if count == 1 else f"{full}_{count}"


class _Round:
    """Rounds to the grid of another tensor, without learning from this one."""

    def __init__(self, grid: FakeQuantize) -> None:
        self.grid = grid

    def __call__(self, tensor: Any) -> Any:
        return self.grid(tensor, observe=False)


class _Instead:
    """Other operations in the place of one, with grids between them."""

    def __init__(
        self, grids: _Grids, name: str, build: Any, grid: FakeQuantize | None
    ) -> None:
        self.grids, self.name, self.build, self.grid = grids, name, build, grid

    def __call__(self, *tensors: Any) -> Any:
        def make(tensor: Any, fixed: Any = None) -> Any:
            return self.grids._layer(f"{self.name}_part", fixed)(tensor)

        outputs = self.build(make, *tensors)
        return outputs if self.grid is None else self.grid(outputs)


class _Activate:
    """The activation of a layer behind a grid of its own."""

    def __init__(self, grids: _Grids, layer: Any, name: str) -> None:
        layer = _core(layer)
        self.decision = activation(name, grids.bits)
        self.before = grids._layer(f"{layer.name}_before")
        kind = self.decision.kind
        self.grid = grids._layer(
            layer.name, kind if kind in ("unit", "signed") else None
        )
        self.grids, self.name = grids, layer.name
        self.function, self.regularizer = layer.activation, layer.activity_regularizer

    def __call__(self, tensor: Any) -> Any:
        tensor = self.before(tensor)
        if self.decision.build is not None:
            build = _Instead(self.grids, self.name, self.decision.build, None)
            tensor = build(tensor)
            if self.regularizer is not None:
                tensor = self._activation("linear")(tensor)
            return self.grid(tensor)
        if self.decision.kind == "float":
            tensor = InFloat(name=self.grids.name(self.name, "in_float"))(tensor)
        return self.grid(self._activation(self.function)(tensor))

    def _activation(self, function: Any) -> keras.Layer:
        """A layer for a function, with the regularizer of what it returns."""
        return keras.layers.Activation(
            function,
            activity_regularizer=self.regularizer,
            name=self.grids.name(self.name, "activation"),
        )


def _core(layer: Any) -> Any:
    return layer.core if isinstance(layer, ClusteredKernel) else layer


def _drop_activation(layer: Any) -> None:
    """Leaves the product and the bias of a layer, whose activation comes behind."""
    function, layer.activation = layer.activation, keras.activations.linear
    layer.activity_regularizer = None
    # A layer as an activation is a part of its layer, and would stay one: the layer and
    # its copies would then differ in their parts.
    if function in layer._layers:
        layer._layers.remove(function)
