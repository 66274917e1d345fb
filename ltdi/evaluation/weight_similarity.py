"""Duplicate check of weight files: distances between the safetensors files of any folder, and exact copies."""

from math import sqrt
from pathlib import Path

import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ltdi.store import digest
from ltdi.utils.errors import InputError


def compare_weight_files(folder: Path) -> pd.DataFrame:
    """Compare all safetensors files in a folder and below; return a table with a row per file.

    Columns: ``file``; ``to_mean``, the root mean squared distance to the mean of all files; ``nearest``, that to the
    nearest other file, and ``which`` that is; ``copies``, how many other files are equal in every bit. Of independent
    weights the nearest other file is about √2 times as far as the mean; copies with little noise are nearer.

    Raises:
        InputError: fewer than two files, a file that is no whole safetensors file, or tensors of other names or
            shapes than those of the first file.
    """
    files = sorted(folder.rglob("*.safetensors")) if folder.is_dir() else []
    if len(files) < 2:
        raise InputError(
            f"{folder}: neither a finished run nor a folder of safetensors, of which {len(files)} are here and two or"
            " more are compared; name another folder"
        )
    shapes = [_shapes(file) for file in files]
    for file, other in zip(files, shapes):
        _same(file, other, files[0], shapes[0])
    numbers = sum(torch.Size(shape).numel() for shape in shapes[0].values())
    if not numbers:
        raise InputError(f"{files[0]} holds no number, and none of the others does; name a folder of weights")
    gram = torch.zeros(len(files), len(files), dtype=torch.float64)
    names = [""] * len(files)
    for key in shapes[0]:  # one tensor of all files at a time is held in memory
        values = [_tensor(file, key) for file in files]
        names = [digest(name, value) for name, value in zip(names, values)]
        rows = torch.stack([value.double().flatten() for value in values])
        rows -= rows.mean(0)
        gram += rows @ rows.T
    square = gram.diagonal()
    between = ((square[:, None] + square - 2 * gram).clamp_min(0) / numbers).sqrt().fill_diagonal_(torch.inf)
    away, nearest = between.min(1)
    columns = {"file": [str(file.relative_to(folder)) for file in files]}
    columns |= {"to_mean": (square / numbers).sqrt().tolist(), "nearest": away.tolist()}
    return pd.DataFrame(
        columns
        | {
            "which": [columns["file"][j] for j in nearest.tolist()],
            "copies": [names.count(name) - 1 for name in names],
        }
    )


def describe_weight_files(table: pd.DataFrame) -> str:
    """Summarise the table of ``compare_weight_files`` in one line for the user."""
    spread = sqrt(table.to_mean.pow(2).mean())
    ratio = "all are the same" if not spread else f"the nearest other is {table.nearest.median() / spread:.2f} of that"
    return (
        f"{len(table)} files: {spread:.4g} from their mean (root mean square), and {ratio} in the median, of"
        f" independent weights about 1.41; {int((table.copies > 0).sum())} have an exact copy. This is of the weights"
        " alone: what they are for, and how well they do, the files do not say"
    )


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    if not file.is_file():  # opening a named pipe would block
        raise InputError(f"{file}: a broken link or no regular file; take it away, or name another folder")
    try:
        with safe_open(file, framework="pt") as opened:
            return {key: tuple(opened.get_slice(key).get_shape()) for key in sorted(opened.keys())}
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{file}: not a whole safetensors file ({error}); take it away, or name another folder"
        ) from error


def _tensor(file: Path, key: str) -> Tensor:
    with safe_open(file, framework="pt") as opened:
        value: Tensor = opened.get_tensor(key)
    if value.is_floating_point() and not bool(value.isfinite().all()):
        raise InputError(f"{file}: {key} is not finite; take the file away")
    return value


def _same(file: Path, shapes: dict, first: Path, expected: dict) -> None:
    for key in sorted(shapes.keys() | expected.keys()):
        if shapes.get(key) != expected.get(key):
            there = [str(each[key]) if key in each else "none" for each in (shapes, expected)]
            raise InputError(
                f"{file}: {key} is {there[0]}, and {there[1]} in {first}; only weights of one network are compared"
            )
