"""What every exchanged file holds: values, tensors with their shapes, columns; and what it is made from."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
from pandas.api import types
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from torch import Tensor

from ltdi.config import Count
from ltdi.utils.errors import InputError, short

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INTEGERS = (torch.int16, torch.int32, torch.int64)
DTYPES = {"float": FLOATS, "float32": (torch.float32,), "integer": INTEGERS, "number": FLOATS + INTEGERS}
DTYPES["byte"] = (torch.uint8,)
COLUMNS: dict[str, Callable[[pd.Series], bool]] = {
    "text": types.is_string_dtype,
    "integer": lambda column: types.is_integer_dtype(column) and bool((column >= 0).all()),
    "number": lambda column: types.is_numeric_dtype(column) and bool(np.isfinite(column).all()),
    "number or none": types.is_numeric_dtype,
    "truth": types.is_bool_dtype,
    "list": types.is_object_dtype,
}


class Facts(BaseModel):
    """Values by name; further ones are allowed."""

    model_config = ConfigDict(extra="allow", strict=True, protected_namespaces=())


@dataclass(frozen=True)
class Schema:
    """Content of the files of one ``kind``.

    ``tensors``: by name "<one of DTYPES> <axis> <axis> …", e.g. "float M P D"; axes of one name are equally long within
    a file, an axis may be its length, and "*" stands for all other tensors; ``facts``: the type of the values;
    ``columns``: of a table, each one of COLUMNS; ``key``: columns whose values together occur once; ``heal``: what to
    do about a bad file; ``instead``: what to name, if users name these files and have named one of another program;
    ``finite``: whether tensors must be finite.
    """

    kind: str
    facts: type[Facts] = Facts
    tensors: Mapping[str, str] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)
    key: tuple[str, ...] = ()
    heal: str = "delete it and run `dvc repro`"
    instead: str = ""
    finite: bool = False

    @classmethod
    def of(cls, kind: "str | Schema") -> "Schema":
        return kind if isinstance(kind, Schema) else cls(kind)

    def refuse(self, path: Path, what: str) -> InputError:
        return InputError(f"{path}: {what}; {self.heal}")

    @contextmanager
    def interpreting(self, path: Path) -> Iterator[None]:
        """Raise errors of building something from a file's content as an InputError about the file, e.g. if its facts
        and its tensors are of different networks."""
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
            InputError: a value is missing or not allowed.
        """
        try:
            self.facts.model_validate(facts)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            name = ".".join(map(str, first["loc"])) or "what it says"
            found = "is missing" if first["type"] == "missing" else f"= {short(first['input'])} is not allowed"
            why = f"{first['msg'][0].lower()}{first['msg'][1:]}"
            raise self.refuse(path, f"{name} {found} in a file of kind {self.kind!r} ({why})") from error

    def check_tensors(self, path: Path, tensors: Mapping[str, Tensor]) -> None:
        """
        Raises:
            InputError: a tensor is missing, of another dtype or shape, or not finite.
        """
        lengths: dict[str, int] = {}
        others = dict.fromkeys(tensors.keys() - self.tensors.keys(), self.tensors["*"]) if "*" in self.tensors else {}
        for name, expected in ({**self.tensors} | others).items():
            if name == "*":
                continue
            if name not in tensors:
                raise self.refuse(path, f"{name} is missing in a file of kind {self.kind!r}")
            value, (of, *axes) = tensors[name], expected.split()
            fits = value.dtype in DTYPES[of] and (axes == ["…"] or value.dim() == len(axes))
            for axis, length in zip(axes, value.shape) if fits and axes != ["…"] else ():
                fits = fits and length == (int(axis) if axis.isdigit() else lengths.setdefault(axis, length))
            if not fits:
                sizes = "".join(f", {axis} = {lengths[axis]}" for axis in axes if axis in lengths)
                found = f"({', '.join(map(str, value.shape))}) of {str(value.dtype).removeprefix('torch.')}"
                expected = f"({', '.join(axes)}) of {of}{sizes}"
                raise self.refuse(path, f"{name} of this {self.kind} is {found}, and {expected} is expected")
        for name, value in tensors.items() if self.finite else ():
            if not is_finite(value):
                raise self.refuse(path, f"{name} holds NaN or infinity")

    def check_table(self, path: Path, table: pd.DataFrame) -> None:
        """
        Raises:
            InputError: there are no rows, a column is missing or of another type, or two rows have the same key.
        """
        if self.columns and table.empty:
            raise self.refuse(path, f"a table of kind {self.kind!r} without rows")
        for name, of in self.columns.items():
            if name not in table:
                raise self.refuse(path, f"column {name!r} is missing in a table of kind {self.kind!r}")
            if not COLUMNS[of](table[name]):
                found = f"column {name!r} of this {self.kind} is {table[name].dtype}, and not {of}s"
                raise self.refuse(path, f"{found} (integers from 0, finite numbers)")
        if self.key and table.duplicated(list(self.key)).any():
            raise self.refuse(path, f"two rows of this {self.kind} have the same {' and '.join(self.key)}")


