"""What the recipes share: flags, locks, jobs that are done or not, backups."""

import ast
import dataclasses
import importlib
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import tfcompress as tfc


@pytest.fixture(scope="module")
def shared(load_recipe):
    """The modules that recipes share, once their folder is on the path."""
    names = ("_experiment", "_settings", "_training")
    return [importlib.import_module(name) for name in names]


@pytest.fixture
def experiment(shared):
    return shared[0]


@pytest.fixture
def training(shared):
    return shared[2]


@dataclasses.dataclass(frozen=True)
class Settings:
    width: float = 1.0
    limit: int | None = None


def tiny(dropout=False):
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(6, 3, activation="relu", name="conv"),
            keras.layers.Flatten(),
            *[keras.layers.Dropout(0.3, seed=1)] * dropout,
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def batches():
    data = tfc.data.load("digits", limit=128)
    return data.pipeline("train", batch_size=32, augment="shift", seed=2)


def test_jobs_that_are_done_are_not_done_again(experiment, tmp_path, capsys):
    done = []

    def work(job):
        done.append(job.key)
        return {"draw": float(np.random.rand())}, {".keras": tiny()}

    jobs = [experiment.Job(name=n, seed=s) for s in (0, 1) for n in ("a", "b 50%")]
    with experiment.Experiment(tmp_path, Settings()) as folder:
        folder.run(jobs[:1], work)
        folder.run([*jobs, jobs[0]], work)
        records = folder.records()
    assert done == ["seed0-a", "seed0-b-50", "seed1-a", "seed1-b-50"]
    assert [r["key"] for r in records] == done
    assert "[1/4] a, seed 0: is there already" in capsys.readouterr().out
    # The seed is that of the job, whatever ran before it.
    assert records[0]["draw"] == records[1]["draw"] != records[2]["draw"]


