"""Compiles the DRUM operation for the TensorFlow that is installed.

Run as a script by `scripts/build_ops.sh` and by the installation. The library
stands beside this file and carries TensorFlow's version in its name, because it
works with no other.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("drum.cc")


def find_compiler() -> list[str] | None:
    """The command of a C++ compiler: `$CXX`, or the first that there is."""
    named = os.environ.get("CXX")
    for command in [named] if named else ["g++", "c++", "clang++"]:
        words = shlex.split(command)
        if shutil.which(words[0]):
            return words
    return None


def library_name(version: str) -> str:
    """File name of the library for a version of TensorFlow."""
    return f"_drum-tf{version}.so"


def build(folder: Path) -> Path:
    """Compiles the library into `folder`.

    Returns:
        The file, which is put in place only when it is complete.

    Raises:
        RuntimeError: if there is no compiler, or it fails.
    """
    compiler = find_compiler()
    if compiler is None:
        raise RuntimeError("There is no C++ compiler. Install one, or name it in CXX.")
    import tensorflow as tf

    target = folder / library_name(tf.__version__)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        made = Path(scratch) / target.name
        command = [
            *compiler,
            *("-O3", "-fPIC", "-shared", "-DNDEBUG"),
            *tf.sysconfig.get_compile_flags(),
            *("-o", str(made), str(SOURCE)),
            *tf.sysconfig.get_link_flags(),
        ]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            raise RuntimeError(
                f"The compiler failed:\n{shlex.join(command)}\n{result.stderr}"
            )
        os.replace(made, target)
    return target


def main() -> int:
    """Builds the library; the exit code is 1 if that is not possible."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=SOURCE.parent)
    try:
        print(f"Built {build(parser.parse_args().folder)}")
    except (ImportError, RuntimeError) as error:
        print(f"The DRUM operation was not built. {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
