"""Metrics, decisions and agreement on test data, for models of any task.

Metrics are those that a model is compiled with. They are computed by a *judge*: a
model that passes outputs through and is compiled in the same way, so that Keras
itself evaluates outputs wherever they come from, the model or a file.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from tfcompress.report._figures import Agreement, ClassFigures, MetricFigure
from tfcompress.report._tasks import (
    Task,
    agreement_kind,
    compile_arguments,
    flat_labels,
    fresh,
    inferred_metrics,
    losses_by_output,
    output_structure,
)

__all__ = [
    "AgreementMeter",
    "Measurement",
    "Plan",
    "added_losses",
    "plan_of",
    "with_noise",
]

_MOST_CLASSES = 100
_Z = 1.959963984540054  # 97.5 % quantile of the normal distribution
_FRACTIONS = (
    *("Accuracy", "Precision", "Recall", "AUC", "IoU", "F1Score", "FBetaScore"),
    *("SensitivityAtSpecificity", "SpecificityAtSensitivity", "accuracy"),
)
_UP = (
    *("acc", "auc", "precision", "recall", "f1", "iou", "dice", "similarity", "r2"),
    *("psnr", "ssim", "fbeta"),
)
_DOWN = (
    *("loss", "error", "mae", "mse", "rmse", "entropy", "divergence", "hinge"),
    *("distance", "poisson", "logcosh"),
)


@dataclass(frozen=True)
class Plan:
    """The losses and metrics that judge a model's outputs.

    Attributes:
        compiled: losses and metrics of the model, as `compile` takes them;
            `None` where it has none.
        extra: metrics beside them, one list for each output.
        tasks: the task of each output.
    """

    compiled: dict[str, Any] | None
    extra: list[list[Any]]
    tasks: list[Task]


def plan_of(
    model: keras.Model,
    tasks: list[Task],
    labels: Any,
    metrics: Sequence[Any] | Mapping[str, Sequence[Any]] | None,
    alike: keras.Model | None,
) -> Plan:
    """How `model` is judged, by metrics without a state.

    Args:
        model: the model.
        tasks: the task of each output.
        labels: a batch of labels.
        metrics: what the caller adds.
        alike: another model with such outputs, whose compile arguments are taken
            for one that is not compiled.
    """
    compiled = compile_arguments(model)
    if compiled is None and alike is not None:
        compiled = compile_arguments(alike)
    has_metrics = compiled is not None and any(
        compiled[key] for key in ("metrics", "weighted_metrics")
    )
    flat = flat_labels(model, labels)
    extra: list[list[Any]] = [[] for _ in tasks]
    for index, task in enumerate(tasks):
        added = metrics.get(task.name) if isinstance(metrics, Mapping) else metrics
        # Copies: models and files would add to the state of one metric.
        extra[index] += map(fresh, added or ())
        if not has_metrics and not extra[index]:
            extra[index] += inferred_metrics(task, flat[index])
    return Plan(compiled, extra, tasks)


class Measurement:
    """Metrics and decisions over the batches that `update` is called with."""

    def __init__(self, model: keras.Model, plan: Plan):
        self._model = model
        self._plan = plan
        self._judges: list[_Judge] = []
        if plan.compiled is not None:
            self._judges.append(_Judge(model, plan.compiled))
        if any(plan.extra):
            arguments = {"metrics": _per_output(model, plan.extra)}
            self._judges.append(_Judge(model, arguments))
        self._penalty = penalty(model) if plan.compiled is not None else 0.0
        self._added = 0.0
        # By output and batch, one number for each sample: the share of its decisions
        # that are right, its errors, its loss. Metrics that are their means have an
        # interval.
        self._right: list[list[np.ndarray]] = [[] for _ in plan.tasks]
        self._errors: list[list[np.ndarray]] = [[] for _ in plan.tasks]
        self._lost: list[list[np.ndarray]] = [[] for _ in plan.tasks]
        self._losses = losses_by_output(
            (plan.compiled or {}).get("loss"), [task.name for task in plan.tasks]
        )
        self._confusion: list[np.ndarray | None] = [None for _ in plan.tasks]
        self._weighted = False
        self.samples = 0
        self.finite = True
        self.problem = ""

    def update(
        self,
        outputs: list[np.ndarray],
        labels: Any,
        weights: Any,
        added: float = 0.0,
    ) -> None:
        """Adds a batch.

        Args:
            outputs: what was computed, in the model's order.
            labels: as they are given.
            weights: sample weights likewise.
            added: what layers add to the loss of each sample; see `added_losses`.
        """
        self.samples += len(outputs[0])
        self._added += added * len(outputs[0])
        self._weighted |= weights is not None
        self.finite &= all(
            bool(np.isfinite(o).all()) for o in outputs if o.dtype.kind == "f"
        )
        if not self.finite:
            return  # no figure would mean anything
        for judge in list(self._judges):
            try:
                judge.update(outputs, labels, weights)
            except Exception as error:  # whatever error a user's loss or metric raises
                self._give_up(judge, error)
        flat = flat_labels(self._model, labels)
        for index, (task, output, label) in enumerate(
            zip(self._plan.tasks, outputs, flat, strict=True)
        ):
            if label is not None and task.kind != "unknown":
                self._decide(index, task, output, label)
            lost = None if label is None else _lost(self._losses[index], label, output)
            if lost is None:
                self._losses[index] = None
            else:
                self._lost[index].append(lost)

    def _give_up(self, judge: _Judge, error: Exception) -> None:
        """Goes on without a judge that cannot judge."""
        self._judges.remove(judge)
        text = str(error).strip() or type(error).__name__
        self.problem = text.splitlines()[0][:200]

    def _decide(
        self, index: int, task: Task, output: np.ndarray, label: np.ndarray
    ) -> None:
        if task.kind == "values":
            error = label.reshape(output.shape).astype("float64") - output
            rows = error.reshape(len(error), -1)
            self._errors[index].append(
                np.stack([np.abs(rows).mean(1), np.square(rows).mean(1)], axis=1)
            )
            return
        decided, truth = task.decide(output), task.truth(label, output)
        right = (decided == truth).reshape(len(decided), -1)
        self._right[index].append(right.mean(1))
        classes = output.shape[-1] if task.kind == "classes" else 2
        if task.kind != "labels" and classes <= _MOST_CLASSES:
            confusion = self._confusion[index]
            if confusion is None:
                confusion = np.zeros((classes, classes), "int64")
                self._confusion[index] = confusion
            pairs = np.stack([truth.ravel(), decided.ravel()]).astype("int64")
            known = (pairs[0] >= 0) & (pairs[0] < classes)
            np.add.at(confusion, tuple(pairs[:, known]), 1)

    def results(self) -> dict[str, MetricFigure]:
        """The metrics, the one to judge by first and losses last."""
        found: dict[str, MetricFigure] = {}
        for judge in list(self._judges):
            try:
                kinds, values = judge.kinds(), judge.results()
            except Exception as error:  # whatever a metric of a user raises
                self._give_up(judge, error)
                continue
            for name, value in values.items():
                # A metric may have a figure for each class.
                mean = float(value.mean()) if value.size else math.nan
                if name == "loss" and judge.has_loss:
                    mean += self._penalty + self._added / self.samples
                found[name] = self._figure(name, mean, kinds)
        if not self.finite:
            return {name: replace(figure, value=None) for name, figure in found.items()}
        return dict(sorted(found.items(), key=lambda item: _rank(*item)))

    def names(self) -> list[str]:
        """Names of the metrics, also where no figure means anything."""
        return list(self.results())

    def _figure(
        self, name: str, value: float, kinds: Mapping[str, Any]
    ) -> MetricFigure:
        metric = kinds.get(name)
        if metric is None:  # of several outputs: the output's name comes first
            ends = [known for known in kinds if name.endswith(f"_{known}")]
            metric = kinds[max(ends, key=len)] if ends else None
        unit = _unit(name, metric)
        trend = direction(name, metric)
        if not math.isfinite(value):
            return MetricFigure(None, trend, unit)
        low, high = self._interval(name, value, unit)
        return MetricFigure(value, trend, unit, low, high)

    def scores(self, name: str, value: float) -> np.ndarray | None:
        """One number for each sample whose mean is the metric, if there is one."""
        # A confidence interval needs one number for each sample, and a Keras metric
        # keeps its sums only. So the usual candidates (right or wrong, absolute and
        # squared error, loss) are computed beside it, and the one whose mean is the
        # metric's value is taken. A metric that is no such mean, as AUC, has none.
        if self._weighted:
            return None
        for column in self._columns(name):
            # float32 sums of Keras against float64 ones here.
            if math.isclose(column.mean(), value, rel_tol=1e-4, abs_tol=1e-6):
                return column
        return None

    def _columns(self, name: str) -> Iterator[np.ndarray]:
        """The numbers by sample that a metric of this name may be the mean of."""
        several = len(self._plan.tasks) > 1
        if several and name == "loss" and None not in self._losses:
            yield np.sum([np.concatenate(lost) for lost in self._lost], axis=0)
        for index, task in enumerate(self._plan.tasks):
            if several and not name.startswith(f"{task.name}_"):
                continue
            if self._right[index]:
                yield np.concatenate(self._right[index])
            if self._errors[index]:
                yield from np.concatenate(self._errors[index]).T
            if self._losses[index] is not None:
                yield np.concatenate(self._lost[index])

    def _interval(
        self, name: str, value: float, unit: str
    ) -> tuple[float | None, float | None]:
        column = self.scores(name, value)
        if column is None or len(column) < 2:
            return None, None
        if np.isin(column, (0.0, 1.0)).all():
            # Zeros and ones are decisions. A precision or a recall may equal their mean
            # by chance, but it is a fraction of other samples.
            if "accuracy" not in name.lower():
                return None, None
            return wilson(int(column.sum()), len(column))
        half = _Z * float(column.std(ddof=1)) / math.sqrt(len(column))
        low, high = value - half, value + half
        return (max(low, 0.0), min(high, 1.0)) if unit == "fraction" else (low, high)

    def classes(self, names: Sequence[str] | None) -> ClassFigures | None:
        """Decisions by class of the first output that has classes."""
        for task, confusion in zip(self._plan.tasks, self._confusion, strict=True):
            if confusion is None or not self.finite:
                continue
            count = len(confusion)
            fit = names is not None and len(names) == count
            words = [str(n) for n in names] if fit and names else None
            words = words or (
                ["no", "yes"] if task.kind == "binary" else list(map(str, range(count)))
            )
            rows = tuple(tuple(int(n) for n in row) for row in confusion)
            return ClassFigures(task.name, tuple(words), rows)
        return None


def wilson(right: int, count: int) -> tuple[float, float]:
    """Wilson's 95 % confidence interval of a fraction (Wilson, 1927)."""
    share = right / count
    scale = 1 + _Z**2 / count
    center = (share + _Z**2 / (2 * count)) / scale
    half = _Z / scale * math.sqrt(share * (1 - share) / count + (_Z / (2 * count)) ** 2)
    return max(center - half, 0.0), min(center + half, 1.0)


