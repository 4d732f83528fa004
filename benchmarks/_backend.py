"""Chooses the backend of Keras: `--backend=jax`. Imported before Keras is."""

import os
import sys

from absl import flags

_NAMES = ("tensorflow", "jax")

for _argument in sys.argv[1:]:
    _name, _, _value = _argument.lstrip("-").partition("=")
    if _name == "backend" and _value in _NAMES:
        os.environ["KERAS_BACKEND"] = _value
flags.DEFINE_enum(
    "backend",
    os.environ.get("KERAS_BACKEND", "tensorflow"),
    _NAMES,
    "Backend of Keras, written with `=`.",
)
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
