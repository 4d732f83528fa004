"""tfcompress: compression of Keras 3 models that really makes them smaller.

A compressed model is just a Keras model. Every method instruments a plain
model, trains it through `model.fit`, and leaves through `finalize` as a plain,
smaller Keras model. Submodules are imported when first used, so that
`import tfcompress` costs nothing beyond Keras itself. If Keras is there already, the
classes that a saved model may hold are registered with it at once.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Names that are there without their module's name, and where they come from.
_NAMES = {
    "Budget": "compression",
    "compress": "compression",
    "finalize": "_finalize",
}

__all__ = [
    "Budget",
    "__version__",
    "analysis",
    "callbacks",
    "compress",
    "compression",
    "constraints",
    "cost",
    "criteria",
    "data",
    "export",
    "finalize",
    "gates",
    "interop",
    "layers",
    "ops",
    "policy",
    "quantization",
    "report",
    "schedules",
    "structure",
    "training",
    "zoo",
]

_SUBMODULES = frozenset(__all__) - {*_NAMES, "__version__"}

# Type checkers and editors read real imports, so that they know every name and
# argument. They do not see `__getattr__`, which would make any name `Any`.
if TYPE_CHECKING:
    from tfcompress import (
        analysis,
        callbacks,
        compression,
        constraints,
        cost,
        criteria,
        data,
        export,
        gates,
        interop,
        layers,
        ops,
        policy,
        quantization,
        report,
        schedules,
        structure,
        training,
        zoo,
    )
    from tfcompress._finalize import finalize
    from tfcompress.compression import Budget, compress
else:

    def __getattr__(name: str) -> Any:
        if name in _SUBMODULES:
            return importlib.import_module(f"tfcompress.{name}")
        if name in _NAMES:
            return getattr(importlib.import_module(f"tfcompress.{_NAMES[name]}"), name)
        raise AttributeError(f"module 'tfcompress' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


# `keras.saving.load_model` finds them only if they are registered. A program that loads
# a model has Keras, and usually imports it first.
if "keras" in sys.modules:
    for _name in ("constraints", "layers"):
        importlib.import_module(f"tfcompress.{_name}")
    del _name
