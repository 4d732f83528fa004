"""Sets that weights can be asked to lie in, and Euclidean projections onto them.

ADMM splits "train, subject to the weights being sparse" into ordinary training
and a projection: the nearest point of the set (ADMM-NN, Ren et al., ASPLOS 2019,
equation 7). Each class here is one set. Projections work on NumPy arrays on the
host, because they run once in hundreds of training steps.

| class | the set |
| --- | --- |
| `Cardinality` | at most so many non-zero weights, in a layer or in the whole network |
| `ChannelSparsity` | at most so many non-zero output channels |
| `BlockSparsity` | at most so many non-zero `rows x columns` tiles |
| `NOfM` | at most n non-zero weights in every m consecutive ones |
| `Levels` | non-zero weights are whole multiples of one step, {±1 … ±2^(bits-1)} · q |
| `Combined` | first one set, then another on what is left |
"""

import abc
import inspect
import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import keras
import numpy as np

from tfcompress._checks import fraction as check_fraction
from tfcompress._checks import positive, whole

__all__ = [
    "BlockSparsity",
    "Cardinality",
    "ChannelSparsity",
    "Combined",
    "Constraint",
    "Levels",
    "NOfM",
]

# Elements handled at a time: the temporaries of a pass stay in the cache.
_CHUNK = 1 << 17
# Below this size a plain partition is as fast as bracketing.
_SMALL = 1 << 16
_SAMPLE = 1 << 18
# Candidate steps `Levels` examines one by one; a sort of this many takes a second.
_MAX_CANDIDATES = 1 << 23


