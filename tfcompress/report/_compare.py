"""Measure, count and model everything that a report shows."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import importlib.util
import math
import os
import platform
import tempfile
import time
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfcompress import _made
from tfcompress._figures import Curves, Heatmap
from tfcompress._models import load_model
from tfcompress._samples import (
    Batch,
    Source,
    call_model,
    fixed_batch,
    inputs_of,
    read,
    reusable,
    take_samples,
)
from tfcompress.export import Artifact, pack, target, to_tflite
from tfcompress.export._parity import SAMPLE_LIMIT
from tfcompress.export._runtime import benchmark_together, open_file
from tfcompress.export._trained import is_prepared
from tfcompress.export.targets import resolve
from tfcompress.export.targets._here import processor
from tfcompress.report._evaluate import (
    AgreementMeter,
    Measurement,
    Plan,
    added_losses,
    plan_of,
    with_noise,
)
from tfcompress.report._figures import (
    ClassFigures,
    FileFigures,
    History,
    LayerFigures,
    MetricFigure,
    ModelFigures,
    TargetFigures,
    WrongSample,
)
from tfcompress.report._progress import Progress
from tfcompress.report._report import Report
from tfcompress.report._tasks import (
    Task,
    compile_arguments,
    flat_labels,
    output_names,
    tasks_of,
)
from tfcompress.report._verdict import as_text, verdict
from tfcompress.report._words import spoken
from tfcompress.report._wrong import as_png, is_image
from tfcompress.structure._graph import require_graph

__all__ = ["compare"]

_WARMUP = 5
_RUNS = 50
_ENERGY_SECONDS = 1.0
# Samples of the test data that integer files are run on, one by one.
_FILE_SAMPLES = 2000
# From so many batches on, their number tells that of the samples well enough.
_MANY_BATCHES = 50
# Samples that a model takes at once.
_PIECE = 128
_WRONG = 6  # pictures of each model
_PROFITS = (
    "zeros and repeated weights save flash and time on Ethos-U, and in what is "
    "downloaded; on a microcontroller and this computer only fewer channels and "
    "layers do"
)


def compare(
    models: Mapping[str, keras.Model | str | os.PathLike[str]],
    *,
    data: Any = None,
    calibration: Any = None,
    metrics: Sequence[Any] | Mapping[str, Sequence[Any]] | None = None,
    hardware: Any = "horowitz_45nm",
    products: str = "computed",
    bits: Any = None,
    targets: Sequence[Any] = (),
    histories: Mapping[str, Any] | None = None,
    curves: Sequence[Curves] = (),
    heatmaps: Sequence[Heatmap] = (),
    tolerance: float = 0.01,
    highlight: str | None = None,
    class_names: Sequence[str] | None = None,
    title: str = "Compression report",
    provenance: Mapping[str, Any] | None = None,
    verbose: int = 1,
) -> Report:
    """Compares models of any task in quality, size, work, speed and modeled energy.

    Quality is measured by what the models are compiled with: their own metrics and
    losses, for every output, with sample weights and penalties, as `model.evaluate`
    computes them. A model that is not compiled is measured as the first compiled one.
    If none is compiled, or there are no metrics, the task is found from outputs and
    labels: accuracy for classes and for yes or no, accuracy of pixels and of labels,
    mean absolute and root mean squared error for numbers. The same metrics are computed
    on the outputs of integer files, for up to 2,000 samples spread over the test data.

    Every model is exported to TFLite, to float32 and, with `calibration`, to
    int8. The files are timed in turns with one thread, so that a noisy machine
    is fair to all. The models themselves are not modified. If a figure cannot be
    found, it is missing in the report, and a note gives the reason.

    Example:

    ```python
    report = tfc.report.compare(
        {"dense": dense, "compressed": small},
        data=(x_test, y_test),
        calibration=x_train[:500],
        targets=["ethos-u55-128", "board.toml"],
        histories={"dense": dense_history, "compressed": pruning_history},
    )
    print(report)
    report.save("report.html")
    ```

    Args:
        models: built Functional or Sequential models by name, or the paths of
            `.keras` files. The first is the baseline for all.
        data: test data: a tuple `(inputs, labels)` or `(inputs, labels, weights)`,
            a `tf.data.Dataset` or `keras.utils.PyDataset` of batches of such, or
            a `tfcompress.data.Dataset`, whose test split is taken. Defaults to
            `None`, which leaves the quality out.
        calibration: typical training inputs for int8, as for
            `tfcompress.export.to_tflite`. Defaults to `None`, which leaves the
            int8 files out.
        metrics: what to measure beside the models' own metrics, as
            `Model.compile` takes it for one output: a list of names, functions
            or `keras.Metric` objects; for several outputs a dict of such lists by
            output. One with the name of a model's own takes its place. Defaults
            to `None`.
        hardware: profile for the modeled energy: its name, the path of its file,
            or a `tfcompress.cost.Profile`; see `tfcompress.cost.energy`. `None`
            leaves the energy out. Defaults to `"horowitz_45nm"`.
        products: what happens to a multiplication by a zero weight, `"computed"`,
            `"gated"` or `"skipped"`, as for `tfcompress.cost.energy`. Defaults to
            `"computed"`.
        bits: widths of weights and activations for the modeled energy, as for
            `tfcompress.cost.energy`; or a dict of such by name of the model.
            Defaults to `None`: those that the models compute in.
        targets: hardware whose tools give figures of the files, as for
            `tfcompress.export.target`: names, profiles or paths of profiles.
            Defaults to `()`.
        histories: training curves by name: `keras.callbacks.History` objects or
            dicts of lists. Defaults to `None`.
        curves: more line charts, such as sensitivities. Defaults to `()`.
        heatmaps: further grids. Defaults to `()`.
        tolerance: how much worse than the first model the model to ship may be:
            points of a fraction (0.01 is one point), otherwise a share of the
            first model's figure. Defaults to `0.01`.
        highlight: name of the model to ship, instead of the smallest within
            `tolerance`. Defaults to `None`.
        class_names: names of the classes, in order. Defaults to `None`: numbers.
        title: heading of the report. Defaults to `"Compression report"`.
        provenance: facts to note beside versions and machine, such as the seed
            and the data set. Defaults to `None`.
        verbose: 1 to print progress to standard error, 0 for silence. Defaults to
            `1`.

    Returns:
        A `Report`.

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: if an argument is not as described, before any measurement.
    """
    # What can be wrong with the arguments is found before the first measurement,
    # because a comparison takes minutes. After that, a figure that cannot be found is
    # left out, and a note gives the reason.
    _check_names(models)
    _check_kinds(curves, Curves, "curves")
    _check_kinds(heatmaps, Heatmap, "heatmaps")
    lines = tuple(_clean_curves(each) for each in curves)
    grids = tuple(_clean_heatmap(each) for each in heatmaps)
    words = _class_names(class_names)
    notes: list[str] = []
    training = {
        str(name): _history(str(name), given, notes)
        for name, given in (histories or {}).items()
    }
    profile = None if hardware is None else _profile(hardware)
    widths = _bits_by_model(bits, models)
    _check_products(products, profile)
    _check_verdict(tolerance, highlight, models)
    wanted = _targets(targets)
    data = reusable(data, "data")
    calibration = reusable(calibration, "calibration", limit=SAMPLE_LIMIT)
    loaded = {name: _model(name, given) for name, given in models.items()}
    works = [
        _Work(name, model, path, _source(model, data))
        for name, (model, path) in loaded.items()
    ]
    for work in works:
        if calibration is not None:
            _check_calibration(work, calibration)
    _check_metrics(metrics, works)

    steps = 2 + len(works) * (3 + (calibration is not None) + len(wanted))
    progress = Progress(steps, verbose)
    _note_twins(works)
    on_chip: dict[str, bool] = {}
    for work in works:
        progress(f"{work.name}: counting")
        _count(work, profile, products, widths[work.name], on_chip)
    with tempfile.TemporaryDirectory() as folder:
        _export(works, Path(folder), calibration, progress)
        progress("timing all files in turns")
        _time(works)
        progress.note("measuring energy where the machine counts it")
        for work in works:
            for kind, artifact in work.artifacts.items():
                work.files[kind] = replace(
                    work.files[kind], energy=_measured_energy(artifact.path)
                )
        for work in works:
            for each in wanted:
                progress(f"{work.name}: asking {each.name}")
                _ask(work, each)
        measurements = _measure(works, metrics, calibration, words, progress)
    figures = [_figures(work, profile, products) for work in works]
    if measurements:
        figures = _compared(works, figures, measurements)
    notes = [*(note for work in works for note in work.notes), *notes]
    if calibration is None and not all("int8" in work.files for work in works):
        notes.append("No int8 files: they need calibration data.")
    if len(set(on_chip.values())) > 1:
        fits = ", ".join(repr(name) for name, fit in on_chip.items() if fit)
        notes.append(
            f"Modeled energy: the weights of {fits} fit into on-chip memory; those "
            "of the others are read from off-chip memory at every inference."
        )
    samples = max((m.model.samples for m in measurements.values()), default=0)
    progress("writing the report")
    return Report(
        title=title,
        models=tuple(figures),
        histories=training,
        curves=lines,
        heatmaps=grids,
        provenance=_provenance(
            profile, products, bits, samples, figures, provenance or {}
        ),
        notes=tuple(dict.fromkeys(notes)),
        verdict=verdict(figures, tolerance, highlight),
    )


@dataclass
class _Measured:
    """What was measured on the test data: of a model, and of its integer file."""

    model: Measurement
    file: Measurement | None


@dataclass
class _Work:
    """One model and what is known of it so far."""

    name: str
    model: keras.Model
    path: str
    source: Source | None
    notes: list[str] = field(default_factory=list)
    counted: Any = None
    fields: dict[str, Any] = field(default_factory=dict)
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    files: dict[str, FileFigures] = field(default_factory=dict)
    targets: dict[str, TargetFigures] = field(default_factory=dict)
    metrics: dict[str, MetricFigure] = field(default_factory=dict)
    classes: ClassFigures | None = None
    wrong: tuple[WrongSample, ...] = ()
    problem: str = ""


def _note_twins(works: list[_Work]) -> None:
    """Notes about models that are given twice."""
    objects: dict[int, str] = {}
    contents: dict[bytes, str] = {}
    for work in works:
        digest = hashlib.sha256()
        for array in work.model.get_weights():
            digest.update(repr((array.shape, array.dtype)).encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        if id(work.model) in objects:
            twin = objects[id(work.model)]
            work.notes.append(f"{work.name!r} is the same object as {twin!r}.")
        elif digest.digest() in contents and work.model.weights:
            twin = contents[digest.digest()]
            work.notes.append(f"{work.name!r} has exactly the weights of {twin!r}.")
        objects.setdefault(id(work.model), work.name)
        contents.setdefault(digest.digest(), work.name)


# Quality ----------------------------------------------------------------------


def _measure(
    works: list[_Work],
    metrics: Any,
    calibration: Any,
    class_names: Sequence[str] | None,
    progress: Progress,
) -> dict[str, _Measured]:
    """Runs every model, and its integer file, on the test data."""
    measurements: dict[str, _Measured] = {}
    total: int | None = None
    for work in works:
        progress(f"{work.name}: running on the test data")
        work.problem = _weights_problem(work.model)
        if work.source is None:
            try:
                _agree_on(work, calibration)
            except Exception as error:  # of the runtime, or of a user's layers
                work.notes.append(_broken_file(work, error))
            continue
        labels = work.source.first.labels
        alike = next(
            (
                other.model
                for other in works
                if compile_arguments(other.model) is not None
                and _same_outputs(other.model, work.model)
            ),
            None,
        )
        tasks = tasks_of(work.model, labels, alike)
        try:
            # Model and integer file see the same batches, so that they can be compared
            # sample by sample, and no more than a batch of outputs is in memory. The
            # file takes one sample at a time and is slow: it gets every n-th batch.
            plan = partial(plan_of, work.model, tasks, labels, metrics, alike)
            measurement = Measurement(work.model, plan())
            wrong = _Wrong(work.model, tasks, class_names)
            file: _FileRun | None = None
            if "int8" in work.artifacts:
                if total is None:
                    total = _samples_in(work.source)
                file = _FileRun(work, plan, total)
            for batch in work.source:
                outputs, added = _outputs(work.model, batch)
                measurement.update(outputs, batch.labels, batch.weights, added)
                wrong.look(outputs, batch)
                if file is not None:
                    file.update(outputs, batch, added)
        except Exception as error:  # whatever the layers of a user's model raise
            work.notes.append(
                f"No figures of {work.name!r} on the test data: {_line(error)}"
            )
            continue
        measurements[work.name] = _Measured(
            measurement, None if file is None else file.measurement
        )
        work.metrics = measurement.results()
        work.classes = measurement.classes(class_names)
        work.wrong = wrong.found
        if not measurement.finite and not work.problem:
            work.problem = "Its outputs on the test data are not finite (NaN)."
        if measurement.problem:
            work.notes.append(
                f"Some figures of {work.name!r} on the test data are missing: "
                f"{measurement.problem}"
            )
        if not work.metrics and not work.problem:
            work.notes.append(
                f"No figures of {work.name!r} on the test data: its outputs and the "
                "labels do not tell its task. Compile it with metrics, or give "
                "`metrics`."
            )
        if file is not None:
            file.finish(measurement.samples)
    for work in works:
        if work.problem:
            work.notes.insert(0, f"{work.name!r}: {work.problem}")
    return measurements


def _agree_on(work: _Work, calibration: Any) -> None:
    """Agreement of the integer file on calibration samples, without test data."""
    artifact = work.artifacts.get("int8")
    if artifact is None or calibration is None:
        return
    file = open_file(artifact.path)
    inputs, _ = take_samples(work.model, calibration, limit=_FILE_SAMPLES // 4)
    meter = AgreementMeter(tasks_of(work.model, None))
    meter.update(call_model(work.model, inputs), file(file.check(_given(inputs))))
    work.files["int8"] = replace(work.files["int8"], agreement=meter.results())


class _Wrong:
    """The first images that a model takes for something else."""

    def __init__(
        self, model: keras.Model, tasks: list[Task], names: Sequence[str] | None
    ):
        specs = inputs_of(model)
        shapes = [spec.shape for spec in specs]
        deciding = [
            index
            for index, task in enumerate(tasks)
            if task.kind in ("classes", "binary") and not task.dense
        ]
        pictures = len(shapes) == 1 and is_image(shapes[0])
        self._index = deciding[0] if deciding and pictures else None
        self._task = tasks[deciding[0]] if deciding else None
        self._names = names
        self._model = model
        self._seen = 0
        self.found: tuple[WrongSample, ...] = ()

    def look(self, outputs: list[np.ndarray], batch: Any) -> None:
        """Adds what is wrong in a batch, until there are enough."""
        start, self._seen = self._seen, self._seen + len(batch)
        if self._index is None or self._task is None or len(self.found) >= _WRONG:
            return
        label = flat_labels(self._model, batch.labels)[self._index]
        if label is None or not np.isfinite(outputs[self._index]).all():
            return
        decided = self._task.decide(outputs[self._index]).ravel()
        truth = self._task.truth(label, outputs[self._index]).ravel()
        for row in np.flatnonzero(decided != truth)[: _WRONG - len(self.found)]:
            sample = WrongSample(
                as_png(batch.inputs[0][row]),
                self._name(truth[row]),
                self._name(decided[row]),
                start + int(row),
            )
            self.found = (*self.found, sample)

    def _name(self, number: Any) -> str:
        index = int(number)
        if self._names is not None and 0 <= index < len(self._names):
            return str(self._names[index])
        return str(index)


def _given(inputs: list[np.ndarray]) -> Any:
    return inputs if len(inputs) > 1 else inputs[0]


def _outputs(model: keras.Model, batch: Batch) -> tuple[list[np.ndarray], float]:
    """Outputs of a batch, and what layers add to the loss of each of its samples."""
    size = fixed_batch(model) or _PIECE
    pieces, added = [], 0.0
    for start in range(0, len(batch), size):
        some = batch.at(slice(start, start + size))
        pieces.append(call_model(model, some.inputs))
        added += len(some) * added_losses(model)
    outputs = [np.concatenate(arrays) for arrays in zip(*pieces, strict=True)]
    return outputs, added / len(batch)


def _samples_in(source: Source) -> int:
    """Number of samples: by that of the batches where they are many, else exactly."""
    if source.length is not None and source.length >= _MANY_BATCHES:
        known = (source.length - 1) * len(source.first)  # the last one may be smaller
        if known >= _FILE_SAMPLES:
            return known + 1
    return sum(len(batch) for batch in source)


def _broken_file(work: _Work, error: Exception) -> str:
    return f"The int8 file of {work.name!r} could not be run: {_line(error)}"


class _FileRun:
    """An integer file on the test data, beside its model on the same samples.

    The file takes one sample at a time and is slow, so that of many samples it gets
    some, evenly spread. If it fails, a note says so, and the model's figures stay.
    """

    def __init__(self, work: _Work, plan: Callable[[], Plan], total: int):
        self._work = work
        self._total = total
        self._seen = 0
        self._agreement = AgreementMeter(plan().tasks)
        self._reference = Measurement(work.model, plan())
        self._program: Any = None
        self.measurement: Measurement | None = Measurement(work.model, plan())
        try:
            self._program = open_file(work.artifacts["int8"].path)
        except Exception as error:  # the runtime has errors of many kinds
            self._fail(error)

    def update(self, outputs: list[np.ndarray], batch: Batch, added: float) -> None:
        """Runs the file on its share of a batch, of which the model made `outputs`."""
        if self.measurement is None:
            return
        rows = self._rows(len(batch))[: _FILE_SAMPLES - self.measurement.samples]
        if not len(rows):
            return
        some = batch.at(rows)
        try:
            answers = self._program(self._program.check(_given(some.inputs)))
        except Exception as error:
            self._fail(error)
            return
        ours = [array[rows] for array in outputs]
        self.measurement.update(answers, some.labels, some.weights, added)
        self._agreement.update(ours, answers)
        if self._total > _FILE_SAMPLES:
            self._reference.update(ours, some.labels, some.weights, added)

    def _rows(self, count: int) -> np.ndarray:
        """The samples for the file among the next `count` ones."""
        places = np.arange(self._seen, self._seen + count)
        self._seen += count
        if self._total <= _FILE_SAMPLES:
            return places - places[0]
        # Place i is taken where i · 2000 / total passes a whole number.
        steps = np.arange(places[0], places[-1] + 2) * _FILE_SAMPLES // self._total
        return np.flatnonzero(np.diff(steps))

    def _fail(self, error: Exception) -> None:
        self.measurement = None
        self._work.notes.append(_broken_file(self._work, error))

    def finish(self, samples: int) -> None:
        """Puts down the figures of the file; the model has seen `samples`."""
        if self.measurement is None or not self.measurement.samples:
            return
        work, mine = self._work, self.measurement.samples
        reference = self._reference.results() if mine < samples else {}
        work.files["int8"] = replace(
            work.files["int8"],
            metrics=self.measurement.results(),
            agreement=self._agreement.results(),
            reference=reference,
        )
        if mine < samples:
            name = next(iter(reference), None)
            work.notes.append(
                f"The int8 file of {work.name!r} was run on {mine:,} of {samples:,} "
                "test samples"
                + (
                    f", on which its model has {spoken(name)} "
                    f"{as_text(reference[name])}."
                    if name is not None
                    else "."
                )
            )


def _same_outputs(first: keras.Model, second: keras.Model) -> bool:
    shapes = [[tuple(t.shape) for t in model.outputs] for model in (first, second)]
    return shapes[0] == shapes[1]


def _weights_problem(model: keras.Model) -> str:
    bad = sum(
        int(np.count_nonzero(~np.isfinite(array)))
        for array in model.get_weights()
        if array.dtype.kind == "f"
    )
    return f"{bad:,} of its weights are not finite (NaN)." if bad else ""


def _compared(
    works: list[_Work],
    figures: list[ModelFigures],
    measurements: dict[str, _Measured],
) -> list[ModelFigures]:
    """Figures with the noise of their differences to the first model's."""
    first = measurements.get(works[0].name)
    if first is None:
        return figures
    base, *others = figures
    result = [base]
    for model in others:
        mine = measurements.get(model.name)
        if mine is not None:
            noisy = with_noise(model.metrics, mine.model, base.metrics, first.model)
            model = replace(model, metrics=noisy)
        if mine is not None and mine.file is not None and first.file is not None:
            file, other = model.files["int8"], base.files["int8"]
            noisy = with_noise(file.metrics, mine.file, other.metrics, first.file)
            files = {**model.files, "int8": replace(file, metrics=noisy)}
            model = replace(model, files=files)
        result.append(model)
    return result


