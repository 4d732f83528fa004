"""Fixtures that every test module shares."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

# A busy machine must not turn a slow example into a failure.
hypothesis.settings.register_profile("tests", deadline=None)
hypothesis.settings.load_profile("tests")

_REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    """Every test starts from the same random state."""
    import keras

    keras.utils.set_random_seed(0)
    yield
    keras.config.set_dtype_policy("float32")


def _prepared(name: str) -> str:
    """The folder that holds the prepared TFDS set `name`, or a skip."""
    places = [os.environ.get("TFDS_DATA_DIR"), _REPOSITORY.parent / "shared/datasets"]
    for place in places:
        if place and (Path(place) / name).is_dir():
            return str(place)
    pytest.skip(
        f"{name} is not prepared here: set TFDS_DATA_DIR to a folder that has it"
    )


@pytest.fixture(scope="session")
def mnist_dir() -> str:
    """A `data_dir` with a prepared MNIST."""
    return _prepared("mnist")


@pytest.fixture(scope="session")
def cifar10_dir() -> str:
    """A `data_dir` with a prepared CIFAR-10."""
    return _prepared("cifar10")
