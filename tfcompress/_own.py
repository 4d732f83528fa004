"""What a saved model names and only the user's program has: functions and classes.

A model file holds names. Keras finds what was registered with it; a loss function of a
script, a `Lambda` or a schedule of one's own it does not find, or takes for dangerous.
A run that goes on has all of them: the model that it was called with is made by the
same program as the saved one. So the saved description and that model are walked
through side by side, and functions are taken from the model.

    saved    {"class_name": "Lambda", "config": {"name": "twice", "function":
              {"class_name": "__lambda__", "config": {"code": …}}}}
    model    the layer "twice", whose `function` is the lambda
    read     … "function": {"class_name": "function", "config": "own function 0"} …
             with {"own function 0": the lambda}

By place, not by name: two functions that one factory has made have one name. No code
from the file runs, and a lambda keeps what it sees of its module.
"""

from __future__ import annotations

import contextlib
import types
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import keras

from tfcompress._models import own_classes

__all__ = ["check_readable", "lambdas_allowed", "with_own"]

_FUNCTIONS = ("function", "__lambda__")
# Where Keras looks for its own functions.
_MODULES = (
    "activations",
    "constraints",
    "initializers",
    "losses",
    "metrics",
    "optimizers",
    "regularizers",
)


def with_own(config: Any, model: keras.Model) -> tuple[Any, dict[str, Any]]:
    """A model's description with the user's functions by reference, and what they are.

    Args:
        config: the description, as it is in a Keras model file.
        model: a model that was made by the same program.

    Returns:
        The description, and functions and classes by the names that it has for them,
        for `keras.saving.custom_object_scope`.
    """
    layers: dict[str, Any] = {}
    for layer in model._flatten_layers():
        if layers.setdefault(layer.name, layer) is not layer:
            layers[layer.name] = None  # of several nested models: no telling which
    own: dict[str, Any] = dict(own_classes(model))

    def walk(node: Any, live: Any) -> Any:
        if isinstance(node, list | tuple):
            same = isinstance(live, list | tuple) and len(live) == len(node)
            pairs = zip(node, live if same else [None] * len(node), strict=True)
            return [walk(each, other) for each, other in pairs]
        if not isinstance(node, dict):
            return node
        kind, inner = node.get("class_name"), node.get("config")
        # Keras describes a lambda that is an activation by its code alone.
        if (kind in _FUNCTIONS or node.keys() == {"value"}) and _is_own(live):
            name = f"own function {len(own)}"
            own[name] = live
            return {"class_name": "function", "config": name, "registered_name": name}
        if not isinstance(kind, str) or not isinstance(inner, dict):
            parts = live if isinstance(live, Mapping) else {}
            return {key: walk(each, parts.get(key)) for key, each in node.items()}
        named = layers.get(str(inner.get("name")))
        if type(named).__name__ == kind:
            live = named
        if type(live).__name__ == kind and node.get("registered_name"):
            own.setdefault(node["registered_name"], type(live))
        read = {
            **node,
            "config": {k: walk(v, _held(live, k)) for k, v in inner.items()},
        }
        if "compile_config" in node:
            given = getattr(getattr(live, "_compile_config", None), "config", {})
            read["compile_config"] = walk(node["compile_config"], given)
        return read

    return walk(config, model), own


def check_readable(model: keras.Model) -> None:
    """Refuses a model whose backup could not be read.

    Raises:
        ValueError: if it holds a function or a class that is not found again.
    """
    try:
        with lambdas_allowed():
            config, own = with_own(keras.saving.serialize_keras_object(model), model)
    except Exception as error:  # whatever a `get_config` of the user's raises
        raise _refused(model, f"which Keras cannot describe: {error}") from error
    with keras.saving.custom_object_scope(own):
        lost = sorted(set(_lost(config)))
    if lost:
        raise _refused(
            model,
            f"of which {', '.join(lost)} would not be found again; use "
            "keras.saving.register_keras_serializable",
        )


@contextlib.contextmanager
def lambdas_allowed() -> Iterator[None]:
    """Without the warning of Keras that lambdas cannot be read: here they can."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The object being serialized includes a `lam")
        yield


def _refused(model: keras.Model, why: str) -> ValueError:
    return ValueError(
        "Invalid value for argument `backup_dir`. Expected None for a model that "
        f"cannot be saved and read back. Received: a folder, for {model.name!r}, {why}"
    )


def _is_own(thing: Any) -> bool:
    """Whether something is a function of the user's."""
    if not isinstance(thing, types.FunctionType):
        return False
    return (thing.__module__ or "").partition(".")[0] != "keras"


def _held(live: Any, key: str) -> Any:
    """What an object holds under a key of its configuration."""
    # Private names first: `learning_rate` of an optimizer is a number, and its schedule
    # is `_learning_rate`. Properties may raise anything, as those of unused layers do.
    for name in (f"_{key}", key):
        with contextlib.suppress(Exception):
            return getattr(live, name)
    return None


def _lost(node: Any) -> Iterator[str]:
    """Names of functions and classes that nobody knows."""
    if isinstance(node, list):
        for each in node:
            yield from _lost(each)
    if not isinstance(node, dict):
        return
    kind, inner = node.get("class_name"), node.get("config")
    known = keras.saving.get_registered_object
    if kind == "__lambda__":
        yield "a lambda"
    elif kind == "function" and isinstance(inner, str):
        ours = any(hasattr(getattr(keras, module), inner) for module in _MODULES)
        if known(inner) is None and not ours:
            yield f"the function {inner!r}"
    elif node.keys() >= {"module", "class_name", "config", "registered_name"}:
        # Classes of Keras have no registered name.
        name = node["registered_name"]
        if name is not None and known(name) is None:
            yield f"the class {kind!r}"
    for each in node.values():
        yield from _lost(each)