def with_noise(
    figures: dict[str, MetricFigure],
    measurement: Measurement,
    baseline: dict[str, MetricFigure],
    first: Measurement,
) -> dict[str, MetricFigure]:
    """`figures` with the noise of their differences to the first model's.

    Both models saw the same samples, so that the difference is a mean over
    samples of paired differences, most of which are zero. For accuracies this is
    McNemar's test.
    """
    result = {}
    for name, figure in figures.items():
        other = baseline.get(name)
        if figure.value is not None and other is not None and other.value is not None:
            mine = measurement.scores(name, figure.value)
            theirs = first.scores(name, other.value)
            if mine is not None and theirs is not None and len(mine) == len(theirs) > 1:
                apart = mine - theirs
                half = _Z * float(apart.std(ddof=1)) / math.sqrt(len(apart))
                figure = replace(figure, noise=half)
        result[name] = figure
    return result


class AgreementMeter:
    """How closely the outputs of a file agree with those of the model."""

    def __init__(self, tasks: list[Task]):
        self._tasks = tasks
        self._same = [0] * len(tasks)
        self._count = [0] * len(tasks)
        # Squares of differences; sum and squares of the expected outputs.
        self._sums = np.zeros((len(tasks), 3))
        self.samples = 0

    def update(self, expected: list[np.ndarray], actual: list[np.ndarray]) -> None:
        """Adds a batch of outputs."""
        self.samples += len(expected[0])
        for index, (task, e, a) in enumerate(
            zip(self._tasks, expected, actual, strict=True)
        ):
            if agreement_kind(task) == "relative error":
                e = e.astype("float64")
                parts = np.square(a - e).sum(), e.sum(), np.square(e).sum()
                self._sums[index] += parts
                self._count[index] += e.size
            else:
                same = task.decide(e) == task.decide(a)
                self._same[index] += int(same.sum())
                self._count[index] += same.size

    def results(self) -> dict[str, Agreement]:
        """The agreement of each output."""
        found = {}
        for task, same, count, sums in zip(
            self._tasks, self._same, self._count, self._sums, strict=True
        ):
            if not count:
                continue
            kind = agreement_kind(task)
            if kind == "relative error":
                # Σ(e - mean)² = Σe² - (Σe)² / n, from sums over batches.
                spread = sums[2] - sums[1] ** 2 / count
                value = math.sqrt(sums[0] / spread) if spread > 0 else math.nan
            else:
                value = same / count
            if math.isfinite(value):
                found[task.name] = Agreement(kind, float(value), self.samples)
        return found