def _line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return " ".join(text.split())[:300]


# Files ------------------------------------------------------------------------


def _export(
    works: list[_Work], folder: Path, calibration: Any, progress: Progress
) -> None:
    """TFLite files and packed files of all models."""
    for number, work in enumerate(works):
        # A model that was trained for integers has no other file, and needs no
        # calibration.
        trained = is_prepared(work.model)
        kinds = ["int8"] if trained else ["float32"]
        if calibration is not None and not trained:
            kinds.append("int8")
        for kind in kinds:
            progress(f"{work.name}: converting to {kind}")
            try:
                work.artifacts[kind] = to_tflite(
                    work.model,
                    folder / f"{number}.{kind}.tflite",
                    quantization="int8" if kind == "int8" and not trained else None,
                    calibration=calibration,
                )
            except Exception as error:  # the converter has errors of many kinds
                work.notes.append(f"No {kind} TFLite file for {work.name!r}: {error}")
        for kind, artifact in work.artifacts.items():
            work.files[kind] = FileFigures(
                artifact.bytes,
                None,
                artifact.parity,
                zipped=len(zlib.compress(artifact.path.read_bytes(), 6)),
            )
        progress.note(f"{work.name}: packing")
        try:
            packed = pack(work.model, folder / f"{number}.tfcz")
            work.fields["packed"] = packed.bytes
        except Exception as error:
            work.notes.append(f"No .tfcz file for {work.name!r}: {_line(error)}")


