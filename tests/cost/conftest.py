"""Costs of the papers' networks, counted once."""

import functools
from collections.abc import Callable

import pytest


@pytest.fixture(scope="session")
def cross_stack_cost() -> Callable:
    """`cost.count` of `zoo.cross_stack(dataset, variant)`."""
    from tfcompress import cost, zoo

    return functools.cache(lambda *names: cost.count(zoo.cross_stack(*names)))
