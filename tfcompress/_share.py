"""Independent tasks, shared out among processes of this machine or a Ray cluster.

All tasks are known beforehand. `compression._ray` asks for the next one each time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import keras

from tfcompress._checks import invalid, number, one_of, whole

__all__ = ["Engine", "check_engine", "cores", "share_out"]

Engine = Literal["processes", "ray"]
# Of what all tasks share and of one task.
Work = Callable[[Any, Any], Any]


def check_engine(engine: str, workers: int | None, gpus: float = 0.0) -> None:
    """Checks the arguments that public functions take for `share_out`.

    Args:
        engine: `"processes"` or `"ray"`.
        workers: number of processes, or `None`.
        gpus: GPUs that a task takes. Defaults to `0.0`.

    Raises:
        ImportError: if `engine` is `"ray"` and Ray is not installed.
        TypeError: if an argument is of another kind.
        ValueError: if an argument is out of range.
    """
    one_of("engine", engine, ("processes", "ray"))
    number("gpus", gpus)
    if workers is not None:
        whole("workers", workers)
    if engine == "processes":
        if gpus:
            raise ValueError(invalid("gpus", "0 for engine='processes'", gpus))
        return
    if workers is not None:
        raise ValueError(invalid("workers", "None for engine='ray'", workers))
    try:
        import ray  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "Expected Ray for engine='ray'. Install it with "
            "`pip install tfcompress[ray]`, or use engine='processes'."
        ) from error


def share_out(
    work: Work,
    shared: Any,
    tasks: Sequence[Any],
    *,
    engine: str,
    workers: int | None,
    gpus: float = 0.0,
) -> Iterator[tuple[int, Any]]:
    """Does all tasks, several at a time.

    Args:
        work: function of `shared` and a task. It travels to other processes.
        shared: what all tasks share; it travels once to each machine of a cluster.
        tasks: the tasks.
        engine: as for `check_engine`.
        workers: number of processes; `None` for one per core. With 1, everything
            is done in this one.
        gpus: GPUs of the cluster that a task takes. Defaults to `0.0`.

    Yields:
        Number of a task and what `work` returned, in the order in which they end.
    """
    if engine == "ray":
        yield from _on_ray(work, shared, tasks, gpus)
        return
    processes = min(workers or cores(), len(tasks))
    if workers == 1 or (workers is None and cores() == 1):
        for index, task in enumerate(tasks):
            yield index, work(shared, task)
    elif tasks:
        yield from _in_processes(work, shared, tasks, processes)


def cores() -> int:
    """Number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0))


def _in_processes(
    work: Work, shared: Any, tasks: Sequence[Any], processes: int
) -> Iterator[tuple[int, Any]]:
    import joblib

    parallel = joblib.Parallel(
        n_jobs=processes, return_as="generator_unordered", batch_size=1
    )
    yield from parallel(
        joblib.delayed(_numbered)(work, shared, index, task)
        for index, task in enumerate(tasks)
    )


def _numbered(work: Work, shared: Any, index: int, task: Any) -> tuple[int, Any]:
    return index, work(shared, task)


def _on_ray(
    work: Work, shared: Any, tasks: Sequence[Any], gpus: float
) -> Iterator[tuple[int, Any]]:
    import ray

    if not ray.is_initialized():
        ray.init()
    # A trial that trains uses what there is; a core is what Ray counts it as.
    remote = ray.remote(_on_worker).options(num_gpus=gpus or None)
    stored = ray.put(shared)  # once a machine, not once a task
    backend = keras.backend.backend()
    waiting = [
        remote.remote(work, stored, index, task, backend)
        for index, task in enumerate(tasks)
    ]
    try:
        while waiting:
            done, waiting = ray.wait(waiting)
            yield from ray.get(done)
    finally:
        # Where one task has failed, or the caller has seen enough.
        for each in waiting:
            ray.cancel(each)


def _on_worker(
    work: Work, shared: Any, index: int, task: Any, backend: str
) -> tuple[int, Any]:
    # Workers of a cluster have the environment of their machine, not the caller's.
    found = keras.backend.backend()
    if found != backend:
        raise ValueError(
            "Invalid value for the backend of Keras on a worker of Ray. Expected "
            f"{backend!r}, that of the caller. Received: {found!r}. Set KERAS_BACKEND "
            "on the machines of the cluster, before Ray is started there."
        )
    return index, work(shared, task)
