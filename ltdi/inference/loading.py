"""Find a model: by a shipped name, in a model folder, in a finished run, or by the images that it is to classify."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ltdi.datasets import read_images
from ltdi.inference.class_names import by_place
from ltdi.inference.head import Head, facts_of_head
from ltdi.inference.model import Model
from ltdi.inference.model_files import FACTS, is_model, is_run, read_model
from ltdi.inference.run import Run
from ltdi.inference.user_tables import is_table
from ltdi.store import read_json
from ltdi.store.schemas import MODEL
from ltdi.utils.console import note
from ltdi.utils.devices import device as device_of
from ltdi.utils.errors import InputError

DEFAULT = Path("data")
SHIPPED = Path(__file__).resolve().parents[1] / "models"
"""The package's models, a folder each."""

SAMPLED, SIDE = 16, 32
"""How many images are looked at for colour, and the pixels a side of each."""
COLOURED, SHARE = 24, 0.02
"""From which difference of two channels a pixel is coloured, and from which share of such pixels an image is."""


def shipped() -> dict[str, Path]:
    """The models in the package by name."""
    return {place.name: place for place in sorted(SHIPPED.iterdir()) if is_model(place)} if SHIPPED.is_dir() else {}


def load(model: str | Path = "data", *, method: str = "", device: str = "") -> Model:
    """Open a shipped model by its name, a model folder, or a finished run, e.g. after ``dvc repro``.

    Args:
        model: a folder, or a shipped name, which counts where no folder of that name holds a model or a run.
        method: one of its baselines in place of the trained method.
        device: where it computes; by default ``LTDI_DEVICE``, or a GPU where there is one.

    Raises:
        InputError: there is none, or not that method.
    """
    place = Path(model)
    if not is_run(place) and not is_model(place):
        place = shipped().get(str(model), place)
    if is_model(place):
        return Model(read_model(place, device_of(device), method), method=method)
    if not is_run(place):
        raise InputError(
            f"{place}: no finished run; run `dvc repro`, or name a run's data folder, a model folder, or a shipped"
            f" model ({', '.join(shipped()) or 'none here'})"
        )
    return Run(place, method=method, device=device)


def find(model: Path | None) -> Path:
    """The folder of a model or a run: of a shipped name the package's, and ``data`` where none is named."""
    if model is None:
        return DEFAULT
    return model if is_run(model) or is_model(model) else shipped().get(str(model), model)


def load_for(model: Path | None, task: Path, *, method: str = "") -> Model:
    """Open the model that is named; else that of a kept head, the run in ``data``, or the shipped model that fits the
    images of a task, which is noted.

    Raises:
        InputError: there is none.
    """
    if model is not None:
        return load(model, method=method)
    if task.is_file() and not is_table(task):
        name = facts_of_head(task)["model"]
        if name in shipped():
            return load(shipped()[name], method=method)
    if is_run(DEFAULT) or is_model(DEFAULT) or not shipped():
        return load(DEFAULT, method=method)
    if task.is_file() and not is_table(task):
        model_of_head(task)  # no shipped model has generated it
    pictures = [file for files in by_place(task, at_least=1).values() for file in files]
    name = fitting_model(pictures)
    kind = "in colour" if _mode(shipped()[name]) == "RGB" else "in shades of grey"
    note(f"no run in {DEFAULT}: taking the shipped model {name}, for images {kind}; --model names another")
    return load(shipped()[name], method=method)


def load_head(file: str | Path, *, model: str | Path = "", device: str = "") -> Head:
    """Open a head that was saved, with the model that generated it.

    Args:
        file: what ``Head.save`` wrote.
        model: a folder, or a shipped name; by default the shipped model that the head names.

    Raises:
        InputError: it is no head, or its model is not shipped and none is named.
    """
    return load(model or model_of_head(Path(file)), device=device).load_head(file)


def model_of_head(file: Path) -> str:
    """The shipped model that a head names.

    Raises:
        InputError: the file is no head, or names none that is shipped.
    """
    name = facts_of_head(file)["model"]
    if name not in shipped():
        of = f"the model {name!r}, which is not shipped" if name else "a run"
        raise InputError(f"{file} is a head of {of}; name its folder as the model")
    return str(name)


def fitting_model(pictures: Sequence[Any]) -> str:
    """Choose the shipped model for images: one of colour images where some of the first are in colour, else one of
    greyscale images.

    Raises:
        InputError: no shipped model is for such images, or one cannot be read.
    """
    coloured = in_colour(pictures)
    fitting = [name for name, place in shipped().items() if (_mode(place) == "RGB") == coloured]
    if not fitting:
        kind = "in colour" if coloured else "in shades of grey"
        raise InputError(
            f"the images are {kind}, and no shipped model ({', '.join(shipped()) or 'none here'}) is for such; name a"
            " run's data folder or a model folder"
        )
    return fitting[0]


def in_colour(pictures: Sequence[Any]) -> bool:
    """Whether one of the first images has colours."""
    images = read_images(list(pictures[:SAMPLED]), mode="RGB", size=SIDE).int()
    spread = images.amax(1) - images.amin(1)
    return bool(((spread >= COLOURED).float().mean((1, 2)) >= SHARE).any())


def _mode(place: Path) -> str:
    return str(read_json(place / FACTS, kind=MODEL)["images"]["mode"])