# Judges -----------------------------------------------------------------------


class _Judge:
    """A model that passes outputs of another one through and judges them."""

    def __init__(self, model: keras.Model, arguments: dict[str, Any]):
        # `compile` takes losses and metrics by the names of outputs, so that the layers
        # that pass outputs through have these names, and the same nesting.
        names = list(getattr(model, "output_names", ())) or None
        if names is None or len(set(names)) < len(model.outputs):
            names = [f"output_{i}" for i in range(len(model.outputs))]
        inputs = [
            keras.Input(tensor.shape[1:], dtype=tensor.dtype, name=f"given_{i}")
            for i, tensor in enumerate(model.outputs)
        ]
        passed = [
            keras.layers.Identity(name=name, dtype=tensor.dtype)(tensor)
            for name, tensor in zip(names, inputs, strict=True)
        ]
        structure = keras.tree.pack_sequence_as(output_structure(model), passed)
        self._model = keras.Model(inputs, structure)
        self.has_loss = arguments.get("loss") is not None
        if not self.has_loss:
            none = keras.tree.map_structure(lambda _: _nothing, structure)
            arguments = {**arguments, "loss": none, "loss_weights": None}
        self._model.compile(optimizer="sgd", **arguments)
        given = [arguments.get(key) for key in ("metrics", "weighted_metrics")]
        self._lent = _Lent(
            [
                metric
                for metric in keras.tree.flatten(given)
                if isinstance(metric, keras.Metric) and fresh(metric) is metric
            ]
        )
        self._loss = 0.0
        self._count = 0

    def update(self, outputs: list[np.ndarray], labels: Any, weights: Any) -> None:
        """Adds a batch, as `evaluate` does in a step."""
        predicted = self._model([_tensor(o) for o in outputs], training=False)
        y, w = (
            None if part is None else keras.tree.map_structure(_tensor, part)
            for part in (labels, weights)
        )
        loss = self._model.compute_loss(
            x=None, y=y, y_pred=predicted, sample_weight=w, training=False
        )
        with self._lent.taken():
            self._model.compute_metrics(None, y, predicted, w)
        self._loss += float(keras.ops.convert_to_numpy(loss)) * len(outputs[0])
        self._count += len(outputs[0])

    def results(self) -> dict[str, np.ndarray]:
        """Metrics and losses over all batches."""
        if not self._count:
            return {}
        with self._lent.taken():
            # Without a loss only the metrics count: Keras' own trackers of losses
            # would be figures that nobody asked for.
            found = (
                self._model.get_metrics_result()
                if self.has_loss
                else self._model._compile_metrics.result()
            )
            # Now, because a metric may return a variable that goes back.
            numbers = {
                name: np.asarray(keras.ops.convert_to_numpy(value), "float64")
                for name, value in found.items()
            }
        if self.has_loss:
            numbers["loss"] = np.asarray(self._loss / self._count)
        return numbers

    def kinds(self) -> dict[str, Any]:
        """Metric objects by name, also those within the compiled ones."""
        return {
            inner.name: inner
            for metric in self._model.metrics
            for inner in (getattr(metric, "metrics", None) or [metric])
        }


