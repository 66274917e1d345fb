"""``python -m bench audit <data folder of a run> --setting <its name>``: what is left of a run's accuracy where the
condition is a wrong one -> audit.csv, audit.md. `python -m bench run` and `make bench` add such rows of their own."""

from pathlib import Path
from typing import Annotated

import typer

from bench import RESULTS
from bench.audits import audit_rows, markdown
from bench.rows import add, read
from bench.settings import bench_params, pick
from ltdi.store import write_text
from ltdi.trajectories.storage import names
from ltdi.utils.console import say

OWN = "own"
"""In the place of a budget where a run's params are of none."""


def main(
    data: Annotated[Path, typer.Argument(help="Of a finished run, of any scenario.")],
    setting: Annotated[str, typer.Option(help="What its rows are called.")],
    variant: Annotated[str, typer.Option(help="Of its params.")] = "default",
    budget: Annotated[str, typer.Option(help="Of bench/params.yaml, where the run used one.")] = OWN,
    seed: Annotated[int, typer.Option(help="Of its params.")] = 0,
) -> None:
    if budget != OWN:
        pick(bench_params(), "budgets", budget)
    about = {"setting": setting, "method": names(data)[0], "variant": variant, "budget": budget, "seed": seed}
    rows = audit_rows(data, about)
    add("audit.csv", rows)
    write_text(RESULTS / "audit.md", markdown(read("audit.csv"), bench_params()))
    say(f"{RESULTS / 'audit.md'}: {len(rows)} rows of {setting}")
