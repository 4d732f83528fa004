"""Trials as tasks of a Ray cluster."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from tfcompress._models import load_model, save_model
from tfcompress.compression._result import TrialResult
from tfcompress.compression._search import Engine, Trial

__all__ = ["Alone", "as_bytes", "from_bytes", "require_ray", "trials_on_ray"]

Files = dict[str, bytes]


@dataclass
class Alone:
    """A trial in a process that no engine talks to: it runs to its end."""

    number: int
    settings: dict[str, Any]

    def report(self, epoch: int, worth: float) -> bool:
        """Nothing gives up."""
        return False

    def end(self, worth: float | None, excess: float) -> None:
        """The process that asked for it tells the engine."""


def require_ray() -> None:
    """Raises `ImportError` if Ray is not installed."""
    try:
        import ray  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "Invalid value for argument `engine`. Expected 'local', or Ray for "
            "engine='ray': pip install \"tfcompress[ray]\"."
        ) from error


def trials_on_ray(
    engine: Engine,
    done: Mapping[int, Any],
    job: Any,
    work: Callable[[Any, int, dict[str, Any]], tuple[dict[str, Any], Files]],
) -> Iterator[tuple[Trial, TrialResult, Files]]:
    """Runs trials on a cluster, as many at a time as it has processors or GPUs.

    Args:
        engine: where trials come from.
        done: see `Engine.next`; what is added to it is seen.
        job: what all trials need; it travels once a machine.
        work: a function of this package, called there with `job`, number and
            settings of a trial. Returns the fields of a `TrialResult` and the
            files of the trial.

    Yields:
        Trials with their results as they end, in any order.
    """
    import ray

    if not ray.is_initialized():
        ray.init()
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    at_once = gpus or max(1, int(resources.get("CPU", 1)))
    task = ray.remote(num_cpus=1, num_gpus=1 if gpus else 0)(work)
    shared = ray.put(job)
    running: dict[Any, Trial] = {}
    while True:
        while len(running) < at_once:
            trial = engine.next(done, {other.number for other in running.values()})
            if trial is None:
                break
            running[task.remote(shared, trial.number, trial.settings)] = trial
        if not running:
            return
        ended, _ = ray.wait(list(running), num_returns=1)
        fields, files = ray.get(ended[0])
        yield running.pop(ended[0]), TrialResult(**fields), files


def as_bytes(model: keras.Model) -> bytes:
    """A model, as it is compiled, in a form that travels.

    Raises:
        ValueError: if it cannot be read back compiled: a loss or metric of the
            user's own has no name that Keras knows.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        try:
            save_model(model, path)
            if load_model(path, compiled=True).compiled == model.compiled:
                return path.read_bytes()
            error: Exception | None = None
        except (TypeError, ValueError) as failure:
            error = failure
    raise ValueError(
        "Invalid value for argument `model`. Expected with engine='ray' a model that "
        "Keras can save and load as it is compiled; register losses and metrics of "
        "your own with keras.saving.register_keras_serializable. Received: "
        f"{model.name!r}"
    ) from error


def from_bytes(content: bytes) -> keras.Model:
    """The model again."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        path.write_bytes(content)
        return load_model(path, compiled=True)