@pytest.mark.parametrize("victim", ["seed0-a.json", "seed0-a.keras", "-"])
def test_half_a_file_is_named_and_made_again(experiment, tmp_path, victim, capsys):
    def work(job):
        return {}, {".keras": tiny()}

    jobs = [experiment.Job(name="a", seed=0)]
    with experiment.Experiment(tmp_path, Settings()) as folder:
        folder.run(jobs, work)
    if victim == "-":  # the model is missing altogether
        (tmp_path / "seed0-a.keras").unlink()
    else:
        whole = (tmp_path / victim).read_bytes()
        (tmp_path / victim).write_bytes(whole[: len(whole) // 2])
    capsys.readouterr()
    with experiment.Experiment(tmp_path, Settings()) as folder:
        folder.run(jobs, work)
        (record,) = folder.records()
        folder.model(record)
    out = capsys.readouterr().out
    assert "cannot be read: it is made again" in out
    assert (victim if victim != "-" else "seed0-a.keras") in out


def test_a_writer_that_is_killed_leaves_nothing(experiment, tmp_path):
    (tmp_path / ".unfinished-seed0-a.keras").write_bytes(b"half")
    backup = tmp_path / "seed0-a.backup"
    backup.mkdir()
    (backup / ".unfinished-epochs.json").write_bytes(b"half")
    with experiment.Experiment(tmp_path, Settings()):
        assert not list(tmp_path.rglob("*unfinished*"))
        with pytest.raises(ZeroDivisionError):
            experiment.with_rename(tmp_path / "new", lambda path: 1 / 0)
        assert not (tmp_path / "new").exists()


def test_a_backup_goes_only_when_the_result_is_complete(
    experiment, tmp_path, monkeypatch
):
    job = experiment.Job(name="a", seed=0)

    def work(job):
        folder.backup(job).mkdir(exist_ok=True)
        return {}, {".keras": tiny()}

    def fail(*args):
        raise OSError("disk full")

    with experiment.Experiment(tmp_path, Settings()) as folder:
        with monkeypatch.context() as patch, pytest.raises(OSError, match="disk full"):
            patch.setattr(experiment, "save_model", fail)
            folder.run([job], work)
        assert folder.backup(job).exists() and not folder.done(job)
        folder.run([job], work)
        assert not folder.backup(job).exists() and folder.done(job)


def test_seconds_are_those_of_all_processes(experiment, tmp_path, monkeypatch):
    job = experiment.Job(name="a", seed=0)
    clock = iter([0.0, 7.0, 100.0, 101.0])  # begins, is interrupted; begins, is done
    monkeypatch.setattr(experiment.time, "perf_counter", lambda: next(clock))
    with experiment.Experiment(tmp_path, Settings()) as folder:
        with pytest.raises(KeyboardInterrupt):
            folder.run([job], lambda job: exec("raise KeyboardInterrupt"))
        folder.run([job], lambda job: ({}, {".keras": tiny()}))
        assert folder.records()[0]["seconds"] == 8.0
        assert not list(tmp_path.glob("*.seconds"))


def test_a_folder_belongs_to_one_backend(experiment, tmp_path, monkeypatch):
    with experiment.Experiment(tmp_path, Settings()):
        pass
    monkeypatch.setattr(experiment.keras.backend, "backend", lambda: "other")
    with pytest.raises(ValueError, match=r"other settings.*'backend'"):
        experiment.Experiment(tmp_path, Settings()).__enter__()


def test_a_folder_holds_one_comparison(experiment, tmp_path):
    for _ in range(2):
        with experiment.Experiment(tmp_path, Settings()):
            pass
    other = experiment.Experiment(tmp_path, Settings(width=0.5))
    with pytest.raises(ValueError, match=r"argument `out`.*other settings.*width"):
        other.__enter__()
    with experiment.Experiment(tmp_path, Settings()):
        pass  # the one that was refused has let the folder go


def test_a_second_run_in_the_same_folder_is_refused(experiment, tmp_path):
    with experiment.Experiment(tmp_path, Settings()):
        second = experiment.Experiment(tmp_path, Settings())
        with pytest.raises(ValueError, match="another run is at work"):
            second.__enter__()
    with pytest.raises(ValueError, match="argument `out`"):
        experiment.Experiment("/proc/no/folder", Settings()).__enter__()


class Stop(keras.callbacks.Callback):
    """Ends the process, as far as a test can without ending itself."""

    def __init__(self, epoch, when):
        super().__init__()
        self.at, self.when = epoch, when

    def on_epoch_end(self, epoch, logs=None):
        if self.when == "epoch" and epoch == self.at:
            raise KeyboardInterrupt

    def on_train_end(self, logs=None):
        if self.when == "end":
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("shrink_every", "when"), [(None, "epoch"), (None, "end"), (1, "epoch"), (2, "end")]
)
def test_training_goes_on_as_if_nothing_had_happened(
    experiment, training, tmp_path, shrink_every, when
):
    job = experiment.Job(name="a", seed=3, epochs=4)
    schedule = tfc.schedules.Linear(0.0, 0.5, begin=0, end=2)

    def train(folder, *more):
        keras.utils.set_random_seed(job.seed)
        # Only fit_shrinking keeps the state of a pruning callback.
        method = [tfc.callbacks.FilterPruning(schedule)] if shrink_every else []
        return training.fit(
            folder, job, tiny(shrink_every is None), batches(),
            callbacks=[*method, *more],
            shrink_every=shrink_every,
        )  # fmt: skip

    with experiment.Experiment(tmp_path / "whole", Settings()) as folder:
        model, history = train(folder, Stop(None, "never"))
    with experiment.Experiment(tmp_path / "stopped", Settings()) as folder:
        with pytest.raises(KeyboardInterrupt):
            train(folder, Stop(1, when))
        again, longer = train(folder, Stop(None, "never"))
    assert set(history) == set(longer)
    for name in history:
        np.testing.assert_allclose(longer[name], history[name], rtol=1e-5)
    for mine, theirs in zip(again.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-6)


def test_passes_go_on_without_tensorflow(experiment, training, tmp_path, monkeypatch):
    data = tfc.data.load("digits", limit=48)
    job = experiment.Job(name="a", seed=3, epochs=3)

    def train(folder, stop):
        keras.utils.set_random_seed(job.seed)
        with monkeypatch.context() as patch:
            patch.setattr(keras.backend, "backend", lambda: "jax")
            batches = data.pipeline("train", batch_size=16, augment="shift", seed=2)
        _, history = training.fit(folder, job, tiny(), batches, callbacks=[stop])
        return history["loss"]

    with experiment.Experiment(tmp_path / "whole", Settings()) as folder:
        whole = train(folder, Stop(None, "never"))
    with experiment.Experiment(tmp_path / "stopped", Settings()) as folder:
        with pytest.raises(KeyboardInterrupt):
            train(folder, Stop(1, "epoch"))
        np.testing.assert_allclose(train(folder, Stop(None, "never")), whole, rtol=1e-5)


def test_every_setting_is_a_flag(shared, load_recipe):
    settings = shared[1]
    for name in ("prune_while_training",):
        known = set(settings.FLAGS)
        recipe = load_recipe(name)
        settings.define_flags(recipe.PRESETS, "out")
        try:
            flags = settings.FLAGS(["x", "--epochs=7", "--prt=3,4", "--augment=none"])
            assert flags == ["x"]
            chosen = settings.chosen(recipe.PRESETS)
            quick = recipe.PRESETS["quick"]
            assert chosen == dataclasses.replace(
                quick, epochs=7, prt=(3, 4), augment=None
            )
            # A number, or a word in its place.
            for text, value in (("3", 3), ("auto", "auto")):
                settings.FLAGS(["x", f"--shrink_every={text}"])
                assert settings.chosen(recipe.PRESETS).shrink_every == value
            for bad in (
                "--shrink_every=0",
                "--shrink_every=often",
                "--prt=a",
                "--seeds=x",
                "--seeds=",
                "--epochs=0",
                "--augment=b",
            ):
                with pytest.raises(settings.flags.Error):
                    settings.FLAGS(["x", bad])
                settings.FLAGS.unparse_flags()
        finally:
            for flag in set(settings.FLAGS) - known:
                delattr(settings.FLAGS, flag)


SCRIPT = """
import sys, dataclasses, os, signal
sys.path.insert(0, sys.argv.pop(1))
from _settings import *
@dataclasses.dataclass(frozen=True)
class Settings:
    width: float = setting("Width.", 1.0, least=0)
define_flags({"quick": Settings()}, "out")
def main():
    what = os.environ["WHAT"]
    if what == "refuse": raise ValueError("Invalid value for argument `x`. Expected y.")
    if what == "stop": raise KeyboardInterrupt
launch(main)
"""


def commands(text):
    """Recipe and arguments of the commands in a text, abbreviations written out."""
    known = {}
    for line in re.sub(r"\\\n", " ", text).splitlines():
        line = line.partition(" #")[0].strip()
        if match := re.fullmatch(r'(\w+)="(.+)"', line):
            known[match[1]] = match[2]
        line = re.sub(r"\$(\w+)", lambda m: known.get(m[1], m[0]), line)
        if match := re.fullmatch(r"python recipes/(\w+)\.py *(.*)", line):
            yield match[1], match[2].split()


FOLDER = Path(__file__).resolve().parents[2]
RECIPES = sorted(
    path.stem
    for path in (FOLDER / "recipes").glob("*.py")
    if path.stem[0] != "_" and "define_flags(" in path.read_text()
)


@pytest.mark.parametrize("name", RECIPES)
def test_commands_in_docstrings_and_pages_are_understood(name, shared, monkeypatch):
    settings = shared[1]
    path = FOLDER / "recipes" / f"{name}.py"
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    texts = [docstring, *(p.read_text() for p in (FOLDER / "docs").rglob("*.md"))]
    found = [words for text in texts for of, words in commands(text) if of == name]
    assert found
    known = set(settings.FLAGS)
    spec = importlib.util.spec_from_file_location(f"{name}_commands", path)
    recipe = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, recipe)  # dataclasses look it up
    try:
        spec.loader.exec_module(recipe)
        for words in found:
            assert settings.FLAGS(["x", *words]) == ["x"], words
            settings.chosen(recipe.PRESETS)
            for flag in set(settings.FLAGS) - known:
                settings.FLAGS[flag].unparse()
    finally:
        for flag in set(settings.FLAGS) - known:
            delattr(settings.FLAGS, flag)


def test_a_recipe_ends_with_where_its_results_are(tmp_path):
    recipes = FOLDER / "recipes"

    def run(what, *more):
        return subprocess.run(
            [sys.executable, "-c", SCRIPT, str(recipes), f"--out={tmp_path}", *more],
            capture_output=True, text=True, env={**os.environ, "WHAT": what},
        )  # fmt: skip

    last = f"Results are in {tmp_path.resolve()}"
    stopped = run("stop")
    assert stopped.returncode == 130
    assert stopped.stdout.strip().splitlines()[-2:] == [
        "Stopped. The same command goes on from here.",
        last,
    ]
    refused = run("refuse")
    assert refused.returncode == 1 and "Traceback" not in refused.stderr
    assert "Invalid value for argument `x`" in refused.stderr


def test_recipes_import_nothing_private():
    for path in (FOLDER / "recipes").glob("*.py"):
        assert not re.search(
            r"tfcompress\._|tfcompress\.\w+\._|tfc\._", path.read_text()
        )
