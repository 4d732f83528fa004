"""Pruning and quantization by ADMM, phase after phase."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import keras
import numpy as np
from keras import ops

from tfcompress import _made, schedules, structure
from tfcompress._checks import positive, whole
from tfcompress.callbacks import ADMM, HoldWeights
from tfcompress.constraints import Combined, Constraint, Levels
from tfcompress.policy import by_full_name, named_layers, select_kernels
from tfcompress.structure._graph import require_editable, scope_of
from tfcompress.training._backup import Backup, Saved, owned
from tfcompress.training._run import Run, progress, restore_progress, scalars
from tfcompress.training._stream import Stream

__all__ = [
    "AdmmPhase",
    "AdmmResult",
    "AdmmStage",
    "admm_compress",
    "fix_levels",
    "hard_prune",
]

_Constraints = Constraint | Mapping[str, Constraint]


@dataclass(frozen=True)
class AdmmPhase:
    """One turn of ADMM training, projection and retraining.

    Args:
        constraints: what the weights are to satisfy, for all kernels or by layer.
            With `Levels` this is a quantization phase: after the projection, the
            kernels named here keep their values, and the rest retrains.
            Otherwise the zeros stay zero, and everything else retrains.
        admm_epochs: epochs of training with the ADMM penalty, at a constant
            learning rate.
        retrain_epochs: epochs after the projection; the learning rate falls to
            zero along a cosine. Defaults to 0.
        rho: penalty: a number, or a `Schedule` of the number of updates.
            Defaults to 3e-3.
        update_every: epochs between updates of Z and U. Defaults to 1.
        learning_rate: during ADMM. Defaults to `None`: that of the compiled
            optimizer.
        retrain_learning_rate: at the beginning of retraining. Defaults to
            `None`: as `learning_rate`.
        exclude: layers to leave alone. Defaults to `()`.
    """

    constraints: _Constraints
    admm_epochs: int
    retrain_epochs: int = 0
    rho: schedules.Schedule | float = 3e-3
    update_every: int = 1
    learning_rate: float | None = None
    retrain_learning_rate: float | None = None
    exclude: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name in ("admm_epochs", "retrain_epochs"):
            whole(name, getattr(self, name), least=0)
        for name in ("learning_rate", "retrain_learning_rate"):
            value = getattr(self, name)
            if value is not None:
                positive(name, value)
        # Raises what is wrong with the other arguments.
        self._callback()

    @property
    def quantizes(self) -> bool:
        """Whether the constraints put weights on levels."""
        given = self.constraints
        parts = given.values() if isinstance(given, Mapping) else [given]
        return any(
            isinstance(p, Levels)
            or (isinstance(p, Combined) and isinstance(p.constraints[-1], Levels))
            for p in parts
        )

    def _callback(self) -> ADMM:
        return ADMM(
            self.constraints,
            rho=self.rho,
            update_every=self.update_every,
            exclude=self.exclude,
        )


@dataclass(frozen=True)
class AdmmStage:
    """What one stage of `admm_compress` did.

    Attributes:
        phase: number of the phase in the plan, from 0.
        name: `"admm"` or `"retrain"`.
        history: the logs of its epochs, as in a Keras `History`.
        nonzero: kernel weights that are not zero after it; after `"admm"`, those
            that the projection left.
        kernel_weights: kernel weights of the model after it.
    """

    phase: int
    name: str
    history: dict[str, list[float]]
    nonzero: int
    kernel_weights: int


@dataclass(frozen=True)
class AdmmResult:
    """The outcome of `admm_compress`.

    Attributes:
        model: the compressed model, compiled.
        weights: kernel weights of the model at the beginning.
        stages: what was done, in order.
    """

    model: keras.Model
    weights: int
    stages: tuple[AdmmStage, ...] = field(default=())

    @property
    def nonzero(self) -> int:
        """Kernel weights that are not zero."""
        return _count(self.model)[0]

    @property
    def pruning_ratio(self) -> float:
        """Kernel weights at the beginning, divided by the non-zero ones now."""
        return self.weights / self.nonzero

    def __str__(self) -> str:
        lines = [f"{'phase':<7}{'stage':<9}{'epochs':>6}{'non-zero':>12}{'ratio':>9}  "]
        for stage in self.stages:
            last = {k: v[-1] for k, v in stage.history.items() if v and "/" not in k}
            logs = "  ".join(f"{name} {value:.4g}" for name, value in last.items())
            epochs = max(map(len, stage.history.values()), default=0)
            lines.append(
                f"{stage.phase:<7}{stage.name:<9}{epochs:>6}{stage.nonzero:>12}"
                f"{self.weights / stage.nonzero:>8.1f}×  {logs}"
            )
        return "\n".join(line.rstrip() for line in lines)


def hard_prune(
    model: keras.Model,
    constraints: _Constraints,
    layers: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
) -> dict[str, int]:
    """Projects kernels onto their constraints, in place.

    This is the step after ADMM training (ADMM-NN, Figure 2): the weights are near
    the set by then, and are now put into it.

    Example:

    ```python
    tfc.training.hard_prune(model, tfc.constraints.Cardinality(fraction=0.05))
    ```

    Args:
        model: a built Keras model. Its kernels are changed.
        constraints: a `Constraint`, or a dict of them by layer.
        layers: names of the layers to project, where one constraint is given;
            `None` for all that have kernels. Defaults to `None`.
        exclude: names of layers to leave alone. Defaults to `()`.

    Returns:
        The number of non-zero weights that are left, by layer.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if a name is unknown, or a kernel holds NaN or infinity.
    """
    # The callback checks its arguments, and knows which constraint is whose.
    callback = ADMM(constraints, layers=layers, exclude=exclude)
    given, names, argument = callback.constraints, layers, "layers"
    if isinstance(given, dict):
        argument = "constraints"
        given = by_full_name(given, named_layers(model), argument)
        names = tuple(given)
    selected = select_kernels(model, names, exclude, argument)
    pairs = [(name, kernel) for name, own in selected.items() for kernel in own]
    _check_finite(pairs)
    # One projection for each joint constraint, whose kernels compete with each other,
    # and one for each kernel otherwise.
    joint: dict[Any, tuple[Constraint, list[keras.Variable]]] = {}
    for name, kernel in pairs:
        constraint = given[name] if isinstance(given, dict) else given
        key = constraint if constraint.joint else id(kernel)
        joint.setdefault(key, (constraint, []))[1].append(kernel)
    for constraint, kernels in joint.values():
        projected = constraint.project_jointly([_numpy(kernel) for kernel in kernels])
        for kernel, values in zip(kernels, projected, strict=True):
            kernel.assign(values)
    return {
        name: sum(int(np.count_nonzero(_numpy(kernel))) for kernel in own)
        for name, own in selected.items()
    }


def _check_finite(kernels: Sequence[tuple[str, keras.Variable]]) -> None:
    for name, kernel in kernels:
        if not np.isfinite(_numpy(kernel)).all():
            raise ValueError(
                "Invalid value for argument `model`. Expected finite weights. "
                f"Received: NaN or infinity in the kernel of {name!r}: training has "
                "diverged, try a lower learning rate"
            )


def fix_levels(
    model: keras.Model,
    bits: int | Mapping[str, int],
    exclude: Sequence[str] = (),
) -> dict[str, int]:
    """Puts the non-zero kernel weights on equidistant levels, in place.

    Example:

    ```python
    tfc.training.fix_levels(model, {"conv1": 3, "conv2": 3, "fc1": 2})
    ```

    Args:
        model: a built Keras model. Its kernels are changed.
        bits: bits of a level code, for all kernels or by layer.
        exclude: names of layers to leave alone. Defaults to `()`.

    Returns:
        The number of non-zero weights, by layer.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if a name is unknown or a width out of range.
    """
    if isinstance(bits, Mapping):
        return hard_prune(model, {k: Levels(v) for k, v in bits.items()}, None, exclude)
    return hard_prune(model, Levels(bits), None, exclude)


def admm_compress(
    model: keras.Model,
    plan: Sequence[AdmmPhase],
    x: Any = None,
    y: Any = None,
    *,
    shrink: bool = False,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    backup_dir: str | os.PathLike[str] | None = None,
    keep_backup: bool = False,
    **fit_arguments: Any,
) -> AdmmResult:
    """Runs a plan of ADMM phases: prune, retrain, and so on, then quantize.

    Each phase trains with the ADMM penalty, projects the weights onto the
    constraints and retrains what is free. Weights that are zero when a phase
    begins stay zero. Several pruning phases with falling counts reach higher
    ratios than one, and quantization comes last (ADMM-NN, section 3.3 and
    Figure 2). All of it is also available piece by piece: `callbacks.ADMM`,
    `hard_prune`, `fix_levels`, `callbacks.HoldWeights`.

    With `shrink`, channels that no weight feeds or reads any more are zeroed
    after each projection, with their biases and normalizations, and removed, so
    that training goes on with a smaller and faster model. Fractions in later
    phases then refer to the layers as they are by then; counts do not change.

    Example:

    ```python
    keep = tfc.constraints.Cardinality
    plan = [
        tfc.training.AdmmPhase(keep(fraction=0.1), admm_epochs=5, retrain_epochs=5),
        tfc.training.AdmmPhase(keep(fraction=0.02), admm_epochs=5, retrain_epochs=5),
        tfc.training.AdmmPhase(tfc.constraints.Levels(3), 5, retrain_epochs=2),
    ]
    result = tfc.training.admm_compress(model, plan, x, y, batch_size=128)
    print(result)
    ```

    Args:
        model: a compiled Functional or Sequential model whose optimizer has a plain
            learning rate. It is not modified.
        plan: the phases, at least one.
        x: training data as for `fit`. Defaults to `None`.
        y: labels as for `fit`. Defaults to `None`.
        shrink: whether to remove dead channels after each projection. Defaults to
            `False`.
        callbacks: further callbacks, for every stage. Defaults to `()`.
        backup_dir: folder for model and state of the run, after every epoch. A run
            that finds them there goes on as if it had not been interrupted, see
            `fit_shrinking`. One run at a time may use the folder. Defaults to
            `None`: no backup.
        keep_backup: whether a run that is complete leaves its backup; the same call
            then returns at once what it returned. Save the result first and delete
            the folder afterwards. Defaults to `False`: it is deleted.
        **fit_arguments: anything else that `fit` takes, except epochs.

    Returns:
        An `AdmmResult` with the model and what each stage did.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if the model is subclassed or not compiled, its learning rate
            is a schedule, the plan is empty, names a layer that does not exist, or
            prunes after it has quantized, `fit_arguments` set epochs, there are no
            data, training has diverged, or `backup_dir` holds the backup of another
            plan or another run uses it.
    """
    plan = _checked_plan(plan)
    _check(model, plan, fit_arguments)
    arguments = dict(fit_arguments)
    verbose = arguments.pop("verbose", "auto")
    with owned(backup_dir):
        backup = None if backup_dir is None else Backup(backup_dir)
        saved = backup.load(model) if backup else None
        work = _Work.begun(model, plan) if saved is None else _Work.resumed(saved, plan)
        data = Stream(x, y, arguments, work.open.get("data"))
        restore_progress(callbacks, work.open.get("progress"))
        for number, phase in enumerate(plan):
            for name in ("admm", "retrain"):
                if work.is_done(number, name):
                    continue
                # Each phase is a run with the ADMM penalty, the projection, and a run
                # in which what the projection has fixed is held. A backup says which
                # stages are done, and holds the state of the one that is open.
                training = _stage_training(name, phase, work.rate)
                run = Run(
                    work.model,
                    data,
                    epochs=phase.admm_epochs
                    if name == "admm"
                    else phase.retrain_epochs,
                    initial_epoch=0,
                    callbacks=[*training, *callbacks],
                    verbose=verbose,
                    state=work.open.get("run"),
                )
                while run.goes_on:
                    run.train_epoch()
                    # A stage that is complete is saved below, once it has ended.
                    if backup and run.goes_on:
                        work.open = {"run": run.state(), "data": data.state()}
                        backup.save(work.model, work.state())
                run.end()
                if name == "admm":
                    hard_prune(work.model, phase.constraints, exclude=phase.exclude)
                    if shrink and not phase.quantizes:
                        work.model = _without_dead_channels(work.model)
                work.finish(number, name, run.history.history, data, callbacks)
                if name == "retrain":
                    work.note(number, phase, shrink)
                if backup:
                    backup.save(work.model, work.state())
        work.model.optimizer.learning_rate = work.rate
        if backup and not keep_backup:
            backup.delete()
    return AdmmResult(work.model, work.weights, tuple(work.stages))


@dataclass
class _Work:
    """How far a plan is done.

    Attributes:
        model: the present model.
        plan: the phases, as text.
        weights: kernel weights at the beginning.
        rate: learning rate at the beginning.
        stages: the stages that are done.
        open: the states of the data, and of the run of the stage that is open; between
            two stages, what callbacks know of the epochs before.
    """

    model: keras.Model
    plan: list[str]
    weights: int
    rate: float
    stages: list[AdmmStage] = field(default_factory=list)
    open: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def begun(cls, model: keras.Model, plan: Sequence[AdmmPhase]) -> Self:
        """Nothing is done; the model is copied."""
        with scope_of(model):
            copy = structure.resize(model, {}, verify=False)
        rate = float(ops.convert_to_numpy(model.optimizer.learning_rate))
        return cls(copy, [repr(phase) for phase in plan], _count(model)[1], rate)

    @classmethod
    def resumed(cls, saved: Saved, plan: Sequence[AdmmPhase]) -> Self:
        """What a backup says."""
        state = saved.state
        if state["plan"] != [repr(phase) for phase in plan]:
            raise ValueError(
                "Invalid value for argument `backup_dir`. Expected the backup of a run "
                f"of the same plan. Received: one of the plan {state['plan']}"
            )
        stages = [AdmmStage(**stage) for stage in state["stages"]]
        return cls(saved.model, **{**state, "stages": stages})

    def state(self) -> dict[str, Any]:
        """What `resumed` reads."""
        return {
            "plan": self.plan,
            "weights": self.weights,
            "rate": self.rate,
            "stages": [dataclasses.asdict(stage) for stage in self.stages],
            "open": self.open,
        }

    def is_done(self, phase: int, name: str) -> bool:
        """Whether a stage is done."""
        return any((done.phase, done.name) == (phase, name) for done in self.stages)

    def finish(
        self,
        phase: int,
        name: str,
        history: Mapping[str, list[float]],
        data: Stream,
        callbacks: Sequence[Any],
    ) -> None:
        """Notes that a stage is done."""
        nonzero, weights = _count(self.model)
        plain = {key: scalars(values) for key, values in history.items()}
        self.stages.append(AdmmStage(phase, name, plain, nonzero, weights))
        self.open = {"data": data.state(), "progress": progress(callbacks)}

    def note(self, number: int, phase: AdmmPhase, shrink: bool) -> None:
        """Notes in the model that it went through a phase."""
        config = phase._callback().get_config()
        for rate in ("learning_rate", "retrain_learning_rate"):
            config[rate] = getattr(phase, rate)
        admm, retrain = (
            max(map(len, stage.history.values()), default=0)
            for stage in self.stages
            if stage.phase == number
        )
        _made.note(
            self.model,
            "admm_compress",
            config=config,
            phase=number + 1,
            epochs=admm + retrain,
            retraining=retrain,
            shrink=shrink and not phase.quantizes,
        )


class _LearningRate(keras.callbacks.Callback):
    """A constant learning rate, or one that falls to zero along a cosine."""

    def __init__(self, rate: float, falls: bool) -> None:
        super().__init__()
        self.rate = rate
        self.falls = falls

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._epoch = epoch
        self._set(0.0)

    def on_train_batch_begin(
        self, batch: int, logs: dict[str, Any] | None = None
    ) -> None:
        steps = self.params.get("steps")
        if self.falls and steps:
            self._set(batch / steps)

    def _set(self, fraction: float) -> None:
        progress = min(1.0, (self._epoch + fraction) / self.params["epochs"])
        factor = 0.5 * (1 + math.cos(math.pi * progress)) if self.falls else 1.0
        self.model.optimizer.learning_rate = self.rate * factor


def _stage_training(
    name: str, phase: AdmmPhase, rate: float
) -> list[keras.callbacks.Callback]:
    """The callbacks that make a run this stage."""
    rate = phase.learning_rate or rate
    methods: list[ADMM | HoldWeights] = [HoldWeights("zeros")]
    if name == "admm":
        methods.append(phase._callback())
    elif phase.quantizes:
        given = phase.constraints
        layers = tuple(given) if isinstance(given, Mapping) else None
        methods.append(HoldWeights("values", layers, phase.exclude))
    for method in methods:
        method.leaves_record = False  # the phase leaves one for all of them
    falls = name == "retrain"
    rate = (phase.retrain_learning_rate or rate) if falls else rate
    return [_LearningRate(rate, falls=falls), *methods]


def _without_dead_channels(model: keras.Model) -> keras.Model:
    """The model without the channels that no weight feeds, or that none reads."""
    # Silencing a channel zeroes weights that fed or read other channels, and these may
    # be dead after that. So there are rounds until nothing changes. With a generator in
    # the place of the list, `any` would end a round at the first group that has
    # changed.
    groups = structure.channel_groups(model)
    while any([_silence(group) for group in groups if group.prunable]):
        pass
    with scope_of(model):
        return structure.shrink(model)


def _silence(group: Any) -> bool:
    """Zeroes the dead channels of a group; returns whether any weight changed.

    A channel without inputs is constant, its bias. It is given up as well: the
    next layer's bias learns what it contributed.
    """
    # Left alone are channels in which other variables take part, such as those of
    # recurrent and depthwise layers.
    roles = {member.role for member in group.members}
    if not roles <= {"kernel", "bias", "scale", "offset", "mean", "variance", "input"}:
        return False
    alive = {"kernel": np.zeros(group.size, bool), "input": np.zeros(group.size, bool)}
    for member in group.members:
        if member.role in alive:
            values = np.moveaxis(_numpy(member.variable), member.axis, 0)
            used = np.any(values != 0, axis=tuple(range(1, values.ndim)))
            known = member.channels >= 0
            alive[member.role][member.channels[known & used]] = True
    living = alive["kernel"] & alive["input"]
    if not living.any():
        # A group that is dead altogether cannot be removed.
        return False
    changed = False
    for member in group.members:
        if not (member.zero or member.role == "input"):
            continue
        gone = (member.channels >= 0) & ~living[member.channels]
        values = _numpy(member.variable)
        shape = [1] * values.ndim
        shape[member.axis] = gone.size
        kept = np.where(gone.reshape(shape), 0, values)
        if np.any(kept != values):
            member.variable.assign(kept)
            changed = True
    return changed


def _count(model: keras.Model) -> tuple[int, int]:
    """Non-zero and all kernel weights."""
    kernels = [k for own in select_kernels(model).values() for k in own]
    nonzero = sum(int(np.count_nonzero(_numpy(kernel))) for kernel in kernels)
    return nonzero, sum(math.prod(kernel.shape) for kernel in kernels)


def _numpy(variable: keras.Variable) -> np.ndarray:
    """The values, of narrow floats as float32: sums of their squares overflow."""
    values = np.asarray(ops.convert_to_numpy(variable))
    narrow = variable.dtype in ("float16", "bfloat16")
    return values.astype("float32") if narrow else values


def _checked_plan(plan: Any) -> list[AdmmPhase]:
    if isinstance(plan, AdmmPhase) or not all(isinstance(p, AdmmPhase) for p in plan):
        raise TypeError(
            "Invalid value for argument `plan`. Expected a list of `AdmmPhase`. "
            f"Received: plan={plan!r}"
        )
    if not plan:
        raise ValueError(
            "Invalid value for argument `plan`. Expected at least one phase. Received: "
            f"plan={plan!r}"
        )
    quantizes = [phase.quantizes for phase in plan]
    if quantizes != sorted(quantizes):
        raise ValueError(
            "Invalid value for argument `plan`. Expected pruning phases before phases "
            "with `Levels`: pruned weights would leave their levels. Received: "
            f"plan={plan!r}"
        )
    return list(plan)


def _check(
    model: keras.Model, plan: Sequence[AdmmPhase], fit_arguments: Mapping[str, Any]
) -> None:
    if not isinstance(model, keras.Model):
        raise TypeError(
            "Invalid value for argument `model`. Expected a `keras.Model`. Received: "
            f"{type(model).__name__}"
        )
    require_editable(model)
    if not model.compiled or not model.built:
        raise ValueError(
            "Invalid value for argument `model`. Expected a built and compiled model. "
            f"Received: {model!r}; call model.compile first."
        )
    for name in ("epochs", "initial_epoch"):
        if name in fit_arguments:
            raise ValueError(
                f"Invalid value for argument `{name}`. Expected none: the phases of "
                f"the plan set the epochs. Received: {name}={fit_arguments[name]!r}"
            )
    for phase in plan:
        given = phase.constraints
        if isinstance(given, Mapping):
            select_kernels(model, tuple(given), phase.exclude, "constraints")
        else:
            select_kernels(model, None, phase.exclude)
    try:
        model.optimizer.learning_rate = model.optimizer.learning_rate
    except TypeError as error:
        raise ValueError(
            "Invalid value for argument `model`. Expected an optimizer with a plain "
            "learning rate, which the phases can change. Received: an optimizer with "
            "a LearningRateSchedule"
        ) from error
