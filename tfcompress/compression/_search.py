"""Several trials, by Optuna."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

__all__ = ["Engine", "One", "Trial", "optuna_engine", "require_optuna"]

# To open a database that another process is making; the pauses get longer, in seconds.
_ATTEMPTS, _PAUSE = 6, 0.3


class Trial(Protocol):
    """One trial that an engine asks for."""

    number: int
    settings: dict[str, Any]

    def report(self, epoch: int, worth: float) -> bool:
        """Reports an epoch to the engine; returns whether to stop the trial."""

    def end(self, worth: float | None, excess: float) -> None:
        """Tells the engine how good it was; `None` for a trial without a result."""


class Engine(Protocol):
    """Where trials come from."""

    def next(self, done: Mapping[int, Any], busy: Collection[int]) -> Trial | None:
        """The next trial; `None` if there are enough.

        Args:
            done: worth and excess of trials that have ended, by number.
            busy: numbers of trials that run already.
        """


class One:
    """No search: one trial with the settings as they are."""

    number = 0

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings

    def next(self, done: Mapping[int, Any], busy: Collection[int]) -> Trial | None:
        """The one trial, if it is not done."""
        return self if 0 not in {*done, *busy} else None

    def report(self, epoch: int, worth: float) -> bool:
        """Stops no trial."""
        return False

    def end(self, worth: float | None, excess: float) -> None:
        """Keeps nothing: there is no further trial."""


def require_optuna() -> None:
    """Raises `ImportError` if Optuna is not installed."""
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "Invalid value for argument `trials`. Expected 1, or Optuna to search "
            'with: pip install "tfcompress[search]".'
        ) from error


def optuna_engine(
    *,
    count: int,
    seed: int,
    defaults: dict[str, Any],
    ranges: Mapping[str, Any],
    storage: str | None,
    folder: Path | None,
    name: str,
) -> Engine:
    """An engine that learns from each trial which settings are good.

    Args:
        count: how many trials, of all processes that share the storage.
        seed: of the sampler.
        defaults: settings of the first trial.
        ranges: for each setting that is searched (low, high, logarithmic) or a
            list of choices.
        storage: URL of Optuna's storage; `None` for a journal in `folder`.
        folder: of this run; `None` keeps everything in memory.
        name: of the study.

    Raises:
        ImportError: if Optuna is not installed.
    """
    require_optuna()
    import optuna

    return _Optuna(optuna, count, seed, defaults, ranges, storage, folder, name)


class _Optuna:
    def __init__(
        self,
        optuna: Any,
        count: int,
        seed: int,
        defaults: dict[str, Any],
        ranges: Mapping[str, Any],
        storage: str | None,
        folder: Path | None,
        name: str,
    ) -> None:
        self._optuna = optuna
        self._count = count
        self._seed = seed
        self._defaults = defaults
        self._ranges = ranges
        # Nobody else has the journal of a locked folder.
        self._alone = storage is None
        self._owner = f"{name}:{folder.resolve() if folder else os.getpid()}"
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with _silent(optuna):
            self._study = optuna.create_study(
                study_name=name,
                direction="maximize",
                load_if_exists=True,
                storage=_storage(optuna, storage, folder),
                pruner=optuna.pruners.MedianPruner(n_startup_trials=4),
            )

    def next(self, done: Mapping[int, Any], busy: Collection[int]) -> Trial | None:
        """A trial that was interrupted, or a new one until there are enough."""
        # A study keeps interrupted trials as "running" forever. With a journal of its
        # own, this process resumes all of them. In a shared storage it resumes only
        # those that it has begun itself, because the others may still be running.
        states = self._optuna.trial.TrialState
        while True:
            known = self._study.get_trials(deepcopy=False)
            mine = [
                trial
                for trial in known
                if trial.state == states.RUNNING
                and trial.number not in busy
                and (self._alone or trial.user_attrs.get("owner") == self._owner)
            ]
            if not mine:
                return None if len(known) >= self._count else self._new(len(known))
            number = mine[0].number
            trial = self._optuna.trial.Trial(self._study, mine[0]._trial_id)
            if number not in done:
                return self._trial(trial)
            # Killed between the result and the report.
            entry = done[number]
            self._trial(trial).end(entry["worth"], entry["excess"])

    def _new(self, known: int) -> Trial:
        # Anew for each trial, so that a run that goes on draws what an
        # uninterrupted one would have drawn.
        with _silent(self._optuna):
            self._study.sampler = self._optuna.samplers.TPESampler(
                seed=self._seed + known,
                n_startup_trials=min(10, max(2, self._count // 3)),
            )
        if not known:
            self._study.enqueue_trial(
                {k: self._defaults[k] for k in self._ranges}, skip_if_exists=True
            )
        trial = self._study.ask()
        trial.set_user_attr("owner", self._owner)
        return self._trial(trial)

    def _trial(self, trial: Any) -> Trial:
        settings = dict(self._defaults)
        for name, given in self._ranges.items():
            if isinstance(given, list):
                settings[name] = trial.suggest_categorical(name, given)
            else:
                low, high, logarithmic = given
                settings[name] = trial.suggest_float(name, low, high, log=logarithmic)
        return _OptunaTrial(self._optuna, self._study, trial, settings)


class _OptunaTrial:
    def __init__(
        self, optuna: Any, study: Any, trial: Any, settings: dict[str, Any]
    ) -> None:
        self._states = optuna.trial.TrialState
        self._study = study
        self._trial = trial
        self.number = trial.number
        self.settings = settings

    def report(self, epoch: int, worth: float) -> bool:
        """Reports an epoch to the study; returns whether to stop the trial."""
        self._trial.report(worth, epoch)
        return self._trial.should_prune()

    def end(self, worth: float | None, excess: float) -> None:
        """Tells the study how good the trial was."""
        # At most zero is within the budget.
        self._trial.set_constraint("budget", excess - 1.0)
        if worth is None:
            self._study.tell(self._trial, state=self._states.PRUNED)
        else:
            self._study.tell(self._trial, worth)


def _storage(optuna: Any, storage: str | None, folder: Path | None) -> Any:
    if storage is not None:
        return _opened(optuna, storage)
    if folder is None:
        return None
    backend = optuna.storages.journal.JournalFileBackend(str(folder / "search.log"))
    return optuna.storages.JournalStorage(backend)


def _opened(optuna: Any, url: str) -> Any:
    """A storage that several processes share.

    Processes that begin at one moment all make the tables of a new database. One is
    first; the others fail, and find the tables when they try again.
    """
    from sqlalchemy.exc import IntegrityError, OperationalError

    for attempt in range(1, _ATTEMPTS):
        try:
            return optuna.storages.get_storage(url)
        except (IntegrityError, OperationalError):
            time.sleep(_PAUSE * attempt)
    return optuna.storages.get_storage(url)


@contextlib.contextmanager
def _silent(optuna: Any) -> Iterator[None]:
    """Without warnings that parts of Optuna are experimental."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield
