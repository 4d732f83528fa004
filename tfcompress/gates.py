"""Gates for the residual branches of a model: put in, measured, resolved.

The method of Zhi et al., "A New Baseline for GreenAI: Finding the Optimal
Sub-Network via Layer and Channel Pruning" (2023). `tfcompress.finalize` turns
a trained model with gates into a plain one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress import structure
from tfcompress._checks import fraction
from tfcompress._samples import read
from tfcompress.layers._gates import ChannelGate, Gate, LayerGate
from tfcompress.policy import NOT_TRAINABLE, check_names, named_layers
from tfcompress.structure import _graph
from tfcompress.structure._branches import Branch, branches

__all__ = [
    "POSITIONS",
    "Openings",
    "add_channel_gates",
    "add_layer_gates",
    "gates_of",
    "measure",
    "resolve",
]

POSITIONS = ("before", "middle", "after")


def add_layer_gates(
    model: keras.Model,
    *,
    layers: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    estimator: str = "ste",
    temperature: float = 1.0,
    open_bias: float = 1.0,
    seed: int | None = None,
) -> keras.Model:
    """A copy of `model` with a `LayerGate` on every residual branch.

    A residual branch ends at an addition of two tensors that come from a common
    one, the block's input. It is the side with more layers that have kernels;
    the other side, the skip, is the input itself or a projection of it. The
    gate reads the block's input and multiplies the branch where the addition
    reads it. Other additions are left alone: of three tensors or more, of tensors
    without a common origin, with as many kernels on one side as on the other,
    or of a branch that something else reads, too; and, unless `layers` names them,
    those of a branch with a layer that does not train (`trainable=False`).

    The gate on the addition "add" is called "add_layer_gate".

    Example:

    ```python
    gated = tfc.gates.add_layer_gates(tfc.zoo.resnet20())
    gated.compile(optimizer, "sparse_categorical_crossentropy", ["accuracy"])
    penalty = tfc.callbacks.GatePenalty(polarization=1.0, activation=0.5)
    gated.fit(x, y, epochs=20, callbacks=[penalty])
    small = tfc.finalize(gated, data=x)
    ```

    Args:
        model: a built Functional model. It is not modified.
        layers: names of the additions whose branches get a gate; `None` for all
            that have one. Defaults to `None`.
        exclude: names of additions to leave alone. Defaults to `()`.
        estimator: head of the gates, see `tfcompress.layers.LayerGate`. Defaults
            to `"ste"`.
        temperature: of the estimator `"gumbel"`. Defaults to `1.0`.
        open_bias: see `LayerGate`. Defaults to `1.0`.
        seed: makes the gates' noise reproducible; every gate gets a seed of its
            own from it. Defaults to `None`.

    Returns:
        A new model with the same layers, weights and compile state.

    Raises:
        TypeError: if `model` is not a Keras model, or names are no list.
        ValueError: if the model is subclassed or not built, has layer gates
            already, or has no residual branch (with the reasons); if a name is
            not that of an addition, or of one without a branch.
    """

    def place(branch: Branch, index: int) -> structure.Edit:
        gate = LayerGate(
            estimator=estimator,
            temperature=temperature,
            open_bias=open_bias,
            seed=None if seed is None else seed + index,
            name=branch.gate_name("layer_gate"),
        )
        reads = (branch.features, branch.result)
        return structure.Edit(
            branch.result, reads, lambda x, y: gate([x, y]), branch.add.node
        )

    return _add(model, LayerGate, place, layers, exclude, lambda branch: None)


def add_channel_gates(
    model: keras.Model,
    position: str = "after",
    depth: int = 1,
    *,
    layers: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    estimator: str = "ste",
    temperature: float = 1.0,
    open_bias: float = 1.0,
    seed: int | None = None,
) -> keras.Model:
    """A copy of `model` with a `ChannelGate` in every residual branch.

    Which branches there are: see `add_layer_gates`. The positions are those of
    Figure 3:

    - `"before"`: on what the branch's first layer with a kernel reads (the skip
      stays whole);
    - `"middle"`: on what its last layer with a kernel reads;
    - `"after"`: on the branch's result.

    The layers with kernels must follow each other: where the first one does not
    lead to all others, or not all lead to the last, the branch is left alone.

    The gate on the branch that ends at "add" is called "add_channel_gate".

    Example:

    ```python
    gated = tfc.gates.add_channel_gates(model, position="middle", depth=1)
    ```

    Args:
        model: a built Functional model. It is not modified.
        position: `"before"`, `"middle"` or `"after"`. Defaults to `"after"`, the
            paper's best.
        depth: hidden layers of a gate, see `tfcompress.layers.ChannelGate`.
            Defaults to `1`.
        layers: as for `add_layer_gates`. Defaults to `None`.
        exclude: as for `add_layer_gates`. Defaults to `()`.
        estimator: as for `add_layer_gates`. Defaults to `"ste"`.
        temperature: as for `add_layer_gates`. Defaults to `1.0`.
        open_bias: as for `add_layer_gates`. Defaults to `1.0`.
        seed: as for `add_layer_gates`. Defaults to `None`.

    Returns:
        A new model with the same layers, weights and compile state.

    Raises:
        TypeError: as `add_layer_gates`.
        ValueError: as `add_layer_gates`, and for an unknown position, a depth out
            of range, or where the position does not exist in any branch.
    """
    if position not in POSITIONS:
        expected = ", ".join(map(repr, POSITIONS))
        raise ValueError(
            f"Invalid value for argument `position`. Expected one of {expected}. "
            f"Received: position={position!r}"
        )

    def place(branch: Branch, index: int) -> structure.Edit:
        gate = ChannelGate(
            depth=depth,
            estimator=estimator,
            temperature=temperature,
            open_bias=open_bias,
            seed=None if seed is None else seed + index,
            name=branch.gate_name("channel_gate"),
        )
        reader = branch.reader(position)
        tensor = branch.result if reader is branch.add else reader.inputs[0]
        return structure.Edit(tensor, (tensor,), gate, reader.node)

    return _add(
        model,
        ChannelGate,
        place,
        layers,
        exclude,
        lambda branch: branch.without(position),
    )


def gates_of(model: keras.Model) -> dict[str, Gate]:
    """Returns the gates of a model by name, "outer/inner" where nested.

    Args:
        model: a `keras.Model`.

    Returns:
        A dict in the order of the layers.
    """
    return {
        name: layer
        for name, layer in named_layers(model).items()
        if isinstance(layer, Gate)
    }


@dataclass(frozen=True)
class Openings:
    """How often the gates of a model are open, measured over data.

    `print` shows a table.

    Attributes:
        ratios: fraction of the samples for which each output of a gate is open,
            a float64 array (outputs,) by the gate's name.
        samples: number of samples.
    """

    ratios: Mapping[str, np.ndarray]
    samples: int

    @property
    def polarization(self) -> float:
        """R_polar over all samples, equations 8 and 9: mean of (1 - ḡ)·ḡ."""
        return _mean((1.0 - ratio) * ratio for ratio in self.ratios.values())

    @property
    def activation(self) -> float:
        """R_act over all samples, equation 11: mean of ḡ."""
        return _mean(self.ratios.values())

    @property
    def undecided(self) -> dict[str, np.ndarray]:
        """The gates that are open for some samples and closed for others."""
        return {
            name: ratio
            for name, ratio in self.ratios.items()
            if ((ratio > 0) & (ratio < 1)).any()
        }

    def __str__(self) -> str:
        rows = [f"{name}: {_describe(ratio)}" for name, ratio in self.ratios.items()]
        total = f"R_polar {self.polarization:.4g}, R_act {self.activation:.4g}"
        return "\n".join([*rows, f"{total}, over {self.samples} samples"])


def measure(model: keras.Model, data: Any, *, verbose: Any = 0) -> Openings:
    """Measures how often gates are open at inference.

    Example:

    >>> openings = tfc.gates.measure(gated, x_test)
    >>> print(openings)
    >>> openings.polarization

    Args:
        model: a built model with gates. It is not modified.
        data: inputs as for `fit`, a tuple `(inputs, labels)`, an iterable of
            batches of either that ends, as a `tf.data.Dataset`, or a
            `tfcompress.data.Dataset`, whose training split is taken.
        verbose: as for `predict`. Defaults to `0`.

    Returns:
        An `Openings`.

    Raises:
        TypeError: if `model` is not a Keras model.
        ValueError: if it has no gates, or `data` has no samples.
    """
    _graph.require_graph(model)
    names = gates_of(model)
    if not names:
        raise ValueError(
            "Invalid value for argument `model`. Expected a model with gates. "
            f"Received: {model.name!r}, which has none."
        )
    source = read(model, data)
    copy = structure.wrap(
        model, dict.fromkeys(names, _measuring), carry_optimizer=False
    )
    source.predict(copy, verbose=verbose)
    gates = gates_of(copy)
    samples = max(gate.seen for gate in gates.values())
    return Openings({name: gate.opening for name, gate in gates.items()}, samples)


def resolve(
    model: keras.Model,
    openings: Openings,
    threshold: float | None = None,
    *,
    verify: bool = True,
) -> keras.Model:
    """A copy of `model` without gates, and without what they close.

    Layers that only a closed gate reads are dropped, closed channels are removed
    and gates vanish. The result computes what `model` computes on inputs for
    which its gates decide as `openings` says.

    A channel gate between two layers narrows both. One that reads or feeds a
    tensor that others need at full width leaves a selection of channels there: a
    `Dense` layer, not trainable, whose kernel has a 1 for each open channel. (It
    computes what `keras.ops.take` would, which is much slower in TFLite.) It is
    named as the gate, with "_selection" in place of "_gate".

    Args:
        model: a built model with gates. It is not modified.
        openings: from `measure`.
        threshold: with a number in (0, 1], gates that are not polarized count as
            open where ḡ is at least that; the result then differs from `model`.
            Defaults to `None`, which refuses them.
        verify: whether to check each step on random input. Defaults to `True`.

    Returns:
        A new model of plain Keras layers. Where `model` is compiled, so is it,
        with the optimizer's state.

    Raises:
        ValueError: if gates are not polarized (it names them with their ḡ), or
            a closed layer gate has no skip around it.
    """
    if threshold is not None:
        fraction("threshold", threshold, what=" or None")
    if threshold is None and openings.undecided:
        listed = "; ".join(
            f"{n}: {_describe(r)}" for n, r in openings.undecided.items()
        )
        raise ValueError(
            "Invalid value for argument `model`. Expected polarized gates, each open "
            f"for all {openings.samples} samples or for none. Received: {listed}. "
            "Train on with a larger polarization penalty, or give a `threshold` to "
            "decide them, which changes what the model computes."
        )
    limit = 1.0 if threshold is None else threshold
    decisions = {name: ratio >= limit for name, ratio in openings.ratios.items()}
    gates = gates_of(model)
    closed = [n for n in gates if isinstance(gates[n], LayerGate) and not decisions[n]]
    if closed:
        model = structure.bypass(model, closed, verify=verify)
    model, selections = _with_selections(model, decisions)
    _close_upstream(model, selections)
    return _without_selections(structure.shrink(model, verify=verify), selections)


def _add(
    model: keras.Model,
    kind: type[Gate],
    place: Callable[[Branch, int], structure.Edit],
    layers: Sequence[str] | None,
    exclude: Sequence[str],
    refuse: Callable[[Branch], str | None],
) -> keras.Model:
    _graph.require_graph(model)
    present = [n for n, gate in gates_of(model).items() if isinstance(gate, kind)]
    if present:
        raise ValueError(
            f"Invalid value for argument `model`. Expected a model without "
            f"{kind.__name__} layers. Received: {model.name!r} with {present}"
        )
    found = dict(branches(model, ignore=Gate))
    wanted = check_names(() if layers is None else layers, found, "layers")
    unwanted = check_names(exclude, found, "exclude")
    chosen: list[Branch] = []
    reasons: dict[str, str] = {}
    for name, branch in found.items():
        if name in unwanted:
            reason: str | None = "excluded by name"
        elif layers is not None and name not in wanted:
            reason = "not among the named layers"
        elif isinstance(branch, str):
            reason = branch
        elif layers is None and any(not c.operation.trainable for c in branch.kernels):
            reason = NOT_TRAINABLE
        else:
            reason = refuse(branch)
            if reason is None:
                chosen.append(branch)
        if reason is not None:
            reasons[name] = reason
    failed = [name for name in wanted if name in reasons]
    if failed or not chosen:
        listed = "; ".join(f"{n}: {reasons[n]}" for n in failed or reasons)
        raise ValueError(
            f"Invalid value for argument `{'layers' if failed else 'model'}`. Expected "
            "additions of a skip connection and a residual branch. Received: "
            + (listed or f"{model.name!r}, which has no Add.")
        )
    edits = [place(branch, index) for index, branch in enumerate(chosen)]
    return structure.rewire(model, edits)


# Removing gates ---------------------------------------------------------------


def _with_selections(
    model: keras.Model, decisions: Mapping[str, np.ndarray]
) -> tuple[keras.Model, list[str]]:
    """Replaces partly closed channel gates by Dense layers that select.

    The structure engine knows how channels go through a Dense layer, and hence
    which neighbors get narrower. All other gates are open, and vanish.
    """
    builds: dict[int, Callable[..., Any]] = {}
    selections: list[str] = []
    for name, gate in gates_of(model).items():
        builds[id(gate)] = _same
        if not decisions[name].all():
            builds[id(gate)] = _selection(gate, decisions[name])
            selections.append(_selection_name(name))
    edits = [
        # Of what a layer gate reads, the branch is the last.
        structure.Edit(call.outputs[0], call.inputs[-1:], builds[id(call.operation)])
        for _, call in _graph.walk(model)
        if id(call.operation) in builds
    ]
    return structure.rewire(model, edits), selections


def _selection(gate: Gate, keep: np.ndarray) -> keras.layers.Dense:
    select = keras.layers.Dense(
        keep.size,
        use_bias=False,
        kernel_initializer="zeros",
        dtype=gate.dtype_policy,
        trainable=False,
        name=_selection_name(gate.name),
    )
    select.build((None, keep.size))
    select.kernel.assign(np.diag(keep.astype("float32")))
    return select


def _selection_name(name: str) -> str:
    return f"{name.removesuffix('_gate')}_selection"


def _close_upstream(model: keras.Model, selections: Sequence[str]) -> None:
    """Zeroes, in place, the channels that only a selection reads and drops."""
    groups = structure.channel_groups(model)
    closed: dict[str, np.ndarray] = {}
    for group in groups:
        if not group.prunable or len(group.consumers) != 1:
            continue
        (reader,) = group.consumers
        if reader not in selections:
            continue
        needed = np.zeros(group.size, bool)
        for member in group.members:
            if member.role == "input":
                kernel = ops.convert_to_numpy(member.variable)
                inside = member.channels >= 0
                read = kernel.any(axis=1 - member.axis)[inside]
                np.logical_or.at(needed, member.channels[inside], read)
        closed[group.name] = np.flatnonzero(~needed)
    for variable, mask in structure.keep_masks(groups, closed):
        variable.assign(variable * mask)


def _without_selections(model: keras.Model, selections: Sequence[str]) -> keras.Model:
    """Drops the selections that select everything that is left."""
    edits = []
    for prefix, call in _graph.walk(model):
        if prefix + call.operation.name in selections:
            kernel = ops.convert_to_numpy(call.operation.kernel)
            if np.array_equal(kernel, np.eye(len(kernel))):
                edits.append(structure.Edit(call.outputs[0], call.inputs, _same))
    return structure.rewire(model, edits) if edits else model


# Helpers ------------------------------------------------------------------------


def _measuring(gate: Gate) -> Gate:
    gate.reset()
    gate.measuring = True
    return gate


def _same(x: Any) -> Any:
    return x


def _mean(values: Any) -> float:
    return float(np.mean([np.mean(value) for value in values]))


def _describe(ratio: np.ndarray) -> str:
    if ratio.size == 1:
        return f"open for {_percent(ratio.item())} of the samples"
    some = ratio[(ratio > 0) & (ratio < 1)]
    text = f"{(ratio == 1).sum()} of {ratio.size} channels open, "
    text += f"{(ratio == 0).sum()} closed"
    if some.size:
        low, high = _percent(some.min()), _percent(some.max())
        text += f", {some.size} open for {low} to {high} of the samples"
    return text


def _percent(ratio: float) -> str:
    """A percentage that shows 0 and 100 only where they are exact."""
    digits = (
        1
        if ratio in (0, 1)
        else max(1, math.ceil(-math.log10(min(ratio, 1 - ratio)) - 1))
    )
    return f"{100 * ratio:.{digits}f} %"
