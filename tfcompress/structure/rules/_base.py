"""What a rule is, and what all rules share."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

import keras
import numpy as np

from tfcompress.structure._graph import Call
from tfcompress.structure._labels import Abstract
from tfcompress.structure._trace import Trace

__all__ = [
    "CHANNELWISE",
    "FROZEN",
    "MOVEMENT",
    "PRODUCER",
    "Frozen",
    "Kept",
    "Rule",
    "Weighted",
    "channel_axis",
    "shape_of",
    "why_not_plain",
]

PRODUCER = "prunable"
CHANNELWISE = "channel-wise"
MOVEMENT = "data movement"
FROZEN = "frozen"


class Kept(Protocol):
    """What stays after the edit, as rules ask for it."""

    def size(self, variable: keras.Variable, axis: int) -> int:
        """Kept length of an axis of a variable."""

    def shape(self, tensor: Any) -> tuple[int | None, ...]:
        """Kept shape of a `KerasTensor` of the original model."""

    def along(self, tensor: Any, axis: int) -> np.ndarray | None:
        """Bool array of the kept positions on an axis, None if all stay."""


class Rule:
    """Base: an operation whose inputs are frozen.

    A rule is asked twice. `trace` runs during the analysis, once for each call, and
    says what happens to labels. The other two run during the rebuild, when it is known
    which channels stay: `configure` edits the config from which a layer is copied (a
    Dense gets fewer `units`), `adjust` edits a copied operation of `keras.ops` or the
    arguments of a call (a Reshape gets another target). Most rules need neither,
    because their operation takes whatever size it is given.
    """

    kind: ClassVar[str] = FROZEN
    note: str = ""

    def trace(
        self, trace: Trace, op: Any, call: Call, inputs: list[Abstract]
    ) -> list[Abstract]:
        """Labels of the outputs of `call`, given those of its inputs."""
        return trace.freeze(inputs, f"{trace.key(op)!r}: {self.note}", call.outputs)

    def configure(self, op: Any, call: Call, config: dict, kept: Kept) -> None:
        """Edits the config of a layer in place."""

    def adjust(
        self, op: Any, call: Call, args: tuple, kwargs: dict, kept: Kept
    ) -> tuple[tuple, dict]:
        """Edits a copied operation, or the arguments that it is called with."""
        return args, kwargs


class Frozen(Rule):
    """A named refusal."""

    def __init__(self, note: str) -> None:
        self.note = note


class Weighted(Rule):
    """Shared guard of the layers with weights."""

    def trace(
        self, trace: Trace, op: Any, call: Call, inputs: list[Abstract]
    ) -> list[Abstract]:
        problem = why_not_plain(op)
        if problem:
            return trace.freeze(inputs, f"{trace.key(op)!r} {problem}", call.outputs)
        return self.weigh(trace, op, call, inputs)

    def weigh(
        self, trace: Trace, op: Any, call: Call, inputs: list[Abstract]
    ) -> list[Abstract]:
        raise NotImplementedError


def shape_of(tensor: Any) -> tuple[int | None, ...]:
    return tuple(tensor.shape)


def channel_axis(layer: Any, rank: int) -> int:
    channels_first = getattr(layer, "data_format", None) == "channels_first"
    return 1 if channels_first else rank - 1


def why_not_plain(layer: Any) -> str | None:
    """Why the weights of a layer are not what its rule expects."""
    if getattr(layer, "quantization_mode", None):
        return "is quantized"
    if getattr(layer, "lora_enabled", False):
        return "has LoRA weights"
    return None
