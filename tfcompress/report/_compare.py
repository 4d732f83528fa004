"""Measure, count and model everything that a report shows."""

from __future__ import annotations

import datetime
import importlib.metadata
import math
import os
import platform
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from tfcompress._figures import Curves, Heatmap
from tfcompress._samples import (
    Source,
    call_model,
    check_labelled,
    class_indices,
    read,
    reusable,
    take_samples,
)
from tfcompress.export import Artifact, to_tflite
from tfcompress.export._parity import SAMPLE_LIMIT
from tfcompress.export._runtime import benchmark_together, open_file
from tfcompress.report._figures import (
    FileFigures,
    History,
    LayerFigures,
    ModelFigures,
)
from tfcompress.report._report import Report
from tfcompress.structure._graph import require_graph

__all__ = ["compare"]

_WARMUP = 5
_RUNS = 50
_ENERGY_SECONDS = 1.0


def compare(
    models: Mapping[str, keras.Model],
    *,
    data: Any = None,
    calibration: Any = None,
    hardware: Any = "horowitz_45nm",
    histories: Mapping[str, Any] | None = None,
    curves: Sequence[Curves] = (),
    heatmaps: Sequence[Heatmap] = (),
    title: str = "Compression report",
    provenance: Mapping[str, Any] | None = None,
) -> Report:
    """Compares models in accuracy, size, work, speed and modelled energy.

    Every model is exported to TFLite, to float32 and, with `calibration`, to
    int8. The files are timed in turns with one thread, so that a noisy machine
    is fair to all; the models themselves are left as they are. A figure that
    cannot be had is missing in the report, and a note says why.

    Example:

    ```python
    report = tfc.report.compare(
        {"dense": dense, "compressed": small},
        data=(x_test, y_test),
        calibration=x_train[:500],
        histories={"dense": dense_history, "compressed": pruning_history},
    )
    print(report)
    report.save("report.html")
    ```

    Args:
        models: built Functional or Sequential models by name. The first is the
            baseline for all; the last is shown in the summary.
        data: test data for the accuracy: a tuple `(inputs, labels)` of arrays, an
            iterable of batches of such that ends, as a `tf.data.Dataset`, or a
            `tfcompress.data.Dataset`, whose test split is taken; labels are class
            indices or one-hot. Defaults to `None`, which leaves the accuracy out.
        calibration: typical training inputs for int8, as for
            `tfcompress.export.to_tflite`. Defaults to `None`, which leaves the
            int8 files out.
        hardware: profile for the modelled energy: its name, the path of its file,
            or a `tfcompress.cost.Profile`; see `tfcompress.cost.energy`. `None`
            leaves the energy out. Defaults to `"horowitz_45nm"`.
        histories: training curves by name: `keras.callbacks.History` objects or
            dicts of lists. Defaults to `None`.
        curves: further line charts, such as sensitivities. Defaults to `()`.
        heatmaps: further grids. Defaults to `()`.
        title: heading of the report. Defaults to `"Compression report"`.
        provenance: facts to note beside versions and machine, such as the seed
            and the data set. Defaults to `None`.

    Returns:
        A `Report`.

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: if an argument is not as described, before any measurement.
    """
    _check_models(models)
    _check_kinds(curves, Curves, "curves")
    _check_kinds(heatmaps, Heatmap, "heatmaps")
    training = {name: _history(name, h) for name, h in (histories or {}).items()}
    profile = None if hardware is None else _profile(hardware)
    sources: dict[str, Source] = {}
    data = reusable(data, "data")
    calibration = reusable(calibration, "calibration", limit=SAMPLE_LIMIT)
    for name, model in models.items():
        if data is not None:
            sources[name] = read(model, data, split="test")
            if _classifies(model) or not sources[name].labelled:
                check_labelled(sources[name])
        if calibration is not None:
            take_samples(model, calibration, limit=1)

    notes: list[str] = []
    on_chip: dict[str, bool] = {}
    costs = {
        name: _costs(name, model, profile, notes, on_chip)
        for name, model in models.items()
    }
    files = _export_and_time(models, calibration, notes)
    figures = []
    samples = 0
    for name in models:
        accuracy = None
        if name in sources:
            accuracy, samples = _accuracy(name, sources[name], notes)
        figures.append(
            ModelFigures(name=name, accuracy=accuracy, files=files[name], **costs[name])
        )
    if len(set(on_chip.values())) > 1:
        fits = ", ".join(repr(name) for name, fit in on_chip.items() if fit)
        notes.append(
            f"Modelled energy: the weights of {fits} fit into on-chip memory; those "
            "of the others are read from off-chip memory at every inference."
        )
    return Report(
        title=title,
        models=tuple(figures),
        histories=training,
        curves=tuple(_clean_curves(c) for c in curves),
        heatmaps=tuple(_clean_heatmap(h) for h in heatmaps),
        provenance=_provenance(profile, samples, figures, provenance or {}),
        notes=tuple(notes),
    )


