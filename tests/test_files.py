"""Files that are complete or absent, and folders with one owner."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest

from tfcompress import _files


def test_a_writer_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "model.keras"
    _files.write_atomic(path, "old")
    with pytest.raises(RuntimeError), _files.replacing(path) as temporary:
        assert temporary.suffix == ".keras"
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["model.keras"]


def test_a_folder_has_one_owner_at_a_time(tmp_path):
    folder = tmp_path / "new"
    with _files.lock(folder) as path:
        assert path == folder
        with (
            pytest.raises(ValueError, match=rf"another run \(process {os.getpid()}\)"),
            _files.lock(folder, argument="out"),
        ):
            pass
        (folder / "result").touch()
    assert os.listdir(folder) == ["result"]
    with _files.lock(folder):
        (folder / "result").unlink()
    assert not folder.exists()


def test_what_a_killed_owner_left_is_removed_and_its_lock_is_gone(tmp_path):
    code = f"""
        import os, signal, time
        from tfcompress import _files
        os.replace = lambda a, b: os.kill(os.getpid(), signal.SIGKILL)
        with _files.lock({str(tmp_path)!r}) as folder:
            if os.fork() == 0:  # a worker process that outlives its parent
                time.sleep(5)
                os._exit(0)
            _files.write_atomic(folder / "state.json", "state")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    assert done.returncode == -signal.SIGKILL
    left = os.listdir(tmp_path)
    assert any(name.endswith(".tmp.json") for name in left)
    (tmp_path / ".mine.tmp").touch()
    with _files.lock(tmp_path):
        assert sorted(os.listdir(tmp_path)) == [".lock", ".mine.tmp"]


def test_a_folder_that_cannot_be_written_is_refused():
    with (
        pytest.raises(ValueError, match="argument `backup_dir`"),
        _files.lock("/proc/no", argument="backup_dir"),
    ):
        pass


@pytest.mark.parametrize("name", ["a\0b.txt", "x" * 300 + ".txt", "y" * 300 + "/b.txt"])
def test_names_that_no_file_can_have_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match=r"argument `path`.*can be written"):
        _files.check_writable(tmp_path / name)
