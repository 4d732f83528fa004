"""Criteria: how much a filter matters.

A criterion gives every channel of a channel group a score; pruning removes the
lowest. Where layers are coupled (all that meet in a residual stage, say), a
channel is one filter of each of them. Their scores are combined as the **sum of
normalized scores**: each layer's scores are divided by their mean over the
layer's channels first, so that a layer with large weights does not outvote the
others.

Names stand for criteria wherever one is expected: `"l1"`, `"l2"`,
`"mean_activation"`, `"random"`.
"""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Self

import keras
import numpy as np

from tfcompress._checks import whole
from tfcompress._meters import ActivationMeter
from tfcompress._samples import read, reusable

__all__ = [
    "Criterion",
    "L1Norm",
    "L2Norm",
    "MeanActivation",
    "Random",
    "deserialize",
    "get",
    "normalize",
    "score",
    "serialize",
]


_Dead = list[tuple[int, np.ndarray]]
_NOTHING: Mapping[str, np.ndarray] = MappingProxyType({})


class Criterion(ABC):
    """Scores for the channels of channel groups; the lowest are pruned first.

    Subclass it to add a criterion of your own: implement `__call__`, and
    `attach` and `detach` if it has to watch the training run. The weights are in the
    groups, also those of layers in nested models: each member of a group is one
    axis of one variable; those with the role `"kernel"` are the filters.

    Example:

    ```python
    class LargestWeight(tfc.criteria.Criterion):
        def __call__(self, model, groups, pruned=None):
            return [self.score(group) for group in groups]

        def score(self, group):
            total = np.zeros(group.size)
            for member in group.members:
                if member.role == "kernel":
                    weights = keras.ops.convert_to_numpy(member.variable)
                    filters = np.moveaxis(np.abs(weights), member.axis, 0)
                    largest = filters.reshape(len(filters), -1).max(axis=1)
                    # Positions of other groups' channels are -1.
                    mine = member.channels >= 0
                    scores = np.zeros(group.size)
                    np.maximum.at(scores, member.channels[mine], largest[mine])
                    total += tfc.criteria.normalize(scores)
            return total
    ```
    """

    @abstractmethod
    def __call__(
        self,
        model: keras.Model,
        groups: Sequence[Any],
        pruned: Mapping[str, np.ndarray] = _NOTHING,
    ) -> list[np.ndarray]:
        """Scores the channels of `groups`.

        Args:
            model: the `keras.Model`.
            groups: `ChannelGroup`s of that model.
            pruned: group name -> channels that are pruned already. Defaults to
                none.

        Returns:
            One float array of shape `(group.size,)` for each group.
        """

    def raw(
        self,
        model: keras.Model,
        groups: Sequence[Any],
        pruned: Mapping[str, np.ndarray] = _NOTHING,
    ) -> list[np.ndarray]:
        """Scores that are compared over the whole network, without any scaling.

        By default these are the scores of `__call__`; arguments and result are as
        for that.
        """
        return self(model, groups, pruned)

    @property
    def variables(self) -> Sequence[keras.Variable]:
        """Variables that a criterion writes inside the training step."""
        return ()

    # Watching is optional, so these three are empty rather than abstract.
    def attach(self, model: keras.Model, groups: Sequence[Any]) -> None:  # noqa: B027
        """Called when a training run begins, before its step is traced.

        Args:
            model: the `keras.Model`.
            groups: the `ChannelGroup`s that will be scored.
        """

    def watch(self, active: bool) -> None:  # noqa: B027
        """Called around each training step.

        What runs outside of one, such as validation, must not be counted.

        Args:
            active: whether a step begins; otherwise it has ended.
        """

    def detach(self) -> None:  # noqa: B027
        """Called when the training run has ended."""

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments as plain Python values."""
        return {}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Creates a criterion from what `get_config` returned."""
        return cls(**config)


