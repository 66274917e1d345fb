"""``python -m bench backbones``: the paper's methods on other bodies, its Tables 7 and 8 -> backbones.csv, .md."""

from itertools import product
from pathlib import Path
from typing import Annotated, Any

import typer
from torch import Tensor

from bench import RUNS
from bench.harness import report
from bench.harness.rows import add, compared, origin, scores_by_method, summary
from bench.harness.settings import ONE_SEED, RAW, Root, Runs, Seeds, bench_params, cell_params, override, pick
from bench.harness.stages import run_stages
from ltdi.store import read_json
from ltdi.utils.console import say


def main(
    body: Annotated[list[str] | None, typer.Option(help="Of bench/conf/params.yaml; all where none is named.")] = None,
    setting: Annotated[list[str] | None, typer.Option(help="May be repeated; both where none is named.")] = None,
    seed: Seeds = ONE_SEED,
    root: Root = RAW,
    runs: Runs = RUNS,
) -> None:
    bench = bench_params()
    plan = bench["backbones"]
    for where, name, each in product(setting or plan["settings"], body or plan["bodies"], seed):
        say(f"bench: {where} on {name} seed {each}")
        add("backbones.csv", _rows(bench, {"setting": where, "body": name, "seed": each}, root, runs))
    report.write("backbones.md")
    say("wrote backbones.md")


def _rows(bench: dict[str, Any], cell: dict[str, Any], root: Path, runs: Path) -> list[dict[str, Any]]:
    """A row a method and baseline of one body; a method's beside the best baseline on the same tasks."""
    plan, found = bench["backbones"], []
    budget = pick(bench, "budgets", plan["budget"])
    changes = plan["shared"] | pick(plan, "bodies", cell["body"]) | {"data.root": str(root), "seed": cell["seed"]}
    baselines: dict[str, Tensor] = {}
    for method in ("baselines", *plan["methods"]):
        params = cell_params(bench | {"baselines": plan["baselines"]}, cell["setting"], method, budget)
        data = run_stages(override(params, changes), runs)
        scores = scores_by_method(data)
        if method == "baselines":
            baselines = scores
            found += [cell | {"method": name} | summary(own) | origin() for name, own in scores.items()]
            continue
        row = cell | {"method": method} | summary(scores[method]) | compared(scores[method], baselines) | origin()
        found.append(row | {"seconds_meta_train": round(read_json(data / "model" / "metrics.json")["seconds"], 1)})
    return found
