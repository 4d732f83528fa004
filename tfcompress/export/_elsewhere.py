"""Conversion in a process of its own, for models that live on another backend.

The converter of TFLite reads what TensorFlow traces. A model on JAX therefore goes
through a .keras file into a Python with `KERAS_BACKEND=tensorflow`, which converts it
and compares the file, and hands the result back.
"""

from __future__ import annotations

import importlib.util
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

__all__ = ["convert_elsewhere"]

_MODEL, _TASK, _RESULT = "model.keras", "task.pickle", "result.pickle"
_ERRORS = {kind.__name__: kind for kind in (TypeError, ValueError, RuntimeError)}
_CODE = """
import sys
from tfcompress.export import to_tflite
from tfcompress.export._elsewhere import work

work(sys.argv[1], to_tflite)
"""


def convert_elsewhere(model: keras.Model, **task: Any) -> Any:
    """What `to_tflite` returns, from a process with TensorFlow.

    Args:
        model: the model.
        **task: the other arguments of `to_tflite`, which are pickled.

    Raises:
        ImportError: if TensorFlow is not installed.
        RuntimeError: if the process fails; what `to_tflite` raises otherwise.
    """
    if importlib.util.find_spec("tensorflow") is None:
        raise ImportError(
            "Expected TensorFlow, whose converter writes .tflite files. Install it "
            "with `pip install tensorflow`; the model may stay on the "
            f"{keras.backend.backend()} backend."
        )
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        model.save(place / _MODEL)
        (place / _TASK).write_bytes(pickle.dumps(task))
        known = os.pathsep.join(path for path in sys.path if path)
        environment = {"KERAS_BACKEND": "tensorflow", "PYTHONPATH": known}
        process = subprocess.run(
            [sys.executable, "-c", _CODE, folder],
            env=os.environ | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if process.returncode or not (place / _RESULT).exists():
            last = "\n".join(process.stderr.strip().splitlines()[-20:])
            raise RuntimeError(
                f"The process that converts model {model.name!r} with TensorFlow has "
                f"failed. Its last words:\n{last}"
            )
        error, result = pickle.loads((place / _RESULT).read_bytes())
    if error is not None:
        raise _ERRORS[error](result)
    return result


def work(folder: str, to_tflite: Callable[..., Any]) -> None:
    """The work of the process: converts the model of a folder, stores the result."""
    place = Path(folder)
    # Made by the process that waits for this one, so it is trusted.
    model = keras.saving.load_model(place / _MODEL, compile=False, safe_mode=False)
    task = pickle.loads((place / _TASK).read_bytes())
    result: tuple[str | None, Any]
    try:
        result = None, to_tflite(model, **task)
    except tuple(_ERRORS.values()) as error:
        kind = next(name for name, kind in _ERRORS.items() if isinstance(error, kind))
        result = kind, str(error)
    (place / _RESULT).write_bytes(pickle.dumps(result))