class Constraint(abc.ABC):
    """A set of admissible weights, with the Euclidean projection onto it.

    Subclasses implement `project_into`. `joint` tells whether the set couples
    the weights of several layers; then `project_jointly` is the method to call.
    """

    joint: bool = False

    def project(self, weights: np.ndarray) -> np.ndarray:
        """The nearest admissible point to `weights`, as a new array.

        Args:
            weights: Floating-point array of any shape, without NaN.

        Returns:
            Array of the same shape and dtype.

        Raises:
            TypeError: If `weights` is not a floating-point array.
            ValueError: If `weights` holds NaN, or has a shape the set excludes.
        """
        out = np.empty_like(_checked(weights), order="C")
        self.project_into(np.ascontiguousarray(weights), out)
        return out

    def project_jointly(self, weights: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Projects the weights of several layers; each on its own unless `joint`."""
        return [self.project(values) for values in weights]

    @abc.abstractmethod
    def project_into(self, weights: np.ndarray, out: np.ndarray) -> None:
        """Writes the projection of `weights` into `out`.

        Args:
            weights: C-contiguous floating-point array; not changed.
            out: C-contiguous array of the same shape and dtype. It may be
                `weights` itself.
        """

    def get_config(self) -> dict[str, Any]:
        """Arguments that rebuild this object, each kept under its own name."""
        names = list(inspect.signature(type(self).__init__).parameters)[1:]
        return {name: getattr(self, name) for name in names}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Constraint":
        """Rebuilds an object from `get_config`."""
        return cls(**config)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.get_config() == self.get_config()

    def __hash__(self) -> int:
        return hash((type(self).__name__, repr(sorted(self.get_config().items()))))

    def __repr__(self) -> str:
        given = ((k, v) for k, v in self.get_config().items() if v is not None)
        arguments = ", ".join(f"{name}={value!r}" for name, value in given)
        return f"{type(self).__name__}({arguments})"


@keras.saving.register_keras_serializable(package="tfcompress")
class Cardinality(Constraint):
    """At most so many non-zero weights: the ones of largest magnitude are kept.

    This is the constraint of weight pruning in ADMM-NN (section 3.3). Ties are
    broken by position, the first weight in C order wins, so that the count is
    always exact and the outcome repeatable. No array is sorted and none is
    copied: the threshold is bracketed on a sample, and one pass over the weights
    finds it among the few that lie in the bracket.

    Example:

    ```python
    Cardinality(fraction=0.25).project(np.array([3.0, -4.0, 1.0, 2.0]))
    # array([ 0., -4.,  0.,  0.])
    ```

    Args:
        fraction: Portion of the weights to keep, in (0, 1]; the paper's alpha.
            At least one weight is kept. Give either this or `count`.
        count: Number of weights to keep, at least 1.
        scope: "layer" applies the bound to every layer by itself, "network" to
            all layers together, so that the layers compete for the budget.
            Defaults to "layer".

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If not exactly one of `fraction` and `count` is given, or a
            value is out of range.
    """

    def __init__(
        self,
        fraction: float | None = None,
        count: int | None = None,
        scope: Literal["layer", "network"] = "layer",
    ) -> None:
        _check_amount(fraction, count)
        if scope not in ("layer", "network"):
            raise ValueError(
                "Invalid value for argument `scope`. Expected 'layer' or 'network'. "
                f"Received: scope={scope!r}"
            )
        self.fraction = fraction
        self.count = count
        self.scope = scope
        self.joint = scope == "network"

    def kept(self, size: int) -> int:
        """How many of `size` weights may differ from zero."""
        return _amount(size, self.fraction, self.count)

    def project_into(self, weights: np.ndarray, out: np.ndarray) -> None:
        """See `Constraint.project_into`."""
        _keep_largest([weights], [out], self.kept(weights.size))

    def project_jointly(self, weights: Sequence[np.ndarray]) -> list[np.ndarray]:
        """See `Constraint.project_jointly`."""
        if not self.joint:
            return super().project_jointly(weights)
        arrays = [np.ascontiguousarray(_checked(values)) for values in weights]
        outs = [np.empty_like(values) for values in arrays]
        _keep_largest(arrays, outs, self.kept(sum(values.size for values in arrays)))
        return outs


@keras.saving.register_keras_serializable(package="tfcompress")
class ChannelSparsity(Constraint):
    """At most so many non-zero channels: those of largest L2 norm are kept.

    `tfcompress.structure.shrink` removes a channel for good if its bias and
    normalization are zero, too: `training.admm_compress(..., shrink=True)` makes them
    zero, a projection alone does not.

    Example:

    ```python
    ChannelSparsity(count=1).project(np.array([[3.0, 4.0], [3.0, 1.0]]))
    # array([[3., 0.], [3., 0.]])
    ```

    Args:
        fraction: Portion of the channels to keep, in (0, 1]; at least one is
            kept. Give either this or `count`.
        count: Number of channels to keep, at least 1.
        axis: Axis of the kernel that counts the channels. Defaults to -1, the
            output channels of dense and convolution kernels.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If not exactly one of `fraction` and `count` is given, or a
            value is out of range.
    """

    def __init__(
        self, fraction: float | None = None, count: int | None = None, axis: int = -1
    ) -> None:
        _check_amount(fraction, count)
        self.fraction = fraction
        self.count = count
        self.axis = whole("axis", axis, least=None)

    def project_into(self, weights: np.ndarray, out: np.ndarray) -> None:
        """See `Constraint.project_into`."""
        axis = _axis(self.axis, weights.ndim)
        others = tuple(i for i in range(weights.ndim) if i != axis)
        energy = np.sum(np.square(weights, dtype=np.float64), axis=others)
        _check_finite(energy)
        keep = _largest(energy, _amount(energy.size, self.fraction, self.count))
        shape = [1] * weights.ndim
        shape[axis] = energy.size
        np.multiply(weights, keep.reshape(shape), out=out)


@keras.saving.register_keras_serializable(package="tfcompress")
class BlockSparsity(Constraint):
    """At most so many non-zero tiles of `rows x columns` weights.

    A kernel is read as a matrix with one column per output channel: a
    convolution's `(height, width, channels, filters)` becomes
    `(height * width * channels, filters)`. Tiles of largest L2 norm are kept;
    tiles at the lower and right edge may be smaller.

    Example:

    ```python
    BlockSparsity(1, 2, count=1).project(np.array([[1.0, 1.0, 0.0, 1.2]]))
    # array([[1., 1., 0., 0.]])
    ```

    Args:
        rows: Height of a tile, at least 1.
        columns: Width of a tile, at least 1.
        fraction: Portion of the tiles to keep, in (0, 1]; at least one is kept.
            Give either this or `count`.
        count: Number of tiles to keep, at least 1.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If not exactly one of `fraction` and `count` is given, or a
            value is out of range.
    """

    def __init__(
        self,
        rows: int,
        columns: int,
        fraction: float | None = None,
        count: int | None = None,
    ) -> None:
        self.rows = whole("rows", rows)
        self.columns = whole("columns", columns)
        _check_amount(fraction, count)
        self.fraction = fraction
        self.count = count

    def project_into(self, weights: np.ndarray, out: np.ndarray) -> None:
        """See `Constraint.project_into`."""
        if weights.ndim < 1:
            raise ValueError(
                "Invalid value for argument `weights`. Expected at least one axis. "
                f"Received: shape {weights.shape}"
            )
        matrix = weights.reshape(-1, weights.shape[-1])
        starts = (
            np.arange(0, matrix.shape[0], self.rows),
            np.arange(0, matrix.shape[1], self.columns),
        )
        energy = np.square(matrix, dtype=np.float64)
        for axis in (0, 1):
            energy = np.add.reduceat(energy, starts[axis], axis=axis)
        _check_finite(energy)
        keep = _largest(
            energy.ravel(), _amount(energy.size, self.fraction, self.count)
        ).reshape(energy.shape)
        keep = np.repeat(keep, self.rows, axis=0)[: matrix.shape[0]]
        keep = np.repeat(keep, self.columns, axis=1)[:, : matrix.shape[1]]
        np.multiply(weights, keep.reshape(weights.shape), out=out)


@keras.saving.register_keras_serializable(package="tfcompress")
class NOfM(Constraint):
    """At most `n` non-zero weights in every `m` consecutive ones along an axis.

    2 of 4 along the input axis is the pattern that sparse tensor cores run at
    twice the dense speed. In a last group of fewer than `m` weights, at most `n`
    are kept as well. Ties go to the first weight.

    Example:

    ```python
    NOfM(1, 2, axis=-1).project(np.array([1.0, -2.0, 4.0, 3.0]))
    # array([ 0., -2.,  4.,  0.])
    ```

    Args:
        n: Weights to keep in each group, 1 to `m`.
        m: Length of a group, at least 1.
        axis: Axis along which groups are formed. Defaults to -2, the input
            channels of dense and convolution kernels.

    Raises:
        TypeError: If an argument is not an integer.
        ValueError: If a value is out of range.
    """

    def __init__(self, n: int, m: int, axis: int = -2) -> None:
        self.m = whole("m", m)
        self.n = whole("n", n)
        if self.n > self.m:
            raise ValueError(
                "Invalid value for argument `n`. Expected at most `m`. "
                f"Received: n={n}, m={m}"
            )
        self.axis = whole("axis", axis, least=None)

    def project_into(self, weights: np.ndarray, out: np.ndarray) -> None:
        """See `Constraint.project_into`."""
        axis = _axis(self.axis, weights.ndim)
        magnitude = np.moveaxis(np.abs(weights), axis, -1)
        _check_finite(magnitude, infinite=True)
        length = magnitude.shape[-1]
        # A group is filled up with -1, less than any magnitude.
        padding = [(0, 0)] * (weights.ndim - 1) + [(0, -length % self.m)]
        groups = np.pad(magnitude, padding, constant_values=-1)
        groups = groups.reshape(*groups.shape[:-1], -1, self.m)
        order = np.argsort(-groups, axis=-1, kind="stable")
        keep = np.zeros(groups.shape, bool)
        np.put_along_axis(keep, order[..., : self.n], True, axis=-1)
        keep = keep.reshape(*magnitude.shape[:-1], -1)[..., :length]
        keep = np.moveaxis(keep, -1, axis)
        out[...] = np.where(keep, weights, weights.dtype.type(0))  # inf * 0 is NaN


@keras.saving.register_keras_serializable(package="tfcompress")
class Levels(Constraint):
    """Non-zero weights lie on {±1, …, ±2^(bits-1)} · q; zeros stay zero.

    Zero is not a level, since it stands for a pruned weight (ADMM-NN, section
    3.4.2): `bits` bits encode 2^bits levels. The step q minimizes the total
    squared error of the weights given. It is found exactly. As q grows, each
    weight moves from a level to the one below at a known q, so the assignment of
    weights to levels takes finitely many forms; for a fixed assignment c the
    best step is Σ|w|c / Σc² and removes (Σ|w|c)² / Σc² from the error, and
    running sums over the sorted crossings give the best of all.
    (Above eight million crossings the magnitudes are first gathered in 2^16
    bins, and the step is then refined on the weights themselves.)

    Example:

    ```python
    Levels(bits=2).project(np.array([0.0, 0.4, -1.1, 2.3]))  # {±q, ±2q}, q = 1.05
    ```

    Args:
        bits: Width of a level code, 1 to 8.
        step: The step q, where it is already known. Defaults to `None`: the step
            of least squared error.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If a value is out of range.
    """

    def __init__(self, bits: int, step: float | None = None) -> None:
        self.bits = whole("bits", bits)
        if self.bits > 8:
            raise ValueError(
                "Invalid value for argument `bits`. Expected 1 to 8. "
                f"Received: bits={bits}"
            )
        self.step = None if step is None else positive("step", step)

    def best_step(self, weights: np.ndarray) -> float:
        """The step of least squared error for `weights`, representable in their dtype.

        Returns 0.0 if every weight is zero.
        """
        magnitude = np.abs(_checked(weights).ravel())
        magnitude = magnitude[magnitude != 0]
        _check_finite(magnitude)
        if not magnitude.size:
            return 0.0
        top = 1 << (self.bits - 1)
        points = magnitude.astype(np.float64)
        counts = np.ones_like(points)
        exact = points.size * (top - 1) <= _MAX_CANDIDATES
        if not exact:
            points, counts = _binned(points)
        step = _best_step(points, counts, top)
        if not exact:
            step = _refined_step(magnitude, step, top)
        rounded = weights.dtype.type(step)
        # A step below the smallest number of the dtype would turn weights into zeros.
        return float(max(rounded, np.finfo(weights.dtype).smallest_subnormal))

    def codes(self, weights: np.ndarray, step: float) -> np.ndarray:
        """Signed level numbers, −2^(bits-1) … 2^(bits-1), 0 for zero weights."""
        top = 1 << (self.bits - 1)
        if step == 0:
            return np.zeros(weights.shape, np.int16)
        # Clipping first keeps huge quotients out of the cast.
        quotient = np.clip(np.abs(weights) / weights.dtype.type(step), 1, top)
        return (np.sign(weights) * np.rint(quotient)).astype(np.int16)

    def project_into(self, weights: np.ndarray, out: np.ndarray) -> None:
        """See `Constraint.project_into`."""
        step = self.step if self.step is not None else self.best_step(weights)
        flat, target = weights.reshape(-1), out.reshape(-1)
        for part in _chunks(flat.size):
            _check_finite(np.abs(flat[part]))
            codes = self.codes(flat[part], step)
            # The product is taken in the dtype of the weights, as a reader of a
            # packed file does, so that code times step is bit-exact.
            target[part] = codes.astype(flat.dtype) * flat.dtype.type(step)


@keras.saving.register_keras_serializable(package="tfcompress")
class Combined(Constraint):
    """Projects onto several sets in turn: prune first, then quantize the rest.

    This is the paper's order for the joint problem (section 3.3). Quantization
    never creates or removes a zero, so the result lies in every set.

    Example:

    ```python
    Combined([Cardinality(fraction=0.1), Levels(bits=3)])
    ```

    Args:
        constraints: At least two constraints in the order of application. A
            `Levels` may only come last.

    Raises:
        TypeError: If an entry is not a `Constraint`.
        ValueError: If fewer than two are given, or `Levels` is not last.
    """

    def __init__(self, constraints: Sequence[Constraint]) -> None:
        parts = []
        for part in constraints:
            if isinstance(part, dict):
                part = keras.saving.deserialize_keras_object(part)
            if not isinstance(part, Constraint):
                raise TypeError(
                    "Invalid value for argument `constraints`. Expected `Constraint` "
                    f"objects. Received: {part!r}"
                )
            parts.append(part)
        if len(parts) < 2 or any(isinstance(part, Levels) for part in parts[:-1]):
            raise ValueError(
                "Invalid value for argument `constraints`. Expected at least two "
                f"constraints, `Levels` only as the last. Received: {parts}"
            )
        self.constraints = tuple(parts)
        self.joint = any(part.joint for part in parts)

    def project_into(self, weights: np.ndarray, out: np.ndarray) -> None:
        """See `Constraint.project_into`."""
        source = weights
        for part in self.constraints:
            part.project_into(source, out)
            source = out

    def project_jointly(self, weights: Sequence[np.ndarray]) -> list[np.ndarray]:
        """See `Constraint.project_jointly`."""
        result = list(weights)
        for part in self.constraints:
            result = part.project_jointly(result)
        return result

    def get_config(self) -> dict[str, Any]:
        """Arguments that rebuild this object."""
        return {
            "constraints": [
                keras.saving.serialize_keras_object(part) for part in self.constraints
            ]
        }

    def __repr__(self) -> str:
        return f"Combined({list(self.constraints)!r})"


def _keep_largest(
    arrays: Sequence[np.ndarray], outs: Sequence[np.ndarray], count: int
) -> None:
    """Writes to `outs` the `count` entries of largest magnitude, zeros elsewhere."""
    threshold, ties = _threshold(arrays, count)
    for values, out in zip(arrays, outs, strict=True):
        flat, target = values.reshape(-1), out.reshape(-1)
        for part in _chunks(flat.size):
            magnitude = np.abs(flat[part])
            keep = magnitude > threshold
            if ties:
                equal = np.flatnonzero(magnitude == threshold)[:ties]
                keep[equal] = True
                ties -= equal.size
            if math.isinf(threshold):  # some infinity goes, and inf * 0 is NaN
                target[part] = np.where(keep, flat[part], flat.dtype.type(0))
            else:
                np.multiply(flat[part], keep, out=target[part])


def _threshold(arrays: Sequence[np.ndarray], count: int) -> tuple[float, int]:
    """The `count`-th largest magnitude, and how many entries equal to it are kept.

    A sample brackets the threshold; one pass counts what lies above the bracket
    and gathers what lies inside. A bracket that misses is widened, so that the
    answer is exact whatever the sample.
    """
    # If a portion p of all magnitudes lies above the threshold, the number of such ones
    # in a sample of n is about n · p, with a standard deviation of √(n · p · (1 - p))
    # if the sample is random. The bracket is six of these on either side. Only what
    # lies in it has to be looked at one by one.
    total = sum(values.size for values in arrays)
    sample = _sample(arrays)
    portion = count / total
    margin = 4 + 6 * math.sqrt(portion * (1 - portion) * sample.size)
    while True:
        rank = portion * sample.size
        low = _ranked(sample, rank + margin, beyond=0.0)
        high = _ranked(sample, rank - margin, beyond=math.inf)
        above, at_low, inside = _count(arrays, low, high)
        if above < count <= above + inside.size:
            place = inside.size - (count - above)
            inside.partition(place)
            value = inside[place]
            return value, count - above - int(np.count_nonzero(inside > value))
        if above + inside.size < count <= above + inside.size + at_low:
            return low, count - above - inside.size
        margin *= 8


def _sample(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Sorted magnitudes of evenly spaced entries; of all, where they are few."""
    total = sum(values.size for values in arrays)
    stride = max(1, total // _SAMPLE) if total > _SMALL else 1
    picked = [np.abs(values.reshape(-1)[::stride]) for values in arrays]
    return np.sort(np.concatenate(picked))


def _ranked(ascending: np.ndarray, rank: float, beyond: float) -> float:
    """The entry that `rank` others exceed or equal; `beyond` past either end."""
    place = ascending.size - math.ceil(rank)
    return ascending[place] if 0 <= place < ascending.size else beyond


def _count(
    arrays: Sequence[np.ndarray], low: float, high: float
) -> tuple[int, int, np.ndarray]:
    """How many magnitudes exceed `high`, equal `low`; and those in (low, high]."""
    above = at_low = 0
    inside = []
    for values in arrays:
        flat = values.reshape(-1)
        for part in _chunks(flat.size):
            magnitude = np.abs(flat[part])
            _check_finite(magnitude, infinite=True)
            at_low += int(np.count_nonzero(magnitude == low))
            candidates = magnitude[magnitude > low]
            within = candidates[candidates <= high]
            above += candidates.size - within.size
            inside.append(within)
    return above, at_low, np.concatenate(inside)


def _largest(scores: np.ndarray, count: int) -> np.ndarray:
    """Mask of the `count` largest entries of a vector; the first of equals wins."""
    keep = np.zeros(scores.size, bool)
    keep[np.argsort(-scores, kind="stable")[:count]] = True
    return keep


def _best_step(points: np.ndarray, counts: np.ndarray, top: int) -> float:
    """Argmin over q of Σ counts·(points − q·level)² with levels 1 … top.

    A point x moves from level j + 1 to level j where q passes x / (j + 1/2).
    Before the first crossing every point is on the top level.
    """
    # With the levels c fixed, Σ (x - q c)² = Σ x² - 2 q Σ x c + q² Σ c² is smallest at
    # q = Σ x c / Σ c², where it is Σ x² - (Σ x c)² / Σ c². So the best assignment has
    # the largest (Σ x c)² / Σ c². At a crossing one c falls from j + 1 to j: Σ x c
    # falls by x, and Σ c² by (j + 1)² - j² = 2 j + 1. Running sums over the sorted
    # crossings give both for all assignments. Between, `product` is Σ x c and `square`
    # is Σ c².
    lower = np.arange(1, top, dtype=np.float64)
    crossing = np.divide.outer(points, lower + 0.5).ravel()
    order = np.argsort(crossing, kind="stable")
    weighted = points * counts
    moved = np.broadcast_to(weighted[:, None], (points.size, top - 1)).ravel()[order]
    squares = np.multiply.outer(counts, 2 * lower + 1).ravel()[order]
    product = top * weighted.sum() - np.concatenate([[0.0], np.cumsum(moved)])
    square = top**2 * counts.sum() - np.concatenate([[0.0], np.cumsum(squares)])
    best = int(np.argmax(product**2 / square))
    return float(product[best] / square[best])


def _binned(points: np.ndarray, bins: int = 1 << 16) -> tuple[np.ndarray, np.ndarray]:
    """Means and counts of the points in equal intervals up to the largest."""
    index = np.minimum(points * (bins / points.max()), bins - 1).astype(np.int64)
    counts = np.bincount(index, minlength=bins)
    sums = np.bincount(index, weights=points, minlength=bins)
    filled = counts > 0
    return sums[filled] / counts[filled], counts[filled].astype(np.float64)


def _refined_step(magnitude: np.ndarray, step: float, top: int) -> float:
    """Alternates nearest levels and best step until the step stands still."""
    while True:
        product = square = 0.0
        for part in _chunks(magnitude.size):
            values = magnitude[part].astype(np.float64)
            level = np.clip(np.rint(values / step), 1, top)
            product += float(values @ level)
            square += float(level @ level)
        better = product / square
        if math.isclose(better, step, rel_tol=1e-9):
            return better
        step = better


def _chunks(size: int) -> Iterator[slice]:
    for start in range(0, size, _CHUNK):
        yield slice(start, start + _CHUNK)


def _checked(weights: np.ndarray) -> np.ndarray:
    if not isinstance(weights, np.ndarray) or weights.dtype.kind != "f":
        raise TypeError(
            "Invalid value for argument `weights`. Expected a floating-point NumPy "
            f"array. Received: {type(weights).__name__} with dtype "
            f"{getattr(weights, 'dtype', None)}"
        )
    if not weights.size:
        raise ValueError(
            "Invalid value for argument `weights`. Expected a non-empty array. "
            f"Received: shape {weights.shape}"
        )
    return weights


def _check_finite(values: np.ndarray, infinite: bool = False) -> None:
    """Refuses NaN; and infinity, unless `infinite`."""
    largest = values.max(initial=0)
    if np.isnan(largest):
        _refuse_nan()
    if np.isinf(largest) and not infinite:
        raise ValueError(
            "Invalid value for argument `weights`. Expected finite weights. "
            "Received: infinity, or values whose squares overflow"
        )


def _refuse_nan() -> None:
    raise ValueError(
        "Invalid value for argument `weights`. Expected numbers. Received: NaN; "
        "training has diverged, try a lower learning rate"
    )


def _amount(size: int, fraction: float | None, count: int | None) -> int:
    if count is not None:
        return min(count, size)
    return max(1, round((fraction or 0.0) * size))


def _check_amount(fraction: float | None, count: int | None) -> None:
    if (fraction is None) == (count is None):
        raise ValueError(
            "Expected exactly one of the arguments `fraction` and `count`. "
            f"Received: fraction={fraction!r}, count={count!r}"
        )
    if count is not None:
        whole("count", count)
    if fraction is not None:
        check_fraction("fraction", fraction)


def _axis(axis: int, ndim: int) -> int:
    if not -ndim <= axis < ndim:
        raise ValueError(
            f"Invalid value for argument `axis`. Expected {-ndim} to {ndim - 1} for "
            f"an array of {ndim} axes. Received: axis={axis}"
        )
    return axis % ndim