# Accuracy -------------------------------------------------------------------


def _accuracy(name: str, source: Source, notes: list[str]) -> tuple[float | None, int]:
    """Top-1 accuracy and the number of samples it comes from."""
    if not _classifies(source.model):
        notes.append(
            f"No accuracy for {name!r}: it needs one output of shape (batch, classes)."
        )
        return None, 0
    right = count = 0
    for batch in source:
        (outputs,) = call_model(source.model, batch.inputs)
        (labels,) = keras.tree.flatten(batch.labels)
        right += int((outputs.argmax(-1) == class_indices(labels)).sum())
        count += len(batch)
    return right / count, count


def _classifies(model: keras.Model) -> bool:
    """Whether the model has one output of shape (batch, classes)."""
    shape = model.outputs[0].shape
    return len(model.outputs) == 1 and len(shape) == 2 and (shape[1] or 2) > 1


# Files ----------------------------------------------------------------------


def _export_and_time(
    models: Mapping[str, keras.Model], calibration: Any, notes: list[str]
) -> dict[str, dict[str, FileFigures]]:
    """TFLite files of all models by model and format, timed in turns."""
    artifacts: dict[tuple[str, str], Artifact] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, model) in enumerate(models.items()):
            for kind in ("float32", "int8"):
                if kind == "int8" and calibration is None:
                    continue
                try:
                    artifacts[name, kind] = to_tflite(
                        model,
                        Path(folder) / f"{number}.{kind}.tflite",
                        quantization="int8" if kind == "int8" else None,
                        calibration=calibration,
                    )
                except (RuntimeError, ValueError) as error:
                    notes.append(f"No {kind} TFLite file for {name!r}: {error}")
        paths = [artifact.path for artifact in artifacts.values()]
        timings = benchmark_together(paths, warmup=_WARMUP, runs=_RUNS)
        energies = [_measured_energy(path) for path in paths]
    if calibration is None:
        notes.append("No int8 files: they need calibration data.")
    result: dict[str, dict[str, FileFigures]] = {name: {} for name in models}
    for ((name, kind), artifact), latency, energy in zip(
        artifacts.items(), timings, energies, strict=True
    ):
        result[name][kind] = FileFigures(
            artifact.bytes, latency, artifact.parity, energy
        )
    return result


def _measured_energy(path: Path) -> float | None:
    """Joules of one inference by the machine's own counters, if it has any."""
    from tfcompress import cost

    with cost.measure_energy() as nothing:
        pass
    if nothing.joules is None:
        return None
    program = open_file(path)
    program.feed_random()
    runs = 0
    with cost.measure_energy() as used:
        end = time.perf_counter() + _ENERGY_SECONDS
        while time.perf_counter() < end:
            program.invoke()
            runs += 1
    return None if used.joules is None else used.joules / runs


# Costs ----------------------------------------------------------------------


def _profile(hardware: Any) -> Any:
    from tfcompress import cost

    if isinstance(hardware, cost.Profile):
        return hardware
    if not isinstance(hardware, str | os.PathLike):
        raise TypeError(
            "Invalid value for argument `hardware`. Expected a profile, its name, the "
            f"path of its file, or None. Received: hardware={hardware!r}"
        )
    return cost.profile(hardware)


def _costs(
    name: str,
    model: keras.Model,
    profile: Any,
    notes: list[str],
    on_chip: dict[str, bool],
) -> dict[str, Any]:
    """The counted and modelled fields of `ModelFigures`.

    `notes` and, by name, whether all weights stay `on_chip` are added to.
    """
    from tfcompress import cost

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is not counted becomes a note
        counted = cost.count(model)
    for row in counted.uncounted:
        notes.append(f"MACs of {name!r} leave out {row.name!r}: {row.reason}")
    estimate = None if profile is None else cost.energy(counted, profile)
    if estimate is not None:
        notes += [f"Energy of {name!r}: {note}" for note in estimate.notes]
        on_chip[name] = bool(estimate.settings["weights_on_chip"])
    layers = tuple(
        LayerFigures(
            name=row.name,
            kind=row.kind,
            macs=row.macs,
            parameters=row.parameters,
            energy=None if estimate is None else dict(estimate.rows[index].by_kind),
        )
        for index, row in enumerate(counted.rows)
    )
    return {
        "parameters": counted.parameters,
        "nonzero": counted.nonzero,
        "macs": counted.macs,
        "energy": None if estimate is None else dict(estimate.by_kind),
        "layers": layers,
    }


