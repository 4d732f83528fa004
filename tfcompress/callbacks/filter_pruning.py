"""Pruning filters while training."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfcompress import criteria, policy, schedules, structure
from tfcompress._checks import fraction, one_of, whole
from tfcompress.callbacks._masking import MaskedVariables
from tfcompress.callbacks._method import Method
from tfcompress.callbacks._rates import get_rates, serialize_rates
from tfcompress.callbacks._state import StepState
from tfcompress.structure._graph import scope_of
from tfcompress.structure._rebuild import require_copies

__all__ = ["FilterPruning"]


@keras.saving.register_keras_serializable(package="tfcompress")
class FilterPruning(Method):
    """Forces a growing number of filters to zero while the model trains.

    The method of Roy, Panda, Srinivasan and Raghunathan, "Pruning filters while
    training for efficiently optimizing deep learning networks" (2020),
    algorithms 1 to 3: every epoch a few more filters are chosen by a criterion
    and switched off for good, and the training that goes on anyway makes up for
    them. A schedule that jumps, `OneShot(rate, at=n)`, is the usual
    prune-then-retrain after n epochs.

    Which filters: those with the lowest scores within each layer, or within
    each group of layers whose channels are coupled (by a residual sum, for
    example). By default every group that `structure.channel_groups` reports as
    prunable takes part: filters of convolutions, hidden units of dense and
    recurrent layers, columns of embeddings, heads of attention. The paper prunes
    convolutions only; name them in `layers` to do the same. What the model
    returns is never pruned, so its last layer is left alone, and each group keeps
    at least one channel. Layers that do not train (`trainable=False`) could not make
    up for it, and are left alone unless `layers` names them.

    How many: while step t trains, exactly `round(schedule(t) * size)` channels
    of a group of that size are zero (at most `size - 1`; fewer where
    `multiple_of` asks for it). Channels that are pruned never come back: a
    schedule that falls, or begins anew in a second `fit`, changes nothing until
    it exceeds the present rate. With `unit="epoch"`, t is the epoch's number
    from 0, so `Linear(0.0, 0.8, begin=0, end=79)` reaches its target in the
    last of 80 epochs. A second `fit` with the same callback and model goes on
    counting; so does a second `fit_shrinking` with the model that the first one
    returned. Otherwise rates refer to the channels that the model has when the
    training run begins, whatever was removed before. With `unit="step"`, t is the
    optimizer's count of updates, which includes earlier runs with that
    optimizer, and goes on if the model is compiled again.

    A pruned filter is zero together with its bias and its normalization
    parameters, so that `finalize` can remove it without changing the model's
    output. It stays zero under any optimizer, momentum and weight decay
    included, because the mask is part of the compiled step (as a constraint on
    the variable, after the constraints that the model already has). The masks
    need no storage: a run that is continued, also from a saved model,
    reads them back from the zeros. Checkpoints see masked weights wherever they
    stand in the list of callbacks. Weights that another callback puts back at the
    end are an exception: `EarlyStopping(restore_best_weights=True)` may restore
    an epoch that was pruned less; keep the best model of the final rate with
    `ModelCheckpoint` instead. A run that ends in an exception leaves its masks in
    force until the next `fit` with a method of this library. Weights that are not
    finite are never ranked: the run stops with an error.

    The fraction of channels that are zero is logged at the end of each epoch as
    `pruning_rate`.

    Example:

    ```python
    pruning = tfc.callbacks.FilterPruning(
        tfc.schedules.Linear(0.0, 0.8, begin=0, end=20)
    )
    model.fit(x, y, epochs=25, callbacks=[pruning])
    small = tfc.finalize(model)
    ```

    Args:
        schedule: a `Schedule` of pruning rates in [0, 1), or a number for a
            constant rate. A dict from layer or group names to schedules or
            numbers sets targets of their own; what it does not name is not
            pruned.
        criterion: a `Criterion` or its name: `"l1"`, `"l2"`,
            `"mean_activation"` or `"random"`. Defaults to `"l1"`.
        unit: what the schedule counts, `"epoch"` or `"step"`. Defaults to
            `"epoch"`.
        layers: names of the layers (or groups) to prune; `None` for all that can
            be. Defaults to `None`.
        exclude: names of layers (or groups) to leave alone, together with what is
            coupled to them. Defaults to `()`.
        multiple_of: the number of channels that remain in a group is a multiple
            of this (or all), because hardware is fast at round widths only.
            Defaults to `1`.
        ranking: which groups the channels are taken from. `"layer"` prunes the
            same rate in every group. The others prune `round(schedule(t) * total)`
            of all channels: `"network"` those with the lowest scores of the whole
            network, as they are (algorithm 1 of the paper); `"global"` likewise,
            with scores divided by the mean score in their group; `"even"` equally
            many in every group (algorithm 2); `"random"` from a group that is drawn
            anew for every channel, all with the same probability (algorithm 3).
            Defaults to `"layer"`.
        floor: fraction of a group's channels, in [0, 1], that a ranking other than
            `"layer"` leaves in every group, and at least one. The paper has no
            floor: that is `0`. Raw scores can then empty late layers: these are wide,
            so their weights are small from the initialization on. Defaults to `0.1`.
        target: the part of the model to prune; see `Method`. Defaults to `None`.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if a rate is outside [0, 1) at any step, or another argument
            is not valid. When training begins, before its first step: if the
            model is subclassed or not built, a name is unknown or stands for
            something that cannot be pruned, or the floor forbids the rate.
    """

    _selects = True
    _goes_on = True

    def __init__(
        self,
        schedule: schedules.Schedule | float | Mapping[str, Any],
        criterion: criteria.Criterion | str = "l1",
        unit: str = "epoch",
        layers: Sequence[str] | None = None,
        exclude: Sequence[str] = (),
        multiple_of: int = 1,
        *,
        ranking: str = "layer",
        floor: float = 0.1,
        target: keras.Model | str | None = None,
    ) -> None:
        super().__init__(layers=layers, exclude=exclude, target=target)
        self.schedule = get_rates(schedule)
        self.criterion = criteria.get(criterion)
        self.unit = one_of("unit", unit, ("epoch", "step"))
        self.multiple_of = whole("multiple_of", multiple_of)
        self.ranking = one_of("ranking", ranking, _RANKINGS)
        self.floor = fraction("floor", floor, zero=True)
        if isinstance(self.schedule, dict):
            _refuse_with_targets(self.layers is not None, "layers", layers)
            _refuse_with_targets(ranking != "layer", "ranking", ranking)
        self._masks: MaskedVariables | None = None
        self._state: StepState | None = None
        self._last_rates: dict[str, float] = {}
        self._sizes: dict[str, int] = {}  # before anything was removed

    # The life of a run -------------------------------------------------------

    def _forget(self) -> None:
        self._sizes = {}

    def _prepare(self) -> None:
        require_copies(self.network)  # which `finalize` makes
        self._groups = structure.channel_groups(self.network)
        names, argument = self.layers, "layers"
        if isinstance(self.schedule, dict):
            names, argument = tuple(self.schedule), "schedule"
        self.selection = policy.select_groups(
            self._groups,
            self.network,
            layers=names,
            exclude=self.exclude,
            argument=argument,
            # Groups of which one channel is left have had more.
            keep=self._restored.get("sizes") or self._sizes,
        )
        self._rates = self._schedule_of_groups()

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Checks names and rates against the model, before anything trains."""
        super().on_train_begin(logs)
        present = {name: g.size for name, g in self.selection.chosen.items()}
        self._sizes = dict(self._restored.get("sizes") or self._sizes or present)
        if self.ranking != "layer":
            self._check_floor()

    def _attach(self) -> None:
        chosen = self.selection.chosen
        zero = structure.zero_indices(self._groups)
        self._pruned = {name: zero.get(name, _NOTHING) for name in chosen}
        for name, group in chosen.items():
            self._sizes.setdefault(name, group.size)
            if self._pruned[name].size == group.size:
                # A group of zeros only was initialized like that. It is not pruned.
                self._pruned[name] = _NOTHING
        self._last_rates = {}
        with scope_of(self.model):
            self.criterion.attach(self.network, self._living())
        self._state = StepState(self.model)
        measures = self.criterion.variables
        for variable in measures:
            self._state.track_for_loss(variable)
        # What was measured since the last pruning, if an epoch without one was last.
        if before := self._restored.get("measures"):
            for variable, value in zip(measures, before, strict=True):
                variable.assign(value)
        self._masks = MaskedVariables(self.model)
        self._masks.attach(self._all_masks())

    def _detach(self) -> None:
        self.criterion.detach()
        if self._state is not None:
            self._state.release()
        if self._masks is not None:
            self._masks.detach()
        self._state = self._masks = None

    def _begin_batch(self, batch: int) -> None:
        super()._begin_batch(batch)
        self.criterion.watch(True)

    def on_train_batch_end(
        self, batch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Tells the criterion that a validation may follow."""
        self.criterion.watch(False)

    def _end_epoch(self, epoch: int) -> None:
        assert self._masks is not None
        self._masks.apply_statistics()

    def _logs(self) -> dict[str, Any]:
        return {"pruning_rate": self.pruning_rate}

    def _reapply(self) -> None:
        if self._masks is not None:
            self._masks.apply()

    def _schedules(self) -> Iterable[schedules.Schedule]:
        return self._rates.values()

    @property
    def pruning_rate(self) -> float:
        """Fraction of the channels of the selected groups that are pruned."""
        gone = sum(self._gone(name) for name in self.selection.chosen)
        return gone / sum(self._sizes[name] for name in self.selection.chosen)

    def before_shrink(self, epoch: int) -> None:
        """Prunes to the rate of an epoch before it begins, and before removal.

        Args:
            epoch: number of the epoch that comes next.
        """
        if self.unit == "epoch":
            self._advance(self._progress.at(epoch))

    def get_state(self) -> dict[str, Any]:
        """Returns what cannot be read back from a model that was made smaller.

        Returns:
            A dict of JSON-compatible values and of arrays.
        """
        measures = [keras.ops.convert_to_numpy(v) for v in self.criterion.variables]
        return super().get_state() | {
            "sizes": dict(self._sizes),
            "measures": measures,
        }

    # Steps -----------------------------------------------------------------

    def _schedule_of_groups(self) -> dict[str, schedules.Schedule]:
        if not isinstance(self.schedule, dict):
            return dict.fromkeys(self.selection.chosen, self.schedule)
        result: dict[str, schedules.Schedule] = {}
        known = [*policy.named_layers(self.network), *(g.name for g in self._groups)]
        chosen = self.selection.chosen
        for name, schedule in policy.by_full_name(
            self.schedule, known, "schedule"
        ).items():
            for group in policy.groups_named(self._groups, name, "schedule", chosen):
                if result.get(group.name, schedule) != schedule:
                    raise ValueError(
                        "Invalid value for argument `schedule`. Expected one schedule "
                        f"for each group of coupled layers. Received: {name!r} and "
                        f"another layer of the group {group.name!r} with different "
                        "schedules."
                    )
                result[group.name] = schedule
        return {name: result[name] for name in self.selection.chosen}

    def _check_floor(self) -> None:
        assert isinstance(self.schedule, schedules.Schedule)
        total = sum(self._sizes.values())
        possible = sum(self._sizes[n] - self._least(n) for n in self._sizes)
        wanted = round(self.schedule.bounds()[1] * total)
        if wanted > possible:
            raise ValueError(
                "Invalid value for argument `floor`. Expected a floor that lets the "
                f"schedule prune {wanted} of {total} channels. Received: "
                f"floor={self.floor!r}, which lets it prune {possible}."
            )

    def _all_masks(self) -> list[tuple[keras.Variable, np.ndarray]]:
        """The present masks, also of variables of which nothing is masked yet."""
        # The masks of all channels name every variable that can ever be masked. Each
        # gets its constraint now, before the step is traced; later only values change.
        everything = {group.name: np.arange(group.size) for group in self._living()}
        present = structure.keep_masks(
            self._groups, {name: self._pruned[name] for name in everything}
        )
        keep = {id(variable): mask for variable, mask in present}
        return [
            (variable, np.broadcast_to(keep.get(id(variable), 1.0), mask.shape))
            for variable, mask in structure.keep_masks(self._groups, everything)
        ]

    def _advance(self, step: int) -> None:
        rates = {name: rate(step) for name, rate in self._rates.items()}
        if rates == self._last_rates:
            return
        scores: dict[str, np.ndarray] = {}
        if self.ranking == "layer":
            wanted = {n: round(rate * self._sizes[n]) for n, rate in rates.items()}
        else:
            missing = self._missing(next(iter(rates.values())))
            if missing > 0 and self.ranking in ("global", "network"):
                scores = self._scores()
            wanted = self._allocate(missing, scores)
        counts = {name: self._zeros(name, count) for name, count in wanted.items()}
        growing = {n: c for n, c in counts.items() if c > self._pruned[n].size}
        if growing:
            assert self._masks is not None
            scores = scores or self._scores()
            self._pruned |= {n: _lowest(scores[n], c) for n, c in growing.items()}
            pruned = {g.name: self._pruned[g.name] for g in self._living()}
            self._masks.update(structure.keep_masks(self._groups, pruned))
        self._last_rates = rates

    def _missing(self, rate: float) -> int:
        """How many more channels must go to reach a rate of the whole network."""
        gone = sum(self._gone(name) for name in self.selection.chosen)
        return round(rate * sum(self._sizes.values())) - gone

    def _allocate(
        self, missing: int, scores: Mapping[str, np.ndarray]
    ) -> dict[str, int]:
        """Wanted number of pruned channels in each group, `missing` more in all."""
        wanted = {name: self._gone(name) for name in self.selection.chosen}
        spare = {n: self._sizes[n] - self._least(n) - wanted[n] for n in wanted}
        spare = {name: count for name, count in spare.items() if count > 0}
        if missing <= 0:
            return wanted
        if self.ranking == "even":
            for name in _rounds(spare, missing):
                wanted[name] += 1
        elif self.ranking == "random":
            for name in self._draws(spare, missing, sum(wanted.values())):
                wanted[name] += 1
        else:
            # Of each group only as many channels compete as the floor lets it lose, its
            # lowest. Pruned ones have the score -inf and do not compete.
            candidates: list[tuple[float, str]] = []
            for name, count in spare.items():
                alive = np.sort(scores[name][np.isfinite(scores[name])])
                if self.ranking == "global":
                    alive = criteria.normalize(alive)
                candidates += [(score, name) for score in alive[:count].tolist()]
            for _, name in sorted(candidates)[:missing]:
                wanted[name] += 1
        return wanted

    def _draws(self, spare: dict[str, int], count: int, gone: int) -> Iterator[str]:
        """Draws groups with equal probability, whatever their sizes (algorithm 3)."""
        # The seed depends on how many are gone, so that a run that is resumed
        # draws what it would have drawn.
        generator = np.random.default_rng([getattr(self.criterion, "seed", 0), gone])
        left = dict(spare)
        while count > 0 and left:
            name = list(left)[generator.integers(len(left))]
            left[name] -= 1
            if not left[name]:
                del left[name]
            count -= 1
            yield name

    def _scores(self) -> dict[str, np.ndarray]:
        """Scores of each group's channels; -inf for those that are pruned."""
        groups = self._living()
        scores = criteria.score(
            self.criterion,
            self.network,
            groups,
            self._pruned,
            raw=self.ranking == "network",
        )
        result = {}
        for group, values in zip(groups, scores, strict=True):
            result[group.name] = np.array(values, dtype="float64")
            result[group.name][self._pruned[group.name]] = -np.inf
        return result

    def _living(self) -> list[Any]:
        """The groups from which something can still be removed."""
        return [group for group in self.selection.chosen.values() if group.prunable]

    def _gone(self, name: str) -> int:
        """Number of channels of a group that are zero or were removed."""
        # Of 64 channels at the beginning, 48 may be left in a model that was made
        # smaller, and 8 of these may be zero: 64 - (48 - 8) = 24 are gone. Rates are of
        # the 64.
        present = self.selection.chosen[name].size - self._pruned[name].size
        return self._sizes[name] - present

    def _least(self, name: str) -> int:
        """Number of channels that a ranking over the network leaves in a group."""
        return max(1, math.ceil(self.floor * self._sizes[name]))

    def _zeros(self, name: str, wanted: int) -> int:
        """Number of zero channels in the present group if `wanted` are pruned."""
        # What the rate asks for, counted in the present group: if 24 of 64 are to be
        # gone, 40 stay, and of a group of 48 that are left, 8 are zero. What stays is
        # rounded up to `multiple_of`, so that at times fewer are pruned than the rate
        # says.
        left = max(1, self._sizes[name] - wanted)
        left = math.ceil(left / self.multiple_of) * self.multiple_of
        return max(0, self.selection.chosen[name].size - left)

    # Configuration ---------------------------------------------------------

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments as plain Python values."""
        return {
            "schedule": serialize_rates(self.schedule),
            "criterion": criteria.serialize(self.criterion),
            "unit": self.unit,
            "multiple_of": self.multiple_of,
            "ranking": self.ranking,
            "floor": self.floor,
            **super().get_config(),
        }


_RANKINGS = ("layer", "global", "network", "even", "random")
_NOTHING = np.zeros(0, dtype=int)


def _rounds(spare: Mapping[str, int], count: int) -> Iterator[str]:
    """Takes one channel of each group in turn (algorithm 2), `count` in all."""
    left = dict(spare)
    while count > 0 and left:
        names = list(left)[:count]
        count -= len(names)
        for name in names:
            left[name] -= 1
            if not left[name]:
                del left[name]
            yield name


def _lowest(scores: np.ndarray, count: int) -> np.ndarray:
    return np.sort(np.argsort(scores, kind="stable")[:count])


def _refuse_with_targets(given: bool, name: str, value: Any) -> None:
    if given:
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected the default where "
            "`schedule` is a dict, which names its layers itself. "
            f"Received: {name}={value!r}"
        )
