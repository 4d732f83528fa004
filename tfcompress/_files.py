"""Output files that are either complete or absent, and folders with one owner."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path

__all__ = ["check_writable", "lock", "remove_leftovers", "replacing", "write_atomic"]

_LOCK = ".lock"


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
    try:
        # Names may hold a NUL, or be longer than the file system allows.
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            target.lstat()
        is_folder = target.is_dir()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(
            f"Invalid value for argument `{argument}`. Expected a path that can be "
            f"written. Received: {argument}={str(path)!r} ({reason})"
        ) from error
    if is_folder:
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
    with replacing(path) as temporary:
        temporary.write_bytes(data)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives the name of a temporary file that becomes `path` when it is complete.

    For writers that want a file name, such as `model.save`. The temporary file
    has the same ending as `path`. If the block raises, `path` stays as it was.

    Example:

    ```python
    with replacing(folder / "model.keras") as temporary:
        model.save(temporary)
    ```

    Args:
        path: the file to write or to replace.

    Yields:
        A `pathlib.Path` in the same folder.
    """
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp{path.suffix}")
    try:
        yield temporary
        # The content has to be on the disk before the name is: after a power
        # failure, too, the name stands for a complete file.
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Deletes the temporary files of writers that were killed.

    Only the owner of the folder may do so, see `lock`: another process may just
    be writing.
    """
    for path in folder.glob(f".{'[0-9a-f]' * 32}.tmp*"):
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def lock(folder: str | os.PathLike[str], *, argument: str = "folder") -> Iterator[Path]:
    """Makes this process the only owner of a folder while the block runs.

    The folder is created if it is missing, and what killed writers left in it is
    removed. At the end it is deleted if it is empty. The lock is one of the
    operating system (`flock`), so that it ends with the process, however that
    ends. Where there is none, on Windows and on some network file systems, the
    block runs without, and a warning says so.

    Args:
        folder: the folder.
        argument: name of the caller's argument, for the message. Defaults to
            `"folder"`.

    Yields:
        `folder` as a `pathlib.Path`.

    Raises:
        TypeError: if `folder` is not a path.
        ValueError: if nothing can be written there, or another run owns it.
    """
    path = check_writable(Path(folder) / _LOCK, argument=argument)
    handle = _locked(path, argument)
    try:
        remove_leftovers(path.parent)
        yield path.parent
    finally:
        # Deleted while it is still held: whoever waits for this file finds that
        # it is not the one of that name any more.
        path.unlink(missing_ok=True)
        if handle is not None:
            _held.discard(handle)
            os.close(handle)
        with contextlib.suppress(OSError):  # not empty
            path.parent.rmdir()


_held: set[int] = set()


def _release_in_child() -> None:
    # A lock belongs to all copies of its handle. A worker process that outlives
    # its parent must not keep it.
    for handle in _held:
        os.close(handle)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_release_in_child)


def _locked(path: Path, argument: str) -> int | None:
    """The handle of the locked file; `None` where files cannot be locked."""
    try:
        import fcntl
    except ImportError:
        _warn_unlocked(path, "this system has no flock")
        return None
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.read(handle, 32).decode(errors="replace")
            os.close(handle)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                _warn_unlocked(path, str(error.strerror))
                return None
            raise ValueError(
                f"Invalid value for argument `{argument}`. Expected a folder that no "
                f"other run is using. Received: {argument}={str(path.parent)!r}, in "
                f"which another run (process {owner or 'unknown'}) is at work. Wait "
                "for it to end, or choose another folder."
            ) from None
        try:
            current = os.path.samestat(os.fstat(handle), os.stat(path))
        except FileNotFoundError:
            current = False
        if current:
            os.ftruncate(handle, 0)
            os.write(handle, str(os.getpid()).encode())
            _held.add(handle)
            return handle
        os.close(handle)  # the owner before has just deleted it


def _warn_unlocked(path: Path, reason: str) -> None:
    warnings.warn(
        f"{str(path.parent)!r} could not be locked ({reason}). Make sure that no other "
        "run uses it at the same time.",
        stacklevel=5,
    )
