"""Reports made by hand, so that their figures are known without measuring."""

import pytest

from tfcompress.export import Latency, Parity
from tfcompress.report import (
    Curves,
    FileFigures,
    Heatmap,
    History,
    LayerFigures,
    MetricFigure,
    ModelFigures,
    Report,
)

HOSTILE = "<script>alert(1)</script>\"'&|`*_ 日本語"
LONG = "x" * 10_000


def model_figures(name, divisor, accuracy, layers=("conv1", "conv2", "dense")):
    """Figures that are `divisor` times smaller than 1,000 parameters a layer etc."""
    rows = tuple(
        LayerFigures(
            layer,
            "Conv2D",
            macs=60_000 // divisor,
            parameters=1_000 // divisor,
            energy={"arithmetic": 3e-6 / divisor, "memory": 1e-6 / divisor},
        )
        for layer in layers
    )
    count = len(layers)
    return ModelFigures(
        name=name,
        metrics={}
        if accuracy is None
        else {"accuracy": MetricFigure(accuracy, "up", "fraction")},
        parameters=count * 1_000 // divisor,
        nonzero=count * 1_000 // divisor,
        macs=count * 60_000 // divisor,
        energy={
            "arithmetic": count * 3e-6 / divisor,
            "memory": count * 1e-6 / divisor,
        },
        files={
            "float32": FileFigures(
                12_000 // divisor,
                Latency(1.0 / divisor, 0.9 / divisor, 1.2 / divisor, 50),
                Parity(1e-7, 1.0, 1.0, 100, "given"),
            ),
            "int8": FileFigures(
                4_000 // divisor,
                Latency(0.5 / divisor, 0.4 / divisor, 0.6 / divisor, 50),
                Parity(0.01, 1.0, 0.995, 100, "given"),
            ),
        },
        layers=rows,
    )


def history(*losses):
    return History(
        tuple(range(len(losses))),
        {"loss": losses, "val_loss": tuple(2 * loss for loss in losses)},
    )


@pytest.fixture
def report():
    return Report(
        title="Digits",
        models=(model_figures("dense", 1, 0.98), model_figures("small", 4, 0.975)),
        histories={"dense": history(1.0, 0.5, 0.25), "small": history(0.3, 0.2)},
        curves=(
            Curves(
                "Sensitivity",
                "fraction removed",
                "accuracy",
                {"conv1": [(0.0, 0.98), (0.5, 0.7)], "conv2": [(0.0, 0.98)]},
                "One layer at a time.",
            ),
        ),
        heatmaps=(
            Heatmap(
                "Density",
                "epoch",
                "layer",
                "density",
                ["1", "2"],
                ["conv1", "conv2"],
                [[0.5, 0.4], [0.3, None]],
            ),
        ),
        provenance={"seed": "0", "Energy": "modelled"},
        notes=("Something to keep in mind.",),
    )


@pytest.fixture
def hostile_report():
    layers = (HOSTILE, LONG, "ünï|`code`")
    return Report(
        title=HOSTILE,
        models=(
            model_figures(HOSTILE, 1, 0.9, layers),
            model_figures(LONG, 2, None, layers),
            model_figures(LONG + "y", 4, 0.8, layers),
        ),
        histories={HOSTILE: history(1.0, 0.5), LONG: history(0.3)},
        curves=(Curves(HOSTILE, LONG, LONG, {HOSTILE: [(0.0, 1.0)], LONG: []}),),
        heatmaps=(
            Heatmap(
                LONG, LONG, LONG, LONG, [HOSTILE, LONG], [LONG, LONG], [[1, 2]] * 2
            ),
        ),
        provenance={LONG: HOSTILE, HOSTILE: LONG},
        notes=(HOSTILE, LONG),
    )