class _WeightNorm(Criterion):
    """Scores from the weights of each filter.

    Weights that read a pruned channel do not count: they have no effect, and a
    model from which the channel was removed does not have them.
    """

    def __call__(
        self,
        model: keras.Model,
        groups: Sequence[Any],
        pruned: Mapping[str, np.ndarray] = _NOTHING,
    ) -> list[np.ndarray]:
        """Scores the channels of `groups`."""
        dead = _dead_inputs(groups, pruned)
        return [self._score(group, dead) for group in groups]

    def raw(
        self,
        model: keras.Model,
        groups: Sequence[Any],
        pruned: Mapping[str, np.ndarray] = _NOTHING,
    ) -> list[np.ndarray]:
        """The mean of the norms of a channel's filters, at the scale they have."""
        dead = _dead_inputs(groups, pruned)
        return [np.mean(self._norms(group, dead), axis=0) for group in groups]

    def _score(self, group: Any, dead: Mapping[int, _Dead]) -> np.ndarray:
        return np.sum([normalize(n) for n in self._norms(group, dead)], axis=0)

    def _norms(self, group: Any, dead: Mapping[int, _Dead]) -> list[np.ndarray]:
        """Norms of the filters of each kernel of a group."""
        result = []
        for member in _kernels([group]):
            weights = keras.ops.convert_to_numpy(member.variable).astype("float64")
            for axis, positions in dead.get(id(member.variable), ()):
                weights = np.delete(weights, positions, axis)
            filters = np.moveaxis(weights, member.axis, 0)
            norms = self._norm(filters.reshape(len(filters), -1))
            result.append(_by_channel(norms, member.channels, group.size))
        return result

    def _norm(self, filters: np.ndarray) -> np.ndarray:
        """Norm of each row of `filters`, of shape `(filters, weights)`."""
        raise NotImplementedError


@keras.saving.register_keras_serializable(package="tfcompress")
class L1Norm(_WeightNorm):
    r"""Mean absolute weight of a filter.

    $$s_j = \frac{1}{N} \sum_i |w_{ij}|$$

    over the N weights of filter j. Li et al., "Pruning filters for efficient
    ConvNets" (2017), and Roy et al., "Pruning filters while training for
    efficiently optimizing deep learning networks" (2020), section III-A1.

    Example:

    ```python
    tfc.callbacks.FilterPruning(0.5, criterion=tfc.criteria.L1Norm())
    ```
    """

    def _norm(self, filters: np.ndarray) -> np.ndarray:
        return np.abs(filters).mean(axis=1)


@keras.saving.register_keras_serializable(package="tfcompress")
class L2Norm(_WeightNorm):
    r"""Euclidean norm of a filter.

    $$s_j = \sqrt{\sum_i w_{ij}^2}$$

    Example:

    ```python
    tfc.callbacks.FilterPruning(0.5, criterion=tfc.criteria.L2Norm())
    ```
    """

    def _norm(self, filters: np.ndarray) -> np.ndarray:
        return np.linalg.norm(filters, axis=1)


@keras.saving.register_keras_serializable(package="tfcompress")
class Random(Criterion):
    """A fixed random order, independent of the weights: the control experiment.

    The scores depend on the seed, the group's name and its size only, so a training
    run that is interrupted and resumed prunes the same channels.

    Example:

    ```python
    tfc.callbacks.FilterPruning(0.5, criterion=tfc.criteria.Random(seed=1))
    ```

    Args:
        seed: a whole number, 0 or larger. Defaults to `0`.

    Raises:
        TypeError: if `seed` is not a number.
        ValueError: if `seed` is not whole, or negative.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = whole("seed", seed, least=0)

    def __call__(
        self,
        model: keras.Model,
        groups: Sequence[Any],
        pruned: Mapping[str, np.ndarray] = _NOTHING,
    ) -> list[np.ndarray]:
        """Scores the channels of `groups`."""
        return [
            np.random.default_rng([self.seed, zlib.crc32(group.name.encode())]).random(
                group.size
            )
            for group in groups
        ]

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments as plain Python values."""
        return {"seed": self.seed}


