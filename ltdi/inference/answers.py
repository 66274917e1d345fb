"""The head that a user of ``ltdi classify`` and ``ltdi export`` means, and what is said of it and of its answers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ltdi.inference.class_names import holds_classes
from ltdi.inference.head import Head, rightly
from ltdi.inference.model import Model
from ltdi.inference.user_files import Rows
from ltdi.inference.user_images import Pictures
from ltdi.utils.console import comment, note, progress, say
from ltdi.utils.errors import InputError

ENDINGS = {".onnx": "onnx", ".pt2": "torch", ".safetensors": None}
"""Of files, and which program they are."""


def names_in(names: str) -> list[str]:
    return [each.strip() for each in names.split(",")]


def head_of(run: Model, task: Path, method: str, seed: int, asked: Pictures | None = None) -> Head:
    """Generated for a folder of classes, or the one that was kept."""
    if holds_classes(task):
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


def check_transductive(wanted: bool, task: Path, from_elsewhere: bool, n_files: int) -> None:
    """
    Raises:
        InputError: there is nothing to learn from, or the head is from elsewhere than a folder of classes.
    """
    if wanted and (from_elsewhere or not holds_classes(task) or not n_files):
        raise InputError(
            "--transductive takes a folder of classes and images to classify, and neither --names, --add nor"
            " --skip-unreadable; leave it out, or name these"
        )


def longer(run: Model, made: Head, examples: Path | None, further: Sequence[tuple[str, Path]], seed: int) -> Head:
    """The head, joined with images of some of its classes, and with further classes."""
    if examples:
        made, told = run.joined(made, examples, seed=seed)
        comment(told)
    for name, place in further:
        made = made.with_class(name, place)
    return made


def tell(made: Head) -> None:
    if not any(made.shots):
        return comment(f"a head from the names {', '.join(made.classes)}, by {made.method}")
    comment(f"a head from {', '.join(f'{n} of {name}' for n, name in zip(made.shots, made.classes))}, by {made.method}")


def answer(
    made: Head, files: Sequence[Any], rows: Rows, *, skip: bool, every: bool, top: int = 1, unknown: float = 0.0
) -> pd.DataFrame:
    """The head's answers, written as they come; with ``skip`` what cannot be read is listed, and is no end.

    Raises:
        InputError: an image cannot be read, or none can.
    """
    tables: list[pd.DataFrame] = []
    left_out: list[str] = []

    def leave_out(line: str) -> None:
        left_out.append(line)
        note(f"left out: {line}")

    with progress(len(files), "images are answered") as done:
        for table in made.tables(files, leave_out if skip else None, every=every, top=top, unknown=unknown):
            rows.add(table)
            tables.append(table)
            done(rows.n_rows)
    if left_out:
        note(f"{len(left_out)} of {len(files)} images could not be read, and are left out")
    if not tables:
        raise InputError(f"none of {len(files)} images could be read; name others")
    return pd.concat(tables, ignore_index=True)


def show_answers(answers: pd.DataFrame, classes: tuple[str, ...], folders: Sequence[Path], rows: Rows) -> None:
    """The answers as a table, and whether they are right where a file lies in a folder named like a class."""
    rows.show(answers, "{:.2f}")
    right, of = rightly(answers, classes, folders)
    if of:
        tell_score = comment if rows.to_program else say
        tell_score(f"of {of} images in folders named like a class {right} are right, {right / of:.1%}")


def program_of(file: Path, program: str | None) -> str | None:
    """The kind of program that is meant: the one that is named, or the file's name tells.

    Raises:
        InputError: the two do not agree.
    """
    told = ENDINGS.get(file.suffix.lower())
    if program and file.suffix.lower() in ENDINGS and told != program:
        raise InputError(
            f"{file}: --program {program} is written, and the name is of {told or 'tensors alone'}; change one of"
            " the two"
        )
    return program or told