def _time(works: list[_Work]) -> None:
    places = [(work, kind) for work in works for kind in work.artifacts]
    paths = [work.artifacts[kind].path for work, kind in places]
    timings = benchmark_together(paths, warmup=_WARMUP, runs=_RUNS)
    for (work, kind), latency in zip(places, timings, strict=True):
        work.files[kind] = replace(work.files[kind], latency=latency)


def _ask(work: _Work, profile: Any) -> None:
    """What a target makes of the integer file, or of the only one."""
    kind = "int8" if "int8" in work.artifacts else "float32"
    artifact = work.artifacts.get(kind)
    if artifact is None:
        work.notes.append(f"{profile.name} for {work.name!r}: there is no file.")
        return
    try:
        found = target(artifact.path, profile)
    except Exception as error:  # tools have errors of their own, and time limits
        work.notes.append(f"{profile.name} for {work.name!r}: {_line(error)}")
        return
    work.targets[profile.name] = replace(found, file=kind)
    if found.fallback:
        work.notes.append(
            f"{profile.name} cannot run {', '.join(found.fallback)} of {work.name!r}."
        )


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


def _count(
    work: _Work, profile: Any, products: Any, bits: Any, on_chip: dict[str, bool]
) -> None:
    """The counted and modeled figures of a model."""
    from tfcompress import cost

    shapes: Any = None
    is_open = any(None in spec.shape for spec in inputs_of(work.model))
    if is_open and work.source is not None:
        shapes = [array.shape[1:] for array in work.source.first.inputs]
        sizes = " and ".join("×".join(map(str, shape)) for shape in shapes)
        work.notes.append(
            f"MACs of {work.name!r} are for inputs of {sizes}, the first of the test "
            "data: its input size is open."
        )
        shapes = shapes[0] if len(shapes) == 1 else shapes
    work.fields["parameters"] = work.model.count_params()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is not counted becomes a note
            work.counted = counted = cost.count(work.model, input_shape=shapes)
    except (ValueError, TypeError) as error:
        work.notes.append(f"No MACs of {work.name!r}: {_line(error)}")
        return
    for row in counted.uncounted:
        work.notes.append(f"MACs of {work.name!r} leave out {row.name!r}: {row.reason}")
    estimate = None
    if profile is not None:
        try:
            estimate = cost.energy(counted, profile, products=products, bits=bits)
        except ValueError as error:
            work.notes.append(f"No modeled energy of {work.name!r}: {_line(error)}")
    if estimate is not None:
        work.notes += [f"Energy of {work.name!r}: {note}" for note in estimate.notes]
        on_chip[work.name] = bool(estimate.settings["weights_on_chip"])
    work.fields.update(
        parameters=counted.parameters,
        nonzero=counted.nonzero,
        macs=counted.macs,
        energy=None if estimate is None else dict(estimate.by_kind),
        layers=tuple(
            LayerFigures(
                name=row.name,
                kind=row.kind,
                macs=row.macs,
                parameters=row.parameters,
                energy=None if estimate is None else dict(estimate.rows[index].by_kind),
            )
            for index, row in enumerate(counted.rows)
        ),
    )


