"""What a report holds."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from tfcompress._figures import Curves, Heatmap
from tfcompress.export import Latency, Parity, TargetFigures

__all__ = [
    "Agreement",
    "ClassFigures",
    "FileFigures",
    "History",
    "LayerFigures",
    "MetricFigure",
    "ModelFigures",
    "ReportFigures",
    "Verdict",
    "WrongSample",
]


@dataclass(frozen=True)
class LayerFigures:
    """Figures of one layer, for one sample.

    Attributes:
        name: name of the layer.
        kind: its type, such as `"Conv2D"`.
        macs: multiply–accumulates.
        parameters: number of parameters.
        energy: joules by kind of operation; `None` where not modeled.
    """

    name: str
    kind: str
    macs: int
    parameters: int
    energy: dict[str, float] | None = None


@dataclass(frozen=True)
class MetricFigure:
    """A metric on the test data.

    Attributes:
        value: what it came to; `None` where it is not a number.
        direction: `"up"` if more is better, `"down"` if less is better, `None` if
            that is not known.
        unit: `"fraction"`, shown in per cent, or what to write behind the
            number. Defaults to `""`.
        low: lower end of the 95 % confidence interval; `None` where the metric is
            no mean over independent samples. Defaults to `None`.
        high: its upper end. Defaults to `None`.
        noise: half the width of the 95 % confidence interval of the difference to
            the first model, from the same samples: a smaller difference is
            noise. Defaults to `None`, not known.
    """

    value: float | None
    direction: str | None = None
    unit: str = ""
    low: float | None = None
    high: float | None = None
    noise: float | None = None


@dataclass(frozen=True)
class Agreement:
    """How closely a file decides as the Keras model does, for one output.

    Attributes:
        kind: what was compared: `"top-1"` (the class), `"binary"` (yes or no),
            `"label"` (yes or no for each label), `"pixel"` (the class of each
            pixel or position), each with the fraction that is equal; or
            `"relative error"`, the root mean square of the difference over that
            of the Keras outputs around their mean.
        value: from 0 to 1, an error of at least 0.
        samples: how many samples were compared.
    """

    kind: str
    value: float
    samples: int


@dataclass(frozen=True)
class FileFigures:
    """Figures of one exported file.

    Attributes:
        bytes: its size.
        latency: time of one inference; `None` where not measured.
        parity: how close it is to the Keras model.
        energy: measured joules of one inference, with everything else that ran
            on the processor meanwhile; `None` where the machine does not count.
        zipped: its size after an ordinary compressor (Deflate); `None` where not
            measured.
        metrics: the metrics of the model, computed on the outputs of the file.
        agreement: by output, how far the file decides as the model does.
        modeled: modeled joules of one inference in the number format of the
            file, by kind of operation; `None` where not modeled.
        reference: the metrics of the model itself on the samples that the file was
            run on, where these are a part of the test data only.
    """

    bytes: int
    latency: Latency | None
    parity: Parity
    energy: float | None = None
    zipped: int | None = None
    metrics: dict[str, MetricFigure] = field(default_factory=dict)
    agreement: dict[str, Agreement] = field(default_factory=dict)
    modeled: dict[str, float] | None = None
    reference: dict[str, MetricFigure] = field(default_factory=dict)


@dataclass(frozen=True)
class ClassFigures:
    """Decisions of a classifier on the test data.

    Attributes:
        output: name of the output that decides.
        names: name of each class.
        confusion: how often each class (row) was taken for each (column).
    """

    output: str
    names: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class WrongSample:
    """An image that a model took for something else.

    Attributes:
        image: a PNG file in base64.
        expected: the class it belongs to.
        predicted: the class it was taken for.
        index: its place in the test data.
    """

    image: str
    expected: str
    predicted: str
    index: int


@dataclass(frozen=True)
class ModelFigures:
    """Figures of one model; `None` where a figure is not known.

    Attributes:
        name: the name it was compared under.
        metrics: metrics and losses on the test data by name, the one that the
            models are judged by first.
        parameters: number of parameters.
        nonzero: number of parameters that are not zero.
        macs: multiply–accumulates for one sample.
        energy: modeled joules for one inference, by kind of operation.
        packed: bytes of the packed `.tfcz` file.
        files: exported files by format, `"float32"` and `"int8"`.
        layers: figures layer by layer.
        targets: what tools of hardware say of the model, by name of the target.
        classes: decisions by class, of a classifier.
        wrong: some images that it got wrong.
        made: how the model was made, one record for each step: `"method"`, and
            where known `"config"`, `"epochs"` and `"command"`.
        path: the file it was loaded from; empty if it was given as an object.
        problem: what is wrong with the model, such as weights that are not
            finite; empty if nothing is.
    """

    name: str
    metrics: dict[str, MetricFigure] = field(default_factory=dict)
    parameters: int | None = None
    nonzero: int | None = None
    macs: int | None = None
    energy: dict[str, float] | None = None
    packed: int | None = None
    files: dict[str, FileFigures] = field(default_factory=dict)
    layers: tuple[LayerFigures, ...] = ()
    targets: dict[str, TargetFigures] = field(default_factory=dict)
    classes: ClassFigures | None = None
    wrong: tuple[WrongSample, ...] = ()
    made: tuple[dict[str, Any], ...] = ()
    path: str = ""
    problem: str = ""

    @property
    def joules(self) -> float | None:
        """Modeled energy of one inference, all kinds together."""
        return None if self.energy is None else math.fsum(self.energy.values())


@dataclass(frozen=True)
class Verdict:
    """Which model to ship, and by which rule.

    Attributes:
        model: name of the model; empty where the figures decide nothing.
        file: format of its file, or empty.
        rule: how it was chosen, or why none was.
        tolerance: how much worse than the first model it may be.
    """

    model: str
    file: str
    rule: str
    tolerance: float


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
        verdict: which model to ship; `None` if there is none.
    """

    title: str
    models: tuple[ModelFigures, ...]
    histories: dict[str, History] = field(default_factory=dict)
    curves: tuple[Curves, ...] = ()
    heatmaps: tuple[Heatmap, ...] = ()
    provenance: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    verdict: Verdict | None = None
