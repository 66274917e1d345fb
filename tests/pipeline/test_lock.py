"""One run at a time in a folder, and a killed one leaves nothing to be removed."""

import os
import subprocess
import sys

import pytest

from ltdi.utils.errors import InputError
from pipeline.common.lock import alone_in


def test_a_second_run_is_one_line_and_the_first_goes_on(tmp_path):
    with alone_in(tmp_path / "data"):
        message = f"data: process {os.getpid()} runs a stage here; wait for it, or name another folder"
        with pytest.raises(InputError, match=message), alone_in(tmp_path / "data"):
            raise AssertionError
        (tmp_path / "data" / "file").touch()
        with alone_in(tmp_path / "other"):
            pass
    assert os.listdir(tmp_path / "data") == ["file"]
    with alone_in(tmp_path / "data"):
        pass


def test_where_nothing_was_written_nothing_stays(tmp_path):
    with pytest.raises(InputError, match="bad params"), alone_in(tmp_path / "a" / "b"):
        raise InputError("bad params")
    assert not list(tmp_path.iterdir())


def test_the_lock_of_a_killed_run_is_taken_over(tmp_path, repository):
    command = "import os; from pathlib import Path; from pipeline.common.lock import alone_in\n"
    command += "with alone_in(Path('data')): os.kill(os.getpid(), 9)"
    env = os.environ | {"PYTHONPATH": str(repository)}
    assert subprocess.run([sys.executable, "-c", command], cwd=tmp_path, env=env).returncode == -9
    left = (tmp_path / "data" / ".lock").read_text()
    assert left.strip().isdigit() and int(left) != os.getpid()
    with alone_in(tmp_path / "data"):
        assert int((tmp_path / "data" / ".lock").read_text()) == os.getpid()
    assert not list((tmp_path / "data").iterdir())


def test_a_folder_that_cannot_be_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "data", tmp_path / ("x" * 300)):
        with pytest.raises(InputError, match="not a directory|file exists|too long"), alone_in(place):
            raise AssertionError


@pytest.mark.parametrize("kind", ["link", "link to nowhere", "hard link", "text", "long number", "pipe", "folder"])
def test_what_has_the_locks_name_and_is_none_is_left_as_it_is(kind, tmp_path):
    data, own = tmp_path / "data", tmp_path / "own"
    data.mkdir()
    lock = data / ".lock"
    if kind == "pipe":
        os.mkfifo(lock)
    elif kind == "folder":
        lock.mkdir()
    elif kind in ("text", "long number"):
        lock.write_text("my notes" if kind == "text" else "1" * 30)
    else:
        if kind != "link to nowhere":
            own.write_text("12\n" if kind == "hard link" else "my notes")
        os.link(own, lock) if kind == "hard link" else lock.symlink_to(own)
    before = os.lstat(lock)
    with pytest.raises(InputError, match=r"^[^\n]*\.lock: a link, or no file that a stage[^\n]*$"), alone_in(data):
        raise AssertionError
    assert os.lstat(lock).st_ino == before.st_ino and os.lstat(lock).st_size == before.st_size
    assert own.exists() == (kind in ("link", "hard link"))
