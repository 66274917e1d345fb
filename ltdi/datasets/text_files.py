"""Texts and pairs of texts of two classes: GLUE's own tsv folders, and any folder of tables.

A folder, or a zip of it, holds ``<set>/train`` and ``<set>/dev`` (or validation) with the ending tsv, csv or parquet.
The sets of GLUE (Wang et al. 2019) have the columns of GLUE; any other has ``label`` and the columns of ``COLUMNS``,
and a tsv no quotation marks around its fields. Label 1 says that it holds: the text is acceptable, or positive; the
second text follows from the first, answers it, or means the same. GLUE itself counts "entailment" as 0. Of other sets
it is the label that comes second in train, in alphabetical order, and it is the same in dev.

STS-B becomes: the score is above 3 of 5. MNLI becomes: entailment, or not.
"""

import csv
import io
import math
import unicodedata
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from ltdi.utils.errors import InputError, short
from ltdi.utils.plain_files import content_of, read_rows, text_of
from ltdi.utils.seeding import generator

PARTS = ("train", "dev")
ENDINGS = ("tsv", "csv", "parquet")
ALSO = {"dev": ("dev", "validation", "valid", "val")}
"""What the files of a part may be named, where it is not by its own name alone."""
COLUMNS = (("text",), ("sentence",), ("text1",), ("sentence1",), ("text1", "text2"), ("sentence1", "sentence2"))
"""The columns of texts that a table may have."""
LARGEST_DIFFERENT = 3.0


@dataclass(frozen=True)
class Glue:
    """A set of GLUE: its columns of text, its column of labels and how it is read, and how many training rows GLUE
    has."""

    texts: tuple[str, ...]
    label: str
    train_rows: int
    as_label: Callable[[str], int] = int
    header: bool = True


def _entailed(value: str) -> int:
    return int(value == "entailment")


def _similar(score: str) -> int:
    """STS-B's scores are from 0 to 5."""
    return int(float(score) > LARGEST_DIFFERENT)


GLUE: dict[str, Glue] = {
    "CoLA": Glue(("3",), "1", 8551, header=False),
    "SST-2": Glue(("sentence",), "label", 67349),
    "MRPC": Glue(("#1 String", "#2 String"), "Quality", 3668),
    "QQP": Glue(("question1", "question2"), "is_duplicate", 363846),
    "STS-B": Glue(("sentence1", "sentence2"), "score", 5749, _similar),
    "MNLI": Glue(("sentence1", "sentence2"), "gold_label", 392702, _entailed),
    "QNLI": Glue(("question", "sentence"), "label", 104743, _entailed),
    "RTE": Glue(("sentence1", "sentence2"), "label", 2490, _entailed),
    "WNLI": Glue(("sentence1", "sentence2"), "label", 635),
}


@dataclass(frozen=True)
class TextSet:
    """``texts``, one or two each, and ``labels`` (M,), 0 or 1, of "train" and "dev". ``note`` says where it is no whole
    set of GLUE; ``classes`` are the names of 0 and 1, and ``told`` is what was read of each part, in words."""

    name: str
    texts: Mapping[str, list[tuple[str, ...]]]
    labels: Mapping[str, Tensor]
    note: str = ""
    classes: tuple[str, ...] = ("0", "1")
    told: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Part:
    """A part's table as its file has it: the names of its columns of ``texts``, of which ``rows`` are, and the
    ``labels``; ``places`` says where in the file each stands, ``left`` are the columns that nothing reads."""

    file: Any
    texts: tuple[str, ...]
    rows: list[tuple[str, ...]]
    labels: list[str]
    places: list[str]
    left: list[str]


