"""Carrying compile state and optimizer slots over to an edited model."""

from __future__ import annotations

import warnings
from typing import Any

import keras

from tfcompress.structure._graph import shallow_copy
from tfcompress.structure._rebuild import Rebuild

__all__ = ["carry_compile"]


def carry_compile(old: keras.Model, rebuild: Rebuild, slots: bool) -> None:
    """Compiles the rebuilt model as `old` is, if it is.

    Losses and learning-rate schedules are shared (they hold no state); the
    optimizer is a copy, and so are metrics that have a config.

    Args:
        old: the original model.
        rebuild: the edited copy.
        slots: whether the optimizer's variables (iterations, momenta, …) are
            sliced and carried over; otherwise the optimizer starts anew.
    """
    if not old.compiled or not hasattr(old, "_compile_config"):
        return
    given = dict(old._compile_config.config)
    given["optimizer"] = _copy(old.optimizer)
    for name in ("metrics", "weighted_metrics"):
        given[name] = keras.tree.map_structure(_copy, given[name])
    new = rebuild.model
    new.compile(**given)
    if slots and old.optimizer is not None and old.optimizer.built:
        new.optimizer.build(new.trainable_variables)
        _carry_slots(old.optimizer, new.optimizer, rebuild)


def _copy(thing: Any) -> Any:
    if isinstance(thing, keras.optimizers.Optimizer):
        return _copy_optimizer(thing)
    if isinstance(thing, keras.Metric):
        try:
            return type(thing).from_config(thing.get_config())
        except (NotImplementedError, TypeError, ValueError):
            return thing  # without a config; every epoch resets its state
    return thing


def _copy_optimizer(optimizer: Any) -> Any:
    """A copy that shares the learning-rate schedule, which may have no config."""
    schedule = vars(optimizer).get("_learning_rate")
    if not isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule):
        return type(optimizer).from_config(optimizer.get_config())
    twin = shallow_copy(optimizer)
    vars(twin)["_learning_rate"] = None
    config = {**twin.get_config(), "learning_rate": schedule}
    return type(optimizer).from_config(config)


def _carry_slots(old: Any, new: Any, rebuild: Rebuild) -> None:
    if hasattr(old, "inner_optimizer"):
        _carry_slots(old.inner_optimizer, new.inner_optimizer, rebuild)
    origin = {id(target): source for source, target in rebuild.variables.values()}
    position = {id(v): i for i, v in enumerate(old._trainable_variables)}
    sources = [origin.get(id(v)) for v in new._trainable_variables]
    count = len(old._trainable_variables)
    lost: list[str] = []
    for name, value in vars(old).items():
        twin = vars(new).get(name)
        if isinstance(value, keras.Variable) and isinstance(twin, keras.Variable):
            if tuple(value.shape) == tuple(twin.shape):
                twin.assign(value)
        elif (
            isinstance(value, list)
            and len(value) == count
            and name != "_trainable_variables"
            and any(isinstance(v, keras.Variable) for v in value)
        ):
            for source, slot in zip(sources, twin, strict=True):
                if slot is None or source is None or id(source) not in position:
                    continue
                index = position[id(source)]
                array = keras.ops.convert_to_numpy(value[index])
                if array.shape == tuple(source.shape):
                    array = rebuild.cut(source, array)
                if array.shape == tuple(slot.shape):
                    slot.assign(array)
                else:
                    lost.append(slot.path)
    if lost:
        warnings.warn(
            f"{len(lost)} optimizer variables do not have the shape of the variable "
            f"that they belong to and start anew, {lost[0]!r} among them.",
            stacklevel=2,
        )
