"""Texts and pairs of texts of two classes: GLUE's own tsv folders, and any folder of tables.

A folder, or a zip of it, holds ``<set>/train`` and ``<set>/dev`` with the ending tsv, csv or parquet. The sets of GLUE
(Wang et al. 2019) have the columns of GLUE; any other has ``label`` and one or two columns whose names begin with
"text" or "sentence". Label 1 says that it holds: the text is acceptable, or positive; the second text follows from the
first, answers it, or means the same. GLUE itself counts "entailment" as 0.

STS-B becomes: the score is above 3 of 5. MNLI becomes: entailment, or not.
"""

import csv
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from ltdi.errors import InputError
from ltdi.seeding import generator

PARTS = ("train", "dev")
ENDINGS = ("tsv", "csv", "parquet")
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
    set of GLUE."""

    name: str
    texts: Mapping[str, list[tuple[str, ...]]]
    labels: Mapping[str, Tensor]
    note: str = ""


def read_text_set(root: Path, name: str, parts: Sequence[str] = PARTS) -> TextSet:
    """The parts of a set of a folder or zip ``root``; a set of GLUE's name has GLUE's columns.

    Raises:
        InputError: a file or a column is missing, or there are not two classes.
    """
    texts, labels = {}, {}
    for part in parts:
        table = _table(_place(root), root, name, part)
        texts[part], labels[part] = _glue(table, name) if name in GLUE else _columns(table, f"{root}/{name}/{part}")
    there = len(texts["train"])
    if name in GLUE and there < GLUE[name].train_rows:
        return TextSet(name, texts, labels, f"{name}: {there} of GLUE's {GLUE[name].train_rows} training rows")
    return TextSet(name, texts, labels)


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
        return zipfile.Path(root)
    if not root.is_dir():
        raise InputError(f"texts.root = {root}: no such folder or zip; name the one that holds <set>/train.tsv")
    return root


def _table(place: Any, root: Path, name: str, part: str) -> pd.DataFrame:
    """The table of a part, all as text; GLUE's files have no quotes."""
    files = [place / name / f"{part}.{ending}" for ending in ENDINGS]
    there = [file for file in files if file.exists()]
    if not there:
        raise InputError(f"{root}: no {name}/{part}.tsv, .csv or .parquet; add it, or leave {name} out of the texts")
    file = there[0]
    with file.open("rb") as stream:
        if file.name.endswith("parquet"):
            return pd.read_parquet(stream).astype(str)
        knobs: dict[str, Any] = {"sep": "\t" if file.name.endswith("tsv") else ",", "dtype": str}
        if name in GLUE:
            knobs |= {"quoting": csv.QUOTE_NONE, "header": "infer" if GLUE[name].header else None}
        table = pd.read_csv(stream, keep_default_na=False, **knobs)
    return table.rename(columns=str)


def _glue(table: pd.DataFrame, name: str) -> tuple[list[tuple[str, ...]], Tensor]:
    glue = GLUE[name]
    if missing := [column for column in (*glue.texts, glue.label) if column not in table]:
        raise InputError(f"{name}: no column {missing[0]!r}, which GLUE's {name} has; found {', '.join(table.columns)}")
    try:
        labels = [glue.as_label(value) for value in table[glue.label]]
    except ValueError as error:
        raise InputError(f"{name}: a label in the column {glue.label!r} is none of GLUE's ({error})") from error
    return list(zip(*(table[column] for column in glue.texts), strict=True)), torch.tensor(labels)


def _columns(table: pd.DataFrame, where: str) -> tuple[list[tuple[str, ...]], Tensor]:
    columns = [name for name in table.columns if name.startswith(("text", "sentence"))]
    if "label" not in table or not 1 <= len(columns) <= 2:
        raise InputError(
            f"{where}: columns {', '.join(table.columns)}; needed are label, and one or two that begin with text or"
            " sentence"
        )
    classes = sorted(table["label"].unique())
    if len(classes) != 2:
        raise InputError(f"{where}: {len(classes)} classes; adapters are made for two")
    labels = torch.tensor([classes.index(value) for value in table["label"]])
    return list(zip(*(table[column] for column in columns), strict=True)), labels
