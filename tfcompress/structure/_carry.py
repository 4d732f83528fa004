"""Carrying compile state and optimizer slots over to an edited model.

A model that shrinks while it trains must not lose the optimizer's slots: without its
moments, Adam's next step moves every weight by the full learning rate. So each slot is
cut as its variable was cut. A kernel (3, 3, 16, 32) that has become (3, 3, 12, 24) has
two Adam slots of the first shape, and the new optimizer gets the part (3, 3, 12, 24) of
them. For the same batch, the smaller model then takes the step that the masked one
would take, unless a removed channel carried a constant other than zero: the weights
that read it are gone, and only the bias trains that they were folded into.
"""

from __future__ import annotations

import re
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from tfcompress.structure import _graph
from tfcompress.structure._rebuild import Rebuild

__all__ = ["carry_compile"]


def carry_compile(old: keras.Model, rebuild: Rebuild, slots: bool) -> None:
    """Compiles the rebuilt model as `old` is, if it is.

    Losses and learning-rate schedules are shared (they hold no state); the
    optimizer is a copy, and so are metrics that have a config. What an optimizer
    knows beside its config goes along: the variables that are excluded from
    weight decay, and plain values that were assigned to its attributes.

    Args:
        old: the original model.
        rebuild: the edited copy.
        slots: whether the optimizer's variables (iterations, momenta, loss scale,
            accumulated gradients, …) are sliced and carried over; otherwise the
            optimizer starts anew.
    """
    if not old.compiled or not hasattr(old, "_compile_config"):
        return
    carry = _Carry(rebuild, slots)
    given = dict(old._compile_config.config)
    with _graph.scope_of(old):
        try:
            given["optimizer"] = carry.copy(old.optimizer)
        except Exception as error:  # whatever its constructor raises on its config
            warnings.warn(
                f"The new model is not compiled: the optimizer {old.optimizer.name!r} "
                f"({type(old.optimizer).__name__}) cannot be copied from its config. "
                f"{type(error).__name__}: {error}",
                stacklevel=3,
            )
            return
        for name in ("metrics", "weighted_metrics"):
            given[name] = keras.tree.map_structure(_copy_metric, given[name])
        rebuild.model.compile(**given)
        carry.finish()


def _copy_metric(thing: Any) -> Any:
    if isinstance(thing, keras.Metric):
        try:
            return type(thing).from_config(thing.get_config())
        except (NotImplementedError, TypeError, ValueError):
            return thing  # without a config; every epoch resets its state
    return thing


