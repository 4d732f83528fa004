"""What pruning a layer would cost in accuracy, and what it would save.

The characterization that comes before the pruning of a network: which layers
bear it (`sensitivity`), in which of them it pays (`layer_energy`), and what comes
of one training run for each of several settings (`sweep`).
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np

from tfcompress import cost, policy
from tfcompress._checks import one_of
from tfcompress._figures import Curves, Heatmap
from tfcompress._files import check_writable, write_atomic
from tfcompress._samples import (
    Source,
    check_labeled,
    class_indices,
    fixed_batch,
    packed,
    read,
)
from tfcompress._share import Engine, check_engine, cores, share_out
from tfcompress.callbacks.dynamic_surgery import thresholds
from tfcompress.cost._table import table
from tfcompress.policy import kernels, select_kernels
from tfcompress.structure._graph import require_graph

__all__ = ["Sensitivity", "Sweep", "layer_energy", "sensitivity", "sweep"]

_RATES = tuple(round(0.1 * tenth, 1) for tenth in range(1, 10))
_BATCH = 256


@dataclass(frozen=True)
class Sensitivity:
    """Accuracy of a model of which one layer at a time is pruned.

    Attributes:
        model: name of the model.
        baseline: accuracy of the model as it is, from 0 to 1.
        kind: what `amounts` are: `"rate"` (fraction of the layer's weights) or
            `"factor"` (of dynamic network surgery).
        amounts: how much was pruned, in ascending order.
        accuracy: layer name -> accuracy at each amount.
        pruned: layer name -> fraction of the layer's weights that were zero.
    """

    model: str
    baseline: float
    kind: Literal["rate", "factor"]
    amounts: tuple[float, ...]
    accuracy: Mapping[str, tuple[float, ...]]
    pruned: Mapping[str, tuple[float, ...]]

    def largest(self, loss: float) -> dict[str, float | None]:
        """The largest amount at which a layer alone costs at most some accuracy.

        Args:
            loss: accuracy that may be lost, such as 0.01 for one point.

        Returns:
            Layer name -> amount up to which (it and all smaller ones) the loss is
            not exceeded; `None` where even the smallest exceeds it.
        """
        result: dict[str, float | None] = {}
        for name, accuracies in self.accuracy.items():
            result[name] = None
            for amount, accuracy in zip(self.amounts, accuracies, strict=True):
                if self.baseline - accuracy > loss:
                    break
                result[name] = amount
        return result

    def curves(self) -> Curves:
        """A line for each layer, for a report."""
        start = [(0.0, self.baseline)] if self.kind == "rate" else []
        return Curves(
            title=f"Sensitivity of the layers of {self.model}",
            x_label=self._amount,
            y_label="accuracy",
            series={
                name: [*start, *zip(self.amounts, accuracies, strict=True)]
                for name, accuracies in self.accuracy.items()
            },
            description="One layer pruned at a time, without retraining.",
        )

    def heatmap(self) -> Heatmap:
        """A row for each layer, for a report."""
        return Heatmap(
            title=f"Sensitivity of the layers of {self.model}",
            x_label=self._amount,
            y_label="layer",
            value_label="accuracy",
            columns=[f"{amount:g}" for amount in self.amounts],
            rows=list(self.accuracy),
            values=list(self.accuracy.values()),
            description="One layer pruned at a time, without retraining.",
        )

    @property
    def _amount(self) -> str:
        return {
            "rate": "fraction of the layer's weights pruned",
            "factor": "pruning factor",
        }[self.kind]

    def __str__(self) -> str:
        rows = [
            (name, *(f"{100 * accuracy:.2f}" for accuracy in accuracies))
            for name, accuracies in self.accuracy.items()
        ]
        header = ("layer", *(f"{self.kind} {amount:g}" for amount in self.amounts))
        return (
            f"{self.model}: accuracy in % with one layer pruned, "
            f"{100 * self.baseline:.2f} with none\n{table(header, rows)}"
        )


def sensitivity(
    model: keras.Model,
    data: Any,
    rates: Sequence[float] | None = None,
    *,
    factors: Sequence[float] | None = None,
    layers: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    engine: Engine = "processes",
    workers: int | None = None,
    verbose: bool = True,
) -> Sensitivity:
    """Measures the accuracy of a model when one layer at a time is pruned.

    The weights of smallest magnitude of one layer are set to zero, the model is
    evaluated without any retraining, and the next layer is tried. All layers and
    amounts are independent of each other and are shared out among processes, on
    this machine or on a Ray cluster.

    Example:

    ```python
    found = tfc.analysis.sensitivity(model, (x_val, y_val), factors=[0.5, 0.8, 1.3])
    print(found)
    found.largest(loss=0.01)
    tfc.report.compare({"dense": model}, curves=[found.curves()])
    ```

    Args:
        model: a built Functional or Sequential model with one output of shape
            (batch, classes). It is not modified.
        data: a tuple `(inputs, labels)` of arrays, an iterable of batches of such
            that ends, as a `tf.data.Dataset`, or a `tfcompress.data.Dataset`, whose
            validation split is taken; labels are class indices or one-hot. Use data
            that no result is reported on.
        rates: fractions of the weights to prune, each in [0, 1]. Defaults to
            `None`: 0.1, 0.2, … 0.9, unless `factors` are given.
        factors: instead of `rates`, factors c of dynamic network surgery: weights
            up to a = 0.9 · max(μ + c · σ, 0) go, where μ and σ are the mean and
            standard deviation of the magnitudes of the layer's non-zero weights.
            Defaults to `None`.
        layers: names of the layers to try; `None` for all that have a kernel.
            Defaults to `None`.
        exclude: names of layers to leave out. Defaults to `()`.
        engine: `"processes"` of this machine, or `"ray"`: the Ray cluster that
            this program is connected to, or that `ray.init()` finds or starts. It
            needs `pip install tfcompress[ray]`, on every machine of the cluster.
            Defaults to `"processes"`.
        workers: number of processes; 1 measures in this one. `None` for one per
            core. Not for `"ray"`, which knows its machines. Defaults to `None`.
        verbose: whether to show a progress bar. Defaults to `True`.

    Returns:
        A `Sensitivity`.

    Raises:
        ImportError: if `engine` is `"ray"` and Ray is not installed.
        TypeError: if an argument is of another kind.
        ValueError: if an argument is out of range, before any measurement.
    """
    require_graph(model)
    kind, amounts = _amounts(rates, factors)
    chosen = list(select_kernels(model, layers, exclude))
    check_engine(engine, workers)
    source = read(model, data, split="validation")
    check_labeled(source)
    study = _study(source, kind, _threads(engine, workers))
    baseline, _ = _measure(study, None, 0.0)  # also shows whether the study works
    tasks = [(name, amount) for name in chosen for amount in amounts]
    found: dict[tuple[str, float], tuple[float, float]] = {}
    progress = keras.utils.Progbar(
        len(tasks), verbose=int(verbose), unit_name="measurement"
    )
    for index, result in share_out(
        _measure_task, study, tasks, engine=engine, workers=workers
    ):
        found[tasks[index]] = result
        progress.update(len(found))

    def column(index: int) -> dict[str, tuple[float, ...]]:
        return {n: tuple(found[n, a][index] for a in amounts) for n in chosen}

    return Sensitivity(model.name, baseline, kind, amounts, column(0), column(1))


@dataclass(frozen=True)
class Sweep:
    """What came of one training run for each of several settings.

    Attributes:
        settings: the settings, in the order of the runs: argument -> value.
        figures: what each run has returned: name -> number; `None` if it failed.
        errors: the last line of what a failed run has said; `None` of the others.
    """

    settings: tuple[Mapping[str, Any], ...]
    figures: tuple[Mapping[str, float] | None, ...]
    errors: tuple[str | None, ...]

    def best(self, figure: str, *, mode: Literal["max", "min"] = "max") -> int:
        """The number of the run with the best value of a figure.

        Args:
            figure: name of the figure.
            mode: whether the largest or the smallest is best. Defaults to `"max"`.

        Returns:
            An index of `settings` and `figures`.

        Raises:
            ValueError: if no run has returned the figure.
        """
        one_of("mode", mode, ("max", "min"))
        found = [
            (float(each[figure]), index)
            for index, each in enumerate(self.figures)
            if each is not None and np.isfinite(each.get(figure, np.nan))
        ]
        if not found:
            names = sorted({name for each in self.figures for name in each or ()})
            raise ValueError(
                "Invalid value for argument `figure`. Expected one that a run has "
                f"returned, of {names}. Received: figure={figure!r}"
            )
        sign = 1 if mode == "max" else -1
        return max(found, key=lambda pair: (sign * pair[0], -pair[1]))[1]

    def curves(self, x: str, y: str) -> Curves:
        """One figure over another, or over a setting, for a report.

        Args:
            x: name of a figure or of a setting that is a number.
            y: name of a figure.
        """
        points = [
            (float({**setting, **each}[x]), float(each[y]))
            for setting, each in zip(self.settings, self.figures, strict=True)
            if each is not None
        ]
        return Curves(
            title=f"{y} over {x}",
            x_label=x,
            y_label=y,
            series={"runs": sorted(points)},
            description="One training run for each point.",
        )

    def __str__(self) -> str:
        names = list(dict.fromkeys(n for each in self.figures for n in each or ()))
        keys = list(self.settings[0]) if self.settings else []
        rows = [
            (
                *(f"{setting[key]}" for key in keys),
                *(f"{each[n]:.6g}" if each and n in each else "–" for n in names),
                *([error or ""] if any(self.errors) else []),
            )
            for setting, each, error in zip(
                self.settings, self.figures, self.errors, strict=True
            )
        ]
        header = (*keys, *names, *(["failed"] if any(self.errors) else []))
        return table(header, rows)


def sweep(
    train: Callable[..., Mapping[str, float]],
    settings: Mapping[str, Sequence[Any]],
    *,
    engine: Engine = "processes",
    workers: int | None = None,
    gpus: float = 0.0,
    log_path: str | os.PathLike[str] | None = None,
    verbose: bool = True,
) -> Sweep:
    """Calls a training function once for each combination of settings.

    For sweeps over λ of gates, pruning rates, constraints or seeds. The runs are
    independent of each other and are shared out among processes, on this machine
    or on a Ray cluster. A run that raises an error is noted; the others go on.

    Example:

    ```python
    def train(rate, seed):
        keras.utils.set_random_seed(seed)
        model = make_model()
        pruning = tfc.callbacks.FilterPruning(tfc.schedules.Linear(0, rate, 0, 10))
        model.fit(x, y, epochs=20, callbacks=[pruning], verbose=0)
        small = tfc.finalize(model)
        accuracy = small.evaluate(x_val, y_val, verbose=0, return_dict=True)["accuracy"]
        return {"accuracy": accuracy, "macs": tfc.cost.count(small).macs}

    found = tfc.analysis.sweep(
        train, {"rate": [0.3, 0.5, 0.7], "seed": [0, 1, 2]}, engine="ray", gpus=1
    )
    print(found)
    tfc.report.compare(models, curves=[found.curves("macs", "accuracy")])
    ```

    Args:
        train: function of one value of each setting, by keyword, that returns
            numbers by name. It is sent to the processes with what it refers to, and
            makes or loads its model and data itself.
        settings: argument of `train` -> the values to try. Every combination is
            run, in the order of `itertools.product`.
        engine: `"processes"` of this machine, or `"ray"`: the Ray cluster that
            this program is connected to, or that `ray.init()` finds or starts. It
            needs `pip install tfcompress[ray]`, on every machine of the cluster.
            Defaults to `"processes"`.
        workers: number of processes; 1 runs in this one. `None` for one per core.
            Not for `"ray"`, which knows its machines. Defaults to `None`.
        gpus: GPUs of the cluster that a run takes, for `"ray"`; 0.5 lets two runs
            share one. Defaults to `0.0`.
        log_path: a file ending in `.json` in which each run is noted as it ends.
            Runs that are noted there, under the same settings, are not repeated;
            those that failed are. Defaults to `None`.
        verbose: whether to show a progress bar. Defaults to `True`.

    Returns:
        A `Sweep`.

    Raises:
        ImportError: if `engine` is `"ray"` and Ray is not installed.
        TypeError: if an argument is of another kind.
        ValueError: if an argument is out of range, before anything is run.
    """
    if not callable(train):
        raise TypeError(
            "Invalid value for argument `train`. Expected a function. Received: "
            f"train={train!r}"
        )
    combinations = _combinations(settings)
    check_engine(engine, workers, gpus)
    log = _Log(log_path)
    outcomes: dict[int, _Outcome] = {
        index: (known, None)
        for index, setting in enumerate(combinations)
        if (known := log.known(setting)) is not None
    }
    left = [index for index in range(len(combinations)) if index not in outcomes]
    progress = keras.utils.Progbar(
        len(combinations), verbose=int(verbose), unit_name="run"
    )
    for position, outcome in share_out(
        _run,
        train,
        [combinations[index] for index in left],
        engine=engine,
        workers=workers,
        gpus=gpus,
    ):
        outcomes[left[position]] = outcome
        log.note(combinations[left[position]], outcome[0])
        progress.update(len(outcomes))
    ordered = [outcomes[index] for index in range(len(combinations))]
    return Sweep(
        tuple(combinations),
        tuple(figures for figures, _ in ordered),
        tuple(error for _, error in ordered),
    )


def layer_energy(
    model: keras.Model,
    hardware: Any = "cross_stack_65nm",
    *,
    products: cost.Products = "skipped",
    normalized: bool = False,
) -> dict[str, float]:
    """Models the energy that each layer takes for one inference.

    A layer with a small share is hardly worth pruning. On the regular network of
    the cross-stack paper the shares of its section III, relative to the largest,
    are 0.023, 1, 0.5, 1, 0.5, 1, 0.125 and 0.

    Example:

    >>> tfc.analysis.layer_energy(tfc.zoo.cross_stack("cifar10"), normalized=True)

    Args:
        model: a built Functional or Sequential model. It is not modified.
        hardware: as for `tfcompress.cost.energy`. Defaults to
            `"cross_stack_65nm"`.
        products: what happens to a multiplication by a zero weight, as for
            `tfcompress.cost.energy`. Defaults to `"skipped"`.
        normalized: whether to divide by the largest. Defaults to `False`.

    Returns:
        Layer name -> joules, for the layers that take any.

    Raises:
        TypeError, ValueError: as `tfcompress.cost.count` and
            `tfcompress.cost.energy` do.
    """
    estimate = cost.energy(cost.count(model), hardware, products=products)
    joules = {name: total for name, total in estimate.by_layer.items() if total}
    largest = max(joules.values(), default=1.0) if normalized else 1.0
    return {name: value / largest for name, value in joules.items()}


# Measuring, possibly in another process --------------------------------------


@dataclass(frozen=True)
class _Study:
    """All that a measurement needs; what travels to other processes."""

    key: str
    model: np.ndarray  # the bytes of its file: arrays are shared, not copied
    custom_objects: Mapping[str, Any]
    inputs: tuple[np.ndarray, ...]
    labels: np.ndarray
    kind: Literal["rate", "factor"]
    threads: int


Task = tuple[str, float]
Result = tuple[float, float]  # accuracy and pruned fraction


def _study(source: Source, kind: Literal["rate", "factor"], threads: int) -> _Study:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        source.model.save(path)
        content = path.read_bytes()
    batches = list(source)
    labels = [keras.tree.flatten(batch.labels)[0] for batch in batches]
    config = source.model.to_json()
    return _Study(
        key=hashlib.sha256(content).hexdigest(),
        model=np.frombuffer(content, "uint8"),
        # Only what the model names: another process may not know the rest.
        custom_objects={
            name: thing
            for name, thing in keras.saving.get_custom_objects().items()
            if json.dumps(name) in config
            and not getattr(thing, "__module__", "").startswith("tfcompress.")
        },
        inputs=tuple(
            map(np.concatenate, zip(*(b.inputs for b in batches), strict=True))
        ),
        labels=class_indices(np.concatenate(labels)),
        kind=kind,
        threads=threads,
    )


_models: dict[str, keras.Model] = {}  # the one that this process works on


def _measure(study: _Study, name: str | None, amount: float) -> Result:
    """Accuracy with one layer pruned (`None`: no layer), and how much of it is."""
    model = _models.get(study.key)
    if model is None:
        _models.clear()
        model = _models[study.key] = _load(study)
    layer = None if name is None else policy.named_layers(model)[name]
    variables = [] if layer is None else kernels(layer)
    before = [keras.ops.convert_to_numpy(variable) for variable in variables]
    after = [_prune(kernel, study.kind, amount) for kernel in before]
    for variable, value in zip(variables, after, strict=True):
        variable.assign(value)
    batch_size = fixed_batch(model) or _BATCH
    outputs = model.predict(packed(model, study.inputs), batch_size, verbose=0)
    for variable, value in zip(variables, before, strict=True):
        variable.assign(value)
    size = sum(kernel.size for kernel in after)
    zeros = size - sum(np.count_nonzero(kernel) for kernel in after)
    accuracy = float(np.mean(np.argmax(outputs, -1) == study.labels))
    return accuracy, zeros / size if size else 0.0


def _load(study: _Study) -> keras.Model:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        path.write_bytes(study.model.tobytes())
        return keras.saving.load_model(
            path, custom_objects=dict(study.custom_objects), compile=False
        )


def _prune(kernel: np.ndarray, kind: str, amount: float) -> np.ndarray:
    """A kernel without its smallest entries."""
    sizes = np.abs(kernel.astype("float64"))
    if kind == "factor":
        alive = sizes[sizes != 0]
        mean, std = (alive.mean(), alive.std()) if alive.size else (0.0, 0.0)
        return np.where(sizes <= thresholds(mean, std, amount)[0], 0, kernel)
    pruned = kernel.copy()
    smallest = np.argsort(sizes, axis=None, kind="stable")
    pruned.flat[smallest[: round(amount * kernel.size)]] = 0
    return pruned


def _measure_task(study: _Study, task: Task) -> Result:
    _set_threads(study.threads)
    return _measure(study, *task)


def _threads(engine: str, workers: int | None) -> int:
    return 1 if engine == "ray" else max(1, cores() // (workers or cores()))


def _set_threads(threads: int) -> None:
    """Leaves the other processes their cores, in a process that is still new."""
    if keras.backend.backend() != "tensorflow":
        return  # the others have no such setting while they run
    import tensorflow as tf

    # It cannot where TensorFlow runs already, as in a worker that served before.
    with contextlib.suppress(RuntimeError):
        tf.config.threading.set_intra_op_parallelism_threads(threads)


# Running trials ---------------------------------------------------------------

# What a run has returned, and what it has said where it failed.
_Outcome = tuple[Mapping[str, float] | None, str | None]


def _run(train: Callable[..., Any], setting: Mapping[str, Any]) -> _Outcome:
    try:
        returned = train(**setting)
        return {str(name): float(value) for name, value in returned.items()}, None
    except Exception as error:  # of somebody's own function; the others go on
        return None, f"{type(error).__name__}: {error}".splitlines()[0]


def _combinations(settings: Any) -> list[dict[str, Any]]:
    good = isinstance(settings, Mapping) and all(
        isinstance(values, Sequence | np.ndarray) and not isinstance(values, str)
        for values in settings.values()
    )
    if not good:
        raise TypeError(
            "Invalid value for argument `settings`. Expected a dict of lists. "
            f"Received: settings={settings!r}"
        )
    if not settings or not all(len(values) for values in settings.values()):
        raise ValueError(
            "Invalid value for argument `settings`. Expected at least one value of at "
            f"least one setting. Received: settings={settings!r}"
        )
    lists = [
        values.tolist() if isinstance(values, np.ndarray) else list(values)
        for values in settings.values()
    ]
    return [
        dict(zip(settings, values, strict=True)) for values in itertools.product(*lists)
    ]


class _Log:
    """The runs that have ended, in a file that is complete or absent."""

    def __init__(self, path: Any) -> None:
        self._path: Path | None = None
        self._runs: list[dict[str, Any]] = []
        if path is None:
            return
        self._path = check_writable(path, argument="log_path", suffixes=(".json",))
        if self._path.exists():
            self._runs = json.loads(self._path.read_text(encoding="utf-8"))

    def known(self, setting: Mapping[str, Any]) -> dict[str, float] | None:
        """What a run with this setting has returned."""
        wanted = _plain(setting)
        for each in self._runs:
            if each["setting"] == wanted:
                return each["figures"]
        return None

    def note(
        self, setting: Mapping[str, Any], figures: Mapping[str, float] | None
    ) -> None:
        """Adds a run that has not failed."""
        if self._path is not None and figures is not None:
            self._runs.append({"setting": _plain(setting), "figures": dict(figures)})
            write_atomic(self._path, json.dumps(self._runs, indent=1))


def _plain(setting: Mapping[str, Any]) -> Any:
    return json.loads(json.dumps(setting, default=repr))


# Arguments -------------------------------------------------------------------


def _amounts(
    rates: Any, factors: Any
) -> tuple[Literal["rate", "factor"], tuple[float, ...]]:
    if rates is not None and factors is not None:
        raise ValueError(
            "Invalid value for argument `factors`. Expected None where `rates` are "
            f"given. Received: factors={factors!r}"
        )
    kind: Literal["rate", "factor"] = "rate" if factors is None else "factor"
    given = factors if kind == "factor" else _RATES if rates is None else rates
    name = f"{kind}s"
    if isinstance(given, str) or not isinstance(given, Sequence | np.ndarray):
        raise TypeError(
            f"Invalid value for argument `{name}`. Expected a list of numbers. "
            f"Received: {name}={given!r}"
        )
    amounts = tuple(sorted({float(amount) for amount in given}))
    low, high = (0.0, 1.0) if kind == "rate" else (-np.inf, np.inf)
    inside = all(np.isfinite(a) and low <= a <= high for a in amounts)
    if not amounts or not inside:
        expected = "fractions in [0, 1]" if kind == "rate" else "finite numbers"
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected {expected}, at least one. "
            f"Received: {name}={given!r}"
        )
    return kind, amounts
