"""The few-shot table's cells, setting × method: ``plan`` says what each would run, ``cell`` measures one, ``cells`` all
whose plan has changed. The method "baselines" stands for all baselines: one run has them all.
"""

import shutil
from collections.abc import Mapping
from fnmatch import fnmatch
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

from bench import BENCH, CELLS, FEW_SHOT
from bench.harness import options as opt
from bench.harness.rows import origin
from bench.harness.settings import bench_params, cell_params, override, pick
from bench.harness.stages import digest_of_code, keys_of, run_stages, train_classes
from bench.probes.audit import audit_rows
from ltdi.datasets import mini_imagenet, omniglot
from ltdi.store import digest, read_json, read_table, write_json, write_table
from ltdi.utils.console import say
from ltdi.utils.errors import InputError

LOCATE = {"glyphs": lambda root: root, "omniglot": omniglot.locate, "mini_imagenet": mini_imagenet.locate}
OWN_CODE = tuple(BENCH / name for name in ("harness/cells.py", "harness/stages.py", "probes/audit.py"))
Chosen = Annotated[str, typer.Option("--budget", envvar="BUDGET", help="A budget of bench/conf/params.yaml.")]


def why_missing(data: str, root: Path) -> str:
    """Return how to get a data set that is not in ``root``; an empty string if it is there."""
    try:
        LOCATE[data](root)
    except InputError as error:
        return str(error)
    return ""


def planned(bench: Mapping[str, Any], setting: str, method: str, budget: str, root: Path) -> dict[str, Any]:
    """The budget, seeds and params of a cell, and a key of all that it depends on; or why it is ``missing``."""
    chosen, left_out = pick(bench, "budgets", budget), f"not in the budget {budget}; make bench BUDGET=cpu"
    if any(fnmatch(setting, pattern) for pattern in chosen["leaves_out"]):
        return {"missing": left_out}
    if any(fnmatch(f"{setting}/{method}", pattern) for pattern in chosen["leaves_out"]):
        return {"missing": f"{method} is {left_out}"}
    if why := why_missing(bench["settings"][setting]["data"], root):
        return {"missing": why}
    params = override(cell_params(bench, setting, method, chosen), {"data.root": str(root), "data.download": False})
    params["texts"] = params["texts"] | {"root": str(root)}
    keys = keys_of(params | {"seed": 0}), digest_of_code(BENCH, OWN_CODE)
    return {
        "missing": "",
        "budget": budget,
        "seeds": chosen["seeds"],
        "key": digest(*keys, chosen["seeds"], budget),
    } | {"params": params}


def plan(budget: Chosen = "quick", root: opt.Root = opt.RAW) -> None:
    bench = bench_params()
    for setting, method in product(bench["settings"], ("baselines", *bench["methods"])):
        say(f"{setting} {method}: {_state(planned(bench, setting, method, budget, root), CELLS / setting / method)}")


def _state(entry: Mapping[str, Any], folder: Path) -> str:
    if entry["missing"]:
        return f"missing: {entry['missing']}"
    seeds = ", ".join(map(str, entry["seeds"]))
    return "measured" if _is_measured(entry, folder) else f"to be measured, budget {entry['budget']}, seeds {seeds}"


def cell(
    setting: Annotated[str, typer.Argument(help="A setting of bench/conf/params.yaml.")],
    method: Annotated[str, typer.Argument(help="A method of bench/conf/params.yaml, or baselines.")],
    budget: Chosen = "quick",
    root: opt.Root = opt.RAW,
) -> None:
    bench = bench_params()
    pick(bench, "settings", setting)
    if method != "baselines":
        pick(bench, "methods", method)
    entry, folder = planned(bench, setting, method, budget, root), CELLS / setting / method
    if entry["missing"]:
        shutil.rmtree(folder, ignore_errors=True)
        write_json(folder / "cell.json", {"missing": entry["missing"]}, kind="cell")
    elif not _is_measured(entry, folder):
        say(f"bench: {setting} {method}")
        measure(entry, folder)


def cells(budget: Chosen = "quick", root: opt.Root = opt.RAW) -> None:
    bench, failed = bench_params(), []
    pick(bench, "budgets", budget)
    for setting, method in product(bench["settings"], ("baselines", *bench["methods"])):
        try:
            cell(setting, method, budget, root)
        except Exception as error:  # the other cells do not depend on it
            failed.append(f"{setting} {method}: {type(error).__name__}: {error}")
            say(f"bench: {failed[-1]}")
    if failed:
        raise InputError(f"bench: {len(failed)} cells failed, the first of them {failed[0]}; run it again when mended")


def _is_measured(entry: Mapping[str, Any], folder: Path) -> bool:
    file = folder / "cell.json"
    return file.exists() and read_json(file).get("key") == entry["key"]


def measure(entry: Mapping[str, Any], folder: Path) -> None:
    """Run the stages for every seed; keep the scores of tasks, times, the audit of the method or the first baseline,
    and facts."""
    shutil.rmtree(folder, ignore_errors=True)
    scores, times, audits, facts = [], [], [], {}
    about = {"setting": folder.parent.name, "method": entry["params"]["method"]["name"]}
    about |= {"variant": FEW_SHOT, "budget": entry["budget"]}
    for seed in entry["seeds"]:
        data = run_stages(entry["params"] | {"seed": seed})
        table = read_table(data / "results" / "per_task.parquet")
        scores.append(table[["method", "task", "score"]].assign(seed=seed))
        times.append(read_table(data / "weights" / "timing.parquet").assign(seed=seed))
        audits += audit_rows(data, about | {"seed": seed})
        chosen = read_json(data / "model" / "metrics.json")
        facts[str(seed)] = {
            "train_classes": train_classes(data),
            "ceiling": read_json(data / "results" / "metrics.json")["ceiling"],
            "body": read_json(data / "body" / "metrics.json"),
            **{key: chosen[key] for key in ("val_score", "parameters", "seconds")},
        }
    write_table(folder / "audit.parquet", pd.DataFrame(audits))
    write_table(folder / "per_task.parquet", pd.concat(scores, ignore_index=True))
    write_table(folder / "timing.parquet", pd.concat(times, ignore_index=True))
    about = {"missing": "", "budget": entry["budget"], "key": entry["key"]} | origin()
    write_json(folder / "cell.json", about | {"seeds": facts}, kind="cell")
