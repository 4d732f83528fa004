"""The compiled DRUM operation, where it was built."""

from __future__ import annotations

import functools
import warnings
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.python.ops import control_flow_util

from tfcompress.ops._build import library_name

__all__ = ["FOLDER", "inside_xla", "library"]

FOLDER = Path(__file__).parent


@functools.cache
def library() -> tuple[Any | None, str]:
    """The module of compiled operations, or None and why there is none."""
    path = FOLDER / library_name(tf.__version__)
    if not path.exists():
        others = ", ".join(sorted(p.name for p in FOLDER.glob(library_name("*"))))
        found = f"; there is {others}" if others else ""
        return None, f"it was not built for TensorFlow {tf.__version__}{found}"
    try:
        module = tf.load_op_library(str(path))
    except (tf.errors.OpError, OSError) as error:
        return None, f"{path.name} does not load: {error}"
    # So that a model that was loaded from a SavedModel can be differentiated.
    tf.RegisterGradient("Tfcompress>DrumTruncate")(lambda op, upstream: upstream)
    return module, ""


@functools.cache
def warn_missing() -> None:
    """Says, once, that there is no compiled operation."""
    reason = library()[1]
    warnings.warn(
        f"The compiled DRUM operation is not available: {reason}. TensorFlow's own "
        "operations compute the same, slower. scripts/build_ops.sh, or installing "
        "the package anew, builds it.",
        stacklevel=2,
    )


def inside_xla() -> bool:
    """Whether what is traced now is compiled by XLA, for which there is no kernel."""
    if tf.executing_eagerly():
        return False
    return control_flow_util.GraphOrParentsInXlaContext(
        tf.compat.v1.get_default_graph()
    )
