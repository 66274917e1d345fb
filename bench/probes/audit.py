"""``python -m bench audit <data folder of a run> --setting <its name>``: the accuracy with wrong conditions ->
audit.csv, audit.md. `python -m bench run` and `make bench` add such rows of their own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.harness import report
from bench.harness.rows import add, origin
from bench.harness.settings import bench_params, pick
from ltdi.evaluation.condition_ablation import compare_conditions
from ltdi.trajectories.storage import names
from ltdi.utils.console import say

TASKS = 200
OWN = "own"
"""Budget of a run whose params match no budget of bench/conf/params.yaml."""


def main(
    data: Annotated[Path, typer.Argument(help="Of a finished run, of any scenario.")],
    setting: Annotated[str, typer.Option(help="What its rows are called.")],
    variant: Annotated[str, typer.Option(help="Of its params.")] = "default",
    budget: Annotated[str, typer.Option(help="Of bench/conf/params.yaml, where the run used one.")] = OWN,
    seed: Annotated[int, typer.Option(help="Of its params.")] = 0,
) -> None:
    if budget != OWN:
        pick(bench_params(), "budgets", budget)
    about = {"setting": setting, "method": names(data)[0], "variant": variant, "budget": budget, "seed": seed}
    rows = audit_rows(data, about)
    add("audit.csv", rows)
    report.write("audit.md")
    say(f"audit.md: {len(rows)} rows of {setting}")


def audit_rows(data: Path, about: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each kind of weights that a finished run's method is audited by; ``about`` says which cell it is."""
    found = compare_conditions(data, n_tasks=TASKS)
    return [
        {**about, "weights": row.weights, "tasks": TASKS, "accuracy": row.score, "ci95": row.ci95}
        | {"paired_diff": row.difference, "paired_ci95": row.difference_ci95, **origin()}
        for row in found.itertuples(index=False)
    ]
