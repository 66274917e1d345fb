"""What a file of some kind holds: facts, tensors with their shapes, columns. One line says what was expected and what
was found."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from pandas.api import types
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from ltdi.utils.errors import InputError, short

REMAKE = "delete it and run `dvc repro`"

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
COLUMNS: dict[str, Callable[[pd.Series], bool]] = {
    "text": types.is_string_dtype,
    "integer": lambda column: types.is_integer_dtype(column) and bool((column >= 0).all()),
    "number": lambda column: types.is_numeric_dtype(column) and bool(np.isfinite(column).all()),
    "number or none": types.is_numeric_dtype,
    "truth": types.is_bool_dtype,
    "list": types.is_object_dtype,
}
"""What a column may be of; its integers count something."""


class Facts(BaseModel):
    """Plain values by name. What is not asked for may be there."""

    model_config = ConfigDict(extra="allow", strict=True, protected_namespaces=())


@dataclass(frozen=True)
class Schema:
    """Of files of one ``kind``.

    ``tensors``: by name "<float, integer or byte> <axis> <axis> …", e.g. "float M P D"; axes of one name are equally
    long within a file, and "*" are all further tensors, each for itself. ``facts``: what plain values must be;
    ``columns``: a table's, each one of ``COLUMNS``; ``key``: those of which no two rows have the same; ``heal``: what
    its owner does where a file is not so; ``instead``: what is to be named, where a user names these files and has
    named one that never was any; ``finite``: whether its tensors must be.
    """

    kind: str
    facts: type[Facts] = Facts
    tensors: Mapping[str, str] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)
    key: tuple[str, ...] = ()
    heal: str = REMAKE
    instead: str = ""
    finite: bool = False

    @classmethod
    def of(cls, kind: "str | Schema") -> "Schema":
        return kind if isinstance(kind, Schema) else cls(kind)

    def refuse(self, path: Path, what: str) -> InputError:
        return InputError(f"{path}: {what}; {self.heal}")

    @contextmanager
    def interpreting(self, path: Path) -> Iterator[None]:
        """What a file's content makes impossible while something is built of it, e.g. because its facts and its
        tensors are of different networks, is the file's fault.

        Raises:
            InputError: it does.
        """
        try:
            yield
        except InputError:
            raise
        except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError, MemoryError) as error:
            why = short(" ".join(str(error).split()) or type(error).__name__, 160)
            raise self.refuse(path, f"what this {self.kind} holds does not fit together ({why})") from error

    def check_facts(self, path: Path, facts: Any) -> None:
        """
        Raises:
            InputError: one is missing, or is not what it must be.
        """
        try:
            self.facts.model_validate(facts)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            name = ".".join(map(str, first["loc"])) or "what it says"
            found = "is missing" if first["type"] == "missing" else f"= {short(first['input'])} is not allowed"
            message = f"{first['msg'][0].lower()}{first['msg'][1:]}"
            raise self.refuse(path, f"{name} {found} in a file of kind {self.kind!r} ({message})") from error

    def check_tensors(self, path: Path, tensors: Mapping[str, Tensor]) -> None:
        """
        Raises:
            InputError: one is missing, of another type or shape, or not finite.
        """
        lengths: dict[str, int] = {}
        for name, told in self.tensors.items():
            if name == "*":
                for other in tensors.keys() - self.tensors.keys():
                    self._check_tensor(path, other, tensors[other], told, {})
            elif name not in tensors:
                raise self.refuse(path, f"{name} is missing in a file of kind {self.kind!r}")
            else:
                self._check_tensor(path, name, tensors[name], told, lengths)
        for name, value in tensors.items() if self.finite else ():
            if not is_finite(value):
                raise self.refuse(path, f"{name} holds NaN or infinity")

    def _check_tensor(self, path: Path, name: str, value: Tensor, told: str, lengths: dict[str, int]) -> None:
        of, *axes = told.split()
        right = {"float": value.dtype in FLOATS, "byte": value.dtype == torch.uint8}
        right["integer"] = value.dtype in (torch.int16, torch.int32, torch.int64)
        right["number"] = right["float"] or right["integer"]
        fits = right[of] and (axes == ["…"] or value.dim() == len(axes))
        for axis, length in zip(axes, value.shape) if fits else ():
            fits = fits and length == int(axis) if axis.isdigit() else lengths.setdefault(axis, length) == length
        if not fits:
            known = ", ".join(f"{axis} = {lengths[axis]}" for axis in axes if axis in lengths)
            found = f"({', '.join(map(str, value.shape))}) of {str(value.dtype).removeprefix('torch.')}"
            wanted = f"({', '.join(axes)}) of {of}" + (f", {known}" if known else "")
            raise self.refuse(path, f"{name} of this {self.kind} is {found}, and {wanted} is expected")

    def check_shapes(self, path: Path, tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
        """That the tensors are these, float32 of these shapes, and no others.

        Raises:
            InputError: they are not.
        """
        found = {name: tuple(value.shape) for name, value in tensors.items()}
        for name in sorted(shapes.keys() | found):
            if shapes.get(name) != found.get(name):
                told = (found.get(name, "not there"), shapes.get(name, "no such tensor"))
                raise self.refuse(path, f"{name} of this {self.kind} is {told[0]}, and {told[1]} is expected")
            if tensors[name].dtype != torch.float32:
                raise self.refuse(path, f"{name} of this {self.kind} is {tensors[name].dtype}, and not torch.float32")

    def check_table(self, path: Path, table: pd.DataFrame) -> None:
        """
        Raises:
            InputError: there are no rows, a column is missing or of another type, or a row is there twice.
        """
        if self.columns and table.empty:
            raise self.refuse(path, f"a table of kind {self.kind!r} without rows")
        for name, of in self.columns.items():
            if name not in table:
                raise self.refuse(path, f"column {name!r} is missing in a table of kind {self.kind!r}")
            if not COLUMNS[of](table[name]):
                told = f"column {name!r} of this {self.kind} is {table[name].dtype}, and not {of}s"
                raise self.refuse(path, f"{told} (integers from 0, finite numbers)")
        if self.key and table.duplicated(list(self.key)).any():
            raise self.refuse(path, f"two rows of this {self.kind} have the same {' and '.join(self.key)}")


def is_finite(tensor: Tensor) -> bool:
    """Whether no number of it is NaN or infinity."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    # a sum of a NaN or an infinity is none: one pass, and no mask beside a tensor that is large
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())
