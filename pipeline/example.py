"""A meta-test task as folders of images, to try ``python -m pipeline.classify`` on -> data/example/."""

import shutil
from pathlib import Path
from typing import Annotated

import torch
import typer
from PIL import Image

from ltdi.errors import InputError
from ltdi.store import read_tensors
from pipeline.files import load_tasks
from pipeline.images import as_files
from pipeline.progress import say
from pipeline.stage import Folder, one_line_errors


def main(
    task: Annotated[int, typer.Option(help="Which meta-test task.")] = 0,
    data: Folder = Path("data"),
) -> None:
    with one_line_errors("pipeline.example"):
        test = load_tasks(data, splits=["meta_test"], images_of=["meta_test"])["meta_test"]
        if not 0 <= task < len(test):
            raise InputError(
                f"--task {task} is not one of the {len(test)} meta-test tasks, 0 to {len(test) - 1}; choose one"
            )
        chosen, classes = test.batch(torch.tensor([task])), test.classes[task].tolist()
        data_set = read_tensors(data / "tasks" / "features.safetensors")[1]["data_set"]
        folder, unfinished = data / "example", data / ".example"
        shutil.rmtree(unfinished, ignore_errors=True)
        for part, images in (("support", chosen.support.images), ("query", chosen.query.images)):
            for number, of_class in zip(classes, as_files(data_set, images[0])):
                place = unfinished / part / f"class{number}"
                place.mkdir(parents=True)
                for j, image in enumerate(of_class):
                    Image.fromarray(image.permute(1, 2, 0).squeeze(-1).numpy()).save(place / f"{j}.png")
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)
        say(
            f"{folder}: {len(classes)} classes that nobody has trained on; python -m pipeline.classify {folder / 'support'} {folder / 'query'}"
        )


if __name__ == "__main__":
    typer.run(main)
