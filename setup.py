"""Compiles the DRUM operation, where that is possible, and packs the recipes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
BUILDER = HERE / "tfcompress" / "ops" / "_build.py"


class BuildOps(build_ext):
    """Runs the builder; a failure is reported and never stops the installation."""

    def run(self) -> None:
        """Builds into the sources of an editable installation, else into the wheel."""
        inplace = self.inplace or getattr(self, "editable_mode", False)
        folder = (HERE if inplace else Path(self.build_lib)) / "tfcompress" / "ops"
        folder.mkdir(parents=True, exist_ok=True)
        command = [str(BUILDER.resolve()), "--folder", str(folder.resolve())]
        # The TensorFlow of this environment, else, from inside an isolated build,
        # that of the environment that the package goes to.
        for options in ([], ["-I"]):
            if not subprocess.run([sys.executable, *options, *command]).returncode:
                return
        print("The package works without the compiled DRUM operation.")

    def get_outputs(self) -> list[str]:
        """The library, if it was built."""
        folder = Path(self.build_lib) / "tfcompress" / "ops"
        return [str(path) for path in folder.glob("_drum-tf*.so")]

    def get_output_mapping(self) -> dict[str, str]:
        """Nothing is copied by anyone else."""
        return {}


class BuildPackage(build_py):
    """Puts the recipes into the package, where `tfcompress recipe` finds them.

    An editable installation finds them beside the package.
    """

    def run(self) -> None:
        """Builds, then copies."""
        super().run()
        if not getattr(self, "editable_mode", False):
            folder = Path(self.build_lib) / "tfcompress" / "_recipes"
            folder.mkdir(parents=True, exist_ok=True)
            for script in sorted((HERE / "recipes").glob("*.py")):
                shutil.copyfile(script, folder / script.name)


setup(
    # Only says that there is something to compile, so that `build_ext` runs.
    ext_modules=[Extension("tfcompress.ops._drum", ["tfcompress/ops/drum.cc"])],
    cmdclass={"build_ext": BuildOps, "build_py": BuildPackage},
)
