"""A report as JSON, what is read back from it, and the schema of both."""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from tfcompress.report._figures import ReportFigures

__all__ = ["SCHEMA", "InvalidError", "fields_of", "schema", "to_json", "without_nan"]

SCHEMA = "tfcompress-report/2"
_OLD = "tfcompress-report/1"
_ABSENT = dataclasses.MISSING


class InvalidError(Exception):
    """What is wrong with the data of a report."""


def to_json(report: ReportFigures) -> str:
    """The whole report as JSON text."""
    data = {"schema": SCHEMA, **dataclasses.asdict(report)}
    return json.dumps(without_nan(data), indent=2, ensure_ascii=False, allow_nan=False)


def fields_of(data: Any) -> dict[str, Any]:
    """The fields of `ReportFigures` from parsed JSON.

    Every value is checked against the annotations of the classes, so that what is
    wrong is named here and does not fail later, where it is shown.

    Raises:
        InvalidError: if `data` is not a report.
    """
    if not isinstance(data, dict):
        raise InvalidError(f"a {type(data).__name__} in place of an object")
    found = data.get("schema")
    if found == _OLD:
        data = _upgraded(data)
    elif found != SCHEMA:
        raise InvalidError(f"schema={str(found)[:100]!r}, not {SCHEMA!r} or {_OLD!r}")
    data = {key: value for key, value in data.items() if key != "schema"}
    report = _decode(ReportFigures, data, "")
    return {field.name: getattr(report, field.name) for field in _fields(report)}


def schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a report, from the same annotations."""
    definitions: dict[str, Any] = {}
    root = _describe(ReportFigures, definitions)
    report = definitions.pop("ReportFigures")
    report["properties"] = {"schema": {"const": SCHEMA}, **report["properties"]}
    report["required"] = ["schema", *report["required"]]
    assert root == {"$ref": "#/$defs/ReportFigures"}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A report of tfcompress",
        **report,
        "$defs": dict(sorted(definitions.items())),
    }


# Reading ----------------------------------------------------------------------


def _decode(hint: Any, value: Any, place: str) -> Any:
    """`value` as the annotation `hint` wants it."""
    # The dataclasses of `_figures` are the format: `asdict` writes them, their
    # annotations check what is read and describe the schema. A new field with a
    # default can be added there alone, and older reports can still be read.
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        (inner,) = (kind for kind in arguments if kind is not type(None))
        return _decode(inner, value, place)
    if dataclasses.is_dataclass(hint):
        return _decode_class(hint, value, place)
    if origin in (dict, Mapping):
        _require(value, dict, place, "an object")
        return {
            key: _decode(arguments[1], item, f"{place}.{key[:50]}")
            for key, item in value.items()
        }
    if origin is tuple:
        _require(value, list, place, "a list")
        if arguments[-1] is Ellipsis:
            return tuple(_items(arguments[0], value, place))
        if len(value) != len(arguments):
            raise InvalidError(f"{place}: {len(value)} values, not {len(arguments)}")
        pairs = zip(arguments, value, strict=True)
        return tuple(_decode(kind, item, place) for kind, item in pairs)
    if origin in (list, Sequence):
        _require(value, list, place, "a list")
        return _items(arguments[0], value, place)
    if hint is float:
        _require(value, int | float, place, "a number")
    else:
        _require(value, hint, place, {str: "text", bool: "true or false"}.get(hint, ""))
    return value


def _items(kind: Any, values: list[Any], place: str) -> list[Any]:
    return [_decode(kind, item, f"{place}[{i}]") for i, item in enumerate(values)]


def _decode_class(kind: Any, value: Any, place: str) -> Any:
    _require(value, dict, place, "an object")
    hints = typing.get_type_hints(kind)
    unknown = sorted(set(value) - set(hints))
    if unknown:
        raise InvalidError(f"{place or 'report'}: unknown key {unknown[0][:50]!r}")
    arguments = {}
    for field in dataclasses.fields(kind):
        if field.name in value:
            where = f"{place}.{field.name}".lstrip(".")
            arguments[field.name] = _decode(hints[field.name], value[field.name], where)
        elif field.default is _ABSENT and field.default_factory is _ABSENT:
            raise InvalidError(f"{place or 'report'}: no key {field.name!r}")
    try:
        return kind(**arguments)
    except ValueError as error:  # rows that do not fit the columns of a grid
        raise InvalidError(f"{place}: {error}") from error


def _require(value: Any, kind: Any, place: str, expected: str) -> None:
    wrong_bool = isinstance(value, bool) and kind is not bool
    if wrong_bool or not isinstance(value, kind):
        expected = expected or "a whole number"
        raise InvalidError(f"{place}: {type(value).__name__}, not {expected}")


def _fields(report: Any) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(report)


def _upgraded(data: dict[str, Any]) -> dict[str, Any]:
    """A report of schema 1, which knew one metric, as one of schema 2."""
    models = data.get("models")
    if not isinstance(models, list):
        raise InvalidError("models: not a list")
    return {**data, "models": [_upgraded_model(model) for model in models]}


def _upgraded_model(model: Any) -> Any:
    if not isinstance(model, dict):
        raise InvalidError("models: not objects")
    accuracy = model.get("accuracy")
    metrics = {}
    if accuracy is not None:
        metrics["accuracy"] = {
            "value": accuracy,
            "direction": "up",
            "unit": "fraction",
        }
    rest = {key: value for key, value in model.items() if key != "accuracy"}
    return {**rest, "metrics": metrics}


def without_nan(value: Any) -> Any:
    """`value` with `None` for what is not finite, as JSON can hold it."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return value


# Describing -------------------------------------------------------------------


def _describe(hint: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    """The schema of an annotation; classes go into `definitions`."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return {}
    if origin in (typing.Union, types.UnionType):
        (inner,) = (kind for kind in arguments if kind is not type(None))
        return {"anyOf": [_describe(inner, definitions), {"type": "null"}]}
    if dataclasses.is_dataclass(hint):
        _describe_class(hint, definitions)
        return {"$ref": f"#/$defs/{hint.__name__}"}  # type: ignore[union-attr]
    if origin in (dict, Mapping):
        values = _describe(arguments[1], definitions)
        return {"type": "object", "additionalProperties": values}
    if origin is tuple and arguments[-1] is not Ellipsis:
        items = [_describe(kind, definitions) for kind in arguments]
        return {"type": "array", "prefixItems": items, "items": False}
    if origin in (tuple, list, Sequence):
        return {"type": "array", "items": _describe(arguments[0], definitions)}
    names = {str: "string", int: "integer", float: "number", bool: "boolean"}
    return {"type": names[hint]}


def _describe_class(kind: Any, definitions: dict[str, Any]) -> None:
    if kind.__name__ in definitions:
        return
    definitions[kind.__name__] = {}  # so that a class may refer to itself
    hints = typing.get_type_hints(kind)
    fields = dataclasses.fields(kind)
    definitions[kind.__name__] = {
        "description": (kind.__doc__ or "").strip().splitlines()[0],
        "type": "object",
        "properties": {f.name: _describe(hints[f.name], definitions) for f in fields},
        "required": [
            f.name
            for f in fields
            if f.default is _ABSENT and f.default_factory is _ABSENT
        ],
        "additionalProperties": False,
    }