def _figures(work: _Work, profile: Any, products: Any) -> ModelFigures:
    """All of it."""
    from tfcompress import cost

    files = dict(work.files)
    integers = profile is not None and any(
        name.startswith("int") for name in profile.arithmetic
    )
    if "int8" in files and integers and work.counted is not None:
        # The bits of a model that was trained for integers are its own.
        bits = None if is_prepared(work.model) else 8
        try:
            estimate = cost.energy(work.counted, profile, products=products, bits=bits)
        except ValueError as error:  # a profile may know what it is asked in float only
            work.notes.append(
                f"No modeled energy of the int8 file of {work.name!r}: {_line(error)}"
            )
        else:
            files["int8"] = replace(files["int8"], modeled=dict(estimate.by_kind))
    return ModelFigures(
        name=work.name,
        metrics=work.metrics,
        files=files,
        targets=work.targets,
        classes=work.classes,
        wrong=work.wrong,
        made=tuple(_made.made(work.model)),
        path=work.path,
        problem=work.problem,
        **work.fields,
    )


# Given by the caller --------------------------------------------------------


def _check_names(models: Any) -> None:
    if not isinstance(models, Mapping) or not models:
        raise TypeError(
            "Invalid value for argument `models`. Expected a dict of keras models, or "
            f"paths of .keras files, by name. Received: models={models!r}"
        )
    for name in models:
        if not isinstance(name, str):
            raise TypeError(
                "Invalid value for argument `models`. Expected names of type str. "
                f"Received: {name!r}"
            )


