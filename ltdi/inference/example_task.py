"""A meta-test task as folders of images, to try a run on."""

import shutil
from pathlib import Path

import torch
from PIL import Image

from ltdi.datasets import DATASETS
from ltdi.store import read_tensors
from ltdi.store.schemas import FEATURES
from ltdi.trajectories.storage import load_sources
from ltdi.utils.errors import InputError


def write_example(data: Path, task: int) -> tuple[Path, int]:
    """Writes ``support`` and ``query``, a folder a class; where, and how many classes.

    Raises:
        InputError: there is no task of that number, or something of the user's lies where it goes.
    """
    test = load_sources(data, splits=["meta_test"], images_of=["meta_test"])["meta_test"]
    if not 0 <= task < len(test):
        raise InputError(
            f"--task {task} is not one of the {len(test)} meta-test tasks, 0 to {len(test) - 1}; choose one"
        )
    chosen, classes = test.batch(torch.tensor([task])), test.classes[task].tolist()
    data_set = DATASETS[read_tensors(data / "tasks" / "features.safetensors", kind=FEATURES)[1]["data_set"]]
    folder, unfinished = data / "example", data / ".example"
    if strange := sorted(each for each in folder.glob("*") if each.name not in ("support", "query")):
        raise InputError(f"{strange[0]} would be lost, for the example is written there anew; move it elsewhere")
    shutil.rmtree(unfinished, ignore_errors=True)
    for part, batch in (("support", chosen.context.examples), ("query", chosen.query)):
        for image, label in zip(data_set.as_files(batch["images"][0]), batch["labels"][0].tolist()):
            if label >= 0:
                place = unfinished / part / f"class{classes[label]}"
                place.mkdir(parents=True, exist_ok=True)
                picture = Image.fromarray(image.permute(1, 2, 0).squeeze(-1).numpy())
                picture.save(place / f"{len(list(place.iterdir()))}.png")
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)
    return folder, len(classes)
