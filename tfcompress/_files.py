"""Output files that are either complete or absent."""

from __future__ import annotations

import os
import tempfile
import uuid
from pathlib import Path

__all__ = ["check_writable", "write_atomic"]


def check_writable(
    path: str | os.PathLike[str],
    *,
    argument: str = "path",
    suffixes: tuple[str, ...] = (),
) -> Path:
    """Makes sure, before any work, that a file can be written at `path`.

    Missing parent folders are created.

    Args:
        path: where the file will go.
        argument: name of the caller's argument, for the message. Defaults to
            `"path"`.
        suffixes: accepted endings with the dot, in lower case; empty accepts
            all. Defaults to `()`.

    Returns:
        `path` as a `pathlib.Path`.

    Raises:
        TypeError: if `path` is not a path.
        ValueError: if the ending is not accepted, `path` is a folder, or
            nothing can be written there.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(
            f"Invalid value for argument `{argument}`. Expected a str or "
            f"pathlib.Path. Received: {argument}={path!r}"
        )
    target = Path(path)
    if suffixes and target.suffix.lower() not in suffixes:
        raise ValueError(
            f"Invalid value for argument `{argument}`. Expected a file name that "
            f"ends in {' or '.join(suffixes)}. Received: {argument}={str(path)!r}"
        )
    if target.is_dir():
        raise ValueError(
            f"Invalid value for argument `{argument}`. Expected a file name. "
            f"Received: {argument}={str(path)!r}, which is a folder."
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Trying is the only reliable test: permission bits say nothing about
        # read-only mounts, quotas or a superuser.
        with tempfile.TemporaryFile(dir=target.parent):
            pass
    except OSError as error:
        raise ValueError(
            f"Invalid value for argument `{argument}`. Expected a path that can be "
            f"written. Received: {argument}={str(path)!r} ({error.strerror})"
        ) from error
    return target


def write_atomic(path: Path, content: bytes | str) -> None:
    """Writes `content` to `path` so that no reader ever sees half a file."""
    data = content.encode("utf-8") if isinstance(content, str) else content
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
