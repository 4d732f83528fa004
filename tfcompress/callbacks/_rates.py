"""Schedules of rates: one for all layers, or one for each that is named."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tfcompress import schedules
from tfcompress._checks import name_list

__all__ = ["Rates", "get_rates", "serialize_rates"]

Rates = schedules.Schedule | dict[str, schedules.Schedule]


def get_rates(schedule: Any) -> Rates:
    """One schedule, or one for each name, with all rates in [0, 1).

    Args:
        schedule: a `Schedule`, a number, a config, or a dict of these by name.

    Raises:
        TypeError, ValueError: about the argument `schedule`.
    """
    if isinstance(schedule, Mapping) and "class_name" not in schedule:
        if not schedule:
            raise ValueError(
                "Invalid value for argument `schedule`. Expected at least one layer. "
                "Received: an empty dict"
            )
        name_list("schedule", schedule)
        return {name: _rate(each) for name, each in schedule.items()}
    return _rate(schedule)


def serialize_rates(rates: Rates) -> dict[str, Any]:
    """What `get_rates` restores from, as plain Python values."""
    if isinstance(rates, dict):
        return {name: schedules.serialize(rate) for name, rate in rates.items()}
    return schedules.serialize(rates)


def _rate(schedule: Any) -> schedules.Schedule:
    result = schedules.get(schedule)
    low, high = result.bounds()
    if not 0 <= low <= high < 1:
        raise ValueError(
            "Invalid value for argument `schedule`. Expected rates in [0, 1) at every "
            f"step. Received: schedule={schedule!r} with rates from {low} to {high}"
        )
    return result
