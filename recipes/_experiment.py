"""A folder of results, resumable jobs, tables.

A recipe is a list of jobs: a network, trained in one way, with one seed. The folder
of the results holds a record (JSON) and models (.keras) for each job that is done,
and a backup for the one that is not. A run does the jobs that are missing. So the same
command resumes an interrupted run, and a longer list of jobs adds to a shorter
one. Every file is complete or absent: it is written under another name first.
"""

import dataclasses
import json
import math
import os
import re
import shutil
import statistics
import time
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

import tfcompress as tfc

try:
    import fcntl
except ImportError:  # Windows: two runs in one folder are not noticed there
    fcntl = None  # type: ignore[assignment]

TEMPORARY = ".unfinished-"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """One thing to do, done or not.

    Attributes:
        name: what tables call it; the same for all seeds.
        seed: of everything random in it.
        epochs: how long it trains, to estimate what is left.
    """

    name: str
    seed: int
    epochs: int = 1

    @property
    def key(self) -> str:
        """What its files are called."""
        words = re.findall(r"[a-zA-Z0-9.+_]+", self.name)
        return "-".join([f"seed{self.seed}", *words])


class Experiment:
    """A folder of results, which belongs to one run and one choice of settings.

    Use it as a context manager. Opening it locks the folder and removes what
    interrupted writers left.

    Args:
        out: the folder; it is created if it is missing.
        settings: a dataclass; the folder of other settings is refused.

    Raises:
        ValueError: if the folder cannot be written, another run is at work in it,
            or it has results of other settings.
    """

    def __init__(self, out: str | os.PathLike[str], settings: Any) -> None:
        self.folder = Path(out)
        self.settings = json.loads(json.dumps(dataclasses.asdict(settings)))
        self.settings["dtype_policy"] = keras.config.dtype_policy().name
        self.settings["backend"] = keras.backend.backend()

    def __enter__(self) -> "Experiment":
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.folder / ".lock", "a+")
        except OSError as error:
            raise self._refusal("that can be written", error.strerror) from error
        try:
            if fcntl:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            where = "in which another run is at work"
            raise self._refusal("that no other run is using", where) from None
        try:
            for path in self.folder.rglob(f"{TEMPORARY}*"):
                path.unlink()
            self._check_settings()
        except BaseException:
            self._lock.close()
            raise
        return self

    def __exit__(self, *_: Any) -> None:
        self._lock.close()  # and with it the lock

    def _refusal(self, expected: str, received: Any) -> ValueError:
        return ValueError(
            f"Invalid value for argument `out`. Expected a folder {expected}. "
            f"Received: out={str(self.folder)!r}, {received}"
        )

    def _check_settings(self) -> None:
        path = self.folder / "settings.json"
        theirs = read_json(path)
        if theirs is None:
            write(path, json.dumps(self.settings, indent=2))
        elif theirs != self.settings:
            names = sorted({*theirs, *self.settings})
            other = {
                n: theirs.get(n) for n in names if theirs.get(n) != self.settings.get(n)
            }
            raise self._refusal("without runs of other settings", f"which has {other}")

    def path(self, job: Job | str, suffix: str = ".keras") -> Path:
        """Where a file of a job (or of a key) is."""
        return self.folder / f"{job if isinstance(job, str) else job.key}{suffix}"

    def done(self, job: Job | str) -> bool:
        """Whether the record and the models of a job are there, and whole."""
        path = self.path(job, ".json")
        if not path.exists():
            return False
        record = read_json(path)
        models = [] if record is None else record["models"]
        broken = [path] if record is None else []
        broken += [self.folder / m for m in models if not _is_whole(self.folder / m)]
        for path in broken:
            print(f"{path} cannot be read: it is made again", flush=True)
        return not broken

    def run(
        self,
        jobs: Sequence[Job],
        work: Callable[[Any], tuple[dict[str, Any], Mapping[str, keras.Model]]],
    ) -> None:
        """Does every job that is not done yet.

        Args:
            jobs: the jobs, in order.
            work: does a job, and returns its record and its models, by what comes
                after the key in their files' names (such as ".keras").
        """
        todo = {}
        for job in jobs:
            if todo.setdefault(job.key, job) != job:
                raise ValueError(f"Two jobs have one name: {job} and {todo[job.key]}")
        left = {key: job.epochs for key, job in todo.items() if not self.done(job)}
        spent = trained = 0.0
        for number, (key, job) in enumerate(todo.items(), start=1):
            print(f"\n[{number}/{len(todo)}] {job.name}, seed {job.seed}", end="")
            if key not in left:
                print(": is there already", flush=True)
                continue
            estimate = spent / trained * sum(left.values()) if trained else None
            print(f"  ({duration(estimate)} left)" if estimate else "", flush=True)
            keras.utils.set_random_seed(job.seed)
            start = time.perf_counter()
            before = read_json(self._clock(job)) or 0.0
            try:
                record, models = work(job)
            except BaseException:
                # Of a process that is killed outright, nothing is counted.
                seconds = time.perf_counter() - start
                write(self._clock(job), json.dumps(before + seconds))
                raise
            seconds = time.perf_counter() - start
            self._keep(job, record, models, before + seconds)
            spent, trained = spent + seconds, trained + left.pop(key)
        if left:
            print("", flush=True)

    def _keep(self, job: Job, record: dict, models: Mapping, seconds: float) -> None:
        for suffix, model in models.items():
            save_model(model, self.path(job, suffix))
        names = [self.path(job, suffix).name for suffix in models]
        facts = {"name": job.name, "seed": job.seed, "key": job.key}
        record = {**facts, "seconds": seconds, **record, "models": names}
        # The record comes last: where it is, everything is. Only then the backup goes.
        write(self.path(job, ".json"), json.dumps(record, default=float, indent=1))
        shutil.rmtree(self.backup(job), ignore_errors=True)
        self._clock(job).unlink(missing_ok=True)

    def _clock(self, job: Job) -> Path:
        """Where the seconds of processes that were interrupted are."""
        return self.path(job, ".seconds")

    def backup(self, job: Job) -> Path:
        """The folder in which an unfinished job is kept."""
        return self.path(job, ".backup")

    def records(self) -> list[dict[str, Any]]:
        """The records of all jobs in the folder that are done."""
        paths = sorted(self.folder.glob("seed*-*.json"))
        keys = [path.stem for path in paths]
        return [read_json(self.path(key, ".json")) for key in keys if self.done(key)]

    def model(self, record: Mapping[str, Any], index: int = -1) -> keras.Model:
        """A model of a record, by default the last one."""
        return load_model(self.folder / record["models"][index])

    def write_results(self, results: Any) -> None:
        """Writes results.json."""
        text = json.dumps(results, default=float, indent=1)
        write(self.folder / "results.json", text)

    def write_report(
        self,
        models: Mapping[str, keras.Model],
        data: Any,
        title: str,
        **options: Any,
    ) -> tfc.report.Report:
        """Compares models, writes report.html and report.json, and prints it."""
        print("\nWriting the report", flush=True)
        report = tfc.report.compare(
            models,
            data=(data.test.images, data.test.labels),
            title=title,
            provenance=self.settings,
            **options,
        )
        report.save(self.folder / "report.json")
        report.save(self.folder / "report.html")
        print(f"\n{report}\n", flush=True)
        return report


