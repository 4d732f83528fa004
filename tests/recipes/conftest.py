import importlib
import importlib.util
import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from absl import flags

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


@pytest.fixture(scope="session")
def load_recipe() -> Callable[[str], ModuleType]:
    """Loads a recipe as a module, without leaving its flags behind.

    Recipes are scripts: several of them define a flag of the same name. What they
    share they import as scripts do, from their own folder.
    """
    if str(RECIPES) not in sys.path:
        sys.path.insert(0, str(RECIPES))

    def load(name: str) -> ModuleType:
        known = set(flags.FLAGS)
        spec = importlib.util.spec_from_file_location(name, RECIPES / f"{name}.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        for flag in set(flags.FLAGS) - known:
            delattr(flags.FLAGS, flag)
        return module

    return load


@pytest.fixture
def interrupted(load_recipe, monkeypatch) -> Callable[..., list]:
    """Runs a recipe with an interruption, and goes on; returns its results.

    The interruption comes at the end of an epoch, of whichever network, that differs
    from test run to test run.
    """
    training = importlib.import_module("_training")

    def run(recipe_run: Callable[[Path], object], out: Path, epochs: int) -> list:
        at = random.randrange(epochs)
        print(f"interrupted at the end of epoch {at} of all")

        class Interrupt(training.Progress):
            seen = 0

            def on_epoch_end(self, epoch, logs=None):
                Interrupt.seen += 1
                if Interrupt.seen == at + 1:
                    raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(training, "Progress", Interrupt)
            recipe_run(out)
        recipe_run(out)
        return results_of(out)

    return run


def results_of(out: Path) -> list:
    """The records in a folder of results, without what a clock has measured."""
    records = json.loads((out / "results.json").read_text())
    for record in records:
        del record["seconds"]
    return records