def _model(name: str, given: Any) -> tuple[keras.Model, str]:
    """The model, and the path it came from."""
    path = ""
    if isinstance(given, str | os.PathLike):
        path = str(given)
        try:
            given = load_model(path, compiled=True, argument="models")
        except OSError as error:
            raise ValueError(
                "Invalid value for argument `models`. Expected models or paths of "
                f"saved ones. Received: {path!r} for {name!r} ({_line(error)})"
            ) from error
        except ValueError:
            # A loss or metric of the user's own that is not known here: the model
            # is measured as the first one that is compiled, or by its task.
            given = load_model(path, argument="models")
    require_graph(given, f"models[{name!r}]")
    return given, path


def _source(model: keras.Model, data: Any) -> Source | None:
    if data is None:
        return None
    source = read(model, data, "data", split="test")
    if not source.labeled:
        raise ValueError(
            "Invalid value for argument `data`. Expected (inputs, labels), or an "
            "iterable of such batches. Received: inputs without labels"
        )
    return source


def _check_calibration(work: _Work, calibration: Any) -> None:
    if any(None in spec.shape for spec in inputs_of(work.model)):
        return  # there will be no file, and a note
    take_samples(work.model, calibration, limit=1)


def _check_metrics(metrics: Any, works: list[_Work]) -> None:
    if metrics is None:
        return
    several = max(len(work.model.outputs) for work in works) > 1
    lists = list(metrics.values()) if isinstance(metrics, Mapping) else [metrics]
    valid = all(
        isinstance(some, Sequence)
        and not isinstance(some, str)
        and all(callable(m) or isinstance(m, str | keras.Metric) for m in some)
        for some in lists
    )
    if not valid or (several and not isinstance(metrics, Mapping)):
        form = "a dict of lists by output" if several else "a list"
        raise ValueError(
            f"Invalid value for argument `metrics`. Expected {form} of metrics as "
            f"Model.compile takes them. Received: metrics={metrics!r}"
        )
    if isinstance(metrics, Mapping):
        known = list(dict.fromkeys(n for w in works for n in output_names(w.model)))
        unknown = [name for name in metrics if name not in known]
        if unknown:
            raise ValueError(
                "Invalid value for argument `metrics`. Expected a dict of lists by "
                f"output, of {known}. Received: {unknown}"
            )


