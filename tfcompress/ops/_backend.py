"""Which module computes DRUM's truncation on the backend of Keras."""

from __future__ import annotations

import importlib
from typing import Any

import keras

__all__ = ["drum"]

_FORMS = {"tensorflow": "_tensorflow", "jax": "_jax"}


def drum() -> Any:
    """The module for the backend of Keras.

    Each has `tensor`, `is_tensor`, `widened`, `drum_truncate` and `name`.

    Raises:
        ValueError: if there is none for the backend.
    """
    backend = keras.backend.backend()
    if backend not in _FORMS:
        raise ValueError(
            "Invalid value for the backend of Keras. DRUM multipliers work on "
            f"{' and '.join(_FORMS)}. Received: {backend!r}"
        )
    return importlib.import_module(f"tfcompress.ops.{_FORMS[backend]}")
