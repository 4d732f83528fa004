"""Silence for tools that talk to the process's output streams."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from typing import IO

__all__ = ["captured_output"]


@contextlib.contextmanager
def captured_output() -> Iterator[Callable[[], str]]:
    """Collects what is written to stdout and stderr while its block runs.

    The TFLite converter and interpreter log from C++ straight to the file
    descriptors, beneath `sys.stderr`, so the descriptors themselves are turned
    to a temporary file. Descriptors belong to the process: output of other
    threads is collected, too.

    Yields:
        A function that returns the text so far.
    """
    python = io.StringIO()
    with tempfile.TemporaryFile() as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")

        def text() -> str:
            file.seek(0)
            return file.read().decode("utf-8", "replace") + python.getvalue()

        with (
            _redirected(file),
            contextlib.redirect_stdout(python),
            contextlib.redirect_stderr(python),
        ):
            yield text


@contextlib.contextmanager
def _redirected(file: IO[bytes]) -> Iterator[None]:
    sys.stdout.flush()
    sys.stderr.flush()
    saved = {descriptor: os.dup(descriptor) for descriptor in (1, 2)}
    try:
        for descriptor in saved:
            os.dup2(file.fileno(), descriptor)
        yield
    finally:
        for descriptor, copy in saved.items():
            os.dup2(copy, descriptor)
            os.close(copy)
