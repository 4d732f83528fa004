"""Files of arrays and of tables."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tfcompress.data._sets import (
    TEST_FRACTION,
    TEST_SEED,
    Published,
    Scale,
    Split,
    hold_out,
)

__all__ = ["read_csv", "read_npz"]

_LABELS = ("label", "y")


def read_npz(path: Path, scale: Scale) -> Published:
    """Reads x and y, or x_train, y_train, x_test, y_test, or y and other names."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, AttributeError, zipfile.BadZipFile) as error:
        raise _unreadable("npz", path, error) from error
    if "x_train" in arrays:
        names = ("x_train", "y_train", "x_test", "y_test")
        if missing := [name for name in names if name not in arrays]:
            raise _lacks("npz", path, f"the arrays {', '.join(names)}", missing)
        x, y, x_test, y_test = (arrays[name] for name in names)
        labels, classes = _labels(np.concatenate([y, y_test]))
        count = len(y)
        train, test = (
            _split(path, images, part, scale)
            for images, part in ((x, labels[:count]), (x_test, labels[count:]))
        )
        return Published(classes, train, test)
    inputs = {name: array for name, array in arrays.items() if name != "y"}
    if "y" not in arrays or not inputs:
        raise _lacks("npz", path, "the arrays x and y", sorted({"x", "y"} - {*arrays}))
    images = next(iter(inputs.values())) if len(inputs) == 1 else inputs
    return _divided(path, images, *_labels(arrays["y"]), scale)


def read_csv(path: Path, scale: Scale) -> Published:
    """Reads a table of numbers whose header names the column of labels."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _unreadable("csv", path, error) from error
    header = [name.strip() for name in rows[0]] if rows else []
    label = next((name for name in _LABELS if name in header), None)
    if label is None or len(header) < 2 or len(rows) < 2:
        raise _lacks(
            "csv", path, "a header line with a column `label`, and rows", header
        )
    at = header.index(label)
    values = np.empty((len(rows) - 1, len(header) - 1), "float32")
    labels = []
    for number, row in enumerate(rows[1:]):
        try:
            if len(row) != len(header):
                raise ValueError(f"{len(row)} columns")
            labels.append(row[at].strip())
            values[number] = [float(cell) for i, cell in enumerate(row) if i != at]
        except ValueError as error:
            raise ValueError(
                f"Invalid value for argument `name`. Expected {len(header)} columns of "
                f"numbers in csv:{path}. Received: line {number + 2}: {error}"
            ) from error
    return _divided(path, values, *_labels(_numbers(labels)), scale)


def _numbers(texts: list[str]) -> np.ndarray:
    """Labels as numbers where all of them are, else as text."""
    try:
        values = np.array([float(text) for text in texts])
    except ValueError:
        return np.array(texts)
    return values.astype("int64") if np.all(values == np.floor(values)) else values


def _labels(given: np.ndarray) -> tuple[np.ndarray, int]:
    """Labels, and the number of classes, 0 where they are none."""
    # Labels have four forms, which are tried in this order. One-hot rows become the
    # place of the one; texts become places among the sorted names; whole numbers from 0
    # on are class numbers already; everything else (fractions, negative numbers,
    # vectors) is values.
    if given.ndim == 2 and given.shape[1] == 1:
        given = given[:, 0]
    one_hot = (
        given.ndim == 2
        and np.isin(given, (0, 1)).all()
        and (given.sum(axis=1) == 1).all()
    )
    if one_hot:
        return given.argmax(axis=1).astype("int32"), given.shape[1]
    if given.ndim == 1 and given.dtype.kind in "US":
        names, numbers = np.unique(given, return_inverse=True)
        return numbers.astype("int32"), len(names)
    if given.ndim == 1 and given.dtype.kind in "iub" and given.min(initial=0) >= 0:
        classes = int(given.max()) + 1 if len(given) else 0
        # More classes than samples are none: prices, years or counts.
        if classes <= len(given):
            return given.astype("int32"), classes
    return given.astype("float32"), 0


def _divided(
    path: Path, images: Any, labels: np.ndarray, classes: int, scale: Scale
) -> Published:
    samples = _split(path, images, labels, scale)
    order = np.random.default_rng(TEST_SEED).permutation(len(samples))
    return Published(classes, *hold_out(samples, TEST_FRACTION, order))


def _split(path: Path, images: Any, labels: np.ndarray, scale: Scale) -> Split:
    named = images if isinstance(images, Mapping) else {"x": images}
    for name, array in named.items():
        if array.dtype.kind not in "fiub" or array.shape[:1] != labels.shape[:1]:
            raise ValueError(
                "Invalid value for argument `name`. Expected numbers, as many as "
                f"labels, in {path}. Received: {name!r} of dtype {array.dtype} and "
                f"shape {array.shape} with labels of shape {labels.shape}"
            )
    if isinstance(images, Mapping):
        return Split({n: _scaled(a, scale) for n, a in images.items()}, labels)
    return Split(_scaled(images, scale), labels)


def _scaled(array: np.ndarray, scale: Scale) -> np.ndarray:
    if scale == "unit" and array.dtype.kind == "u":
        return (array / np.iinfo(array.dtype).max).astype("float32")
    return array.astype("float32")


def _unreadable(kind: str, path: Path, error: Exception) -> ValueError:
    return ValueError(
        f"Invalid value for argument `name`. Expected {kind}:FILE of a file that can "
        f"be read. Received: {kind}:{path} ({str(error).partition(chr(10))[0]})"
    )


def _lacks(kind: str, path: Path, expected: str, found: list[str]) -> ValueError:
    lack = "missing are" if kind == "npz" else "the first line is"
    return ValueError(
        f"Invalid value for argument `name`. Expected {expected} in {kind}:{path}. "
        f"Received: {lack} {found}"
    )
