"""The pictures of ``python -m bench zero-shot``: what a head from names says of each class, and of images."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from ltdi.datasets import read_images
from pipeline.figures import save


def draw_matrix(file: Path, said: Tensor, names: list[str]) -> None:
    """How probable each name (a column) is said to be of the images of each class (a row), in the mean: (C, C)."""
    _draw(file, said, names, [f"images of {name}" for name in names], [], "Lt-Di's head from the names of CIFAR-10")


def draw_task(file: Path, said: Tensor, names: list[str], by_class: dict[str, list[Any]], first: int) -> None:
    """The same of single images (C, M, C), the ``first`` of a class and those after it, each beside its row."""
    n = said.shape[1]
    pictures = [picture for name in names for picture in by_class[name][first : first + n]]
    shown = list(read_images(pictures, mode="RGB", size=32).permute(0, 2, 3, 1).numpy())
    rows = [name for name in names for _ in range(n)]
    _draw(file, said.flatten(0, 1), names, rows, shown, "what a head from these names says of each image")


def _draw(file: Path, said: Tensor, names: list[str], rows: list[str], pictures: list[Any], title: str) -> None:
    figure = Figure(figsize=(1.6 + 0.55 * len(names), 1.4 + 0.42 * len(rows)), layout="constrained")
    ax = figure.subplots()
    ax.imshow(said.numpy(), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for i, row in enumerate(said.tolist()):
        for j, share in enumerate(row):
            colour = "white" if share > 0.55 else "black"
            ax.text(j, i, f"{100 * share:.0f}", ha="center", va="center", fontsize=7, color=colour)
    ax.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=8)
    ax.set_yticks(range(len(rows)), rows, fontsize=8)
    if pictures:
        ax.tick_params(axis="y", pad=46)
        for i, picture in enumerate(pictures):
            inset = ax.inset_axes((-0.6 - 1.1, i - 0.48, 1.1, 0.96), transform=ax.transData)
            inset.imshow(picture)
            inset.set_axis_off()
    ax.set_title(f"{title}: % probability", fontsize=9)
    save(figure, file, dpi=80)