def is_finite(tensor: Tensor) -> bool:
    """Whether all numbers are finite."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    # the sum of a NaN or an infinity is not finite: one pass, without a mask as large as the tensor
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


# -- the kinds ----------------------------------------------------------------------------------------

SPLITS = ("meta_train", "meta_val", "meta_test")
MOST_LETTERS = 10_000
Name = Annotated[str, Field(min_length=1, max_length=MOST_LETTERS)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[int, Field(ge=0, le=10**9)]


def _facts(**types: Any) -> type[Facts]:
    """Facts of these types; a pair is a type and a default."""
    fields: Any = {name: each if isinstance(each, tuple) else (each, ...) for name, each in types.items()}
    return create_model("Facts", __base__=Facts, **fields)


LEARNER: Any = _facts(
    name=Name, n_features=(Count, 1), n_numbers=(Count | None, None), hidden=(Count, 1), floor=(Number, 0.0)
)
BODY = Schema("body", _facts(name=Name), finite=True)
OWN_BODY = replace(BODY, heal="name another file with body.weights, or null to train a body")
"""A body file of the user's own."""
FEATURES = Schema(
    "features",
    _facts(data_set=Name, size=Count, scale=Annotated[Number, Field(gt=0)], train_classes=Count),
    {split: f"float {split}_rows F" for split in SPLITS}
    | {f"{split}/counts": f"integer {split}_classes" for split in SPLITS},
    finite=True,
)
IMAGES = Schema("images", tensors={split: f"byte {split}_rows channels height width" for split in SPLITS})
EXAMPLES = Schema(
    "examples",
    _facts(reading=dict[str, Any], apart=list[str], length=Count),
    # hidden states, or token ids
    {f"{split}/hidden": f"number {split}_rows {split}_length H" for split in SPLITS}
    | {f"{split}/embedding": f"float {split}_rows C" for split in SPLITS},
    finite=True,
)
TASKS = Schema("tasks", columns={"split": "text", "support": "list", "query": "list"})
SCENARIO: Any = _facts(scenario=Name, source=Name, provides=list[str], collection=dict[str, Any])
INITIALIZATION = Schema(
    "initialization",
    _facts(initialization=Name, learner=LEARNER, facts=SCENARIO),
    {"initialization/shared": "float D"},
    finite=True,
)
# not finite: what diverged is stored, and left out by the index
TRAJECTORIES = Schema("trajectories", tensors={"points": "float M P D", "losses": "float M P", "scores": "float M P"})
INDEX = Schema(
    "index",
    columns={"split": "text", "task": "integer", "shard": "text", "row": "integer", "kept": "truth"},
    key=("split", "task"),
)
SETUP: Any = _facts(
    **dict.fromkeys(("meta", "diffusion", "denoiser"), dict[str, Any]),
    length=Count,
    n_way=Count,
    n_shot=NonNegative,
    provides=list[str],
)
METHOD = Schema("method", _facts(initialization=Name, learner=LEARNER, setup=SETUP, own=dict[str, Any]), finite=True)
NAMES = Schema("names", _facts(method=Name, baselines=list[Name]))
WEIGHTS = Schema("weights", _facts(first=NonNegative), {"*": "float …"}, finite=True)
CHAIN = Schema("chain", tensors={"states": "float T M D"}, finite=True)
TIMING = Schema(
    "timing",
    columns={"name": "text", "batch": "integer", "adapts": "truth"}
    | dict.fromkeys(("ms_embed", "ms_generate", "ms_query"), "number"),
    key=("name", "batch"),
)
PER_TASK = Schema(
    "per_task",
    columns={"method": "text", "task": "integer", "score": "number", "weight_mse": "number or none"},
    key=("method", "task"),
)
MEAN: Any = _facts(score=Number, ci95=Number)
RESULTS = Schema(
    "metrics",
    _facts(
        score=Number,
        ci95=Number,
        method=Name,
        scored_by=Name,
        ms_per_task=dict[str, Number],
        ceiling=MEAN,
        baselines=(dict[str, MEAN], {}),
        way=dict[str, dict[str, Number]],
    ),
)
HEAD = Schema(
    "head",
    _facts(
        classes=Annotated[list[Name], Field(min_length=2)],
        shots=list[NonNegative],
        method=Name,
        seed=(int, 0),
        generator=(str, ""),
        learner=LEARNER,
        features=Name,
        model=(str, ""),
        temperature=(Positive, 1.0),
    ),
    {"*": "float …"},
    heal="generate it again from its images, or name another file",
    instead="name a folder that holds a folder of images for each class (a zip's, unpacked), or a head that was kept",
    finite=True,
)


# -- provenance ---------------------------------------------------------------------------------------

TASK_FILES = tuple(f"tasks/{file}" for file in ("features.safetensors", "examples.safetensors", "images.safetensors"))
TASK_FILES += ("tasks/tasks.parquet",)
TRAJECTORY_FILES = ("trajectories/initialization.safetensors", "trajectories/index.parquet")
MADE_FROM = {
    "tasks": ("body/body.safetensors",),
    "trajectories": TASK_FILES,
    "model": ("body/body.safetensors", *TASK_FILES, *TRAJECTORY_FILES),
    "weights": ("body/body.safetensors", *TASK_FILES, *TRAJECTORY_FILES, "model/methods/names.json"),
    "results": (*TASK_FILES, *TRAJECTORY_FILES),
}
"""Output folder of a stage -> the files that it is made from, as far as they exist."""


def made_from(data: Path, folder: str) -> list[Path]:
    return [data / file for file in MADE_FROM[folder]]


# -- models that are packed ---------------------------------------------------------------------------

REPACK = "pack it again with `ltdi pack`, or install the package again"
MODEL = Schema(
    "model",
    _facts(
        format=Count,
        name=Name,
        method=Name,
        baselines=list[Name],
        scenario=SCENARIO,
        names=dict[str, Any],
        backbone=_facts(name=Name, digest=Name, package=(str, "")),
        images=_facts(data_set=Name, mode=Name, size=Count, scale=Positive),
        normalization=str,
    ),
    heal=REPACK,
)
FEATURE_MAP = Schema("feature_map", Facts, {"*": "float …"}, heal=REPACK, finite=True)
