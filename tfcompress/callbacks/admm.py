"""Training toward a constraint by the alternating direction method of multipliers."""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import keras
import numpy as np
from keras import ops

from tfcompress import _processes, policy, schedules
from tfcompress._checks import name_list, one_of, whole
from tfcompress._files import check_writable
from tfcompress.callbacks._method import Method, diverged
from tfcompress.callbacks._state import StepState, retrace
from tfcompress.constraints import Constraint

__all__ = ["ADMM"]


@keras.saving.register_keras_serializable(package="tfcompress")
class ADMM(Method):
    r"""Pulls kernels toward constraints while the model trains.

    ADMM-NN (Ren et al., ASPLOS 2019) writes "minimize the loss with every kernel
    W in a set S" as two problems that take turns. Between updates the model
    trains on its loss plus, for each kernel (equation 5),

    $$\frac{\rho}{2} \lVert W - Z + U \rVert^2$$

    and an update sets (equation 7)

    $$Z \leftarrow \Pi_S(W + U), \qquad U \leftarrow U + W - Z$$

    At the start Z is the projection of W, and U is zero. W comes close to S but
    does not lie in it: project it afterwards (`training.hard_prune`,
    `training.fix_levels`) and retrain under `callbacks.HoldWeights`. Biases and
    normalizations are free throughout. Where rho changes, U is rescaled so that
    the multiplier rho·U stays what it was.

    The penalty is part of the compiled step, through the kernels' regularizers;
    a regularizer that a kernel has stays in force beside it. The reported loss
    includes the penalty, also in validation. A further `fit` with the same
    callback and model goes on with Z and U as they are.

    At the end of an epoch these enter the logs, for all kernels together and
    for each layer by name:

    * `admm_primal`, `admm_primal/<layer>`: ‖W − Z‖ / ‖W‖, how far the weights
      are from the set;
    * `admm_dual`, `admm_dual/<layer>`: ‖Z − Z_before‖ / ‖W‖, how much the
      target still moves.

    With `state_path` an interrupted run can go on: Z and U are stored there
    after every update, and the state that fits the restored weights is taken up
    by the next `fit` with `keras.callbacks.BackupAndRestore` among the
    callbacks. The file goes away when training ends normally.

    Example:

    ```python
    admm = tfc.callbacks.ADMM(tfc.constraints.Cardinality(fraction=0.05))
    model.fit(x, y, epochs=10, callbacks=[admm])
    tfc.training.hard_prune(model, admm.constraints)
    model.fit(x, y, epochs=5, callbacks=[tfc.callbacks.HoldWeights("zeros")])
    ```

    Args:
        constraints: a `Constraint` for all kernels, or a dict from the names of
            layers to constraints. A constraint for the whole network
            (`Cardinality(..., scope="network")`) couples all layers that it is
            given for.
        rho: weight of the penalty: a number, or a `Schedule` of the number of
            updates done so far. Defaults to `3e-3`, the paper's value.
        update_every: epochs or steps between two updates of Z and U. Defaults to
            `1`.
        unit: what `update_every` counts, `"epoch"` or `"step"` (optimizer
            updates). Defaults to `"epoch"`.
        layers: names of the layers to constrain; `None` for all that have
            kernels. Not with a dict. Defaults to `None`.
        exclude: names of layers to leave alone. Defaults to `()`.
        state_path: file ending in `.npz` for the state of a run that may be
            interrupted. Defaults to `None`: no file.
        target: the part of the model to work on; see `Method`. Defaults to `None`.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if an argument has a value out of range. When training
            begins: if a name is unknown, or `state_path` holds the state of a
            training run with other kernels, or of later steps than the model's.
    """

    _selects = True
    _adds_to_loss = True

    def __init__(
        self,
        constraints: Constraint | Mapping[str, Constraint],
        rho: schedules.Schedule | float = 3e-3,
        update_every: int = 1,
        unit: str = "epoch",
        layers: Sequence[str] | None = None,
        exclude: Sequence[str] = (),
        state_path: str | os.PathLike[str] | None = None,
        *,
        target: keras.Model | str | None = None,
    ) -> None:
        super().__init__(layers=layers, exclude=exclude, target=target)
        self.constraints = _constraints(constraints)
        self.rho = _rho(rho)
        self.update_every = whole("update_every", update_every)
        self.unit = one_of("unit", unit, ("epoch", "step"))
        if isinstance(self.constraints, dict) and layers is not None:
            raise ValueError(
                "Invalid value for argument `layers`. Expected None where "
                f"`constraints` names the layers. Received: layers={layers!r}"
            )
        self.state_path = (
            None
            if state_path is None
            else check_writable(state_path, argument="state_path", suffixes=(".npz",))
        )
        self._given: dict[str, Constraint] | None = None
        self._kernels: list[_Kernel] = []
        self._state: StepState | None = None
        self._known: keras.Model | None = None
        self._optimizer: keras.optimizers.Optimizer | None = None  # when it was known
        self._updates = 0
        self._last_update = 0
        self._dual: dict[str, float] = {}

    # The life of a run -------------------------------------------------------

    def _prepare(self) -> None:
        names, argument = self.layers, "layers"
        self._given = None
        if isinstance(self.constraints, dict):
            known, argument = policy.named_layers(self.network), "constraints"
            self._given = policy.by_full_name(self.constraints, known, argument)
            names = tuple(self._given)
        self._selected = policy.select_kernels(
            self.network, names, self.exclude, argument
        )

    def _attach(self) -> None:
        # Weights of an earlier step, from a backup, need the state of that step.
        again = self._optimizer is not self.model.optimizer and not self.updates_done
        if self._known is self.model and again:
            # A model that is compiled again counts from zero, but is no older.
            self._last_update = 0
        elif self._known is not self.model or self.updates_done < self._last_update:
            self._begin()
        self._optimizer = self.model.optimizer
        self._penalize()

    def _penalize(self) -> None:
        # ‖W - Z + U‖² needs Z and U only as the difference Z - U: one variable for each
        # kernel joins the compiled step, and Z and U stay on the host.
        self._state = state = StepState(self.model)
        self._rho = state.for_loss(self.rho(self._updates), "float32", "rho")
        for kernel in self._kernels:
            own = kernel.variable.regularizer
            kernel.target = state.for_loss(
                kernel.auxiliary - kernel.dual, kernel.variable.dtype, "admm_target"
            )
            kernel.variable.regularizer = _Penalty(self._rho, kernel.target, own)
        retrace(self.model)

    def _begin_epoch(self, epoch: int) -> None:
        # A backup that was made at the end of an epoch, before the update.
        if self.unit == "epoch" and epoch % self.update_every == 0:
            self._update_if_older()

    def _begin_batch(self, batch: int) -> None:
        """Nothing changes before a step."""

    def on_train_batch_end(
        self, batch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Updates Z and U, if `unit` is "step"."""
        # Several steps may have run since the last look.
        if self.unit == "step" and (
            self.updates_done - self._last_update >= self.update_every
        ):
            with self._guarded():
                self._update()

    def _end_epoch(self, epoch: int) -> None:
        if self.unit == "epoch" and (epoch + 1) % self.update_every == 0:
            self._update_if_older()

    def _logs(self) -> dict[str, float]:
        return self.residuals()

    def _unreached(self) -> str | None:
        self._step = self._updates  # which rho is a schedule of
        return super()._unreached()

    def _schedules(self) -> Iterable[schedules.Schedule]:
        return (self.rho,)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Gives the kernels their own regularizers back."""
        if self._restored:
            # The run was complete when it was restored. A further one goes on with its
            # Z and U.
            self._begin()
        super().on_train_end(logs)
        if self.state_path is not None and _processes.is_first():
            for path in _versions(self.state_path):
                path.unlink(missing_ok=True)

    def _detach(self) -> None:
        for kernel in self._kernels:
            if isinstance(kernel.variable.regularizer, _Penalty):
                kernel.variable.regularizer = kernel.variable.regularizer.inner
        if self._state is not None:
            self._state.release()
        self._state = None
        retrace(self.model)

    def _carry(self, shrunk: Any) -> None:
        # Z and U of what was removed are gone, those of the rest stay: they are
        # cut as their kernels were.
        self._detach()
        kernels = []
        for kernel in self._kernels:
            variable = shrunk.variable(kernel.variable)
            if variable is not None:
                auxiliary = shrunk.cut(kernel.variable, kernel.auxiliary)
                dual = shrunk.cut(kernel.variable, kernel.dual)
                kernels.append(_Kernel(kernel.layer, variable, auxiliary, dual))
        self._kernels = kernels
        self._model = self._known = shrunk.model
        self._prepare()
        self._penalize()

    def get_state(self) -> dict[str, Any]:
        """Returns Z and U of each kernel and the counts of updates."""
        return {
            "kernels": [kernel.layer for kernel in self._kernels],
            "auxiliary": [kernel.auxiliary for kernel in self._kernels],
            "dual": [kernel.dual for kernel in self._kernels],
            "updates": self._updates,
            "last_update": self._last_update,
        }

    # What one can look at ----------------------------------------------------

    @property
    def updates(self) -> int:
        """Number of updates of Z and U so far."""
        return self._updates

    @property
    def auxiliary(self) -> dict[str, list[np.ndarray]]:
        """Z of each layer's kernels: points of the constraint sets."""
        return self._by_layer("auxiliary")

    @property
    def dual(self) -> dict[str, list[np.ndarray]]:
        """U of each layer's kernels: the scaled multipliers."""
        return self._by_layer("dual")

    def residuals(self) -> dict[str, float]:
        """The relative residuals, under the names they have in the logs."""
        gaps: dict[str, float] = {}
        norms: dict[str, float] = {}
        for kernel in self._kernels:
            weights = kernel.weights()
            gap, norm = _squares(weights - kernel.auxiliary), _squares(weights)
            gaps[kernel.layer] = gaps.get(kernel.layer, 0.0) + gap
            norms[kernel.layer] = norms.get(kernel.layer, 0.0) + norm
        result = {
            "admm_primal": _ratio(sum(gaps.values()), sum(norms.values())),
            "admm_dual": _ratio(sum(self._dual.values()), sum(norms.values())),
        }
        for name, norm in norms.items():
            result[f"admm_primal/{name}"] = _ratio(gaps[name], norm)
            result[f"admm_dual/{name}"] = _ratio(self._dual.get(name, 0.0), norm)
        return result

    # Steps -----------------------------------------------------------------

    def _begin(self) -> None:
        """Z and U from a stored state, or the projection of W and zero."""
        self._kernels = [
            _Kernel.of(name, variable)
            for name, variables in self._selected.items()
            for variable in variables
        ]
        self._updates, self._dual = 0, {}
        self._last_update = self.updates_done
        if self._restored:
            self._take_up("state", self._restored)
        elif self.state_path is None or not self._restore(self.state_path):
            points = [kernel.weights() for kernel in self._kernels]
            for kernels, projected in self._projections(points):
                for kernel, auxiliary in zip(kernels, projected, strict=True):
                    kernel.auxiliary = auxiliary
            self._store()
        self._known = self.model

    def _update_if_older(self) -> None:
        if self.updates_done > self._last_update:
            self._update()

    def _update(self) -> None:
        """Equation 7 and the update of the scaled multipliers."""
        # In place, so that no third array of the model's size is held: `dual` becomes U
        # + W, the point that is projected (equation 7), and then U + W - Z, the next U.
        # The distance to the set adds up in U, so that the pull on W grows as long as W
        # stays away.
        for kernel in self._kernels:
            kernel.dual += kernel.weights()
        self._dual = {}
        for kernels, projected in self._projections([k.dual for k in self._kernels]):
            for kernel, auxiliary in zip(kernels, projected, strict=True):
                moved = _squares(auxiliary - kernel.auxiliary)
                self._dual[kernel.layer] = self._dual.get(kernel.layer, 0.0) + moved
                kernel.auxiliary = auxiliary
                kernel.dual -= auxiliary
        before = self.rho(self._updates)
        self._updates += 1
        self._last_update = self.updates_done
        self._change_rho(before, self.rho(self._updates))
        for kernel in self._kernels:
            kernel.aim()
        self._store()

    def _projections(
        self, points: list[np.ndarray]
    ) -> Iterator[tuple[list[_Kernel], list[np.ndarray]]]:
        """Pairs of kernels and the projections of their points.

        Layer by layer, so that only one layer's projection is held at a time,
        and all that one joint constraint covers at once.
        """
        joint: dict[Constraint, list[int]] = {}
        for index, kernel in enumerate(self._kernels):
            constraint = self._constraint_of(kernel.layer)
            if constraint.joint:
                joint.setdefault(constraint, []).append(index)
            else:
                yield [kernel], [constraint.project(points[index])]
        for constraint, places in joint.items():
            projected = constraint.project_jointly([points[i] for i in places])
            yield [self._kernels[i] for i in places], projected

    def _constraint_of(self, layer: str) -> Constraint:
        if self._given is not None:
            return self._given[layer]
        assert isinstance(self.constraints, Constraint)
        return self.constraints

    def _change_rho(self, before: float, after: float) -> None:
        # U is the multiplier divided by rho. The multiplier, the force that has built
        # up, must not jump where rho does.
        if after != before:
            self._rho.assign(after)
            for kernel in self._kernels:
                kernel.dual *= before / after

    def _by_layer(self, part: str) -> dict[str, list[np.ndarray]]:
        result: dict[str, list[np.ndarray]] = {}
        for kernel in self._kernels:
            result.setdefault(kernel.layer, []).append(getattr(kernel, part).copy())
        return result

    # Storage -----------------------------------------------------------------

    def _store(self) -> None:
        """Writes the state, and keeps the one before it.

        A crash may come between this file and the backup of the weights, in
        either order; one of the two states then fits the weights. Of several
        processes that train together the first writes.
        """
        if self.state_path is None or not _processes.is_first():
            return
        state = self.get_state()
        meta = {k: state[k] for k in ("kernels", "updates", "last_update")}
        arrays = {"meta": np.array(json.dumps(meta))}
        for index, kernel in enumerate(self._kernels):
            arrays[f"auxiliary{index}"] = kernel.auxiliary
            arrays[f"dual{index}"] = kernel.dual
        path, previous = _versions(self.state_path)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                np.savez(file, allow_pickle=False, **arrays)
                file.flush()
                os.fsync(file.fileno())
            if path.exists():
                os.replace(path, previous)
            os.replace(temporary, path)
        finally:
            Path(temporary).unlink(missing_ok=True)

    def _restore(self, state_path: Path) -> bool:
        """Takes up the newest stored state that is not newer than the weights."""
        # A state may be older than the weights: the update that is missing is made at
        # the next occasion. One that is newer has seen weights that are lost.
        paths = [path for path in _versions(state_path) if path.exists()]
        now = self.updates_done
        for path in paths:
            with _readable(path) as stored:
                meta = json.loads(str(stored["meta"]))
                if meta["last_update"] > now:
                    continue
                count = range(len(meta["kernels"]))
                meta |= {k: [stored[f"{k}{i}"] for i in count] for k in _PARTS}
                self._take_up(repr(str(path)), meta)
            return True
        if paths:
            raise ValueError(
                "Invalid value for argument `state_path`. Expected a state that fits "
                f"the model, which has trained {now} steps; the file is of a later "
                "step. Restore the weights with BackupAndRestore, or delete the file "
                f"to start anew. Received: {str(state_path)!r}"
            )
        return False

    def _take_up(self, source: str, stored: Mapping[str, Any]) -> None:
        duals = [np.asarray(dual) for dual in stored["dual"]]
        expected = [(kernel.layer, kernel.dual.shape) for kernel in self._kernels]
        found = [
            (layer, dual.shape)
            for layer, dual in zip(stored["kernels"], duals, strict=True)
        ]
        if found != expected:
            raise ValueError(
                "Invalid value for argument `state_path`. Expected the state of a "
                f"training run with the kernels {expected}. Received: {source} with "
                f"{found}"
            )
        for kernel, auxiliary, dual in zip(
            self._kernels, stored["auxiliary"], duals, strict=True
        ):
            kernel.auxiliary = np.array(auxiliary)
            kernel.dual = np.array(dual)
        self._updates = int(stored["updates"])
        self._last_update = int(stored["last_update"])

    # Configuration ---------------------------------------------------------

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments as plain Python values."""
        constraints: Any = self.constraints
        if isinstance(constraints, dict):
            constraints = {name: _stored(each) for name, each in constraints.items()}
        else:
            constraints = _stored(constraints)
        return {
            "constraints": constraints,
            "rho": schedules.serialize(self.rho),
            "update_every": self.update_every,
            "unit": self.unit,
            "state_path": None if self.state_path is None else str(self.state_path),
            **super().get_config(),
        }


_PARTS = ("auxiliary", "dual")


@dataclass(eq=False)
class _Kernel:
    """One constrained variable with its Z and U, and Z − U for the compiled step."""

    layer: str
    variable: keras.Variable
    auxiliary: np.ndarray
    dual: np.ndarray
    target: keras.Variable | None = None

    @classmethod
    def of(cls, layer: str, variable: keras.Variable) -> Self:
        # At least in float32: sums of many updates would round away in less.
        dtype = keras.backend.result_type(variable.dtype, "float32")
        zeros = np.zeros(variable.shape, dtype)
        return cls(layer, variable, zeros, zeros.copy())

    def aim(self) -> None:
        assert self.target is not None
        self.target.assign(self.auxiliary - self.dual)

    def weights(self) -> np.ndarray:
        values = np.asarray(ops.convert_to_numpy(self.variable))
        values = values.astype(self.dual.dtype)
        if not np.isfinite(values).all():
            raise diverged(f"weights of {self.layer!r} are")
        return values


class _Penalty(keras.regularizers.Regularizer):
    """The augmented term of one kernel, beside the regularizer it had before."""

    def __init__(
        self,
        rho: keras.Variable,
        target: keras.Variable,
        inner: keras.regularizers.Regularizer | None,
    ) -> None:
        self.rho = rho
        self.target = target
        self.inner = inner

    def __call__(self, x: Any) -> Any:
        # At least in float32: squares of half-precision numbers underflow.
        dtype = keras.backend.result_type(x.dtype, "float32")
        distance = ops.cast(x, dtype) - ops.cast(self.target, dtype)
        penalty = 0.5 * ops.cast(self.rho, dtype) * ops.sum(ops.square(distance))
        if self.inner is None:
            return penalty
        return penalty + ops.cast(self.inner(x), dtype)


def _versions(path: Path) -> tuple[Path, Path]:
    """The file of the latest state and that of the one before."""
    return path, path.with_name(f"{path.stem}.previous.npz")


def _readable(path: Path) -> Any:
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(
            "Invalid value for argument `state_path`. Expected a file written by this "
            f"callback. Received: {str(path)!r} ({error})"
        ) from error


def _squares(values: np.ndarray) -> float:
    flat = values.ravel()
    return float(np.dot(flat, flat))


def _ratio(part: float, whole: float) -> float:
    return float(np.sqrt(part / whole)) if whole else 0.0


def _stored(constraint: Constraint) -> dict[str, Any]:
    return keras.saving.serialize_keras_object(constraint)


def _constraints(value: Any) -> Constraint | dict[str, Constraint]:
    """One constraint, or one for each name; also from their configurations."""
    if isinstance(value, Mapping) and "class_name" not in value:
        if not value:
            raise ValueError(
                "Invalid value for argument `constraints`. Expected at least one "
                "layer. Received: an empty dict"
            )
        name_list("constraints", value)
        return {name: _constraint(each) for name, each in value.items()}
    return _constraint(value)


def _constraint(value: Any) -> Constraint:
    if isinstance(value, Mapping):
        value = keras.saving.deserialize_keras_object(dict(value))
    if not isinstance(value, Constraint):
        raise TypeError(
            "Invalid value for argument `constraints`. Expected a "
            "`tfcompress.constraints.Constraint`, or a dict of them by layer. "
            f"Received: {value!r}"
        )
    return value


def _rho(value: Any) -> schedules.Schedule:
    result = schedules.get(value)
    if result.bounds()[0] <= 0:
        raise ValueError(
            "Invalid value for argument `rho`. Expected a penalty that is positive at "
            f"every update. Received: rho={value!r}"
        )
    return result
