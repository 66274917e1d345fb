"""accuracy_latency.png: accuracy against time, a panel a setting."""

from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from bench.cells import Cells

LEFT_OUT = ("mean_head", "nearest_head")
"""Far below all others: they would make these one line."""


def picture(cells: Cells, path: Path) -> None:
    """Accuracy, as the paired difference to the best baseline, against the time from support images to weights."""
    names, settings = cells.bench["names"], cells.settings
    methods = [each for each in (*cells.bench["methods"], *cells.bench["baselines"]) if each not in LEFT_OUT]
    columns = min(3, len(settings) + 1)
    lines = -(-(len(settings) + 1) // columns)
    figure = Figure(figsize=(4.6 * columns, 3.8 * lines))
    panels = figure.subplots(lines, columns, squeeze=False).flat
    shown: dict = {}
    for axis, setting in zip(panels, settings):
        shown |= _draw(axis, cells, setting, methods)
    for axis in panels[len(settings) :]:
        axis.axis("off")
    known = [method for method in methods if method in shown]
    handles, labels = [shown[method] for method in known], [names[method] for method in known]
    panels[len(settings)].legend(handles, labels, loc="center", fontsize=8, ncol=2)
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Software": None})


def _draw(axis: Axes, cells: Cells, setting: str, methods: list[str]) -> dict:
    """A panel; what was drawn by method, for the legend."""
    shown = {}
    for j, method in enumerate(methods):
        if (setting, method) not in cells.rows:
            continue
        paired = cells.compared(setting, method)
        marker = "s" if method in cells.bench["baselines"] else "o"
        place = cells.rows[setting, method].to_weights(1), 100 * paired["paired_diff"]
        style: dict[str, Any] = {
            "color": colormaps["tab20"](j % 20),
            "marker": marker,
            "markersize": 5,
            "linewidth": 0.9,
        }
        shown[method] = axis.errorbar(*place, 100 * paired["paired_ci95"], **style)
    axis.axhline(0, color="0.7", linewidth=0.8, zorder=0)
    axis.set(xscale="log", title=setting)
    axis.set(xlabel="ms a task, images to weights", ylabel="accuracy − best baseline, points")
    axis.xaxis.set_minor_formatter(NullFormatter())
    return shown
