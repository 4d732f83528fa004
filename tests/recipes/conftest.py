import importlib.util
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