# Given by the caller --------------------------------------------------------


def _check_models(models: Any) -> None:
    if not isinstance(models, Mapping) or not models:
        raise TypeError(
            "Invalid value for argument `models`. Expected a dict of keras models by "
            f"name. Received: models={models!r}"
        )
    for name, model in models.items():
        if not isinstance(name, str):
            raise TypeError(
                "Invalid value for argument `models`. Expected names of type str. "
                f"Received: {name!r}"
            )
        require_graph(model, f"models[{name!r}]")


def _check_kinds(values: Any, kind: type, argument: str) -> None:
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise TypeError(
            f"Invalid value for argument `{argument}`. Expected a list of "
            f"{kind.__name__}. Received: {argument}={values!r}"
        )
    for value in values:
        if not isinstance(value, kind):
            raise TypeError(
                f"Invalid value for argument `{argument}`. Expected a list of "
                f"{kind.__name__}. Received: one that holds {value!r}"
            )


def _history(name: str, given: Any) -> History:
    metrics = getattr(given, "history", given)
    if not isinstance(metrics, Mapping) or not metrics:
        raise TypeError(
            "Invalid value for argument `histories`. Expected History objects or "
            f"dicts of lists by name. Received: {given!r} for {name!r}"
        )
    lengths = {len(values) for values in metrics.values()}
    if len(lengths) > 1:
        raise ValueError(
            "Invalid value for argument `histories`. Expected lists of one length. "
            f"Received: lengths {sorted(lengths)} for {name!r}"
        )
    count = lengths.pop()
    epochs = getattr(given, "epoch", None) or range(count)
    return History(
        epochs=tuple(int(epoch) for epoch in epochs),
        metrics={str(key): tuple(map(_finite, v)) for key, v in metrics.items()},
    )


def _clean_curves(curves: Curves) -> Curves:
    series = {
        str(name): [(float(x), _finite(y)) for x, y in points]
        for name, points in curves.series.items()
    }
    return Curves(
        curves.title, curves.x_label, curves.y_label, series, curves.description
    )


def _clean_heatmap(heatmap: Heatmap) -> Heatmap:
    return Heatmap(
        heatmap.title,
        heatmap.x_label,
        heatmap.y_label,
        heatmap.value_label,
        [str(column) for column in heatmap.columns],
        [str(row) for row in heatmap.rows],
        [[_finite(value) for value in row] for row in heatmap.values],
        heatmap.description,
    )


def _finite(value: Any) -> float | None:
    """A plain float, `None` for NaN, infinity and `None`."""
    if value is None or not math.isfinite(float(value)):
        return None
    return float(value)


# Provenance -----------------------------------------------------------------


def _provenance(
    profile: Any,
    samples: int,
    models: Sequence[ModelFigures],
    extra: Mapping[str, Any],
) -> dict[str, str]:
    measured = any(f.energy is not None for m in models for f in m.files.values())
    packages = ("tfcompress", "keras", "tensorflow", "ai-edge-litert", "numpy")
    facts = {
        "Created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **{str(key): str(value) for key, value in extra.items()},
        "Accuracy": f"measured on {samples:,} test samples"
        if samples
        else "not measured",
        "Parameters and MACs": "counted from the model, for one sample; "
        "1 MAC = 2 FLOPs",
        "Sizes": "measured, bytes of the TFLite files",
        "Latency": f"measured with the LiteRT interpreter, one thread, median of "
        f"{_RUNS} runs in turns",
        "Measured energy": "processor packages and memory, with everything else that "
        f"ran on them, {_ENERGY_SECONDS:g} s of inferences for each file"
        if measured
        else "not measured on this machine",
        "Modelled energy": "none"
        if profile is None
        else f"one inference on {profile}; figures from {'; '.join(profile.sources)}",
        "Machine": f"{_processor()}, {os.cpu_count()} logical cores, "
        f"{platform.system()} {platform.machine()}",
        "Python": platform.python_version(),
        "Packages": ", ".join(
            f"{package} {importlib.metadata.version(package)}" for package in packages
        ),
    }
    return facts


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or "unknown processor"
