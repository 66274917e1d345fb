"""A head for a task of one's own, without training: ``python -m pipeline.classify <task> <images>``.

The task is a folder that holds a folder of images for each class. A head is generated from these by what the last run
has trained; it classifies other images at once, and later where it is kept.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import typer
from rich.table import Table
from torch import Tensor, nn

from ltdi.bodies.pretraining import embed
from ltdi.datasets.images import find_images
from ltdi.errors import InputError
from ltdi.heads import Head
from ltdi.seeding import generator
from ltdi.store import digest, read_json, read_tensors, write_tensors, write_text
from ltdi.tasks import Query, Support
from pipeline.body import load_body
from pipeline.build import load_method
from pipeline.images import read_like
from pipeline.progress import console, say
from pipeline.stage import Folder, deterministic, device, one_line_errors

SHOWN = 30

Answerer = tuple[list[str], Callable[[Query], Tensor]]  # the classes' names, query -> logits (1, M, N)


def main(
    task: Annotated[
        Path,
        typer.Argument(help="A folder that holds a folder of images for each class, or a head that --head has kept."),
    ],
    images: Annotated[list[Path], typer.Argument(help="Images to classify, or folders of them.")] = [],
    head: Annotated[Path | None, typer.Option(help="Where to keep the head.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Where to write all answers.")] = None,
    method: Annotated[str, typer.Option(help="A method or a control of the run.", show_default="the trained one")] = "",
    seed: Annotated[int, typer.Option(help="Of the noise that generation starts from.")] = 0,
    data: Folder = Path("data"),
) -> None:
    with one_line_errors("pipeline.classify"):
        deterministic()
        eye = Eye.load(data, device())
        # first, so that a mistake in them leaves nothing behind
        files = [file for each in images for file in _files_of(each)]
        pixels = eye.read(files)
        if task.is_dir():
            classes, logits = _generated(task, data, eye, method, head, seed)
        elif method or head:
            raise InputError(
                f"{task} is no folder of classes, so there is nothing to generate; leave --method and --head out, or name a folder"
            )
        else:
            classes, logits = _kept(task, eye)
        if files:
            shares = logits(Query(eye.features(pixels)[None, None], pixels[None, None])).softmax(-1)[0]
            _show(files, classes, shares.cpu(), csv)


@dataclass(frozen=True)
class Eye:
    """How a run sees an image: the data set whose images its body knows, the body, and the features' scale."""

    data_set: str
    size: int
    body: nn.Module
    scale: float
    device: torch.device

    @classmethod
    def load(cls, data: Path, where: torch.device) -> "Eye":
        facts = read_tensors(data / "tasks" / "features.safetensors")[1]
        body = load_body(data).to(where, memory_format=torch.channels_last)
        return cls(facts["data_set"], facts["size"], body, facts["scale"], where)

    def read(self, files: list) -> Tensor:
        """uint8 (M, channels, size, size)"""
        return read_like(self.data_set, files, self.size).to(self.device)

    def features(self, images: Tensor) -> Tensor:
        """uint8 images (…, channels, size, size) -> (…, F), as those of the run's tasks."""
        return embed(self.body, images).to(self.device) / self.scale

    @property
    def name(self) -> str:
        """Equal for equal features: a head fits no others."""
        return digest(*self.body.state_dict().values(), self.scale)


