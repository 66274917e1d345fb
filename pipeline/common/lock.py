"""Lock of a data folder: two stages at once would mix their files."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from ltdi.utils.errors import InputError, refused_by_system

NAME = ".lock"


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold the lock of ``folder``, a file with the process id; the system releases it when the process ends.

    Folders that are created for it are removed again if nothing was written into them.

    Raises:
        InputError: another process holds it, the folder cannot be written to, or the file is a link or not a lock.
    """
    path = folder / NAME
    lock = FileLock(path, blocking=False, fallback_to_soft=False)
    try:
        new = [each for each in (folder, *folder.parents) if not each.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        holder = _holder(path)
        lock.acquire()
        path.write_text(f"{os.getpid()}\n")
    except Timeout as error:
        raise InputError(
            f"{folder}: process {holder or 'another'} runs a stage here; wait for it, or name another folder with"
            " --data"
        ) from error
    except OSError as error:
        raise refused_by_system(error, folder) from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        lock.release()
        with suppress(OSError):  # a folder that something was written into stays
            for each in new:
                each.rmdir()


def _holder(path: Path) -> str:
    """The process id in a lock file, "" if there is none.

    Raises:
        InputError: ``path`` is a link or no lock file; it is left as it is.
    """
    if not path.exists() and not path.is_symlink():
        return ""
    # the name is the user's too: neither follow a link, nor wait for a pipe, nor write into a file that is not a lock
    if not path.is_symlink() and path.is_file() and path.stat().st_nlink == 1 and path.stat().st_size <= 20:
        content = path.read_text(errors="replace")
        if re.fullmatch(r"(\d+\n)?", content):
            return content.strip()
    raise InputError(
        f"{path}: a link, or no file that a stage wrote, where a stage puts its lock; move it to another place, or name"
        " another folder with --data"
    )
