"""Schedules: how a rate or a weight changes while a model trains.

A schedule is a pure function from a step to a number. It does not know what a
step is (an epoch, an optimizer update) nor what the number means (a pruning
rate, the weight of a penalty): the callback that uses it says so. Schedules
are values: frozen, comparable, hashable, and they round-trip through
`get_config` and `from_config`.
"""

from __future__ import annotations

import bisect
import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Self

import keras

__all__ = [
    "Constant",
    "Linear",
    "OneShot",
    "Piecewise",
    "Polynomial",
    "Schedule",
    "deserialize",
    "get",
    "serialize",
]


class Schedule(ABC):
    """A function `step -> float`.

    Subclass it, preferably as a frozen dataclass, to add a schedule of your
    own; implement `__call__` and `bounds`.

    Example:

    ```python
    schedule = tfc.schedules.Linear(0.0, 0.8, begin=0, end=80)
    schedule(40)  # 0.4
    ```
    """

    @abstractmethod
    def __call__(self, step: float) -> float:
        """Returns the value at `step`.

        Args:
            step: a step number, 0 or larger.

        Returns:
            The value that is in force while that step runs.
        """

    @abstractmethod
    def bounds(self) -> tuple[float, float]:
        """Returns the smallest and the largest value over all steps."""

    def last(self) -> float | None:
        """Returns the value that stays when all others have passed.

        By default the largest. A schedule that ends with another overrides it, and
        returns `None` if it never settles. A training run that ends before this
        value is reached says so.
        """
        return self.bounds()[1]

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments as plain Python values."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)  # type: ignore[arg-type]
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Creates a schedule from what `get_config` returned."""
        return cls(**config)


@keras.saving.register_keras_serializable(package="tfcompress")
@dataclass(frozen=True)
class Constant(Schedule):
    r"""One value from a step on.

    $$f(t) = \begin{cases} 0 & t < b \\ v & t \ge b \end{cases}$$

    Example:

    ```python
    tfc.schedules.Constant(0.5)
    ```

    Args:
        value: the value v.
        begin: first step b with that value. Defaults to `0`.

    Raises:
        TypeError: if an argument is not a number.
        ValueError: if `value` is not finite or `begin` is negative.
    """

    value: float
    begin: float = 0

    def __post_init__(self) -> None:
        _require_number("value", self.value)
        _require_step("begin", self.begin)

    def __call__(self, step: float) -> float:
        """Returns the value at `step`."""
        return float(self.value) if step >= self.begin else 0.0

    def bounds(self) -> tuple[float, float]:
        """Returns the smallest and the largest value over all steps."""
        return _bounds(self.value, *([0.0] if self.begin > 0 else []))

    def last(self) -> float:
        """Returns the value that stays when all others have passed."""
        return float(self.value)


@keras.saving.register_keras_serializable(package="tfcompress")
@dataclass(frozen=True)
class OneShot(Schedule):
    r"""Nothing, and then everything at once.

    $$f(t) = \begin{cases} 0 & t < a \\ v & t \ge a \end{cases}$$

    With a pruning callback that counts epochs, `OneShot(rate, at=n)` is the
    usual prune-then-retrain: train n epochs, prune abruptly, retrain for the
    epochs that remain.

    Example:

    ```python
    tfc.schedules.OneShot(0.8, at=55)  # "PRT-55"
    ```

    Args:
        value: the value v from step `at` on.
        at: the step a of the change.

    Raises:
        TypeError: if an argument is not a number.
        ValueError: if `value` is not finite or `at` is negative.
    """

    value: float
    at: float

    def __post_init__(self) -> None:
        _require_number("value", self.value)
        _require_step("at", self.at)

    def __call__(self, step: float) -> float:
        """Returns the value at `step`."""
        return float(self.value) if step >= self.at else 0.0

    def bounds(self) -> tuple[float, float]:
        """Returns the smallest and the largest value over all steps."""
        return _bounds(self.value, *([0.0] if self.at > 0 else []))

    def last(self) -> float:
        """Returns the value that stays when all others have passed."""
        return float(self.value)


@dataclass(frozen=True)
class _Ramp(Schedule):
    """What `Linear` and `Polynomial` share: `initial` to `final` over a range."""

    initial: float
    final: float
    begin: float
    end: float

    def _check(self, every: float) -> None:
        _require_number("initial", self.initial)
        _require_number("final", self.final)
        _require_step("begin", self.begin)
        _require_step("end", self.end)
        if self.begin >= self.end:
            raise ValueError(
                "Invalid value for argument `end`. Expected a step after `begin`. "
                f"Received: begin={self.begin!r}, end={self.end!r}"
            )
        _require_number("every", every)
        if every <= 0:
            raise ValueError(
                "Invalid value for argument `every`. Expected a positive number of "
                f"steps. Received: every={every!r}"
            )

    def _progress(self, step: float, every: float) -> float:
        """The fraction of the way at `step`, held for `every` steps."""
        if step >= self.end:
            return 1.0
        if step <= self.begin:
            return 0.0
        updates = math.floor((step - self.begin) / every)
        return updates * every / (self.end - self.begin)

    def bounds(self) -> tuple[float, float]:
        """Returns the smallest and the largest value over all steps."""
        return _bounds(self.initial, self.final)

    def last(self) -> float:
        """Returns the value that stays when all others have passed."""
        return float(self.final)


@keras.saving.register_keras_serializable(package="tfcompress")
@dataclass(frozen=True)
class Linear(_Ramp):
    r"""A straight line, held before and after, in stairs if wanted.

    With $\tau = b + n \lfloor (t - b) / n \rfloor$ the last update at or before
    step t, for `every` = n:

    $$f(t) = v_0 + (v_1 - v_0) \frac{\tau - b}{e - b} \quad (b \le t < e)$$

    and $f(t) = v_0$ before b, $f(t) = v_1$ from e on, also where e - b is no
    multiple of n.

    Example:

    ```python
    tfc.schedules.Linear(0.0, 0.8, begin=0, end=80)           # 1 % an epoch
    tfc.schedules.Linear(0.0, 0.8, begin=0, end=80, every=2)  # "Mod-2"
    tfc.schedules.Linear.from_rate(0.01, 0.8)                 # the first again
    ```

    Args:
        initial: the value v0 up to `begin`.
        final: the value v1 from `end` on.
        begin: the step b where the line starts.
        end: the step e where it arrives.
        every: number of steps n between two changes. Defaults to `1`.

    Raises:
        TypeError: if an argument is not a number.
        ValueError: if a value is not finite, a step is negative, `begin` is not
            before `end`, or `every` is not positive.
    """

    every: float = 1

    def __post_init__(self) -> None:
        self._check(self.every)

    def __call__(self, step: float) -> float:
        """Returns the value at `step`."""
        return _between(self.initial, self.final, self._progress(step, self.every))

    @classmethod
    def from_rate(
        cls, rate: float, target: float, *, begin: float = 0, every: float = 1
    ) -> Linear:
        """Creates the line that grows from 0 by `rate` a step up to `target`.

        Example:

        ```python
        tfc.schedules.Linear.from_rate(0.01, 0.8)(30)  # 0.3
        ```

        Args:
            rate: growth a step, positive.
            target: the value at which growth stops, positive.
            begin: the step where growth starts. Defaults to `0`.
            every: number of steps between two changes. Defaults to `1`.

        Returns:
            `Linear(0, target, begin, begin + target / rate, every)`.

        Raises:
            TypeError: if an argument is not a number.
            ValueError: if `rate` or `target` is not positive.
        """
        for name, value in (("rate", rate), ("target", target)):
            _require_number(name, value)
            if value <= 0:
                raise ValueError(
                    f"Invalid value for argument `{name}`. Expected a positive "
                    f"number. Received: {name}={value!r}"
                )
        return cls(0.0, target, begin, begin + target / rate, every)


@keras.saving.register_keras_serializable(package="tfcompress")
@dataclass(frozen=True)
class Polynomial(_Ramp):
    r"""Fast at first, slower toward the end.

    With $\tau = b + n \lfloor (t - b) / n \rfloor$ for `every` = n, and power p:

    $$f(t) = v_1 + (v_0 - v_1) \left(1 - \frac{\tau - b}{e - b}\right)^p
      \quad (b \le t < e)$$

    and $f(t) = v_0$ before b, $f(t) = v_1$ from e on. p = 3 is the schedule of
    Zhu and Gupta, "To prune, or not to prune" (2017), equation 1; p = 1 is
    `Linear`.

    Example:

    ```python
    tfc.schedules.Polynomial(0.0, 0.8, begin=0, end=10_000, every=100)
    ```

    Args:
        initial: the value v0 up to `begin`.
        final: the value v1 from `end` on.
        begin: the step b where the curve starts.
        end: the step e where it arrives.
        power: the exponent p, positive. Defaults to `3`.
        every: number of steps n between two changes. Defaults to `1`.

    Raises:
        TypeError: if an argument is not a number.
        ValueError: if a value is not finite, a step is negative, `begin` is not
            before `end`, or `power` or `every` is not positive.
    """

    power: float = 3
    every: float = 1

    def __post_init__(self) -> None:
        self._check(self.every)
        _require_number("power", self.power)
        if self.power <= 0:
            raise ValueError(
                "Invalid value for argument `power`. Expected a positive number. "
                f"Received: power={self.power!r}"
            )

    def __call__(self, step: float) -> float:
        """Returns the value at `step`."""
        left = (1.0 - self._progress(step, self.every)) ** self.power
        return _between(self.final, self.initial, left)


@keras.saving.register_keras_serializable(package="tfcompress")
@dataclass(frozen=True)
class Piecewise(Schedule):
    r"""Different values from given steps on.

    $$f(t) = v_i \quad (t_i \le t < t_{i+1})$$

    and 0 before the first of the steps $t_0 < t_1 < \dots$

    Example:

    ```python
    tfc.schedules.Piecewise({0: 0.0, 125: 2.0})
    ```

    Args:
        values: a mapping from the step to the value that holds from it on (or
            an iterable of such pairs).

    Raises:
        TypeError: if `values` is not a dict from steps to numbers.
        ValueError: if `values` is empty, a step is negative or occurs twice, or
            a value is not finite.
    """

    # Pairs, not a dict: the schedule stays hashable and its JSON keeps the
    # steps numbers.
    values: tuple[tuple[float, float], ...]

    def __init__(
        self, values: Mapping[float, float] | Iterable[tuple[float, float]]
    ) -> None:
        pairs = values.items() if isinstance(values, Mapping) else values
        try:
            pieces = tuple(sorted((step, value) for step, value in pairs))
        except (TypeError, ValueError) as error:
            raise _bad_pieces(values) from error
        if not pieces or len({step for step, _ in pieces}) < len(pieces):
            raise _bad_pieces(values)
        for step, value in pieces:
            _require_step("values", step)
            _require_number("values", value)
        object.__setattr__(self, "values", pieces)

    def __call__(self, step: float) -> float:
        """Returns the value at `step`."""
        index = bisect.bisect_right(self.values, step, key=lambda piece: piece[0])
        return float(self.values[index - 1][1]) if index else 0.0

    def bounds(self) -> tuple[float, float]:
        """Returns the smallest and the largest value over all steps."""
        before = [0.0] if self.values[0][0] > 0 else []
        return _bounds(*(value for _, value in self.values), *before)

    def last(self) -> float:
        """Returns the value that stays when all others have passed."""
        return float(self.values[-1][1])


def get(identifier: Any) -> Schedule:
    """Returns the schedule that `identifier` stands for.

    Example:

    ```python
    tfc.schedules.get(0.5)  # Constant(0.5)
    tfc.schedules.get({"class_name": "OneShot", "config": {"value": 0.8, "at": 9}})
    ```

    Args:
        identifier: a `Schedule`, a number (a `Constant`), or a dict with
            `class_name` and `config`, as `serialize` returns it or with the
            plain name of a class of this module.

    Returns:
        A `Schedule`.

    Raises:
        TypeError: if `identifier` is none of these.
        ValueError: if the class is not known or its arguments are not valid.
    """
    if isinstance(identifier, Schedule):
        return identifier
    if isinstance(identifier, Mapping):
        return deserialize(identifier)
    if isinstance(identifier, Real) and not isinstance(identifier, bool):
        return Constant(float(identifier))
    if isinstance(identifier, str):
        raise ValueError(
            "Invalid value for argument `identifier`. A schedule needs arguments: "
            "expected an object such as tfcompress.schedules.Linear(0.0, 0.8, 0, 80) "
            f"or a dict with `class_name` and `config`. Received: {identifier!r}"
        )
    raise TypeError(
        "Invalid value for argument `identifier`. Expected a Schedule, a number or "
        f"a dict with `class_name` and `config`. Received: {identifier!r} of type "
        f"{type(identifier).__name__}"
    )


def serialize(schedule: Schedule) -> dict[str, Any]:
    """Returns a JSON-compatible dict from which `deserialize` restores `schedule`.

    Args:
        schedule: a `Schedule`.

    Returns:
        A dict with `class_name`, `config` and what Keras adds to find the class.
    """
    return keras.saving.serialize_keras_object(schedule)


def deserialize(config: Mapping[str, Any]) -> Schedule:
    """Creates the schedule that `serialize` described.

    Args:
        config: a dict with `class_name` and `config`.

    Returns:
        A `Schedule`.

    Raises:
        ValueError: if `config` does not describe a schedule.
    """
    classes: tuple[type[Schedule], ...] = (
        Constant,
        OneShot,
        Linear,
        Polynomial,
        Piecewise,
    )
    names = {cls.__name__: cls for cls in classes}
    schedule = keras.saving.deserialize_keras_object(dict(config), custom_objects=names)
    if not isinstance(schedule, Schedule):
        raise ValueError(
            "Invalid value for argument `config`. Expected the description of a "
            f"schedule. Received: config={config!r}"
        )
    return schedule


def _between(start: float, stop: float, fraction: float) -> float:
    """A point between two values that hits both of them exactly."""
    if fraction == 1.0:
        return float(stop)
    return float(start + (stop - start) * fraction)


def _bounds(*values: float) -> tuple[float, float]:
    return float(min(values)), float(max(values))


def _require_number(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(
            f"Invalid value for argument `{name}`. Expected a number. "
            f"Received: {name}={value!r} of type {type(value).__name__}"
        )
    if not isinstance(value, Integral) and not math.isfinite(value):
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected a finite number. "
            f"Received: {name}={value!r}"
        )


def _require_step(name: str, value: Any) -> None:
    _require_number(name, value)
    if value < 0:
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected a step that is 0 or "
            f"larger. Received: {name}={value!r}"
        )


def _bad_pieces(values: Any) -> ValueError:
    return ValueError(
        "Invalid value for argument `values`. Expected at least one pair of a step "
        "and a value, every step once, such as {0: 0.0, 125: 2.0}. "
        f"Received: values={values!r}"
    )
