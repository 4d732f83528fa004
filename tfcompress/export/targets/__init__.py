"""What hardware makes of an exported file, as the tools of its makers tell."""

from tfcompress.export.targets._c import to_c
from tfcompress.export.targets._figures import Check, TargetFigures
from tfcompress.export.targets._profile import TargetProfile
from tfcompress.export.targets._target import require_tool, resolve, target

__all__ = [
    "Check",
    "TargetFigures",
    "TargetProfile",
    "require_tool",
    "resolve",
    "target",
    "to_c",
]