class _Lent:
    """Metrics of somebody else's that cannot be copied, with a state for one judge.

    A judge takes them for a batch at a time and gives them back as they were. So
    several judges use one metric in turns, and its owner never notices.
    """

    def __init__(self, metrics: list[keras.Metric]):
        self._metrics = metrics
        self._mine: list[list[np.ndarray]] | None = None

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """The metrics have the state of the judge inside, their own one after it."""
        theirs = [_state(metric) for metric in self._metrics]
        try:
            if self._mine is None:
                for metric in self._metrics:
                    metric.reset_state()
            else:
                _assign(self._metrics, self._mine)
            yield
        finally:
            self._mine = [_state(metric) for metric in self._metrics]
            _assign(self._metrics, theirs)


def _state(metric: keras.Metric) -> list[np.ndarray]:
    return [np.array(keras.ops.convert_to_numpy(v)) for v in metric.variables]


def _assign(metrics: list[keras.Metric], states: list[list[np.ndarray]]) -> None:
    for metric, state in zip(metrics, states, strict=True):
        if len(state) < len(metric.variables):
            metric.reset_state()  # some variables were created since then
        for variable, value in zip(metric.variables, state, strict=False):
            variable.assign(value)


def _tensor(array: Any) -> Any:
    """A tensor; doubles as floats, as Keras does with arrays that it is given."""
    array = np.asarray(array)
    dtype = keras.backend.floatx() if array.dtype == np.float64 else None
    return keras.ops.convert_to_tensor(array, dtype=dtype)


