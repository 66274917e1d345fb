"""``python -m bench run``: measure variants of bench/conf/params.yaml -> runs.csv, choices.csv, beside.csv; ``search``:
a method's candidates, compared on meta-val -> search.csv; ``bodies``: train the frozen bodies of the tables;
``backbones``: the paper's methods on other bodies, its Tables 7 and 8 -> backbones.csv, backbones.md.

Bodies are kept in the repository, so that any row can be measured again without the half hour that a body takes. A body
that is there is trained anew and replaced: rows on the old one are then rows on another body.
"""

from itertools import product
from pathlib import Path
from typing import Annotated, Any

import typer
from torch import Tensor

from bench import BASELINE, BENCH, RUNS
from bench.harness import options as opt
from bench.harness import report
from bench.harness.rows import add, compared, origin, scores_by_method, summary
from bench.harness.settings import bench_params, cell_params, defaults, override, pick, prefix_of, variant_params
from bench.harness.stages import run_stages, train_classes
from bench.probes.audit import audit_rows
from ltdi.store import read_json, read_table, read_tensors, write_json, write_tensors
from ltdi.utils.console import say
from ltdi.utils.metrics import mean_and_ci95

BODIES = BENCH / "bodies"


def run(
    setting: opt.Settings,
    variant: Annotated[
        list[str], typer.Option(help="One of bench/conf/params.yaml, or all; may be repeated.")
    ] = opt.LTDI,
    base: opt.Base = "defaults",
    seed: opt.Seeds = opt.ONE_SEED,
    train_on_val: Annotated[bool, typer.Option(help="Train on the meta-val classes too (final rows).")] = False,
    budget: opt.Budget = "cpu",
    root: opt.Root = opt.RAW,
    runs: opt.Runs = RUNS,
) -> None:
    chosen: dict[str, Any] = {"base": base, "budget": budget, "root": root, "train_on_val": train_on_val}
    for each, where, name in product(
        seed, setting, list(bench_params()["variants"]) if variant == ["all"] else variant
    ):
        called = prefix_of(base) + name
        say(f"bench: {where} {called} seed {each}{' (meta-val classes train too)' if train_on_val else ''}")
        # a variant's effect is more than chance only beside Lt-Di on the same tasks
        own, ltdi = (run_stages(variant_params(where, n, seed=each, **chosen), runs) for n in (name, "ltdi"))
        _write(own, None if name == "ltdi" else ltdi, {"setting": where, "budget": budget, "seed": each}, called)


def _write(data: Path, ltdi: Path | None, cell: dict[str, Any], variant: str) -> None:
    """Add a run's rows: its choice on meta-val, and its scores on meta-test beside Lt-Di and the baselines."""
    metrics, chosen = read_json(data / "results" / "metrics.json"), read_json(data / "model" / "metrics.json")
    scores, name = scores_by_method(data), metrics["method"]
    common = cell | {"train_classes": train_classes(data), **origin()}
    own = common | {"method": name, "variant": variant, "seconds_meta_train": round(chosen["seconds"], 1)}
    baselines = {each: scores[each] for each in metrics["baselines"]}
    rows = [own | summary(scores[name]) | _times(metrics) | compared(scores[name], baselines)]
    for each, values in metrics["baselines"].items():
        rows.append(common | {"method": each, "variant": BASELINE} | summary(scores[each]) | _times(values))
    oracle = {"accuracy": metrics["ceiling"]["score"], "ci95": metrics["ceiling"]["ci95"]}
    rows.append(common | {"method": "ceiling", "variant": BASELINE, "tasks": len(scores[name]), **oracle})
    if ltdi:
        mean, ci95 = mean_and_ci95(scores[name] - scores_by_method(ltdi)["ltdi"])
        pair = {"tasks": len(scores[name]), "beside": "ltdi", "paired_diff": mean, "paired_ci95": ci95}
        add("beside.csv", [own | pair])
    add("runs.csv", rows)
    add("audit.csv", audit_rows(data, cell | {"method": name, "variant": variant}))
    tasks = read_table(data / "tasks" / "tasks.parquet")
    choice = {"tasks": int((tasks.split == "meta_val").sum()), "val_accuracy": chosen["val_score"]}
    choice |= {"val_best_baseline": chosen["best_baseline"], "val_paired_diff": chosen["paired"]["difference"]}
    add("choices.csv", [own | choice | {"val_paired_ci95": chosen["paired"]["ci95"]}])


def _times(metrics: dict[str, Any]) -> dict[str, float]:
    return {f"ms_{batch}": metrics["ms_per_task"][batch] for batch in ("batch_1", "batch_64")}


def search(
    setting: Annotated[str, typer.Option(help="A setting of bench/conf/params.yaml.")] = "glyphs-5w1s",
    method: Annotated[list[str], typer.Option(help="A method; all if none is named.")] = opt.NONE,
    budget: opt.Budget = "quick",
    root: opt.Root = opt.RAW,
) -> None:
    """Every method has the same number of candidates, the same steps and tasks; the best one is written into
    ``methods`` of bench/conf/params.yaml by hand."""
    bench = bench_params()
    chosen = pick(bench, "budgets", budget)
    for each in method or bench["methods"]:
        params = override(cell_params(bench, setting, each, chosen), {"seed": 0, "data.root": str(root)})
        for candidate in bench["search"][each]:
            data = run_stages(override(params, candidate), until="meta_train")
            metrics = read_json(data / "model" / "metrics.json")
            about = {"setting": setting, "method": each, "candidate": str(candidate), "budget": budget}
            found = {"val_accuracy": metrics["val_score"], "seconds": metrics["seconds"]}
            say(f"{each} {candidate}: {metrics['val_score']:.4f}")
            add("search.csv", [about | found | origin()])


def bodies(
    data: Annotated[list[str], typer.Argument(help="Data sets of bench/conf/params.yaml.")], root: opt.Root = opt.RAW
) -> None:
    bench = bench_params()
    for name in data:
        shared, own, file = pick(bench, "data", name), bench["bodies"][name], BODIES / f"{name}.safetensors"
        recipe = shared | own | {"body.weights": None, "data.root": str(root)}
        made = run_stages(override(defaults(), recipe), until="pretrain_body") / "body"
        write_tensors(file, *read_tensors(made / "body.safetensors", kind="body"), kind="body")
        write_json(file.with_suffix(".json"), {"recipe": own, **read_json(made / "metrics.json"), **origin()})
        say(f"wrote {file}")


def backbones(
    body: Annotated[list[str] | None, typer.Option(help="Of bench/conf/params.yaml; all where none is named.")] = None,
    setting: Annotated[list[str] | None, typer.Option(help="May be repeated; both where none is named.")] = None,
    seed: opt.Seeds = opt.ONE_SEED,
    root: opt.Root = opt.RAW,
    runs: opt.Runs = RUNS,
) -> None:
    bench = bench_params()
    plan = bench["backbones"]
    for where, name, each in product(setting or plan["settings"], body or plan["bodies"], seed):
        say(f"bench: {where} on {name} seed {each}")
        add("backbones.csv", _of_body(bench, {"setting": where, "body": name, "seed": each}, root, runs))
    report.write("backbones.md")
    say("wrote backbones.md")


def _of_body(bench: dict[str, Any], cell: dict[str, Any], root: Path, runs: Path) -> list[dict[str, Any]]:
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
