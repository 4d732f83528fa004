"""Building an edited copy of a model.

Operations are called again along the same walk, with edited configs; the
variables of old and new layers are paired object by object and sliced by their
labels. The original is only read.

Two shorter ways fail. Cloning a model and editing its JSON both break on Lambda
layers, on classes that are not registered, and on layers with a `build_config` of their
own. So every operation is called again, with arguments in which the old tensors are
replaced by the new ones, and Keras records the new graph by itself.

    old graph   conv1(x) → a     relu(a) → b      conv2(b) → c
    new graph   conv1'(x') → a'  relu'(a') → b'   conv2'(b') → c'

`Rebuild.tensors` pairs a with a', b with b' and so on; `Rebuild.layers` and
`Rebuild.variables` do so for layers and variables. Whatever goes over to the new model
(weights, optimizer slots, masks, the self-check) goes along these pairs.

A layer that is called several times is copied at its first call, and the copy is called
as often. A nested model is such a layer: its graph is rebuilt at the first call, as a
model of its own. Weights are copied at the end, because Keras creates the variables of
most layers when they are called.

Old and new variables must not be matched by their paths, which are neither unique nor
stable, nor by their position in `model.weights`, which depends on the order in which
layers were made. Each layer is copied by itself, and the variables of the copy are in
the order of the original's. What is neither config nor variable (adapted statistics,
assets) is carried by `_state`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import keras
import numpy as np

from tfcompress import _made
from tfcompress._own import lambdas_allowed, with_own
from tfcompress.structure import _graph
from tfcompress.structure._fold import Folding
from tfcompress.structure._state import (
    builds_itself,
    carry_state,
    carry_statistics,
    prepare_state,
    sublayers,
)
from tfcompress.structure._trace import Trace
from tfcompress.structure.rules import rule_for

__all__ = ["Edit", "Rebuild", "require_copies"]

Wrap = Callable[[keras.Layer], keras.Layer]


@dataclass(frozen=True)
class Edit:
    """Another tensor in the place of one, as `rewire` takes it.

    Attributes:
        tensor: the symbolic tensor of the original that is replaced.
        reads: symbolic tensors of the original that the new one is made of, all
            of them `tensor` or computed before it, in the same (nested) model.
        build: function of the copies of `reads` that returns the new tensor. It
            may call new layers.
        reader: the node that reads the new tensor instead; `None` for all that
            read `tensor`, and for the model's outputs. Defaults to `None`.
    """

    tensor: keras.KerasTensor
    reads: tuple[keras.KerasTensor, ...]
    build: Callable[..., keras.KerasTensor]
    reader: Any = None


class Rebuild:
    """One edited copy of a model.

    Args:
        model: the original.
        trace: its labels.
        removed: bool array over label classes.
        wrap: id of layer -> function that takes the layer's copy, with its
            weights, and returns the layer to use in its place.
        insert: id of layer -> layer to call on its output.
        absent: ids of layers whose output counts as zero.
        edits: tensors to replace by others.
        fold: id of layer -> the normalization behind it that it takes in.
        inherit: whether weights are copied. What layers adapted to data is always
            carried. Defaults to True.

    Attributes:
        model: the copy.
        layers: id of old layer -> (old, new); with `wrap`, new is the copy
            inside the wrapper.
        tensors: id of old symbolic tensor -> (old, new).
        variables: id of old variable -> (old, new). Without the variables of
            layers that took in a normalization: theirs mean something else.
    """

    def __init__(
        self,
        model: keras.Model,
        trace: Trace,
        removed: np.ndarray | None = None,
        *,
        wrap: Mapping[int, Wrap] | None = None,
        insert: Mapping[int, keras.Layer] | None = None,
        absent: Iterable[int] = (),
        edits: Sequence[Edit] = (),
        fold: Mapping[int, Folding] | None = None,
        inherit: bool = True,
    ) -> None:
        self.trace = trace
        if removed is None:
            removed = np.zeros(trace.solution.frozen.size, bool)
        self.removed = removed
        self._wrap = dict(wrap or {})
        self._insert = dict(insert or {})
        self._absent = frozenset(absent)
        self._edits = {(_id(e.reader), id(e.tensor)): e for e in edits}
        self._fold = dict(fold or {})
        self._vanishing = {id(f.norm) for f in self._fold.values()}
        self._inherit = inherit
        self._scope = _custom_objects(model)
        self._made: dict[int, Any] = {}
        self._whole: dict[int, bool] = {}  # whether a copy has tensors as before
        self._restore: list[tuple[keras.Layer, str, Any]] = []
        self.layers: dict[int, tuple[keras.Layer, keras.Layer]] = {}
        self.tensors: dict[int, tuple[Any, Any]] = {}
        self._zero = _Zeros(model, self._absent) if self._absent else None
        self._nothing = not removed.any()
        with _graph.scope_of(model):
            self._run(model)

    def _run(self, model: keras.Model) -> None:
        self._require_class(model)
        with keras.utils.custom_object_scope(self._scope):
            self.model = self._build(model)
        _made.carry(model, self.model)
        for layer, name, initializer in self._restore:
            setattr(layer, name, initializer)
        if self._inherit:
            for old, new in self.layers.values():
                if id(old) not in self._wrap:  # those have theirs, and may be baked
                    self._copy_weights(old, new)
        else:
            for old, new in self.layers.values():
                carry_statistics(old, new, self.cut)
        for old, new in self.layers.values():
            _copy_flags(old, new)
        self.variables = {
            id(source): (source, target)
            for old, new in self.layers.values()
            if id(old) not in self._fold
            for source, target in zip(old.variables, new.variables, strict=True)
        }
        self._require_ties()

    def _require_ties(self) -> None:
        """Raises if two layers share a weight and their copies do not."""
        # A layer that holds another one of the model describes it in its config, so
        # that its copy has a copy of its own: training would move the two apart.
        first: dict[int, tuple[keras.Variable, str]] = {}
        for old, new in self.layers.values():
            if id(old) in self._fold:
                continue
            weights = set(map(id, old.weights))  # not generators of random numbers
            for source, target in zip(old.variables, new.variables, strict=True):
                if id(source) not in weights:
                    continue
                known, name = first.setdefault(id(source), (target, old.name))
                if known is not target:
                    raise _shared(source, name, old.name)

    # What rules ask (protocol `Kept`) --------------------------------------

    def size(self, variable: keras.Variable, axis: int) -> int:
        """Kept length of an axis of a variable."""
        axis %= len(variable.shape)
        keep = self.kept(variable, axis)
        return int(variable.shape[axis] if keep is None else keep.sum())

    def shape(self, tensor: Any) -> tuple[int | None, ...]:
        """Kept shape of a symbolic tensor of the original."""
        return tuple(
            size
            if size is None or (keep := self.along(tensor, axis)) is None
            else int(keep.sum())
            for axis, size in enumerate(tensor.shape)
        )

    def along(self, tensor: Any, axis: int) -> np.ndarray | None:
        """Kept positions on an axis of a symbolic tensor; None if all."""
        # A position goes if all that lies there is removed. `_Walk.solve` has made sure
        # that what is removed is whole positions of one axis.
        labels = self.trace.tensors[id(tensor)].labels
        if labels.shape[axis] == 1 or self._nothing:
            return None
        gone = self.removed[self.trace.solution.root[labels]]
        keep = ~np.moveaxis(gone, axis, 0).reshape(labels.shape[axis], -1).all(1)
        return None if keep.all() else keep

    def kept(self, variable: keras.Variable, axis: int) -> np.ndarray | None:
        """Bool array of the kept positions on an axis of a variable; None if all."""
        known = self.trace.axes.get((id(variable), axis))
        if known is None or self._nothing:
            return None
        keep = ~self.removed[self.trace.solution.root[known.labels]]
        return None if keep.all() else keep

    def cut(self, variable: keras.Variable, value: np.ndarray) -> np.ndarray:
        """`value`, shaped like `variable`, without the removed channels."""
        for axis in range(value.ndim):
            keep = self.kept(variable, axis)
            if keep is not None:
                value = np.compress(keep, value, axis)
        return value

    # Building ---------------------------------------------------------------

    def _build(self, model: keras.Model) -> keras.Model:
        graph = _graph.functional(model)
        sequential = isinstance(model, keras.Sequential)
        if sequential and self._stays_chain(model):
            return self._build_sequential(model)
        # Old tensor -> what its readers get, in this graph. That is not always its own
        # counterpart, which is in `self.tensors`: an edit may put another in its place.
        new: dict[int, Any] = {}
        for tensor in graph.inputs:
            self._record(tensor, self._input(tensor), new)
        # A model may begin at the input of one that it calls, `x = base(base.input)`,
        # as the tasks of KerasHub do. The copy of the inner one then notes another
        # tensor under the same id, so these are kept apart.
        begins = {id(tensor): self.tensors[id(tensor)] for tensor in graph.inputs}
        needed = self._zero.needed(model) if self._zero else None
        if self._edits:
            needed = self._live(model)
        for call in _graph.calls(model):
            if needed is not None and id(call.node) not in needed:
                continue
            # Of x + branch only x is left: the readers of the sum read x.
            alias = self._zero.alias(call) if self._zero else None
            if alias is not None:
                new[id(call.outputs[0])] = new[id(alias)]
                continue
            if id(call.operation) in self._vanishing:
                self._take_over(call, new)
                continue
            operation, args, kwargs = self._prepare(call)
            args, kwargs = self._read((args, kwargs), call.node, new)
            if self._zero:
                args, kwargs = self._zero.without(call, args, kwargs, new)
            results = operation(*args, **kwargs)
            inserted = self._insert.get(id(call.operation))
            if inserted is not None:
                results = inserted(results)
            for old, result in zip(
                call.outputs, keras.tree.flatten(results), strict=True
            ):
                self._record(old, result, new)
        self.tensors |= begins
        inputs, outputs = _graph.structures(model)
        # An input stays itself, also where all that read it get something else.
        inputs = keras.tree.map_structure(lambda t: self.tensors[id(t)][1], inputs)
        outputs = keras.tree.map_structure(lambda t: self._get(t, new), outputs)
        kind = keras.Model if sequential else _graph.rebuilt_class(model)
        new_model = kind(inputs=inputs, outputs=outputs, name=model.name)
        # Losses and metrics given as dicts, and the names in logs, go by these. Keras
        # takes them from the layers that return the outputs, which may be new ones.
        _graph.functional(new_model).output_names = list(graph.output_names)
        return new_model

    def _stays_chain(self, model: keras.Sequential) -> bool:
        """Whether a Sequential model stays one."""
        # It does as long as the edit leaves a chain of layers. One that drops or
        # replaces tensors may not; its result is a Functional model.
        return not self._absent and not self._touches(model)

    def _require_class(self, model: keras.Model) -> None:
        """Raises if the copy would lose the steps by which the class trains."""
        # A class with a constructor of its own becomes a plain one in every edit, see
        # `require_editable`. Others stay, so that nobody expects to lose their steps.
        if not isinstance(model, keras.Sequential) or self._stays_chain(model):
            return
        own = _graph.own_steps(model)
        stays = _graph.rebuilt_class(model) is type(model)
        if own and stays:
            raise ValueError(
                "Invalid value for argument `model`. Expected a model that trains the "
                f"same once it is rebuilt. Received: {model.name!r} of class "
                f"{type(model).__name__}, a Sequential model that defines "
                f"{', '.join(own)}: this edit makes a plain Functional one of it. Let "
                "the class derive from keras.Model, and build it from inputs and "
                "outputs."
            )

    def _record(self, old: Any, result: Any, new: dict[int, Any]) -> None:
        """Notes what a tensor has become."""
        self.tensors[id(old)] = (old, result)
        if (None, id(old)) not in self._edits:
            new[id(old)] = result

    def _take_over(self, call: _graph.Call, new: dict[int, Any]) -> None:
        """What a normalization returned is what the layer before it returns."""
        # The layer's own output has no counterpart any more, since the copy has folded
        # weights. It leaves the pairs, and the self-check compares behind the
        # normalization.
        (before,), (after,) = call.inputs, call.outputs
        self._record(after, self.tensors.pop(id(before))[1], new)

    def _get(self, tensor: Any, new: dict[int, Any]) -> Any:
        """What the readers of a tensor get, built when the first one asks."""
        # An edit may read the tensor that it replaces, x -> 0.5 * x. It then gets the
        # counterpart of x itself, or it would ask for its own result.
        if id(tensor) not in new:
            edit = self._edits[None, id(tensor)]
            sources = (
                self.tensors[id(t)][1] if t is tensor else self._get(t, new)
                for t in edit.reads
            )
            new[id(tensor)] = edit.build(*sources)
        return new[id(tensor)]

    def _read(self, arguments: Any, node: Any, new: dict[int, Any]) -> Any:
        """The arguments of a node with the new tensors that it reads."""

        edited: dict[int, Any] = {}  # a node may read a tensor twice

        def value(argument: Any) -> Any:
            if not isinstance(argument, keras.KerasTensor):
                return argument
            edit = self._edits.get((id(node), id(argument)))
            if edit is None:
                return self._get(argument, new)
            if id(argument) not in edited:
                sources = (self._get(t, new) for t in edit.reads)
                edited[id(argument)] = edit.build(*sources)
            return edited[id(argument)]

        return keras.tree.map_structure(value, arguments)

    def _touches(self, model: keras.Model) -> bool:
        """Whether an edit replaces a tensor of this model."""
        edited = {tensor for _, tensor in self._edits}
        found = {id(tensor) for tensor in _graph.functional(model).inputs}
        for call in _graph.calls(model):
            found.update(map(id, call.outputs))
        return bool(edited & found)

    def _live(self, model: keras.Model) -> set[int]:
        """Ids of the nodes that some output still depends on after the edits."""
        # From the outputs back: a node lives if something wants a tensor that it makes.
        # Where a tensor is replaced, its readers want what the edit reads in its place,
        # so a branch that only led to replaced tensors is left out.
        wanted: set[int] = set()  # tensors whose unedited value is read

        def want(tensor: Any, node: Any = None) -> None:
            edit = self._edits.get((_id(node), id(tensor)))
            if edit is None and node is not None:
                want(tensor)
            elif edit is None:
                wanted.add(id(tensor))
            else:
                for source in edit.reads:
                    if source is tensor and node is None:
                        wanted.add(id(tensor))
                    else:
                        want(source)

        for tensor in _graph.functional(model).outputs:
            want(tensor)
        live: set[int] = set()
        for call in reversed(list(_graph.calls(model))):
            if wanted & set(map(id, call.outputs)):
                live.add(id(call.node))
                for tensor in call.inputs:
                    want(tensor, call.node)
        return live

    def _build_sequential(self, model: keras.Sequential) -> keras.Sequential:
        graph = _graph.functional(model)
        layers = [_graph.input_layer(self._input(graph.inputs[0]))]
        # Masks are computed by operations that the new model adds by itself.
        walk = [
            call
            for call in _graph.calls(model)
            if isinstance(call.operation, keras.Layer)
        ]
        folded = {
            id(call.inputs[0]): call.outputs[0]
            for call in walk
            if id(call.operation) in self._vanishing
        }
        walk = [call for call in walk if id(call.operation) not in self._vanishing]
        for call in walk:
            layers.append(self._prepare(call)[0])
            if id(call.operation) in self._insert:
                layers.append(self._insert[id(call.operation)])
        new = _graph.rebuilt_class(model)(layers, name=model.name)
        fresh = _graph.functional(new)
        self.tensors[id(graph.inputs[0])] = (graph.inputs[0], fresh.inputs[0])
        outputs = {id(call.operation): call.outputs[0] for call in _graph.calls(new)}
        for call, layer in zip(
            walk,
            [x for x in layers[1:] if id(x) in set(map(id, self._made.values()))],
            strict=True,
        ):
            tensor = folded.get(id(call.outputs[0]), call.outputs[0])
            self.tensors[id(tensor)] = (tensor, outputs[id(layer)])
        return new

    def _input(self, tensor: Any) -> Any:
        layer = _graph.input_layer(tensor)
        config = layer.get_config()
        config["batch_shape"] = self.shape(tensor)
        return type(layer).from_config(config).output

    def _prepare(self, call: _graph.Call) -> tuple[Any, tuple, dict]:
        """The copied operation of a call and its arguments, both edited."""
        old = call.operation
        new = self._made.get(id(old))
        # `_made` is what keeps shared layers shared: the second call finds the copy.
        if new is None:
            if _graph.is_editable(call):
                new = self._build(old)
            elif isinstance(old, keras.Layer):
                new = self._copy_layer(call)
            else:
                new = _graph.copy_operation(old)
            self._made[id(old)] = new
        args, kwargs = call.node.arguments.args, call.node.arguments.kwargs
        if not self._nothing and not _graph.is_editable(call):
            args, kwargs = self._rule(call).adjust(new, call, args, kwargs, self)
        return new, args, kwargs

    def _rule(self, call: _graph.Call) -> Any:
        inputs = [self.trace.tensors[id(tensor)] for tensor in call.inputs]
        return rule_for(call.operation, inputs)

    def _copy_layer(self, call: _graph.Call) -> keras.Layer:
        old = call.operation
        if isinstance(old, keras.layers.Lambda):
            shape = old._output_shape
            if not (self._nothing or shape is None or callable(shape)):
                # It was given for one call, and holds its channels.
                shape = self.shape(call.outputs[0])[1:]
            new = _copy_lambda(old, shape)
        else:
            config = _config(old)
            if not self._nothing:
                self._rule(call).configure(old, call, config, self)
            if id(old) in self._fold:
                self._fold[id(old)].configure(config)
            function = vars(old).get("activation")
            initializers = self._hollow(old, config)
            own = "activation" in config and isinstance(function, FunctionType)
            if own and not function.__module__.startswith("keras."):
                config["activation"] = None  # may be a lambda: hand it over itself
                new = _created(old, config)
                new.activation = function
            else:
                new = _created(old, config)
            self._restore.extend((new, *pair) for pair in initializers)
        self.layers[id(old)] = (old, new)
        # State that only the layer's class understands can be handed over to a layer of
        # the same size, but not cut.
        tensors = (*call.inputs, *call.outputs)
        whole = all(self.shape(t) == tuple(t.shape) for t in tensors)
        self._whole[id(old)] = whole
        prepare_state(old, new, whole)
        if whole and old.built and builds_itself(old) and not new.built:
            new.build_from_config(old.get_build_config())
        wrap = self._wrap.get(id(old))
        if wrap is None:
            return new
        # The function may look at the weights, as one that clusters them does. So this
        # copy is built and gets them at once, and not at the end like the others.
        if not new.built and old.built:
            new.build_from_config(old.get_build_config())
        if self._inherit:
            self._copy_weights(old, new)
        wrapper = wrap(new)
        if not isinstance(wrapper, keras.Layer):
            raise TypeError(
                "Invalid value for argument `layers`. Expected functions that return "
                f"a keras.layers.Layer. Received: {wrapper!r} for layer {old.name!r}"
            )
        wrapper.name = old.name
        return wrapper

    def _hollow(self, old: keras.Layer, config: dict) -> list[tuple[str, Any]]:
        """Makes the weights start at zero: drawing them would be wasted.

        Returns the attributes to restore once the layer is built.
        """
        if not self._inherit:
            return []
        found = [
            (name, vars(old)[name])
            for name in config
            if name.endswith("_initializer") and name in vars(old)
        ]
        for name, _ in found:
            config[name] = "zeros"
        return found

    def _copy_weights(self, old: keras.Layer, new: keras.Layer) -> None:
        if id(old) in self._fold:
            self._fold[id(old)].assign(new)
            return
        sources, targets = old.variables, new.variables
        if len(sources) != len(targets):
            raise ValueError(
                f"Layer {old.name!r} of class {type(old).__name__} has "
                f"{len(sources)} variables, but its copy from get_config() has "
                f"{len(targets)}. Its get_config() must describe it fully."
            )
        fold = self._folded_bias(old)
        for source, target in zip(sources, targets, strict=True):
            value = keras.ops.convert_to_numpy(source)
            if fold is not None and source is getattr(old, "bias", None):
                value = (value.astype("float64") + fold).astype(value.dtype)
            if not self._nothing:
                value = self.cut(source, value)
            if tuple(target.shape) != value.shape:
                raise ValueError(
                    f"Variable {source.path!r} of layer {old.name!r} would need shape "
                    f"{value.shape} after the edit, but its copy has "
                    f"{tuple(target.shape)}. For a custom layer, name the constructor "
                    "argument that gives the number of channels: "
                    "register_channelwise(..., config=...)."
                )
            target.assign(value)
        carry_state(old, new, self._whole.get(id(old), True))

    def _folded_bias(self, layer: keras.Layer) -> np.ndarray | None:
        """What removed inputs with a constant add to the bias, exactly."""
        fold = self.trace.folds.get(id(layer))
        if fold is None:
            return None
        gone = self.removed[self.trace.solution.root[fold.labels]]
        lost = fold.constant * gone
        if not lost.any():
            return None
        # y[o] = bias[o] + Σ_positions Σ_i kernel[position, i, o] · x[i]. A removed
        # input i has carried the constant c[i] at every position, so that what is lost
        # is Σ_i c[i] · (Σ_positions kernel[position, i, o]). In float64, because the
        # sum may run over thousands of products.
        kernel = keras.ops.convert_to_numpy(layer.kernel).astype("float64")
        kernel = kernel.reshape(-1, *kernel.shape[-2:]).sum(0)
        return lost @ kernel


class _Zeros:
    """Which tensors are zero when some layers are absent, and what follows.

    Zeros are followed from the absent layers to the additions where they vanish:

        x ── conv1 ── relu ── conv2 (absent) ── scale ── Add ── …
        └───────────────────────────────────────────────┘

    conv2 counts as zero, `scale` maps zeros to zeros, and x + 0 is x. The readers of
    the sum read x, and nothing reads conv1, relu, conv2 and `scale`: they are left out.
    An operation that makes something else of zeros (a Dense with a bias, a Concatenate)
    ends the walk with an error, because its result would have to be computed all the
    same.
    """

    def __init__(self, model: keras.Model, absent: frozenset[int]) -> None:
        self._absent = absent
        self._zeros: set[int] = set()
        self._walked: set[int] = set()
        self._walk(model)
        for tensor in _graph.functional(model).outputs:
            if id(tensor) in self._zeros:
                raise ValueError(
                    "The bypassed layers leave an output of the model at zero: there "
                    "is no skip connection around them."
                )

    def _walk(self, model: keras.Model) -> None:
        for call in _graph.calls(model):
            operation = call.operation
            if id(operation) in self._absent:
                self._zeros.update(map(id, call.outputs))
                continue
            zero = [id(tensor) in self._zeros for tensor in call.inputs]
            if _graph.is_editable(call):
                self._enter(operation, zero, call)
            elif any(zero):
                self._pass(call, zero)

    def _enter(self, model: keras.Model, zero: list[bool], call: _graph.Call) -> None:
        if any(zero):
            raise ValueError(
                f"Bypassing would feed zeros into nested model {model.name!r}, which "
                "cannot be simplified; bypass the whole of it instead."
            )
        if id(model) not in self._walked:
            self._walked.add(id(model))
            self._walk(model)
        for inner, outer in zip(
            _graph.functional(model).outputs, call.outputs, strict=True
        ):
            if id(inner) in self._zeros:
                self._zeros.add(id(outer))

    def _pass(self, call: _graph.Call, zero: list[bool]) -> None:
        operation = call.operation
        kind = type(operation).__name__
        if not isinstance(operation, keras.Layer) and len(call.inputs) < 2:
            kind = ""  # with a number or an array, which does not vanish
        # x - 0 is x, but 0 - x is not: of a difference, only the second operand may go.
        if kind == "Multiply" or (all(zero) and _keeps_zero(operation, call)):
            self._zeros.update(map(id, call.outputs))
        elif kind == "Add" or (kind == "Subtract" and not zero[0]):
            if all(zero):
                self._zeros.add(id(call.outputs[0]))
                return
            # What is left takes the place of the sum, so it must have the sum's shape.
            rest = [t for t, z in zip(call.inputs, zero, strict=True) if not z]
            if all(tensor.shape != call.outputs[0].shape for tensor in rest):
                raise ValueError(
                    f"Bypassing would leave {operation.name!r} to broadcast "
                    f"{[t.shape for t in rest]} to {call.outputs[0].shape}."
                )
        else:
            raise ValueError(
                f"Bypassing does not simplify at {operation.name!r} "
                f"({type(operation).__name__}): zero does not stay zero there."
            )

    def alias(self, call: _graph.Call) -> Any | None:
        """The only operand left of an addition, which is its result."""
        rest = self._rest(call)
        if rest is None or len(rest) != 1 or len(call.inputs) == 1:
            return None
        return rest[0]

    def without(
        self, call: _graph.Call, args: tuple, kwargs: dict, new: dict[int, Any]
    ) -> tuple[tuple, dict]:
        """The arguments of an addition of what is left of its operands."""
        rest = self._rest(call)
        if rest is None or len(rest) == len(call.inputs):
            return args, kwargs
        return ([new[id(tensor)] for tensor in rest],), {}

    def _rest(self, call: _graph.Call) -> list[Any] | None:
        if type(call.operation).__name__ not in ("Add", "Subtract"):
            return None
        return [t for t in call.inputs if id(t) not in self._zeros]

    def needed(self, model: keras.Model) -> set[int]:
        """Ids of the nodes that some output still depends on."""
        wanted = {id(tensor) for tensor in _graph.functional(model).outputs}
        needed: set[int] = set()
        for call in reversed(list(_graph.calls(model))):
            if not wanted & {id(tensor) for tensor in call.outputs}:
                continue
            if all(id(tensor) in self._zeros for tensor in call.outputs):
                continue
            needed.add(id(call.node))
            rest = self._rest(call)
            wanted.update(map(id, call.inputs if rest is None else rest))
        return needed


def _keeps_zero(operation: Any, call: _graph.Call) -> bool:
    """Whether an operation on zeros only gives zeros, by running it."""
    shapes = [
        [n if n is not None else 4 for n in (t.shape[0] or 1, *t.shape[1:])]
        for t in call.inputs
    ]
    values = {
        id(t): keras.ops.zeros(shape, t.dtype)
        for t, shape in zip(call.inputs, shapes, strict=True)
    }
    args, kwargs = call.node.arguments.fill_in(values)
    result = keras.tree.flatten(operation(*args, **kwargs))
    return not any(keras.ops.convert_to_numpy(x).any() for x in result)


def _id(thing: Any) -> int | None:
    return None if thing is None else id(thing)


def _config(old: keras.Layer) -> dict:
    """The configuration of a layer, which may hold lambdas."""
    try:
        with lambdas_allowed():
            return old.get_config()
    except Exception as error:  # whatever a `get_config` of the user's raises
        raise _not_created(old, error) from error


def _created(old: keras.Layer, config: dict) -> keras.Layer:
    """A layer from a configuration that may be edited."""
    # Regularizers, constraints and activations may be plain functions, which nobody
    # has registered. They are handed over themselves.
    described, own = with_own({"class_name": type(old).__name__, "config": config}, old)
    if any(isinstance(thing, FunctionType) for thing in own.values()):
        config = described["config"]
    try:
        with keras.saving.custom_object_scope(own):
            return type(old).from_config(config)
    except Exception as error:  # whatever a constructor of the user's raises
        raise _not_created(old, error) from error


def _not_created(old: keras.Layer, error: Exception) -> ValueError:
    reason = str(error).partition("Exception encountered: ")[2] or str(error)
    if type(old).__module__.partition(".")[0] == "keras":
        advice = (
            "Register the functions and classes that it holds with "
            "keras.saving.register_keras_serializable."
        )
    else:
        advice = (
            "Let its constructor take **kwargs, hand them to "
            "super().__init__(**kwargs), and let get_config() return every other "
            "argument."
        )
    return ValueError(
        f"Layer {old.name!r} of class {type(old).__name__} cannot be created from its "
        f"get_config(): {reason.strip().rstrip('.')}. {advice}"
    )


def require_copies(model: keras.Model) -> None:
    """Raises if a layer cannot be copied.

    An edit finds that out by itself. A method that trains asks before, so that
    hours of training do not end in an error.

    Args:
        model: a model that can be edited.

    Raises:
        ValueError: if a layer cannot be created from its `get_config()`, or if two
            layers share a weight.
    """
    owners: dict[int, keras.Layer] = {}
    with keras.utils.custom_object_scope(_custom_objects(model)):
        for _, call in _graph.walk(model):
            layer = call.operation
            if not isinstance(layer, keras.Layer) or _graph.is_editable(call):
                continue
            for weight in layer.weights:
                owner = owners.setdefault(id(weight), layer)
                if owner is not layer:
                    raise _shared(weight, owner.name, layer.name)
            if not isinstance(layer, keras.layers.Lambda):
                _created(layer, _config(layer))


def _shared(weight: keras.Variable, first: str, second: str) -> ValueError:
    return ValueError(
        "Invalid value for argument `model`. Expected layers that have their weights "
        "for themselves, because copies of layers do not share any. Received: layers "
        f"{first!r} and {second!r}, which share {weight.path!r}. Let one layer do the "
        "work of both and call it twice, as keras.layers.ReversibleEmbedding does"
    )


def _copy_lambda(layer: Any, output_shape: Any) -> keras.Layer:
    # A config would serialize the function's byte code; hand it over itself.
    return keras.layers.Lambda(
        layer.function,
        output_shape=output_shape,
        mask=layer.mask,
        arguments=layer.arguments,
        name=layer.name,
        dtype=layer.dtype_policy,
        trainable=layer.trainable,
    )


def _copy_flags(old: keras.Layer, new: keras.Layer) -> None:
    for source, target in zip(sublayers(old), sublayers(new), strict=True):
        if source.trainable != target.trainable:
            target.trainable = source.trainable


def _custom_objects(model: keras.Model) -> dict[str, Any]:
    """Classes inside the model, so that unregistered ones deserialize."""
    found: dict[str, Any] = {}
    for layer in sublayers(model):
        if not type(layer).__module__.startswith("keras."):
            found[type(layer).__name__] = type(layer)
    return found
