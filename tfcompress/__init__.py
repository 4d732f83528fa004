"""tfcompress: compression of Keras 3 models that really makes them smaller.

A compressed model is just a Keras model. Every method instruments a plain
model, trains it through `model.fit`, and leaves through `finalize` as a plain,
smaller Keras model. Submodules are imported when first used, so that
`import tfcompress` costs nothing beyond Keras itself.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_SUBMODULES = frozenset(
    {
        "analysis",
        "callbacks",
        "constraints",
        "cost",
        "criteria",
        "data",
        "export",
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
    }
)

__all__ = ["__version__", "finalize", *sorted(_SUBMODULES)]

if TYPE_CHECKING:
    from tfcompress._finalize import finalize


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"tfcompress.{name}")
    if name == "finalize":
        from tfcompress._finalize import finalize

        return finalize
    raise AttributeError(f"module 'tfcompress' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