def _generated(task: Path, data: Path, eye: Eye, name: str, keep: Path | None, seed: int) -> Answerer:
    """Of a head that the method generates for the task."""
    names = read_json(data / "model" / "methods" / "names.json")
    name, known = name or names["method"], [names["method"], *names["controls"]]
    if name not in known:
        raise InputError(f"--method {name} is not in {data / 'model'}; allowed: {', '.join(known)}")
    by_class, facts = _by_class(task), read_tensors(data / "model" / "methods" / f"{name}.safetensors")[1]
    made = load_method(data / "model", name, eye.body, eye.device)
    if made.one_size and len(by_class) != facts["n_way"]:
        raise InputError(
            f"{name} has learned heads of {facts['n_way']} classes, and generates none of {len(by_class)}; set tasks.n_way = {len(by_class)} in params.yaml and run `dvc repro`, or choose another method"
        )
    if keep and made.space is not made.head.space:
        raise InputError(f"--head {keep}: {name} makes more than a head; leave --head out, or name another method")
    support = _support(by_class, eye)
    with torch.no_grad():
        w = made.generate(support, generator=generator(seed, "noise"))
    shots = support.present[0].sum(-1).int().tolist()
    say(f"a head from {', '.join(f'{n} of {each}' for n, each in zip(shots, by_class))}, by {name}")
    if keep:
        tensors = {key: value[0] for key, value in made.head.space.unflatten(w).items()}
        write_tensors(
            keep,
            tensors,
            {"classes": list(by_class), "method": name, "head": made.start.state()[1]["head"], "eye": eye.name},
        )
    return list(by_class), partial(made.logits, w)


def _support(by_class: dict[str, list], eye: Eye) -> Support:
    """One task's support set; classes of fewer images than the largest are filled up with blanks that the mask leaves out."""
    images = nn.utils.rnn.pad_sequence([eye.read(files) for files in by_class.values()], batch_first=True)[None]
    shots = torch.tensor([len(files) for files in by_class.values()], device=images.device)
    return Support(
        eye.features(images), images, torch.arange(images.shape[2], device=images.device) < shots[None, :, None]
    )


def _kept(file: Path, eye: Eye) -> Answerer:
    """Of a head that was kept."""
    if not file.exists():
        raise InputError(
            f"{file}: no such folder or file; name a folder that holds a folder of images for each class, or a head that --head has kept"
        )
    tensors, facts = read_tensors(file)
    if "eye" not in facts:
        raise InputError(f"{file} is no head that --head has kept; name one, or a folder of classes")
    if facts["eye"] != eye.name:
        raise InputError(f"{file} was generated for another body; generate it again from its images")
    head = Head(**facts["head"])
    w = head.space.flatten(tensors)[None].to(eye.device)
    return facts["classes"], lambda query: head(w, query.features.flatten(1, 2))


def _by_class(task: Path) -> dict[str, list]:
    """The files of each class."""
    by_class: dict[str, list] = {}
    for name, file in find_images(task).items():
        by_class.setdefault(name.rpartition("/")[0], []).append(file)
    if "" in by_class:
        raise InputError(f"{by_class[''][0]} lies in no class's folder; move it into one")
    if len(by_class) < 2:
        raise InputError(
            f"{task} holds PNG or JPEG images of {len(by_class)} classes; give two or more, each in a folder of its own"
        )
    return by_class


def _files_of(place: Path) -> list:
    files = [place] if place.is_file() else list(find_images(place).values())
    if not files:
        raise InputError(
            f"{place}: no such file, and no folder with PNG or JPEG images; name images or folders of them"
        )
    return files


def _show(files: list, classes: list[str], shares: Tensor, csv: Path | None) -> None:
    """The answers as a table, and whether they are right where a file lies in a folder named like a class."""
    share, label = shares.max(-1)
    answers = pd.DataFrame(
        {
            "image": [str(file) for file in files],
            "class": [classes[each] for each in label],
            "probability": share.numpy(),
        }
    )
    if csv:
        write_text(csv, answers.to_csv(index=False, float_format="%.4f", lineterminator="\n"))
    table = Table()
    for column in answers:
        table.add_column(column, overflow="fold")
    for row in answers.head(SHOWN).itertuples(index=False):
        table.add_row(*row[:2], f"{row[2]:.2f}")
    console.print(table)
    if len(answers) > SHOWN:
        say(f"and {len(answers) - SHOWN} more{f': {csv}' if csv else '; --csv writes all'}")
    folders = [file.parent.name for file in files]
    told = [(folder, answer) for folder, answer in zip(folders, answers["class"]) if folder in classes]
    if told:
        right = sum(folder == answer for folder, answer in told)
        say(f"of {len(told)} images in folders named like a class {right} are right, {right / len(told):.1%}")


if __name__ == "__main__":
    typer.run(main)