def _lost(loss: Any, labels: np.ndarray, outputs: np.ndarray) -> np.ndarray | None:
    """The loss of each sample; `None` if that cannot be told."""
    if loss is None or outputs.dtype.kind != "f":
        return None
    try:
        function = keras.losses.get(loss) if isinstance(loss, str) else loss
        # A Loss reduces what its `call` returns.
        function = getattr(function, "call", function)
        values = function(_tensor(labels), _tensor(outputs))
        rows = np.asarray(keras.ops.convert_to_numpy(values), "float64")
    except Exception:  # whatever error a user's loss raises; its mean is known anyway
        return None
    if rows.ndim == 0 or len(rows) != len(outputs):
        return None
    return rows.reshape(len(rows), -1).mean(1)


def _nothing(y_true: Any, y_pred: Any) -> Any:
    """The loss of a model that is judged by metrics alone."""
    return keras.ops.zeros(keras.ops.shape(y_pred)[:1])


def _per_output(model: keras.Model, extra: list[list[Any]]) -> Any:
    """Metrics as `compile` takes them: a list, or a list or dict by output."""
    if len(extra) == 1:
        return extra[0]
    structure = output_structure(model)
    if isinstance(structure, dict):
        return dict(zip(sorted(structure), extra, strict=True))
    return extra


def penalty(model: keras.Model) -> float:
    """What regularizers of weights add to the loss."""
    return math.fsum(
        float(keras.ops.convert_to_numpy(variable.regularizer(variable)))
        for variable in _regularized(model)
    )


def _regularized(model: keras.Model) -> list[keras.Variable]:
    return [
        variable
        for variable in model.trainable_variables
        if getattr(variable, "regularizer", None) is not None
    ]


def added_losses(model: keras.Model) -> float:
    """What layers added to the loss when `model` was last called.

    Regularizers of activities are means over samples, as the loss is.
    """
    # Keras puts the regularizers of weights last; `penalty` has them.
    losses = model.losses
    added = losses[: len(losses) - len(_regularized(model))]
    return math.fsum(float(np.sum(keras.ops.convert_to_numpy(loss))) for loss in added)


def _unit(name: str, metric: Any) -> str:
    kind = type(metric).__name__
    function = getattr(metric, "_fn", None)
    words = f"{kind} {getattr(function, '__name__', '')} {name}"
    if any(word in words for word in _FRACTIONS):
        return "fraction"
    return ""


def direction(name: str, metric: Any) -> str | None:
    """Whether more is better ("up") or less ("down"); `None` if nothing tells.

    Args:
        name: name of the metric.
        metric: the metric, or `None`.
    """
    known = getattr(metric, "_direction", None)
    if known in ("up", "down"):
        return str(known)
    if name == "loss" or name.endswith("_loss"):
        return "down"
    lower = name.lower()
    if any(word in lower for word in _DOWN):
        return "down"
    return "up" if any(word in lower for word in _UP) else None


def _rank(name: str, figure: MetricFigure) -> tuple[bool, bool, bool]:
    """Accuracies first, losses last."""
    loss = name == "loss" or name.endswith("_loss")
    return loss, figure.unit != "fraction", name == "loss"