def read_text_set(root: Path, name: str, parts: Sequence[str] = PARTS) -> TextSet:
    """The parts of a set of a folder or zip ``root``, train among them; a set of GLUE's name has GLUE's columns.

    Raises:
        InputError: a file or a column is missing or cannot be read, a value is missing, there are not two classes, or
            another part has others than train.
    """
    place = _place(root)
    files = {part: _file_of(place, root, name, part) for part in parts}
    if name in GLUE:
        read = {part: _glue(file, name) for part, file in files.items()}
        texts, labels = {part: each[0] for part, each in read.items()}, {part: each[1] for part, each in read.items()}
        there, whole = len(texts["train"]), GLUE[name].train_rows
        return TextSet(name, texts, labels, f"{name}: {there} of GLUE's {whole} training rows" * (there < whole))
    tables = {part: _own(file) for part, file in files.items()}
    train = tables["train"]
    classes = tuple(sorted(set(train.labels)))
    if len(classes) != 2:
        raise InputError(
            f"{train.file}: {len(classes)} classes; adapters are made for two, and the labels are"
            f" {short(', '.join(classes))}"
        )
    for table in tables.values():
        if table.texts != train.texts:
            raise InputError(f"{table.file}: texts in {_listed(table.texts)}, and in train {_listed(train.texts)}")
        for label, spot in zip(table.labels, table.places):
            if label not in classes:
                raise InputError(
                    f"{table.file}: label {label!r} in {spot} is none of train's ({', '.join(classes)}); write one of"
                    " these, or leave the row out"
                )
    numbers = {part: torch.tensor([classes.index(each) for each in table.labels]) for part, table in tables.items()}
    told = {part: _told(table, classes) for part, table in tables.items()}
    return TextSet(name, {part: table.rows for part, table in tables.items()}, numbers, "", classes, told)


def is_there(folder: Path, part: str) -> bool:
    """Whether a folder holds a file of this part."""
    return bool(_files_of(folder, part))


def _listed(names: Sequence[str]) -> str:
    return " and ".join(names)


def _told(table: _Part, classes: tuple[str, ...]) -> str:
    counts = ", ".join(f"{table.labels.count(name)} {name}" for name in classes)
    left = f"; not read: the column{'s' * (len(table.left) > 1)} {', '.join(table.left)}" if table.left else ""
    return f"{len(table.rows)} rows: {counts}; of {_listed(table.texts)}{left}"


