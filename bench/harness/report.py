"""``python -m bench report``: all tables of bench/results/ that are of committed rows, and of measured cells.

A table is a jinja2 template of ``conf/tables/``; ``conf/tables.yaml`` says of which long tables. The template has the
rows by the table's name, ``bench`` (conf/params.yaml), ``conf`` and the functions below; lines of prose are wrapped
freely, those of tables are written as they are.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import torch

from bench import BASELINE, CONF, FEW_SHOT, RESULTS
from bench.harness import rows
from bench.harness.settings import bench_params, conf
from bench.tables.few_shot import Measured, picture
from ltdi.evaluation.condition_ablation import CONDITIONS, RIGHT
from ltdi.methods.registry import BASELINES
from ltdi.store import write_text
from ltdi.utils.console import say
from ltdi.utils.metrics import mean_and_ci95

Parts = Sequence[torch.Tensor]
"""A value a task (M,), seed by seed."""


def main() -> None:
    cells, wrote = Measured.load(), []
    if cells.facts:
        rows.add("runs.csv", cells.long_rows())
        rows.add("audit.csv", pd.concat(cells.audits))
        write_text(RESULTS / "few_shot.md", render("few_shot", cells=cells))
        picture(cells, RESULTS / "accuracy_latency.png")
        wrote.append("few_shot.md")
    components = render("components", cells=cells) if cells.facts else _components(RESULTS / "ablation.md")
    for name in conf("tables"):
        if write(name, components=components):
            wrote.append(name)
    say(f"wrote {', '.join(wrote)} in {RESULTS}" if wrote else "bench: no rows yet; make bench or make ablation")


def write(name: str, folder: Path | None = None, **values: Any) -> bool:
    """Write a table of conf/tables.yaml from its long tables in ``folder``, bench/results if none; False where the
    first has no rows."""
    template, *sources = conf("tables")[name]
    found = {Path(source).stem: rows.read(source, folder) for source in sources}
    first = found[Path(sources[0]).stem]
    if first.empty:
        return False
    write_text((folder or RESULTS) / name, render(template, rows=first, **found, **values))
    return True


def render(template: str, **values: Any) -> str:
    """The text of conf/tables/<template>.md.j2."""
    bench = bench_params()
    text = environment().get_template(f"{template}.md.j2").render({"bench": bench, "names": bench["names"]} | values)
    return re.sub(r"\n{3,}", "\n\n", text).rstrip("\n") + "\n"


def environment() -> jinja2.Environment:
    loader = jinja2.FileSystemLoader(CONF / "tables")
    made = jinja2.Environment(
        loader=loader,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    made.globals |= {function.__name__: function for function in FUNCTIONS} | PLAIN
    made.filters |= {"two": lambda value: f"{value:.2f}" if value != "" else "", "label": lambda key, of: of[key]}
    made.tests |= {"endingwith": str.endswith, "startingwith": str.startswith}
    return made


def _components(file: Path) -> str:
    """The components as last written: without measured cells they cannot be made anew."""
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    return text.partition("## The components\n\n")[2].partition("\n## Every measured variant")[0]


def row(cells: Iterable[Any], *, head: bool = False) -> str:
    """A line of a Markdown table; of a head with the rule below it."""
    cells = [str(cell) for cell in cells]
    line = "| " + " | ".join(cells) + " |"
    return line + "\n" + row(["---"] * len(cells)) if head else line


def table(head: list[str], lines: Iterable[Iterable[Any]]) -> str:
    return "\n".join([row(head, head=True), *map(row, lines)])


def percent(value: float, half: float, sign: str = "", digits: int = 2, times: float = 100) -> str:
    """A fraction and half the width of its interval; ``sign`` "+" for differences."""
    return f"{times * value:{sign}.{digits}f} ± {times * half:.{digits}f}"


def by(frame: pd.DataFrame, *columns: str, sort: bool = True) -> list[tuple[Any, pd.DataFrame]]:
    """(values of the columns, rows); of one column its value alone."""
    return list(frame.groupby(columns[0] if len(columns) == 1 else list(columns), sort=sort))


def where(frame: pd.DataFrame, **equal: Any) -> pd.DataFrame:
    """The rows whose columns have these values, or one of a list of them."""
    for column, value in equal.items():
        frame = frame[frame[column].isin(value if isinstance(value, list) else [value])]
    return frame


def pooled(ci95: pd.Series) -> float:
    """The interval of a mean over seeds whose tasks are drawn apart."""
    return float((ci95**2).sum() ** 0.5 / len(ci95))


def mean(frame: pd.DataFrame, value: str, half: str, sign: str = "", digits: int = 2, times: float = 100) -> str:
    """The mean over seeds with its interval; nothing where rows lack it."""
    if value not in frame or frame.empty or frame[value].isna().any():
        return ""
    return percent(frame[value].mean(), pooled(frame[half]), sign, digits, times)


def interval(parts: Parts, sign: str = "") -> str:
    """The mean of all values of all seeds."""
    return percent(*mean_and_ci95(torch.cat(list(parts)).double()), sign)


def spread(values: pd.Series) -> str:
    """The deviation between seeds."""
    return f", sd {100 * values.std():.2f}" if len(values) > 1 else ""


def score(frame: pd.DataFrame) -> str:
    """The accuracy over seeds, their deviation and number."""
    over = f" over {len(frame)} seeds" if len(frame) > 1 else ""
    return mean(frame, "accuracy", "ci95") + spread(frame.accuracy) + over if len(frame) else "missing"


def ahead(frame: pd.DataFrame, digits: int = 3) -> str:
    """The paired difference over seeds, and from which baselines."""
    if frame.empty:
        return "missing"
    return f"{mean(frame, 'paired_diff', 'paired_ci95', '+', digits)} ({'/'.join(sorted(set(frame.best_baseline)))})"


def listed(values: Iterable[Any], between: str = ", ") -> str:
    """Each once, in order."""
    return between.join(map(str, sorted(set(values))))


def uniques(frame: pd.DataFrame, *columns: str) -> list[Any]:
    """Distinct values of columns in the order of the rows."""
    return (
        frame[columns[0]].unique().tolist()
        if len(columns) == 1
        else frame[list(columns)].drop_duplicates().values.tolist()
    )


def fmt(value: Any, form: str) -> str:
    return f"{value:{form}}"


def without(frame: pd.DataFrame, **equal: list[Any]) -> pd.DataFrame:
    for column, values in equal.items():
        frame = frame[~frame[column].isin(values)]
    return frame


def best_first(groups: list[tuple[Any, pd.DataFrame]], column: str, within: int = 0) -> list[tuple[Any, pd.DataFrame]]:
    """Groups by the mean of a column, the highest first, within equal first keys."""
    return sorted(groups, key=lambda each: (*each[0][:within], -each[1][column].mean()))


def average(parts: Parts) -> float:
    return torch.cat(list(parts)).mean().item()


def best_of(found: Mapping[str, Parts], names: Iterable[str]) -> str:
    return max(names, key=lambda name: average(found[name]))


def differences(parts: Parts, others: Parts) -> list[torch.Tensor]:
    return [(one - other).double() for one, other in zip(parts, others)]


def above(found: Mapping[str, Parts], names: Iterable[str], own: str) -> str:
    """The methods that are above one by more than the interval, with their differences."""
    gains = {name: mean_and_ci95(torch.cat(differences(found[name], found[own]))) for name in names if name != own}
    return ", ".join(f"{name} {percent(*gain, '+')}" for name, gain in gains.items() if gain[0] > gain[1]) or "none"


def by_class(parts: Parts) -> torch.Tensor:
    """The mean over seeds (C,)."""
    return torch.stack(list(parts)).mean(0)


FUNCTIONS: list[Callable] = [row, table, percent, by, where, without, pooled, mean, interval, spread, score, ahead]
FUNCTIONS += [listed, uniques, fmt, best_first, average, best_of, differences, above, by_class]
PLAIN: dict[str, Any] = {"sum": sum, "zip": zip, "len": len, "concat": partial(pd.concat, ignore_index=True)}
PLAIN |= {"CONDITIONS": list(CONDITIONS), "RIGHT": RIGHT, "BASELINES": BASELINES, "BASELINE": BASELINE}
PLAIN |= {"FEW_SHOT": FEW_SHOT, "conf": conf}
