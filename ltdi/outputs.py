"""Where what a user asks for is written: nowhere that something would be lost."""

from pathlib import Path

from ltdi.datasets import SUFFIXES
from ltdi.errors import InputError
from ltdi.lineage import MADE_FROM
from ltdi.store import writable


def apart(path: Path, data: Path) -> Path:
    """Where a user's file goes that is wanted at ``path``.

    Raises:
        InputError: it could not be written, or what is there is an image or of the run in ``data``.
    """
    target = writable(path)
    place = target.resolve()
    if any(place.is_relative_to((data / folder).resolve()) for folder in ("body", *MADE_FROM)):
        raise InputError(f"{path} lies among the files of the run in {data}; name another place")
    if place.is_file() and place.name.lower().endswith(SUFFIXES):
        raise InputError(f"{path} is an image, and would be lost; name another place")
    return target
