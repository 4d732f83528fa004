"""What a report holds."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from tfcompress._figures import Curves, Heatmap
from tfcompress.export import Latency, Parity

__all__ = [
    "FileFigures",
    "History",
    "LayerFigures",
    "ModelFigures",
    "ReportFigures",
]


@dataclass(frozen=True)
class LayerFigures:
    """Figures of one layer, for one sample.

    Attributes:
        name: name of the layer.
        kind: its type, such as `"Conv2D"`.
        macs: multiply–accumulates.
        parameters: number of parameters.
        energy: joules by kind of operation; `None` where not modelled.
    """

    name: str
    kind: str
    macs: int
    parameters: int
    energy: dict[str, float] | None = None


@dataclass(frozen=True)
class FileFigures:
    """Figures of one exported file.

    Attributes:
        bytes: its size.
        latency: time of one inference; `None` where not measured.
        parity: how close it is to the Keras model.
        energy: measured joules of one inference, with everything else that ran
            on the processor meanwhile; `None` where the machine does not count.
    """

    bytes: int
    latency: Latency | None
    parity: Parity
    energy: float | None = None


@dataclass(frozen=True)
class ModelFigures:
    """Figures of one model; `None` where a figure is not known.

    Attributes:
        name: the name it was compared under.
        accuracy: top-1 accuracy on the test data, from 0 to 1.
        parameters: number of parameters.
        nonzero: number of parameters that are not zero.
        macs: multiply–accumulates for one sample.
        energy: modelled joules for one inference, by kind of operation.
        files: exported files by format, `"float32"` and `"int8"`.
        layers: figures layer by layer.
    """

    name: str
    accuracy: float | None = None
    parameters: int | None = None
    nonzero: int | None = None
    macs: int | None = None
    energy: dict[str, float] | None = None
    files: dict[str, FileFigures] = field(default_factory=dict)
    layers: tuple[LayerFigures, ...] = ()

    @property
    def joules(self) -> float | None:
        """Modelled energy of one inference, all kinds together."""
        return None if self.energy is None else math.fsum(self.energy.values())


@dataclass(frozen=True)
class History:
    """Training curves of one model.

    Attributes:
        epochs: number of each epoch, from 0.
        metrics: one value for each epoch, by name; `None` where there is none.
    """

    epochs: tuple[int, ...]
    metrics: dict[str, tuple[float | None, ...]]


@dataclass(frozen=True)
class ReportFigures:
    """All figures of a comparison; `Report` shows them.

    The first model is the one that the others are compared with.

    Attributes:
        title: heading.
        models: figures of each model.
        histories: training curves by model.
        curves: further line charts.
        heatmaps: further grids.
        provenance: where the figures come from: versions, machine, data,
            hardware profile.
        notes: why figures are missing, and what to keep in mind.
    """

    title: str
    models: tuple[ModelFigures, ...]
    histories: dict[str, History] = field(default_factory=dict)
    curves: tuple[Curves, ...] = ()
    heatmaps: tuple[Heatmap, ...] = ()
    provenance: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