class _Carry:
    """Copies of optimizers, nested ones included, for the variables of a copy.

    Args:
        rebuild: pairs old and new variables.
        slots: whether variables of the optimizers are carried over.
    """

    def __init__(self, rebuild: Rebuild, slots: bool) -> None:
        self.rebuild = rebuild
        self.slots = slots
        self._origin = {id(new): old for old, new in rebuild.variables.values()}
        self._copies: dict[int, tuple[Any, Any]] = {}
        self._lost: list[str] = []

    def copy(self, optimizer: Any) -> Any:
        """A copy that is not built yet; the same one for the same optimizer."""
        if optimizer is None:
            return None
        if id(optimizer) not in self._copies:
            twin = self._construct(optimizer)
            self._settings(optimizer, twin)
            self._copies[id(optimizer)] = (optimizer, twin)
        return self._copies[id(optimizer)][1]

    def _construct(self, optimizer: Any) -> Any:
        kind = type(optimizer)
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            return kind(
                self.copy(optimizer.inner_optimizer),
                initial_scale=optimizer.initial_scale,
                dynamic_growth_steps=optimizer.dynamic_growth_steps,
                name=optimizer.name,
            )
        if isinstance(optimizer, keras.optimizers.MultiOptimizer):
            return kind(
                self._map(optimizer),
                loss_scale_factor=optimizer.loss_scale_factor,
                name=optimizer.name,
            )
        rate = vars(optimizer).get("_learning_rate")
        if isinstance(rate, keras.Variable):
            return kind.from_config(optimizer.get_config())
        # A schedule or a function is shared, because it may have no config.
        # `get_config` would ask for one, so it is called on a twin without the
        # schedule.
        plain = _graph.shallow_copy(optimizer)
        vars(plain)["_learning_rate"] = None
        return kind.from_config({**plain.get_config(), "learning_rate": rate})

    def _map(self, optimizer: Any) -> Any:
        """Which copy is for which variable, of a `MultiOptimizer`."""
        given = optimizer._optimizer_map
        if hasattr(given, "default_optimizer") and hasattr(given, "items"):
            patterns = {key: self.copy(value) for key, value in given.items()}
            return type(given)(self.copy(given.default_optimizer), patterns)
        known = getattr(optimizer, "_var_to_optimizer_idx", {})
        inner = list(optimizer.optimizers)

        # A function may return a new optimizer at each call: use the first one.
        def choose(variable: Any) -> Any:
            source = self._origin.get(id(variable))
            index = None if source is None else known.get(optimizer._var_key(source))
            return self.copy(given(variable) if index is None else inner[index])

        return choose

    def _settings(self, old: Any, new: Any) -> None:
        """What was set beside the config."""
        # What a user has assigned to an attribute after the construction is in no
        # config. Plain values are taken over; variables follow in `_carry`. Anything
        # else that the constructor has not made in the copy as well is named as lost.
        for name, value in vars(old).items():
            if name in _OWN or _variables_in(value):
                continue
            if name == "_exclude_from_weight_decay":
                pairs = self.rebuild.variables.values()
                keys = {old._var_key(a): new._var_key(b) for a, b in pairs}
                value = {keys[key] for key in value if key in keys}
            elif not _is_plain(value):
                if name not in vars(new):
                    self._lost.append(f"its attribute {name!r}")
                continue
            vars(new)[name] = value

    def finish(self) -> None:
        """Builds the compiled optimizer and gives it its variables."""
        # Normally the compiled optimizer is the copy that was passed in. Where Keras
        # has wrapped it in another one, there is no old optimizer to pair that with.
        compiled = self.rebuild.model.optimizer
        roots = [o for o, twin in self._copies.values() if twin is compiled]
        if self.slots and roots and roots[0].built:
            compiled.build(self.rebuild.model.trainable_variables)
            for old, new in list(self._copies.values()):
                if old.built and new.built:
                    self._carry(old, new)
        if self._lost:
            warnings.warn(
                "The optimizer of the new model starts anew in part. Not carried over: "
                + ", ".join(self._lost[:5])
                + (f" and {len(self._lost) - 5} more." if self._lost[5:] else "."),
                stacklevel=4,
            )

    def _carry(self, old: Any, new: Any) -> None:
        # Keras has no common place for what an optimizer remembers of a variable. Most
        # keep lists in the order of their variables (`_momentums`), some keep dicts by
        # name, path or id, and wrappers keep single numbers. So every attribute with
        # variables in it is looked at: a list as long as the variables goes by
        # position, a dict by whichever key both sides know, a single variable as it is.
        # What fits none of these is lost, and named in one warning at the end.
        position = {id(v): i for i, v in enumerate(old._trainable_variables)}
        sources = []
        for variable in new._trainable_variables:
            source = self._origin.get(id(variable))
            sources.append(source if id(source) in position else None)
        for name, value in vars(old).items():
            twin = vars(new).get(name)
            if name == "_trainable_variables" or not _variables_in(value):
                continue
            if isinstance(value, keras.Variable):
                if isinstance(twin, keras.Variable):
                    self._assign(twin, value, None, name)
            elif isinstance(value, list) and len(value) == len(position):
                for source, slot in zip(sources, twin or (), strict=False):
                    if slot is not None and source is not None:
                        place = position[id(source)]
                        self._assign(slot, value[place], source, name)
            elif isinstance(value, dict) and isinstance(twin, dict):
                for source, key, place in self._keys(old, new, sources, value, twin):
                    self._assign(twin[key], value[place], source, name)
            elif name not in _OWN:
                self._lost.append(f"its attribute {name!r}")

    def _keys(
        self, old: Any, new: Any, sources: list, value: dict, twin: dict
    ) -> Iterator[tuple[Any, Any, Any]]:
        """Entries of two dicts of slots, by what a variable may be known by."""
        names: list[Callable[[Any, Any], Any]] = [
            lambda optimizer, variable: optimizer._var_key(variable),
            lambda optimizer, variable: id(variable),
            lambda optimizer, variable: variable.path,
            lambda optimizer, variable: variable.name,
        ]
        for source, target in zip(sources, new._trainable_variables, strict=True):
            for name in names if source is not None else ():
                place, key = name(old, source), name(new, target)
                if place in value and key in twin:
                    yield source, key, place
                    break

    def _assign(self, slot: Any, value: Any, source: Any, name: str) -> None:
        """Gives a slot the part of the old one that belongs to what is left."""
        if value is None:
            return
        array = keras.ops.convert_to_numpy(value)
        if source is not None:
            array = self._cut(source, array, name)
        if array.shape == tuple(slot.shape):
            slot.assign(array)
        else:
            self._lost.append(f"the variable {slot.path!r} of another shape")

    def _cut(self, source: keras.Variable, array: np.ndarray, name: str) -> np.ndarray:
        shape = tuple(source.shape)
        if array.shape == shape:
            return self.rebuild.cut(source, array)
        missing = _FACTORS.get(name)
        if missing is not None and len(shape) > 1:
            missing %= len(shape)
            if array.shape == shape[:missing] + shape[missing + 1 :]:
                # Broadcast along the axis over which it is a mean, cut, and back.
                wide = np.broadcast_to(np.expand_dims(array, missing), shape)
                return self.rebuild.cut(source, wide).take(0, missing)
        return array


# Adafactor's means of squared gradients: the axis over which they are taken.
_FACTORS = {"_r": -1, "_c": -2}

# What optimizers keep about themselves, or are constructed with.
_OWN = frozenset(
    {
        *("_variables", "_trainable_variables", "_trainable_variables_indices"),
        *("_tracker", "_lock", "built", "_built"),
        *("_distribution_strategy", "_exclude_from_weight_decay_cache", "name"),
        *("inner_optimizer", "_inner_optimizers", "_optimizer_map"),
        *("_var_to_optimizer_idx", "_loss_scale_factor"),
        # What methods of `callbacks` attach, and attach anew to the new one.
        "save_own_variables",
    }
)


def _variables_in(value: Any) -> bool:
    """Whether a value is a variable or a collection with variables."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return any(isinstance(item, keras.Variable) for item in value)
    return isinstance(value, keras.Variable)


def _is_plain(value: Any) -> bool:
    """Whether a value can be shared: it is not changed in place by training."""
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    return value is None or isinstance(
        value,
        bool
        | int
        | float
        | str
        | np.generic
        | np.ndarray
        | types.FunctionType
        | keras.optimizers.schedules.LearningRateSchedule
        | re.Pattern,
    )
