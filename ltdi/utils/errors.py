"""The one exception for the user's mistakes, and what the system refuses, in the same words everywhere."""

import errno
from pathlib import Path

SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class InputError(ValueError):
    """Bad input: one line that names the key or file, its value, what is allowed and what to do.

    ``pipeline`` prints the line and exits with code 2; nothing has been written by then.
    """


class Remark(UserWarning):
    """What a user may want to know, though nothing is wrong: one line."""


def refused_by_system(error: OSError, path: str | Path = "") -> InputError:
    """What the system says of a file, as one line."""
    place = path or error.filename or "what was to be written"
    if isinstance(place, bytes):
        place = place.decode(errors="backslashreplace")
    if error.errno in SPACE:
        return InputError(
            f"{place}: no space left on the disk; free some and run the same again, what is finished stays"
        )
    why = (error.strerror or " ".join(str(error).split()) or type(error).__name__).lower()
    return InputError(f"{place}: {why}; name another place, or make this one usable, and run the same again")


def short(value: object, most: int = 80) -> str:
    """A value as a message shows it: in one line, and not longer than one reads."""
    told = repr(value)
    return told if len(told) <= most else f"{told[:most]}…"
