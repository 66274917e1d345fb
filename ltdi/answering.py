"""The head that a user of ``ltdi classify`` and ``ltdi export`` means, and what is said of it and of its answers."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ltdi.console import say
from ltdi.errors import InputError
from ltdi.head import Head, rightly
from ltdi.outputs import show_first
from ltdi.pictures import Pictures
from ltdi.run import Run


def names_in(names: str) -> list[str]:
    return [each.strip() for each in names.split(",")]


def head_of(run: Run, task: Path, method: str, seed: int, asked: Pictures | None = None) -> Head:
    """Generated for a folder of classes, or the one that was kept."""
    if task.is_dir():
        return run.generate(task, seed=seed, unlabelled=asked)
    if method:
        raise InputError(
            f"{task} is no folder of classes, so there is nothing to generate; leave --method out, or name a folder"
        )
    return run.load_head(task)


def named_folder(told: str) -> tuple[str, Path]:
    name, sign, place = told.partition("=")
    if not (name and sign and place):
        raise InputError(f"--add {told} is not NAME=FOLDER; give a class's name and where its images lie")
    return name, Path(place)


def tell(made: Head) -> None:
    if not any(made.shots):
        return say(f"a head from the names {', '.join(made.classes)}, by {made.method}")
    say(f"a head from {', '.join(f'{n} of {name}' for n, name in zip(made.shots, made.classes))}, by {made.method}")


def answered(answers: pd.DataFrame, classes: tuple[str, ...], folders: Sequence[Path], csv: Path | None) -> None:
    """The answers as a table, and whether they are right where a file lies in a folder named like a class."""
    show_first(answers, csv, told="{:.2f}", written="%.4f")
    right, of = rightly(answers, classes, folders)
    if of:
        say(f"of {of} images in folders named like a class {right} are right, {right / of:.1%}")
