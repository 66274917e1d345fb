"""Lines over seeds, a panel a setting and form: how the figures of the paper are drawn."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipeline.figures import save


@dataclass(frozen=True)
class Look:
    """Which columns of a table are drawn against each other, with their labels; a ``line`` for each value of a third;
    whether the second is drawn on a logarithmic scale."""

    title: str
    x_axis: tuple[str, str]
    y_axis: tuple[str, str]
    line: str | None = None
    log: bool = False


def lines(rows: pd.DataFrame, look: Look, note: str, file: Path) -> None:
    """A line is the mean over seeds, its band their range."""
    settings, forms = rows.setting.unique(), rows.form.unique()
    # as wide as the title at least
    figure = Figure(figsize=(max(6.5, 3.6 * len(forms)), 2.7 * len(settings) + 0.7), layout="constrained")
    panels = figure.subplots(len(settings), len(forms), squeeze=False)
    for setting, line in zip(settings, panels):
        for form, ax in zip(forms, line):
            _panel(ax, rows[(rows.setting == setting) & (rows.form == form)], look)
            ax.set_title(f"{setting}, form: {form}", fontsize=8)
        line[0].set_ylabel(look.y_axis[1], fontsize=7)
    for ax in panels[-1]:
        ax.set_xlabel(look.x_axis[1], fontsize=7)
    figure.suptitle(f"{look.title}\n{note}", fontsize=8)
    save(figure, file, dpi=90)


def _panel(ax: Axes, rows: pd.DataFrame, look: Look) -> None:
    x_name, y_name = look.x_axis[0], look.y_axis[0]
    for name, own in rows.groupby(look.line, sort=False) if look.line else [("", rows)]:
        # at the same step seeds have taken different times, whose mean is the place of all
        points = own.groupby("step" if x_name == "seconds" else x_name)
        x, y = points[x_name].mean(), points[y_name]
        (drawn,) = ax.plot(x, y.mean(), "o-", markersize=3, linewidth=1.2, label=name)
        ax.fill_between(x, y.min(), y.max(), color=drawn.get_color(), alpha=0.2, linewidth=0)
    if y_name == "distance2":
        ax.axhline(rows.of_mean.mean(), color="0.5", linestyle=":", linewidth=1, label="mean of the training weights")
    if look.log:
        ax.set_yscale("log")
    if x_name != "seconds":
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.tick_params(labelsize=7, which="both")
    if ax.get_legend_handles_labels()[1]:
        ax.legend(fontsize=6)
