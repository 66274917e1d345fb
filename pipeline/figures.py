"""Pictures. Drawn with matplotlib's object interface: no window, no global state."""

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ltdi.store import write_bytes

COLOURS = ("tab:orange", "tab:red")


def draw_landscape(
    file: Path, path: Tensor, chain: Tensor | None, losses: Callable[[Tensor], Tensor], resolution: int
) -> None:
    """A recorded trajectory (P, D) and an inference chain (T+1, D) over the task's loss (the paper's Figure 1)."""
    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    ax = figure.subplots()
    shades = landscape(ax, path, {} if chain is None else {"inference chain": chain}, losses, resolution)
    figure.colorbar(shades, label="log₁₀ loss on all images of the task's classes")
    ax.legend(loc="best", fontsize=8)
    save(figure, file, dpi=120)


def save(figure: Figure, file: Path, *, dpi: int) -> None:
    """As PNG, without a date in it: the same run gives the same bytes."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=dpi, metadata={"Software": None})
    write_bytes(file, picture.getvalue())


def landscape(
    ax: Axes, path: Tensor, chains: Mapping[str, Tensor], losses: Callable[[Tensor], Tensor], resolution: int
) -> Any:
    """A recorded trajectory (P, D) and inference chains (T+1, D) by name, in the plane of the first two principal
    components of all together; what a colour bar is of.

    ``losses`` maps weights (M, D) to their losses (M,) and is shown through ``path[0]``, the trained weights.
    """
    origin, states = path[0], torch.cat([path, *(chain.to(path) for chain in chains.values())])
    axes = torch.linalg.svd(states - states.mean(0), full_matrices=False).Vh[:2]
    flat = (states - origin) @ axes.mT
    low, high = flat.min(0).values, flat.max(0).values
    margin = 0.25 * (high - low).max().clamp_min(1e-6)
    x, y = (torch.linspace(float(low[j] - margin), float(high[j] + margin), resolution) for j in range(2))
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).flatten(0, 1)
    height = torch.cat([losses(origin + part @ axes) for part in grid.split(256)]).unflatten(
        0, (resolution, resolution)
    )
    shades = ax.contourf(x, y, height.clamp_min(1e-6).log10(), levels=24, cmap="viridis")
    recorded, *generated = (
        part.flip(0) for part in flat.split([len(path), *(len(chain) for chain in chains.values())])
    )
    ax.plot(*recorded.mT, "o-", color="white", label="recorded trajectory")
    for name, states, colour in zip(chains, generated, COLOURS):
        ax.plot(*states.mT, "s--", color=colour, markersize=4, label=name)
    ax.plot(*flat[0], "*", color="gold", markersize=14, label="trained head w₀")
    ax.set(xlabel="first principal component", ylabel="second")
    return shades