def _class_names(names: Any) -> list[str] | None:
    if names is None:
        return None
    if isinstance(names, str) or not isinstance(names, Sequence | np.ndarray):
        raise TypeError(
            "Invalid value for argument `class_names`. Expected a list of names. "
            f"Received: class_names={names!r}"
        )
    return [str(name) for name in names]


def _bits_by_model(bits: Any, models: Mapping[str, Any]) -> dict[str, Any]:
    """What `bits` says of each model."""
    if not isinstance(bits, Mapping):
        return dict.fromkeys(models, bits)
    unknown = [name for name in bits if name not in models]
    if unknown:
        raise ValueError(
            "Invalid value for argument `bits`. Expected widths by name of the model, "
            f"of {list(models)}. Received: {unknown}"
        )
    return {name: bits.get(name) for name in models}


def _check_products(products: str, profile: Any) -> None:
    from tfcompress.cost._energy import PRODUCTS

    known = profile is None or (
        any(each.gated is not None for each in profile.arithmetic.values())
        or (profile.drum is not None and profile.drum.gated is not None)
    )
    if products not in PRODUCTS or (products == "gated" and not known):
        expected = [p for p in PRODUCTS if known or p != "gated"]
        raise ValueError(
            f"Invalid value for argument `products`. Expected one of {expected}"
            + ("" if known else f" with {profile.name!r}")
            + f". Received: products={products!r}"
        )


