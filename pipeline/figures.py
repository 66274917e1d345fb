"""Pictures. Drawn with matplotlib's object interface: no window, no global state."""

import io
from collections.abc import Callable
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ltdi.store import write_bytes


def draw_landscape(
    file: Path, path: Tensor, chain: Tensor | None, losses: Callable[[Tensor], Tensor], resolution: int
) -> None:
    """A recorded trajectory (P, D) and an inference chain (T+1, D) over the task's loss (the paper's Figure 1).

    The plane is that of the first two principal components of both together; ``losses`` maps weights
    (M, D) to their losses (M,) and is shown through ``path[0]``, the trained head.
    """
    states = path if chain is None else torch.cat([path, chain.to(path)])
    origin = path[0]
    axes = torch.linalg.svd(states - states.mean(0), full_matrices=False).Vh[:2]
    flat = (states - origin) @ axes.mT
    low, high = flat.min(0).values, flat.max(0).values
    margin = 0.25 * (high - low).max().clamp_min(1e-6)
    x, y = (torch.linspace(float(low[j] - margin), float(high[j] + margin), resolution) for j in range(2))
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).flatten(0, 1)
    height = torch.cat([losses(origin + part @ axes) for part in grid.split(256)]).unflatten(
        0, (resolution, resolution)
    )

    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    ax = figure.subplots()
    shades = ax.contourf(x, y, height.clamp_min(1e-6).log10(), levels=24, cmap="viridis")
    figure.colorbar(shades, label="log₁₀ loss on all images of the task's classes")
    recorded = flat[: len(path)].flip(0)
    ax.plot(*recorded.mT, "o-", color="white", label="recorded trajectory")
    if chain is not None:
        generated = flat[len(path) :].flip(0)
        ax.plot(*generated.mT, "s--", color="tab:orange", markersize=4, label="inference chain")
    ax.plot(*flat[0], "*", color="gold", markersize=14, label="trained head w₀")
    ax.set(xlabel="first principal component", ylabel="second")
    ax.legend(loc="best", fontsize=8)
    picture = io.BytesIO()
    # no date in the file: the same run gives the same bytes
    figure.savefig(picture, format="png", dpi=120, metadata={"Software": None})
    write_bytes(file, picture.getvalue())