@keras.saving.register_keras_serializable(package="tfcompress")
class MeanActivation(Criterion):
    r"""Mean absolute activation of a filter's feature map.

    $$s_j = \frac{1}{|D|\,H\,W} \sum_{x \in D} \sum_{u,v} |a_j(x)_{uv}|$$

    where $a_j$ is what the next layer receives: the filter's output after
    normalization and activation, as far as these follow the layer directly. For
    ReLU that is the mean activation of Roy et al. (2020), section III-A2, and of
    Molchanov et al. (2017).

    With `data` the sum runs over that sample, with the model in inference mode.
    Without, it is accumulated inside the training step over all batches since
    the last pruning (or since the model was last made smaller), in training
    mode; that costs no extra forward pass, but nothing can be pruned before the
    first batch.

    Example:

    ```python
    criterion = tfc.criteria.MeanActivation(x_train[:1000])
    tfc.callbacks.FilterPruning(0.5, criterion=criterion)

    rising = tfc.schedules.Linear(0.0, 0.5, begin=0, end=10)
    tfc.callbacks.FilterPruning(rising, criterion="mean_activation")
    ```

    Args:
        data: samples to measure on: inputs as for `fit`, a tuple `(inputs,
            labels)`, an iterable of batches of either that ends, as a
            `tf.data.Dataset`, or a `tfcompress.data.Dataset`, whose training split
            is taken. `None` accumulates while training. Defaults to `None`.
    """

    def __init__(self, data: Any = None) -> None:
        self.data = reusable(data)
        self._meter: ActivationMeter | None = None

    def __call__(
        self,
        model: keras.Model,
        groups: Sequence[Any],
        pruned: Mapping[str, np.ndarray] = _NOTHING,
    ) -> list[np.ndarray]:
        """Scores the channels of `groups`."""
        means = self._means(model, groups)
        return [
            np.sum([normalize(v) for v in _by_kernel(group, means)], axis=0)
            for group in groups
        ]

    def raw(
        self,
        model: keras.Model,
        groups: Sequence[Any],
        pruned: Mapping[str, np.ndarray] = _NOTHING,
    ) -> list[np.ndarray]:
        """The mean activations of a channel's filters, at the scale they have."""
        means = self._means(model, groups)
        return [np.mean(_by_kernel(group, means), axis=0) for group in groups]

    @property
    def variables(self) -> Sequence[keras.Variable]:
        """What is accumulated inside the training step."""
        return () if self._meter is None else tuple(self._meter.variables())

    def _means(
        self, model: keras.Model, groups: Sequence[Any]
    ) -> dict[str, np.ndarray]:
        """Mean absolute activation of each output channel, by layer name."""
        for member in _kernels(groups):
            # A rectifier may turn NaN into zero, an activation like any other.
            _refuse_nan(keras.ops.convert_to_numpy(member.variable))
        meter = self._meter
        if self.data is not None:
            meter = self._measure(model, groups)
        if meter is None or not meter.count:
            raise ValueError(
                "Invalid value for argument `schedule`. Expected a pruning rate of 0 "
                "at first, because MeanActivation without `data` has seen no batch "
                "yet. Let the schedule begin later, or pass MeanActivation(data)."
            )
        means = meter.result()
        if self.data is None:
            meter.reset()
        return means

    def attach(self, model: keras.Model, groups: Sequence[Any]) -> None:
        """Called when a training run begins, before its step is traced."""
        if self.data is not None:
            read(model, self.data)  # refuses what does not fit
        else:
            self._meter = ActivationMeter(model, _kernels(groups))
            self._meter.attach()
            self._meter.active = False

    def watch(self, active: bool) -> None:
        """Called around each training step: validations do not count."""
        if self._meter is not None:
            self._meter.active = active

    def detach(self) -> None:
        """Called when the training run has ended."""
        if self._meter is not None:
            self._meter.detach()
            self._meter = None

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments as plain Python values.

        Raises:
            ValueError: if the criterion holds data, which is no configuration.
        """
        if self.data is not None:
            raise ValueError(
                "MeanActivation with `data` has no configuration: data is not "
                "stored in one. Create it anew with the data."
            )
        return {}

    def _measure(self, model: keras.Model, groups: Sequence[Any]) -> ActivationMeter:
        meter = ActivationMeter(model, _kernels(groups))
        meter.measure(read(model, self.data))
        return meter


def normalize(scores: np.ndarray) -> np.ndarray:
    """Divides scores by their mean; all-zero scores stay as they are.

    Args:
        scores: non-negative float array.

    Returns:
        A float array of the same shape with mean 1 (or 0).

    Raises:
        ValueError: if scores are NaN.
    """
    _refuse_nan(scores)
    mean = scores.mean() if scores.size else 0.0
    return scores / mean if mean > 0 else scores


def score(
    criterion: Criterion,
    model: keras.Model,
    groups: Sequence[Any],
    pruned: Mapping[str, np.ndarray] = _NOTHING,
    *,
    raw: bool = False,
) -> list[np.ndarray]:
    """Returns what `criterion` says of the channels of `groups`, checked.

    Args:
        criterion: a `Criterion`.
        model: the `keras.Model`.
        groups: `ChannelGroup`s of that model.
        pruned: group name -> channels that are pruned already. Defaults to none.
        raw: whether scores are compared over the network, as they are. Defaults to
            `False`.

    Returns:
        One float array of shape `(group.size,)` for each group.

    Raises:
        ValueError: if scores are of another shape, or NaN, because training has
            diverged.
    """
    function = criterion.raw if raw else criterion
    scores = [np.asarray(found) for found in function(model, groups, pruned)]
    expected = [(group.size,) for group in groups]
    received = [found.shape for found in scores]
    if received != expected:
        raise ValueError(
            "Invalid value for argument `criterion`. Expected a criterion that returns "
            f"scores of the shapes {expected}. Received: {received} from {criterion!r}"
        )
    for found in scores:
        _refuse_nan(found)
    return scores


def _refuse_nan(scores: np.ndarray) -> None:
    if np.isnan(scores).any():
        raise ValueError(
            "Training has diverged: the scores of a criterion are NaN. Nothing was "
            "chosen from them. Lower the learning rate, or clip gradients."
        )


def get(criterion: Any) -> Criterion:
    """Returns the criterion that `criterion` stands for.

    Example:

    ```python
    tfc.criteria.get("l1")
    ```

    Args:
        criterion: a `Criterion`, one of `"l1"`, `"l2"`, `"mean_activation"`,
            `"random"`, or a dict from `serialize`.

    Returns:
        A `Criterion`.

    Raises:
        TypeError: if it is none of these.
        ValueError: if the name is not known.
    """
    if isinstance(criterion, Criterion):
        return criterion
    if isinstance(criterion, Mapping):
        return deserialize(criterion)
    if isinstance(criterion, str):
        if criterion not in _NAMES:
            raise ValueError(
                "Invalid value for argument `criterion`. Expected one of "
                f"{', '.join(map(repr, _NAMES))}. Received: {criterion!r}"
            )
        return _NAMES[criterion]()
    raise TypeError(
        "Invalid value for argument `criterion`. Expected a Criterion or one of "
        f"{', '.join(map(repr, _NAMES))}. Received: {criterion!r} of type "
        f"{type(criterion).__name__}"
    )


def serialize(criterion: Criterion) -> dict[str, Any]:
    """Returns a JSON-compatible dict from which `deserialize` restores `criterion`.

    Args:
        criterion: a `Criterion`.

    Returns:
        A dict with `class_name`, `config` and what Keras adds to find the class.
    """
    return keras.saving.serialize_keras_object(criterion)


def deserialize(config: Mapping[str, Any]) -> Criterion:
    """Creates the criterion that `serialize` described.

    Args:
        config: a dict with `class_name` and `config`.

    Returns:
        A `Criterion`.

    Raises:
        ValueError: if `config` does not describe a criterion.
    """
    classes = {cls.__name__: cls for cls in _NAMES.values()}
    criterion = keras.saving.deserialize_keras_object(
        dict(config), custom_objects=classes
    )
    if not isinstance(criterion, Criterion):
        raise ValueError(
            "Invalid value for argument `config`. Expected the description of a "
            f"criterion. Received: config={config!r}"
        )
    return criterion


_NAMES: dict[str, type[Criterion]] = {
    "l1": L1Norm,
    "l2": L2Norm,
    "mean_activation": MeanActivation,
    "random": Random,
}


def _by_kernel(group: Any, means: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Mean activations of a group's channels, for each of its kernels."""
    return [
        _by_channel(means[member.layer_name], member.channels, group.size)
        for member in _kernels([group])
    ]


