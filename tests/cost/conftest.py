"""The script that compares with the papers, and the networks it counted."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

_REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def script() -> Callable[[str], ModuleType]:
    """Loads a script of the repository by its path."""

    def load(path: str) -> ModuleType:
        name = Path(path).stem
        spec = importlib.util.spec_from_file_location(name, _REPOSITORY / path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses look it up
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope="session")
def paper_tables(script: Callable[[str], ModuleType]) -> ModuleType:
    """`benchmarks/paper_tables.py`, which counts every network once."""
    return script("benchmarks/paper_tables.py")


@pytest.fixture(scope="session")
def cross_stack_cost(paper_tables: ModuleType) -> Callable:
    """`cost.count` of `zoo.cross_stack(dataset, variant)`."""
    return lambda *names: paper_tables.count("cross_stack", *names)
