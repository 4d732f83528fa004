"""The one call: measure, plan, train, verify, export, report."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import inspect
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np

from tfcompress import _processes, cost, policy
from tfcompress import report as reports
from tfcompress._checks import (
    callback_list,
    fraction,
    invalid,
    number,
    one_of,
    positive,
    whole,
)
from tfcompress._files import lock, write_atomic
from tfcompress._finalize import finalize
from tfcompress._models import load_model, own_classes, save_model
from tfcompress._progress import Progress
from tfcompress.compression._budget import FIGURES, HERE, Budget
from tfcompress.compression._measure import Meter, file_name
from tfcompress.compression._methods import (
    FILES,
    SINGLE,
    STAGES,
    STEERED,
    WORDS,
    check_methods,
)
from tfcompress.compression._offers import offers
from tfcompress.compression._plan import Filters
from tfcompress.compression._plan_file import write_plan
from tfcompress.compression._planner import Planner
from tfcompress.compression._ray import (
    Alone,
    as_bytes,
    from_bytes,
    require_ray,
    trials_on_ray,
)
from tfcompress.compression._result import Compressed, TrialResult
from tfcompress.compression._search import (
    Engine,
    One,
    Trial,
    optuna_engine,
    require_optuna,
)
from tfcompress.compression._task import Task, chosen_metric
from tfcompress.compression._training import (
    Diverged,
    Hopeless,
    Lesson,
    compile_as,
    copy_of,
    train_admm,
    train_bits,
    train_density,
    train_drum,
    train_filters,
    train_gates,
    train_weights,
)
from tfcompress.cost._energy import PRODUCTS
from tfcompress.export.targets import require_tool, resolve
from tfcompress.structure._graph import require_editable, require_graph

__all__ = ["compress"]

# Rounding is learned in fewer epochs, and at a lower rate, than what pruning broke.
_BITS_EPOCHS, _BITS_RATE = 0.25, 0.1

# Where fine-tuning is expected to work; the search tries values around it.
_TILTS, _RATES, _SHARES = (-0.5, 0.5), (0.3, 3.0), (0.0, 0.9)

# So many zeros do little harm: they alone are planned where they suffice.
_EASY_ZEROS = 0.8


@dataclasses.dataclass(frozen=True)
class _Options:
    """Everything that decides the result, beside model and data."""

    budget: Budget
    max_drop: float
    methods: tuple[str, ...] | str
    epochs: int
    learning_rate: float | None
    batch_size: int
    monitor: str | None
    criterion: str
    spread: str
    temperature: float
    distillation: float
    trials: int
    hardware: str
    products: cost.Products
    seed: int


def compress(
    model: keras.Model,
    train: Any,
    validation: Any = None,
    *,
    budget: Budget | Mapping[str, Any],
    max_drop: float = 0.01,
    methods: Literal["auto"] | Sequence[str] = "auto",
    epochs: int = 20,
    learning_rate: float | None = None,
    batch_size: int = 32,
    monitor: str | None = None,
    criterion: str = "l1",
    spread: Literal["sensitivity", "uniform"] = "sensitivity",
    teacher: Literal["self"] | keras.Model | None = "self",
    temperature: float = 3.0,
    distillation: float = 0.5,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    trials: int = 1,
    storage: str | None = None,
    engine: Literal["local", "ray"] = "local",
    hardware: str = "horowitz_45nm",
    products: cost.Products = "computed",
    out: str | os.PathLike[str] | None = None,
    seed: int = 0,
    verbose: int = 1,
) -> Compressed:
    """Makes a trained model smaller until it meets a budget.

    It measures the model and what each method could save. It chooses the methods that
    lower the figures of the budget, and finds how far each has to go so that the
    exported file meets the budget. It applies them one after the other in further
    training runs, with the original as the teacher, and keeps the epoch that is best
    on the validation data. Then it exports the model, checks the file against the
    data, and reports. Whole channels are removed before single weights, and both
    before bits, so that what a method has removed stays removed.

    The budget decides how small the model gets, and training how good it is: the
    result is the best model found within the budget. If no model meets the budget,
    the nearest one is returned. `Compressed.statement` says whether the budget is met
    and whether the quality dropped by more than `max_drop`.

    Loss, optimizer and metrics are the model's own. The learning rate begins at
    the compiled optimizer's (the largest value of its schedule) and falls to zero
    along a cosine, unless one of the `callbacks` sets it.

    With `trials`, Optuna searches for the best settings: how pruning is spread over
    the depth, the learning rate, the share of the distillation, the criterion and,
    with `methods="auto"`, whether gates or densities come before the filters. Each
    trial is planned to meet the budget.

    With `out`, the same call resumes a run that was interrupted, and ends with the
    same trials. Two processes cannot use one folder; to share a search, give each its
    own `out` and the same `storage`.

    Example:

    ```python
    result = tfc.compress(
        model,
        (x_train, y_train),
        (x_val, y_val),
        budget=tfc.Budget(size="100kB", macs=0.4),
        out="out",
    )
    print(result)
    result.model.save("small.keras")
    ```

    Args:
        model: a trained, compiled Functional or Sequential model. It is not
            modified.
        train: `(inputs, labels)` or `(inputs, labels, weights)` as arrays, or a
            `tf.data.Dataset` or `keras.utils.PyDataset` of batches of such.
        validation: data as `train`, to choose by. Defaults to `None`: a tenth of
            the arrays, drawn by `seed`.
        budget: a `Budget`, or its figures as a dict.
        max_drop: how much worse the exported file may be than the original, by
            `monitor` on the validation data: a difference where more is better
            (0.01 is one point of accuracy), else a relative growth. Defaults to
            `0.01`.
        methods: `"auto"`, or a list of methods. These go as far as the budget needs:
            `"filters"`; single weights by magnitude, `"weights"`, or by ADMM,
            `"admm"`; and `"drum"`, approximate multipliers. These go as far as the
            data allow: `"gates"` on residual branches, and `"density"`, widths by
            activation density. At most one file format can be listed: `"float16"`,
            `"dynamic"`, `"int8"`, `"int4"` (TFLite) or `"tfcz"`. `"qat"` trains
            with int8's rounding in force, as `"int4"` always does. Defaults to
            `"auto"`: int8 if the budget limits the file; single weights if
            zeros lower every figure that is too large, and not too many are needed;
            multipliers if the energy is limited and `hardware` has them;
            otherwise filters, together with those; and `"qat"` if the int8 file
            is worse than `max_drop` allows.
        epochs: epochs of training by each method in each trial; learning the
            rounding takes a quarter of them in addition. Defaults to `20`.
        learning_rate: the first learning rate. Defaults to `None`: see above.
        batch_size: samples in a batch, of arrays. Defaults to `32`.
        monitor: the metric that says how good a model is. Defaults to `None`: the
            first accuracy, else the only metric, else the loss.
        criterion: what filters are chosen by, as in `callbacks.FilterPruning`.
            Defaults to `"l1"`.
        spread: how pruning is divided among the layers: `"sensitivity"` measures
            how the loss of the trained model rises when filters of one layer are
            removed, and weighs that against their cost (single weights are ranked by
            magnitude over all layers); `"uniform"` prunes the same share
            everywhere. Defaults to `"sensitivity"`.
        teacher: the model whose answers are learned, too: `"self"`, the original;
            another model with the same inputs and outputs; or `None`. Defaults to
            `"self"`.
        temperature: of the distillation. Defaults to `3.0`.
        distillation: share of the distillation in the loss, in [0, 1]. Defaults to
            `0.5`.
        callbacks: callbacks for the training, used in every trial. Defaults to
            `()`.
        trials: how many trials; more than one need Optuna. Defaults to `1`.
        storage: URL of an Optuna storage that several processes share. Defaults to
            `None`: a journal in `out`.
        engine: `"local"` runs one trial after the other in this process; `"ray"`
            runs them as tasks of the Ray cluster that this program is connected to,
            or that `ray.init()` finds or starts: one for each GPU, or else for each
            processor. That takes arrays as data, and a model that Keras can save as
            it is compiled; no trial is given up early, and a trial that begins
            before others have ended does not learn from them. Defaults to
            `"local"`.
        hardware: profile of the modeled energy. Defaults to `"horowitz_45nm"`.
        products: what that hardware does with a multiplication by a zero weight:
            `"computed"`, `"gated"` or `"skipped"`, see `cost.energy`. Other values
            than the default are allowed only if the budget limits the energy.
            Defaults to `"computed"`.
        out: folder for files and for what a run needs to be resumed. Defaults to
            `None`, nothing is kept.
        seed: of everything that is random here. Defaults to `0`.
        verbose: 0 is silent, 1 tells each step and, at most twice a minute, how long
            it still takes, 2 shows every epoch. Defaults to `1`.

    Returns:
        A `Compressed`: `.model`, `.files`, `.report`, `.trials`, `.statement`.

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: before any training, if an argument is not as described, the
            model is not compiled, the data have no labels or do not fit, no method
            is left, `out` holds another run, or several processes of JAX train
            together.
        ImportError: if `trials`, `engine` or the budget's `target` need a package
            that is not installed.
        RuntimeError: if the loss became NaN in every trial.
    """
    _processes.require_one("compress")
    options = checked_options(
        budget=budget,
        max_drop=max_drop,
        methods=methods,
        epochs=epochs,
        learning_rate=learning_rate,
        batch_size=batch_size,
        monitor=monitor,
        criterion=criterion,
        spread=spread,
        temperature=temperature,
        distillation=distillation,
        trials=trials,
        hardware=hardware,
        products=products,
        seed=seed,
        engine=engine,
    )
    _check_model(model)
    _check_teacher(model, teacher)
    callbacks = callback_list("callbacks", callbacks)
    if engine == "ray":
        _check_arrays(train=train, validation=validation)
    task = Task(model, train, validation, batch_size=batch_size, seed=seed)
    with _folder(out) as folder:
        run = _Run(model, task, options, teacher, callbacks, folder, verbose)
        run.on_ray = engine == "ray"
        if out is not None:
            run.check_same()
        with keras.saving.custom_object_scope(own_classes(model)):
            return run.compress(storage, keep=out is not None)


class _Run:
    """One call of `compress`."""

    # How a run is resumed: measuring and planning depend on model, data and options
    # alone and are done again; `check_same` makes sure that these are the same. The
    # results of training are on disk:
    #
    #   run.json                   what decides the result, to compare with
    #   trials.json                trials that have ended
    #   search.log                 Optuna's journal (or the caller's `storage`)
    #   trials/0/filters.json      a stage has ended, and how far it went;
    #   trials/0/filters.keras     the model after it
    #   trials/0/filters/backup    a stage in progress, epoch by epoch (multipliers
    #                              and the rounding begin again instead)
    #   trials/0/filters/best.keras   its best epoch so far
    #   trials/0/model.keras       the trial's result

    def __init__(
        self,
        model: keras.Model,
        task: Task,
        options: _Options,
        teacher: Any,
        callbacks: Sequence[keras.callbacks.Callback],
        folder: Path,
        verbose: int,
    ) -> None:
        self.options = options
        self.task = task
        self.folder = folder
        self.callbacks = callbacks
        self.verbose = verbose
        # Everything works on a copy: evaluation, too, changes the state of metrics.
        self.model = copy_of(model)
        self.given = model
        self.teacher = self.model if teacher == "self" else teacher
        self.meter = Meter(
            options.budget, task.calibration(), options.hardware, options.products
        )
        self.filters = Filters(self.model)
        self.models: dict[int, keras.Model] = {}  # of the trials of this process
        self.on_ray = False

    # One after the other -----------------------------------------------------

    def compress(self, storage: str | None, *, keep: bool) -> Compressed:
        """All steps."""
        options, budget = self.options, self.options.budget
        self._say("Measuring the original")
        self.quality = self.task.quality(self.model)
        if "loss" not in self.quality:
            raise ValueError(
                "Invalid value for argument `model`. Expected a model whose evaluation "
                f"tells its loss. Received: one that tells {sorted(self.quality)}"
            )
        self.metric = chosen_metric(self.quality, options.monitor, self.model)
        if not np.isfinite(self.quality[self.metric.name]):
            raise ValueError(
                "Invalid value for argument `model`. Expected a trained model. "
                f"Received: {self.metric.name} is {self.quality[self.metric.name]}"
            )
        offered: list[str] = [*STAGES, "int8", "float16"]
        if options.methods != "auto":
            offered = [_as_offered(name) for name in options.methods]
        self.offer, self.kind = offers(
            self.model,
            self.filters,
            self.meter,
            offered,
            self._chosen_kind,
            self.task.calibration(),
            cost.profile(options.hardware),
        )
        for name in budget.fractions:
            if name not in self.offer.original:
                raise ValueError(
                    "Invalid value for argument `budget`. Expected an absolute figure "
                    f"for {name!r}, which the original's float32 file does not have on "
                    f"{budget.target!r}. Received: {name}={getattr(budget, name)!r}"
                )
        self.limits = {
            name: budget.limit(name, self.offer.original.get(name, np.nan))
            for name in budget.limited
        }
        self.planner = self._planner()
        self._say(self._offer_text())
        self.stages = self._chosen_stages()
        steps = [f"{WORDS[name]} ({options.epochs} epochs)" for name in self.stages]
        rounded = ", whose rounding is learned" if self._learns_bits() else ""
        self._say(
            "Plan: " + ", then ".join([*steps, f"a file in {self.kind}{rounded}"])
        )
        results = self._run_trials(storage, keep)
        best = self._best(results)
        return self._finish(best, results, keep)

    def _planner(self) -> Planner:
        return Planner(
            self.task,
            self.meter,
            self.offer,
            self.limits,
            self.kind,
            uniform=self.options.spread == "uniform",
            say=self._say,
        )

    def _chosen_kind(self, files: Mapping[str, Mapping[str, float]]) -> str:
        """The file's format, by the figures of the original's files."""
        methods, limited = self.options.methods, self.options.budget.limited
        if methods != "auto":
            return next((name for name in methods if name in FILES), "float32")
        for kind in ("int8", "float16"):
            figures = files.get(kind, {})
            less_energy = figures.get("energy", np.inf) < files["float32"].get(
                "energy", -np.inf
            )
            if figures and (
                any(FIGURES[name].of_file for name in limited) or less_energy
            ):
                return kind
        return "float32"

    def _chosen_stages(self) -> tuple[str, ...]:
        """What trains: what was asked for, or the least that is likely to do."""
        methods = self.options.methods
        if methods != "auto":
            for name in set(methods) - {"qat"}:
                saving = self.offer.of(_as_offered(name))
                if not saving.figures:
                    raise ValueError(
                        "Invalid value for argument `methods`. Expected methods that "
                        f"can be used. Received: {name!r}: {saving.note}"
                    )
            return tuple(name for name in methods if name in STAGES)
        # The file's format is chosen by now, and may be enough. What its figures still
        # exceed decides: zeros and multipliers alone if few zeros suffice, because
        # they keep the architecture; otherwise filters, together with what else helps.
        figures = self.offer.file(self.kind)
        over = {
            name
            for name, limit in self.limits.items()
            if figures.get(name, np.inf) > limit
        }
        helpful = [
            name for name in ("weights", "drum") if over & self.offer.of(name).lowers
        ]
        # Zeros and multipliers do not touch the architecture: try them alone first.
        for alone in (["weights"], ["drum"], ["weights", "drum"]):
            if set(alone) <= set(helpful) and self._suffice(alone):
                helpful = alone
                break
        else:
            if over and self.filters.sizes:
                helpful = ["filters", *helpful]
        return tuple(name for name in STEERED if name in helpful)

    def _suffice(self, stages: Sequence[str]) -> bool:
        if stages == ["drum"]:
            return self.planner.excess(self.offer.of("drum").figures) <= 1
        return self.planner.zeros(self.model, stages, _EASY_ZEROS)[1]

    def _learns_bits(self) -> bool:
        return self.kind == "int4" or "qat" in self.options.methods

    def _run_trials(self, storage: str | None, keep: bool) -> dict[int, TrialResult]:
        # A process may be killed between two lines, so the order matters: first
        # trials.json, then the engine. If a trial is in the file and still "running" in
        # Optuna, the next start reports it, and does not train it a second time.
        done = self._read_trials()
        seen = {
            n: {
                "worth": None
                if r.drop is None
                else self.metric.worth(r.quality[self.metric.name]),
                "excess": r.excess or 1.0,
            }
            for n, r in done.items()
        }
        source = self._engine(storage, self.folder if keep else None)
        run = self._trials_on_ray if self.on_ray else self._trials_here
        for trial, result in run(source, seen):
            done[trial.number] = result
            self._write_trials(done)
            worth = None
            if result.drop is not None:
                worth = self.metric.worth(result.quality[self.metric.name])
            seen[trial.number] = {"worth": worth, "excess": result.excess or 1.0}
            trial.end(worth, result.excess or 1.0)
        return done

    def _trials_here(
        self, source: Engine, seen: Mapping[int, Any]
    ) -> Iterator[tuple[Trial, TrialResult]]:
        while (trial := source.next(seen, ())) is not None:
            self._say(f"Trial {trial.number}" + _settings_text(trial.settings))
            yield trial, self._run_trial(trial)

    def _trials_on_ray(
        self, source: Engine, seen: Mapping[int, Any]
    ) -> Iterator[tuple[Trial, TrialResult]]:
        teacher = self.teacher
        job = _Job(
            model=as_bytes(self.model),
            teacher=as_bytes(teacher)
            if isinstance(teacher, keras.Model) and teacher is not self.model
            else teacher is not None,
            task=self.task,
            options=self.options,
            callbacks=list(self.callbacks),
            found={name: getattr(self, name) for name in _FOUND},
        )
        for trial, result, files in trials_on_ray(source, seen, job, _on_ray):
            self._say(f"Trial {trial.number}" + _settings_text(trial.settings))
            for name, content in files.items():
                write_atomic(self._trial_folder(trial.number) / name, content)
            self._say(f"  {self._told(result)}")
            yield trial, result

    def _engine(self, storage: str | None, folder: Path | None) -> Engine:
        options = self.options
        defaults = {
            "tilt": 0.0,
            "criterion": options.criterion,
            "rate_factor": 1.0,
            "distillation": options.distillation if self.teacher is not None else 0.0,
        }
        if options.trials == 1 or not self.stages:
            return One(defaults)
        ranges: dict[str, Any] = {"rate_factor": (*_RATES, True)}
        if "filters" in self.stages:
            ranges["criterion"] = sorted({"l1", "l2", options.criterion})
            if len(self.filters.sizes) > 1:
                ranges["tilt"] = (*_TILTS, False)
            before = [n for n in ("gates", "density") if options.methods == "auto"]
            before = [n for n in before if self.offer.of(n).figures]
            if before:
                defaults["before"] = "nothing"
                ranges["before"] = ["nothing", *before]
        if self.teacher is not None:
            ranges["distillation"] = (*_SHARES, False)
        return optuna_engine(
            count=options.trials,
            seed=options.seed,
            defaults=defaults,
            ranges=ranges,
            storage=storage,
            folder=folder,
            name=_digest(self._identity())[:16],
        )

    def _run_trial(self, trial: Trial) -> TrialResult:
        settings = dict(trial.settings)
        try:
            model = self.model
            for stage in self._stages_of(settings):
                model = self._after(stage, model, trial, settings)
            tried = self._tried(trial, settings, model)
        except Diverged as error:
            self._say(f"  training has diverged: {error}")
            return TrialResult(trial.number, "diverged", settings)
        except Hopeless:
            self._say("  hopeless")
            return TrialResult(trial.number, "hopeless", settings)
        result, model, file = min(tried, key=lambda t: _known(t[0].drop))
        place = self._trial_folder(trial.number)
        os.replace(file, place / file_name(self.kind))
        save_model(model, place / "model.keras")
        self.models[trial.number] = model
        self._say(f"  {self._told(result)}")
        return result

    def _told(self, result: TrialResult) -> str:
        """The result of a trial in one line."""
        if result.drop is None:
            return result.status
        name = self.metric.name
        return (
            f"{name} {result.quality[name]:.4f} (original {self.quality[name]:.4f}), "
            + ", ".join(
                f"{n} {FIGURES[n].show(result.figures[n])}" for n in self.limits
            )
        )

    def _stages_of(self, settings: Mapping[str, Any]) -> tuple[str, ...]:
        """The stages of a trial, in order."""
        before = settings.get("before", "nothing")
        return self.stages if before == "nothing" else (before, *self.stages)

    def _after(
        self, stage: str, model: keras.Model, trial: Trial, settings: dict[str, Any]
    ) -> keras.Model:
        """The model after a stage; adds what the stage did to the settings."""
        place = self._trial_folder(trial.number)
        state, saved = place / f"{stage}.json", place / f"{stage}.keras"
        if state.exists():  # what comes after it was interrupted
            done = json.loads(state.read_text())
            settings.update(done)
            if done[stage]:
                model = load_model(saved)
                compile_as(model, self.model)
            return model
        lesson = self._lesson(trial, settings, place / stage)
        steered = [name for name in self._stages_of(settings) if name in STEERED]
        if stage not in steered[:1]:
            # Epochs of different methods cannot be compared with each other.
            lesson = dataclasses.replace(lesson, report=lambda epoch, value: False)
        done, train = self._planned(stage, model, settings, lesson)
        if done:
            keras.utils.set_random_seed(self.options.seed + trial.number)
            model = train()
            save_model(model, saved)
        # Last: the model is complete wherever this file exists.
        write_atomic(state, json.dumps({stage: done}))
        settings[stage] = done
        return model

    def _planned(
        self,
        stage: str,
        model: keras.Model,
        settings: Mapping[str, Any],
        lesson: Lesson,
    ) -> tuple[Any, Callable[[], keras.Model]]:
        """How far a stage goes, JSON-compatible and empty for nowhere; its training."""
        stages = self._stages_of(settings)
        later = stages[stages.index(stage) + 1 :]
        seed = self.options.seed
        if stage == "gates":
            inputs = self.task.calibration()
            return True, lambda: train_gates(model, inputs, seed, lesson)
        if stage == "density":
            return True, lambda: train_density(model, seed, lesson)
        if stage == "filters":
            filters = self.filters if model is self.model else Filters(model)
            if not filters.sizes:
                self._say(f"  no filters can be pruned any more: {filters.reason}")
                return {}, lambda: model
            criterion = settings["criterion"]
            counts, reached = self.planner.filters(
                filters, settings["tilt"], criterion, later
            )
            text = f"{sum(counts.values())} of {sum(filters.sizes.values())} channels"
            self._say_how_far("pruning", text, any(counts.values()), reached)
            done: Any = {name: count for name, count in counts.items() if count}
            return done, lambda: train_filters(
                model, counts, filters.sizes, criterion, lesson
            )
        if stage in SINGLE:
            sparsities, reached = self.planner.zeros(model, later)
            text = f"{_share(model, sparsities):.0%} of the kernels' weights"
            self._say_how_far("setting to zero", text, bool(sparsities), reached)
            train = train_weights if stage == "weights" else train_admm
            return sparsities, lambda: train(model, sparsities, lesson)
        pair, reached = self.planner.best_pair(model)
        text = f"{pair[0]} bits of a weight and {pair[1]} of an activation"
        self._say_how_far("multipliers that look at", text, True, reached)
        return list(pair), lambda: train_drum(model, pair, lesson)

    def _say_how_far(self, what: str, text: str, any_: bool, reached: bool) -> None:
        if not any_:
            self._say(f"  {what} nothing: the budget is met without it")
        else:
            self._say(
                f"  {what} {text}"
                + ("" if reached else "; even this does not meet the budget")
            )

    def _tried(
        self, trial: Trial, settings: Mapping[str, Any], model: keras.Model
    ) -> list[tuple[TrialResult, keras.Model, Path]]:
        """Files of the model: rounded after training, and while it trains on.

        The latter is made only on request, or where the former is not good enough.
        """
        place = self._trial_folder(trial.number)
        tried = []
        wrong = None
        if not self._learns_bits():
            file = place / f"rounded{Path(file_name(self.kind)).suffix}"
            try:
                self.meter.export(model, self.kind, file)
            except RuntimeError as error:
                wrong = error
            else:
                tried.append(
                    (self._measured(trial, settings, model, file), model, file)
                )
            good = tried and _known(tried[0][0].drop) <= self.options.max_drop
            if good or self.options.methods != "auto" or self.kind != "int8":
                if not tried:
                    assert wrong is not None
                    raise wrong
                return tried
            self._say("  the rounded file is not good enough: learning the rounding")
        keras.utils.set_random_seed(self.options.seed + trial.number)
        lesson = dataclasses.replace(
            self._lesson(trial, settings, place / "bits"),
            epochs=max(1, round(_BITS_EPOCHS * self.options.epochs)),
            rate_factor=settings["rate_factor"] * _BITS_RATE,
            # Its epochs cannot be compared with those of pruning.
            report=lambda epoch, value: False,
        )
        bits = 4 if self.kind == "int4" else 8
        learned = train_bits(
            model,
            bits,
            self.task.calibration(),
            lesson,
            keeps_zeros=any(name in SINGLE for name in self.stages),
        )
        file = place / "learned.tflite"
        self.meter.export(learned, self.kind, file)
        plain = finalize(learned)
        tried.append((self._measured(trial, settings, plain, file), plain, file))
        return tried

    def _lesson(
        self, trial: Trial, settings: Mapping[str, Any], folder: Path
    ) -> Lesson:
        options = self.options
        shown = ("loss", f"val_{self.metric.name}")
        told = [Progress(shown, every=30.0)] if self.verbose == 1 else []
        return Lesson(
            task=self.task,
            metric=self.metric,
            epochs=options.epochs,
            learning_rate=options.learning_rate,
            rate_factor=settings["rate_factor"],
            teacher=self.teacher,
            temperature=options.temperature,
            distillation=settings["distillation"],
            callbacks=[*self.callbacks, *told],
            folder=folder,
            report=lambda epoch, value: trial.report(epoch, self.metric.worth(value)),
            verbose=2 if self.verbose > 1 else 0,
        )

    def _measured(
        self,
        trial: Trial,
        settings: Mapping[str, Any],
        model: keras.Model,
        file: Path,
    ) -> TrialResult:
        figures = {
            **self.meter.model_figures(model, self.kind),
            **self.meter.file_figures(file),
        }
        quality = self.task.quality_of_file(copy_of(model), file)
        name = self.metric.name
        return TrialResult(
            trial.number,
            "done",
            settings,
            figures,
            quality,
            self.metric.drop(self.quality[name], quality[name]),
            self.meter.excess(figures, self.limits),
        )

    # The end -----------------------------------------------------------------

    def _best(self, results: Mapping[int, TrialResult]) -> TrialResult:
        """Within the budget the best; otherwise the nearest to it."""
        done = [result for result in results.values() if result.drop is not None]
        if not done:
            raise RuntimeError(
                "Training has diverged in every trial: the loss became NaN. Try a "
                "smaller learning_rate."
            )
        within = [result for result in done if result.in_budget]
        if within:
            return min(within, key=lambda r: (_known(r.drop), r.number))
        return min(done, key=lambda r: (_known(r.excess), _known(r.drop), r.number))

    def _finish(
        self, best: TrialResult, results: Mapping[int, TrialResult], keep: bool
    ) -> Compressed:
        place = self._trial_folder(best.number)
        model = self._model(best.number)
        report = functools.partial(_report, self.model, model, self.task, self.options)
        files: dict[str, Path] = {}
        if keep:
            files = {
                "model": self.folder / "model.keras",
                "file": self.folder / file_name(self.kind),
                "report": self.folder / "report.html",
                "plan": self.folder / "plan.toml",
            }
            for what in ("model", "file"):
                source = place / files[what].name
                write_atomic(files[what], source.read_bytes())
        result = Compressed(
            model=model,
            files=files,
            make_report=report,
            trials=tuple(results[number] for number in sorted(results)),
            best=best,
            offer=self.offer,
            budget=self.options.budget,
            limits=self.limits,
            metric=self.metric,
            original_quality=self.quality,
            max_drop=self.options.max_drop,
            kind=self.kind,
        )
        if keep:
            self._say("Comparing")
            result.report.save(files["report"])
            # Last: the command line adds how the data were read when this call returns,
            # and a plan without that would repeat another run.
            write_plan(files["plan"], self._plan())
        self._say(f"\n{result}")
        return result

    def _model(self, number: int) -> keras.Model:
        """The model of a trial, compiled as the original is."""
        if number in self.models:
            return self.models[number]
        model = load_model(self._trial_folder(number) / "model.keras")
        compile_as(model, self.model)
        return model

    # State on disk -------------------------------------------------------------

    def _trial_folder(self, number: int) -> Path:
        place = self.folder / "trials" / str(number)
        place.mkdir(parents=True, exist_ok=True)
        return place

    def _read_trials(self) -> dict[int, TrialResult]:
        file = self.folder / "trials.json"
        if not file.exists():
            return {}
        return {
            entry["number"]: TrialResult(**entry)
            for entry in json.loads(file.read_text())
        }

    def _write_trials(self, done: Mapping[int, TrialResult]) -> None:
        entries = [dataclasses.asdict(done[number]) for number in sorted(done)]
        write_atomic(self.folder / "trials.json", json.dumps(entries, indent=1))

    def check_same(self) -> None:
        """Raises if the folder holds another run."""
        file = self.folder / "run.json"
        own = self._identity()
        if not file.exists():
            # Such as the folder of the original, whose `model.keras` would be replaced.
            others = [name for name in _RESULTS if (self.folder / name).exists()]
            if others:
                raise ValueError(
                    "Invalid value for argument `out`. Expected an empty folder, or "
                    f"that of the same call. Received: out={str(self.folder)!r}, in "
                    f"which another {', another '.join(others)} would be replaced."
                )
            write_atomic(file, json.dumps(own, indent=1))
            return
        other = json.loads(file.read_text())
        different = [key for key in own if other.get(key) != own[key]]
        if different:
            raise ValueError(
                "Invalid value for argument `out`. Expected an empty folder, or that "
                f"of the same call. Received: out={str(self.folder)!r}, whose run has "
                f"another {', another '.join(different)}."
            )

    def _identity(self) -> dict[str, str]:
        """What makes this run, and not another."""
        weights = hashlib.sha256()
        for variable in self.given.weights:
            weights.update(np.ascontiguousarray(variable.numpy()).tobytes())
        # Also the name of the study: processes that share a storage and differ in
        # anything else than the number of trials do not mix their results.
        plan = self._plan()
        plan.pop("trials")  # more of them are the same search
        return {
            "model": _digest([_architecture(self.given), weights.hexdigest()]),
            "data": self.task.fingerprint(),
            **{key: json.dumps(value) for key, value in plan.items()},
        }

    def _plan(self) -> dict[str, Any]:
        plan = dataclasses.asdict(self.options)
        plan["budget"] = self.options.budget.get_config()
        plan["methods"] = (
            "auto" if self.options.methods == "auto" else list(self.options.methods)
        )
        return plan

    # Words -----------------------------------------------------------------------

    def _say(self, text: str) -> None:
        if self.verbose:
            print(text, flush=True)

    def _offer_text(self) -> str:
        lines = [f"  original: {_figures_text(self.offer.original)}"]
        for saving in self.offer.savings:
            if saving.figures:
                text = f"down to {_figures_text(saving.figures)}"
                if saving.note:
                    text += f" ({saving.note})"
            else:
                text = f"cannot be used: {saving.note}"
            lines.append(f"  {saving.method}: {text}")
        return "\n".join(lines)


# What a run leaves in its folder, beside the plan, which may have come from there.
_RESULTS = ("model.keras", "model.tflite", "model.tfcz", "report.html", "trials.json")


# On other machines -----------------------------------------------------------------

# What a run finds out before its trials.
_FOUND = ("quality", "metric", "offer", "kind", "limits", "stages")


@dataclasses.dataclass(frozen=True)
class _Job:
    """All that a trial needs on another machine."""

    model: bytes
    teacher: bytes | bool  # another model, or whether it is the original
    task: Task
    options: _Options
    callbacks: list[keras.callbacks.Callback]
    found: Mapping[str, Any]


def _on_ray(
    job: _Job, number: int, settings: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """One trial, in a folder that goes when it has ended."""
    teacher: Any = "self" if job.teacher is True else None
    if isinstance(job.teacher, bytes):
        teacher = from_bytes(job.teacher)
    with tempfile.TemporaryDirectory() as folder:
        run = _Run(
            from_bytes(job.model),
            job.task,
            job.options,
            teacher,
            job.callbacks,
            Path(folder),
            verbose=0,
        )
        for name, value in job.found.items():
            setattr(run, name, value)
        run.planner = run._planner()
        result = run._run_trial(Alone(number, settings))
        place = run._trial_folder(number)
        names = ("model.keras", file_name(run.kind)) if result.drop is not None else ()
        return (
            dataclasses.asdict(result),
            {name: (place / name).read_bytes() for name in names},
        )


def _report(
    original: keras.Model, compressed: keras.Model, task: Task, options: _Options
) -> reports.Report:
    models = {"original": original, "compressed": compressed}
    arguments: dict[str, Any] = {
        "calibration": task.calibration(),
        "hardware": options.hardware,
        "products": options.products,
        "title": f"{original.name} within a budget",
        "provenance": {"seed": options.seed},
        "tolerance": options.max_drop,
        "verbose": 0,
    }
    if options.budget.target not in (None, HERE):
        arguments["targets"] = [options.budget.target]
    data = task.validation
    if isinstance(data, tuple):
        data = data[:2]
    return reports.compare(models, data=data, **arguments)


def _figures_text(figures: Mapping[str, float]) -> str:
    return ", ".join(
        f"{name} {FIGURES[name].show(value)}" for name, value in figures.items()
    )


def _settings_text(settings: Mapping[str, Any]) -> str:
    shown = ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in settings.items()
    )
    return f": {shown}" if shown else ""


def _as_offered(method: str) -> str:
    """Whichever way single weights are found, they save the same."""
    return "weights" if method in SINGLE else method


def _share(model: keras.Model, sparsities: Mapping[str, float]) -> float:
    """The share of all kernel weights that is to be zero."""
    sizes = {
        name: sum(math.prod(kernel.shape) for kernel in own)
        for name, own in policy.select_kernels(model).items()
    }
    zeros = sum(sparsities.get(name, 0.0) * size for name, size in sizes.items())
    return zeros / sum(sizes.values())


def _known(value: float | None) -> float:
    return np.inf if value is None else value


def _architecture(model: keras.Model) -> Any:
    """The configuration of a compiled model, without names that are counted.

    Keras calls the second Adam of a process "adam_1". A program that trains and then
    compresses has another count when it is run again and only compresses.
    """
    config = json.loads(model.to_json())
    optimizers = [config.get("compile_config", {}).get("optimizer")]
    for optimizer in optimizers:
        if isinstance(optimizer, dict):
            optimizer.pop("name", None)
            optimizers += optimizer.values()
    return config


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


@contextlib.contextmanager
def _folder(out: Any) -> Iterator[Path]:
    """The folder of the run, which this process alone has."""
    if out is None:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
    else:
        with lock(out, argument="out") as folder:
            yield folder


# Arguments ---------------------------------------------------------------------


def _check_model(model: Any) -> None:
    """Raises unless a model can be compressed, before any work."""
    # Models of KerasHub prepare data in a `fit` of their own; their steps are Keras'.
    require_editable(model, around=False)
    if not model.compiled:
        raise ValueError(
            "Invalid value for argument `model`. Expected a compiled model, whose "
            f"loss, optimizer and metrics are used. Received: {model!r}; call "
            "model.compile first."
        )
    try:  # before hours of training
        keras.saving.serialize_keras_object(model)
    except Exception as error:  # whatever a layer's or a schedule's get_config raises
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            "Invalid value for argument `model`. Expected a model that Keras can save, "
            f"as its best epochs are. Received: {model!r} ({reason})"
        ) from error


def checked_options(**given: Any) -> _Options:
    """What decides the result beside model and data, or an error before any work.

    Args:
        **given: arguments of `compress` by name; the others are its defaults.

    Raises:
        TypeError, ValueError, ImportError: as `compress` does.
    """
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(compress).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    given = {**defaults, **given}
    budget = given["budget"]
    if isinstance(budget, Mapping):
        budget = Budget.from_config(budget)
    if not isinstance(budget, Budget):
        raise TypeError(invalid("budget", "a tfcompress.Budget", budget))
    if budget.target is not None:
        require_tool(resolve(budget.target).target)
    rate = given["learning_rate"]
    rate = None if rate is None else positive("learning_rate", rate)
    temperature = number("temperature", given["temperature"])
    if not temperature > 0:
        raise ValueError(invalid("temperature", "a positive number", temperature))
    from tfcompress import criteria

    if not isinstance(given["criterion"], str):  # which a plan can hold
        expected = "the name of a criterion"
        raise TypeError(invalid("criterion", expected, given["criterion"]))
    criteria.get(given["criterion"])
    cost.profile(given["hardware"])
    products = one_of("products", given["products"], PRODUCTS)
    if products != "computed" and "energy" not in budget.limited:
        raise ValueError(
            "Invalid value for argument `products`. Expected 'computed' for a budget "
            f"that does not limit the energy. Received: products={products!r}"
        )
    options = _Options(
        budget=budget,
        max_drop=number("max_drop", given["max_drop"]),
        methods=check_methods(given["methods"]),
        epochs=whole("epochs", given["epochs"]),
        learning_rate=rate,
        batch_size=whole("batch_size", given["batch_size"]),
        monitor=given["monitor"],
        criterion=given["criterion"],
        spread=one_of("spread", given["spread"], ("sensitivity", "uniform")),
        temperature=temperature,
        distillation=fraction("distillation", given["distillation"], zero=True),
        trials=whole("trials", given["trials"]),
        hardware=os.fspath(given["hardware"]),
        products=products,
        seed=whole("seed", given["seed"], 0),
    )
    if options.trials > 1:
        require_optuna()
    if one_of("engine", given["engine"], ("local", "ray")) == "ray":
        if options.trials == 1:
            raise ValueError(
                "Invalid value for argument `trials`. Expected at least 2 with "
                "engine='ray'. Received: trials=1"
            )
        require_ray()
    return options


def _check_arrays(**given: Any) -> None:
    """Raises unless data can be sent to other machines."""
    for name, data in given.items():
        if data is not None and not isinstance(data, tuple):
            raise TypeError(
                invalid(name, "arrays, which can be sent, with engine='ray'", data)
            )


def _check_teacher(model: keras.Model, teacher: Any) -> None:
    if teacher is None or (isinstance(teacher, str) and teacher == "self"):
        return
    if not isinstance(teacher, keras.Model):
        raise TypeError(invalid("teacher", "'self', a keras.Model or None", teacher))
    require_graph(teacher, "teacher")
    shapes = [
        [tuple(tensor.shape[1:]) for tensor in (*m.inputs, *m.outputs)]
        for m in (model, teacher)
    ]
    if shapes[0] != shapes[1]:
        raise ValueError(
            "Invalid value for argument `teacher`. Expected a model with the inputs "
            f"and outputs {shapes[0]}. Received: {shapes[1]}"
        )