def _check_verdict(
    tolerance: float, highlight: str | None, models: Mapping[str, Any]
) -> None:
    number = isinstance(tolerance, int | float) and not isinstance(tolerance, bool)
    if not number or not 0 <= tolerance < math.inf:
        raise ValueError(
            "Invalid value for argument `tolerance`. Expected a number of at least 0. "
            f"Received: tolerance={tolerance!r}"
        )
    if highlight is not None and highlight not in models:
        raise ValueError(
            "Invalid value for argument `highlight`. Expected a name of a model, one "
            f"of {list(models)}. Received: highlight={highlight!r}"
        )


def _targets(targets: Any) -> list[Any]:
    if isinstance(targets, str | os.PathLike) or not isinstance(targets, Sequence):
        raise TypeError(
            "Invalid value for argument `targets`. Expected a list of names, profiles "
            f"or paths of profiles. Received: targets={targets!r}"
        )
    return [resolve(each) for each in targets]


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


def _history(name: str, given: Any, notes: list[str]) -> History:
    metrics = getattr(given, "history", given)
    if not isinstance(metrics, Mapping) or not metrics:
        raise TypeError(
            "Invalid value for argument `histories`. Expected History objects or "
            f"dicts of lists by name. Received: {given!r} for {name!r}"
        )
    try:
        lists = {str(key): list(map(_mean, given)) for key, given in metrics.items()}
    except (TypeError, ValueError) as error:
        raise TypeError(
            "Invalid value for argument `histories`. Expected lists of numbers by name "
            f"of the metric. Received for {name!r}: {_line(error)}"
        ) from error
    count = max(map(len, lists.values()))
    # `validation_freq` leaves epochs without validation, and only their figures out.
    shorter = {key for key, values in lists.items() if len(values) < count}
    if any(not key.startswith("val_") for key in shorter):
        lengths = sorted({len(values) for values in lists.values()})
        raise ValueError(
            "Invalid value for argument `histories`. Expected lists of one length, or "
            f"shorter ones of validation. Received: lengths {lengths} for {name!r}"
        )
    epochs = [int(epoch) for epoch in getattr(given, "epoch", None) or range(count)]
    for key in sorted(shorter):
        steps = _validation_steps(len(lists[key]), epochs)
        if len(epochs) != count or not steps:
            del lists[key]
            notes.append(
                f"The history of {name!r} has no curve of {key!r}: its list is shorter "
                "than the others, and does not tell its epochs."
            )
            continue
        if len(steps) > 1:
            notes.append(
                f"The history of {name!r} has fewer figures of {key!r} than epochs; "
                f"they are shown once in {steps[-1]} epochs."
            )
        figures = iter(lists[key])
        lists[key] = [
            None if (epoch + 1) % steps[-1] else next(figures) for epoch in epochs
        ]
    return History(
        epochs=tuple(epochs),
        metrics={key: tuple(values) for key, values in lists.items()},
    )


