"""What pruning a layer would cost in accuracy, and what it would save.

The characterization that comes before the pruning of a network: which layers
bear it (`sensitivity`), and in which of them it pays (`layer_energy`).
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np

from tfcompress import cost, policy
from tfcompress._checks import invalid, one_of, whole
from tfcompress._figures import Curves, Heatmap
from tfcompress._samples import (
    Source,
    check_labeled,
    class_indices,
    fixed_batch,
    packed,
    read,
)
from tfcompress.callbacks.dynamic_surgery import thresholds
from tfcompress.cost._table import table
from tfcompress.policy import kernels, select_kernels
from tfcompress.structure._graph import require_graph

__all__ = ["Sensitivity", "layer_energy", "sensitivity"]

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
    engine: Literal["processes", "ray"] = "processes",
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
    measure_all = _engine(engine, workers)
    source = read(model, data, split="validation")
    check_labeled(source)
    study = _study(source, kind, _threads(engine, workers))
    baseline, _ = _measure(study, None, 0.0)  # also shows whether the study works
    tasks = [(name, amount) for name in chosen for amount in amounts]
    found: dict[tuple[str, float], tuple[float, float]] = {}
    progress = keras.utils.Progbar(
        len(tasks), verbose=int(verbose), unit_name="measurement"
    )
    for task, result in measure_all(study, tasks):
        found[task] = result
        progress.update(len(found))

    def column(index: int) -> dict[str, tuple[float, ...]]:
        return {n: tuple(found[n, a][index] for a in amounts) for n in chosen}

    return Sensitivity(model.name, baseline, kind, amounts, column(0), column(1))


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
Measure = Callable[[_Study, Sequence[Task]], Iterator[tuple[Task, Result]]]


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


def _set_threads(threads: int) -> None:
    """Leaves the other processes their cores, in a process that is still new."""
    if keras.backend.backend() != "tensorflow":
        return  # the others have no such setting while they run
    import tensorflow as tf

    # It cannot where TensorFlow runs already, as in a worker that served before.
    with contextlib.suppress(RuntimeError):
        tf.config.threading.set_intra_op_parallelism_threads(threads)


# Engines ---------------------------------------------------------------------


def _here(study: _Study, tasks: Sequence[Task]) -> Iterator[tuple[Task, Result]]:
    for task in tasks:
        yield task, _measure(study, *task)


def _in_processes(
    study: _Study, tasks: Sequence[Task], *, workers: int
) -> Iterator[tuple[Task, Result]]:
    import joblib

    parallel = joblib.Parallel(
        n_jobs=min(workers, len(tasks)), return_as="generator_unordered", batch_size=1
    )
    yield from parallel(joblib.delayed(_remote)(study, task) for task in tasks)


def _on_ray(study: _Study, tasks: Sequence[Task]) -> Iterator[tuple[Task, Result]]:
    import ray

    if not ray.is_initialized():
        ray.init()
    measure = ray.remote(_remote)
    shared = ray.put(study)  # once a machine, not once a task
    waiting = [measure.remote(shared, task) for task in tasks]
    while waiting:
        done, waiting = ray.wait(waiting)
        yield from ray.get(done)


def _remote(study: _Study, task: Task) -> tuple[Task, Result]:
    _set_threads(study.threads)
    return task, _measure(study, *task)


def _engine(engine: str, workers: int | None) -> Measure:
    """The function that measures all tasks, after a check that it can."""
    one_of("engine", engine, ("processes", "ray"))
    if workers is not None:
        workers = whole("workers", workers)
        if engine == "ray":
            raise ValueError(invalid("workers", "None for engine='ray'", workers))
    if engine == "ray":
        try:
            import ray  # noqa: F401
        except ImportError as error:
            raise ImportError(
                "Expected Ray for engine='ray'. Install it with "
                "`pip install tfcompress[ray]`, or use engine='processes'."
            ) from error
        return _on_ray
    number = workers or _cores()
    return _here if number == 1 else functools.partial(_in_processes, workers=number)


def _threads(engine: str, workers: int | None) -> int:
    return 1 if engine == "ray" else max(1, _cores() // (workers or _cores()))


def _cores() -> int:
    return len(os.sched_getaffinity(0))


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