def _by_channel(values: np.ndarray, channels: np.ndarray, size: int) -> np.ndarray:
    """Averages values of positions into values of the group's channels."""
    # A channel may lie at several positions, such as a unit of an LSTM, which has a
    # column in each of the four gates. Positions of other groups are -1.
    mine = channels >= 0
    total = np.bincount(channels[mine], weights=values[mine], minlength=size)
    count = np.bincount(channels[mine], minlength=size)
    return total / np.maximum(count, 1)


def _dead_inputs(
    groups: Sequence[Any], pruned: Mapping[str, np.ndarray]
) -> dict[int, _Dead]:
    """Where variables read pruned channels: id of variable -> axis, positions."""
    # The next layer's weights that read a pruned channel have no effect, but are still
    # there while the model is only masked. Were they counted, a masked model and the
    # smaller one made of it would rank the next layer's filters differently.
    dead: dict[int, dict[int, np.ndarray]] = {}
    for group in groups:
        gone = pruned.get(group.name)
        if gone is None or not len(gone):
            continue
        for member in group.members:
            if member.role == "input":
                # Behind a Concatenate, several groups lie on one axis.
                axes = dead.setdefault(id(member.variable), {})
                known = axes.get(member.axis, np.zeros(0, np.int64))
                found = np.flatnonzero(np.isin(member.channels, gone))
                axes[member.axis] = np.union1d(known, found)
    return {key: list(axes.items()) for key, axes in dead.items()}


def _kernels(groups: Sequence[Any]) -> list[Any]:
    return [m for group in groups for m in group.members if m.role == "kernel"]