def _validation_steps(count: int, epochs: list[int]) -> list[int]:
    """Values of `validation_freq` that give `count` validations in `epochs`."""
    # Keras validates at the end of epochs n, 2n, … of the whole training run.
    if not count or epochs != list(range(epochs[0], epochs[-1] + 1)):
        return []
    first, end = epochs[0], epochs[-1] + 1
    return [n for n in range(1, end + 1) if end // n - first // n == count]


def _mean(value: Any) -> float | None:
    """A plain float; of a figure for each class their mean."""
    if value is None:
        return None
    numbers = np.asarray(value, "float64")
    return _finite(numbers.mean()) if numbers.size else None


def _clean_curves(curves: Curves) -> Curves:
    try:
        series = {
            # A point needs a place; without a value it leaves a gap.
            str(name): [
                (float(x), _finite(y)) for x, y in points if math.isfinite(float(x))
            ]
            for name, points in curves.series.items()
        }
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            "Invalid value for argument `curves`. Expected series of points (x, y). "
            f"Received: {curves!r:.200} ({_line(error)})"
        ) from error
    return Curves(
        curves.title, curves.x_label, curves.y_label, series, curves.description
    )


def _clean_heatmap(heatmap: Heatmap) -> Heatmap:
    try:
        values = [[_finite(value) for value in row] for row in heatmap.values]
    except (TypeError, ValueError) as error:
        raise ValueError(
            "Invalid value for argument `heatmaps`. Expected rows of numbers or None. "
            f"Received: {heatmap!r:.200} ({_line(error)})"
        ) from error
    return Heatmap(
        heatmap.title,
        heatmap.x_label,
        heatmap.y_label,
        heatmap.value_label,
        [str(column) for column in heatmap.columns],
        [str(row) for row in heatmap.rows],
        values,
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
    products: Any,
    bits: Any,
    samples: int,
    models: Sequence[ModelFigures],
    extra: Mapping[str, Any],
) -> dict[str, str]:
    measured = any(f.energy is not None for m in models for f in m.files.values())
    packages = ("tfcompress", "keras", "tensorflow", "ai-edge-litert", "numpy")
    zero = {
        "computed": "zero weights are multiplied as any other",
        "gated": "zero weights gate the multiplier and spend the cycle",
        "skipped": "zero weights are skipped and not stored",
    }[products]
    width = (
        "in the formats that the models compute in"
        if bits is None
        else (f"with widths bits={bits!r}")
    )
    tools = dict.fromkeys(
        f"{figures.target}: {figures.kind} by {figures.tool}"
        for model in models
        for figures in model.targets.values()
    )
    facts = {
        "Created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **{str(key): str(value) for key, value in extra.items()},
        "Quality": f"measured on {samples:,} test samples; intervals are 95 % "
        "confidence, differences within them are noise"
        if samples
        else "not measured",
        "Parameters and MACs": "counted from the model, for one sample; "
        "1 MAC = 2 FLOPs",
        "Sizes": "measured, bytes of the TFLite files; zipped: the same by Deflate",
        "Latency": f"measured on this machine with the LiteRT interpreter, one thread, "
        f"median of {_RUNS} runs in turns",
        "Measured energy": "processor packages and memory, with everything else that "
        f"ran on them, {_ENERGY_SECONDS:g} s of inferences for each file"
        if measured
        else "not measured on this machine",
        "Modeled energy": "none"
        if profile is None
        else f"one inference on {profile}, {width}; {zero}; figures from "
        f"{'; '.join(profile.sources)}",
        **({"Targets": "; ".join([*tools, _PROFITS])} if tools else {}),
        "Machine": f"{processor()}, {os.cpu_count()} logical cores, "
        f"{platform.system()} {platform.machine()}",
        "Python": platform.python_version(),
        "Packages": ", ".join(
            f"{package} {_version(package)}"
            for package in packages
            # What trains on JAX may do without TensorFlow and LiteRT.
            if importlib.util.find_spec(package.replace("-", "_")) is not None
        ),
    }
    return facts


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        # Another package brings the module, as tensorflow-cpu and tf-nightly do.
        module = importlib.import_module(package.replace("-", "_"))
        return str(getattr(module, "__version__", "of unknown version"))