def with_rename(path: Path, save: Callable[[Path], Any]) -> None:
    """Lets `save` write a file beside `path`, and renames it when it is complete."""
    temporary = path.with_name(TEMPORARY + path.name)
    save(temporary)
    os.replace(temporary, path)


def write(path: Path, text: str) -> None:
    """Writes a text file, complete or not at all."""
    with_rename(path, lambda temporary: temporary.write_text(text))


def save_model(model: keras.Model, path: Path) -> None:
    """Saves a model, complete or not at all."""
    with_rename(path, model.save)


def load_model(path: Path) -> keras.Model:
    """Loads a model, also one with layers of this library."""
    import tfcompress.layers  # noqa: F401  Keras finds them once they are imported

    return keras.saving.load_model(path, compile=False)


def read_json(path: Path) -> Any:
    """What a JSON file holds; `None` if it is absent or broken."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def _is_whole(path: Path) -> bool:
    """Whether a .keras file, which is a zip archive, is complete."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return False


# Tables and figures ------------------------------------------------------------------


def table(items: Iterable[Any], columns: Mapping[str, Callable[[Any], Any]]) -> str:
    """A table in Markdown: a row for each item, a column for each function."""
    rows = [[column(item) for column in columns.values()] for item in items]
    lines = [list(columns), ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def mean(values: Iterable[float], scale: float = 1.0, digits: int = 2) -> str:
    """Mean ± standard deviation; – without values."""
    values = [scale * value for value in values]
    if not values:
        return "–"
    text = f"{statistics.mean(values):.{digits}f}"
    if len(values) > 1:
        text += f" ± {statistics.stdev(values):.{digits}f}"
    return text


def percent(values: Iterable[float], digits: int = 2) -> str:
    """Mean ± standard deviation of fractions, as percentages."""
    return mean(values, 100.0, digits)


def by_name(records: Iterable[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Records by name, each with one for every seed."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        groups.setdefault(record["name"], []).append(record)
    return groups


def first_of_each(records: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Of each name the record with the smallest seed: what a report shows."""
    return [min(runs, key=lambda r: r["seed"]) for runs in by_name(records).values()]


def plot(
    title: str, x_label: str, y_label: str, series: Mapping[str, Any], description: str
) -> tfc.report.Curves:
    """Curves for the report."""
    return tfc.report.Curves(
        title=title,
        x_label=x_label,
        y_label=y_label,
        series=series,
        description=description,
    )


def learning_curves(
    records: Iterable[Mapping[str, Any]], quantity: str, title: str, description: str
) -> list[tfc.report.Curves]:
    """A quantity of the records' histories over epochs; nothing if none has it."""
    series = {
        record["name"]: list(enumerate(record["history"][quantity], start=1))
        for record in records
        if quantity in record["history"]
    }
    label = quantity.replace("val_", "validation ")
    return [plot(title, "epoch", label, series, description)] if series else []


def duration(seconds: float) -> str:
    """A rough length of time."""
    if seconds < 90:
        return f"about {max(1, math.ceil(seconds))} s"
    minutes = seconds / 60
    return f"about {minutes:.0f} min" if minutes < 90 else f"about {minutes / 60:.1f} h"