def thinned(texts: list[tuple[str, ...]], labels: Tensor, most: int, seed: int) -> tuple[list, Tensor]:
    """At most so many of the texts, drawn, in their order, as many of each class as there are."""
    stream = generator(seed, "thinned")
    kept = []
    for label in (0, 1):
        rows = (labels == label).nonzero().flatten()
        kept.append(rows[torch.randperm(len(rows), generator=stream)[: most // 2]])
    rows = torch.cat(kept).sort().values
    return [texts[int(j)] for j in rows], labels[rows]


def _place(root: Path) -> Any:
    if root.suffix == ".zip" and root.is_file():
        try:
            return zipfile.Path(root)
        except Exception as error:  # what is wrong in its directory makes zipfile raise half a dozen different types
            why = " ".join(str(error).split())
            raise InputError(f"{root} is no zip file or an incomplete one ({why}); get it again") from error
    if not root.is_dir():
        raise InputError(f"texts.root = {root}: no such folder or zip; name the one that holds <set>/train.tsv")
    return root


def _files_of(folder: Any, part: str) -> list[Any]:
    return [
        file
        for named in ALSO.get(part, (part,))
        for ending in ENDINGS
        if (file := folder / f"{named}.{ending}").exists()
    ]


def _file_of(place: Any, root: Path, name: str, part: str) -> Any:
    """
    Raises:
        InputError: there is none, or more than one.
    """
    files = _files_of(place / name, part)
    if not files:
        of_kind = sorted(
            each.name for each in ((place / name).iterdir() if (place / name).is_dir() else ()) if each.is_file()
        )
        found = f" (there are {short(', '.join(of_kind))})" if of_kind else ""
        raise InputError(
            f"{root}: no {name}/{part}.tsv, .csv or .parquet{found}; add it, or leave {name} out of the texts"
        )
    if len(files) > 1:
        raise InputError(f"{files[0]}: beside it lies {files[1].name}, which is {part} too; leave one of them there")
    return files[0]


def _glue(file: Any, name: str) -> tuple[list[tuple[str, ...]], Tensor]:
    """The texts and labels of a part of GLUE, whose files have no quotation marks around fields."""
    glue = GLUE[name]
    if file.name.endswith("parquet"):
        table = _parquet(file).astype(str)
    else:
        hparams: dict[str, Any] = {"sep": "\t" if file.name.endswith("tsv") else ",", "quoting": csv.QUOTE_NONE}
        hparams |= {"dtype": str, "keep_default_na": False, "header": "infer" if glue.header else None}
        try:
            table = pd.read_csv(io.StringIO(text_of(file)), **hparams).rename(columns=str)
        except ValueError as error:  # what pandas says of ragged and of empty tables is of this type
            raise InputError(f"{file}: no table of GLUE ({' '.join(str(error).split())}); get it again") from error
    if missing := [column for column in (*glue.texts, glue.label) if column not in table]:
        raise InputError(f"{name}: no column {missing[0]!r}, which GLUE's {name} has; found {', '.join(table.columns)}")
    if not all(isinstance(value, str) for column in (*glue.texts, glue.label) for value in table[column]):
        raise InputError(f"{file}: a row has fewer fields than GLUE's {name} has columns; get it again")
    try:
        labels = [glue.as_label(value) for value in table[glue.label]]
    except ValueError as error:
        raise InputError(f"{name}: a label in the column {glue.label!r} is none of GLUE's ({error})") from error
    return list(zip(*(table[column] for column in glue.texts), strict=True)), torch.tensor(labels)


def _own(file: Any) -> _Part:
    """
    Raises:
        InputError: it cannot be read, its columns are others, or a value is missing.
    """
    if file.name.endswith("parquet"):
        table = _parquet(file)
        places = [f"row {j + 1}" for j in range(len(table))]
    else:
        found = read_rows(file, kind="label", tabs=file.name.endswith("tsv"))
        table = pd.DataFrame(found.rows, columns=found.columns, dtype=object)
        places = [f"line {line}" for line in found.lines]
    texts = tuple(sorted(name for name in table.columns if any(name in each for each in COLUMNS)))
    if "label" not in table or texts not in COLUMNS:
        raise InputError(
            f"{file}: columns {', '.join(map(str, table.columns))}; needed are label, and {_allowed()}; name them so"
        )
    if table.empty:
        raise InputError(f"{file}: no rows; add them")
    values = {name: table[name].tolist() for name in (*texts, "label")}
    for name, own in values.items():
        for value, spot in zip(own, places):
            missing = value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))
            if missing or (isinstance(value, str) and not value.strip()):
                raise InputError(f"{file}: {name} is empty in {spot}; fill it in, or leave the row out")
            if not isinstance(value, str if name != "label" else str | int):
                raise InputError(f"{file}: {name} is {short(value)} in {spot}, and no text; write text")
    labels = [unicodedata.normalize("NFC", str(value).strip()) for value in values["label"]]
    left = [name for name in table.columns if name not in (*texts, "label")]
    return _Part(file, texts, list(zip(*(values[name] for name in texts), strict=True)), labels, places, left)


def _allowed() -> str:
    return ", or ".join(_listed(names) for names in COLUMNS)


def _parquet(file: Any) -> pd.DataFrame:
    try:
        return pq.read_table(pa.BufferReader(content_of(file))).to_pandas().rename(columns=str)
    except (pa.ArrowException, ValueError, OSError) as error:
        if isinstance(error, InputError):
            raise
        why = " ".join(str(error).split())[:200]
        raise InputError(f"{file}: no whole parquet file ({why}); write it again") from error
