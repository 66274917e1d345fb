"""``python -m bench domains``: the form of the paper's Table 4 in three columns, an unseen domain, unseen classes too,
an unseen data set -> domains.csv, domains.md. The third is of the rows of ``photos``."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch
import typer
from torch import Tensor

from bench import BENCH, RESULTS, RUNS
from bench.machine import origin
from bench.options import ONE_SEED, RAW, Root, Runs, Seeds, Weights
from bench.ordinary import Ordinary
from bench.rows import add, compared, pooled, read, summary
from bench.settings import bench_params, defaults, load_yaml, override
from bench.stages import run_stages
from bench.text import percent, table
from ltdi.methods.common.base import Method
from ltdi.methods.storage import read_method
from ltdi.scenarios.domains import all_domains
from ltdi.store import digest, read_json, write_text
from ltdi.trajectories.storage import load_sources
from ltdi.utils.console import say
from ltdi.utils.devices import deterministic, device
from ltdi.utils.seeding import generator

METHODS = ("ltdi", "lvdi")
DATA_SET = "cifar10"
ORDINARY = "ordinary"
ABOUT = """# Domains: the form of the paper's Table 4

Accuracy in % on tasks of a domain that nothing was learned from or chosen on, {told}. A frozen EfficientNet-lite0 of
ImageNet at 128 px, which has seen photographs of most of these classes; a linear head; what is changed in
[`photos.yaml`](../photos.yaml) stands in [`domains.yaml`](../domains.yaml). In brackets the paired difference from the
best baseline of the column, picked on these very tasks. PACS is a part of 60 images a class and has seven classes: with
three unseen ones column (b) has a single set of classes, and no table of 20 ways can be made. The ordinary classifier
is logistic regression on all images of the three training domains, restricted to the task's classes: it knows which
classes they are, and does not look at the few images.

{columns}

Column (c) is CIFAR-10 of [`photos.md`](photos.md), of a mixture of fourteen domains, five of which are learned from
only after all is chosen on them, and a chain of one step, of which Lv-Di is the same as Lt-Di. Where nothing is shown
to help on meta-val both are their start.
Seeds: {seeds_c} of (c), {seeds} of the others.

*Reported* are the paper's figures: DomainNet, a ResNet-12, 5-way 1-shot and 20-way 5-shot, not measured here.

"""


def main(
    weights: Weights = "hub",
    column: Annotated[list[str] | None, typer.Option(help="May be repeated; all where none is named.")] = None,
    seed: Seeds = ONE_SEED,
    tasks: Annotated[int, typer.Option(help="Of each column.")] = 1000,
    root: Root = RAW,
    runs: Runs = RUNS,
) -> None:
    deterministic()
    plan = load_yaml(BENCH / "domains.yaml")
    for each_seed in seed:
        for name in column or plan["columns"]:
            for shots in plan["n_shot"]:
                say(f"bench: domains ({name}) {shots} images seed {each_seed}")
                place = {"body.weights": weights, "data.root": str(root), "seed": each_seed, "tasks.n_shot": shots}
                add("domains.csv", _rows(plan, name, place, tasks, runs))
                table_of = pd.concat([read("domains.csv"), of_photos(read("photos.csv"), plan)], ignore_index=True)
                write_text(RESULTS / "domains.md", markdown(table_of, plan))


def params_of(plan: Mapping[str, Any], column: str, method: str, runs: Path) -> dict[str, Any]:
    """The params of a column, its table of classes written below ``runs``."""
    said = plan["columns"][column]
    changes = load_yaml(BENCH / "photos.yaml") | plan["common"] | said["changes"] | {"method.name": method}
    if "splits" in said:
        lines = "".join(f"{name},{split}\n" for name, split in said["splits"].items())
        # named by what it says: runs are kept by their params
        changes["data.splits"] = str(runs / f"classes-{digest(lines)[:8]}.csv")
        write_text(Path(changes["data.splits"]), f"class,split\n{lines}")
    return override(defaults(), changes)


def _rows(
    plan: Mapping[str, Any], column: str, place: Mapping[str, Any], n_tasks: int, runs: Path
) -> list[dict[str, Any]]:
    """A row a method and baseline of one column and number of images."""
    methods: dict[str, Method] = {}
    seconds: dict[str, float] = {}
    for method in METHODS:
        params = override(params_of(plan, column, method, runs), place)
        data = run_stages(params, runs, until="meta_train")
        baselines = params["method"]["baselines"] if method == METHODS[0] else []
        methods |= {
            name: read_method(data / "model" / "methods", name, None, device()) for name in (method, *baselines)
        }
        seconds[method] = round(read_json(data / "model" / "metrics.json")["seconds"], 1)
    sources = load_sources(data, splits=["meta_train", "meta_test"], device=device())
    ordinary = None
    if plan["columns"][column].get("ordinary"):
        sets = all_domains(params["data"], size=params["body"]["image_size"])
        ordinary = Ordinary.fit(sources["meta_train"], sets, methods[METHODS[0]].initialization.learner)
    sizes = {"n_way": params["tasks"]["n_way"], "n_shot": params["tasks"]["n_shot"]}
    scores = scored(methods, ordinary, sources["meta_test"], n_tasks, **sizes, seed=params["seed"])
    against = {name: own for name, own in scores.items() if name not in METHODS}
    cell = {"setting": column, **sizes, "seed": params["seed"], **origin()}
    rows = []
    for name, own in scores.items():
        row = cell | {"method": name, **summary(own)}
        if name in METHODS:
            row |= compared(own, against) | {"seconds_meta_train": seconds[name]}
        rows.append(row)
    return rows


@torch.no_grad()
def scored(
    methods: Mapping[str, Method],
    ordinary: Ordinary | None,
    test: Any,
    n_tasks: int,
    *,
    n_way: int,
    n_shot: int,
    seed: int,
) -> dict[str, Tensor]:
    """The score of each of the same new tasks (M,) by method."""
    stream, found = generator(seed, "domains", n_way, n_shot), []
    learner = methods[METHODS[0]].initialization.learner
    for names in test.draw(n_tasks, stream, n_way=n_way).split(64):
        task = test.new(names, stream, n_shot=n_shot)
        weights = {
            name: each.generate(task.context, generator=generator(seed, "noise")) for name, each in methods.items()
        }
        if ordinary:
            weights[ORDINARY] = ordinary.weights(names)
        found.append({name: learner.score(w, task.query) for name, w in weights.items()})
    return {name: torch.cat([each[name] for each in found]) for name in found[0]}


def of_photos(photos: pd.DataFrame, plan: Mapping[str, Any]) -> pd.DataFrame:
    """The third column's rows."""
    own = photos[(photos.setting == DATA_SET) & photos.n_shot.isin(plan["n_shot"])]
    return own.assign(setting="c", n_way=5)


def markdown(measured: pd.DataFrame, plan: Mapping[str, Any]) -> str:
    """A line a method, a column a setting, then what the paper reports."""
    names = bench_params()["names"] | {ORDINARY: "ordinary classifier of all training classes"}
    cells = (
        measured[["setting", "n_way", "n_shot"]].drop_duplicates().sort_values(["setting", "n_shot"]).values.tolist()
    )
    head = ["", *(f"({column}) {ways}-way {shots}-shot" for column, ways, shots in cells)]
    head += ["*reported* 5-way 1-shot", "*reported* 20-way 5-shot"]
    reported, lines = dict(plan["reported"]), []
    for method in sorted(measured.method.unique(), key=lambda name: (name not in METHODS, name)):
        line = [names[method]]
        for column, _, shots in cells:
            own = measured[(measured.setting == column) & (measured.n_shot == shots) & (measured.method == method)]
            line.append(_cell(own, names))
        lines.append(line + _two(reported.pop(names[method], None)))
    lines += [[name, *[""] * len(cells), *_two(values)] for name, values in reported.items()]
    keys = ["tasks", "device", "commit"]
    runs = "; ".join(f"{n:.0f} tasks, {where}, commit {c}" for n, where, c in measured[keys].drop_duplicates().values)
    columns = [*(f"({name}) {each['told']}" for name, each in plan["columns"].items()), "(c) unseen data set"]
    of_c = measured.setting == "c"
    seeds_c, seeds = measured[of_c].seed.nunique(), measured[~of_c].seed.nunique()
    said = {"told": runs, "columns": f"Columns: {'; '.join(columns)}.", "seeds_c": seeds_c, "seeds": seeds}
    return ABOUT.format(**said) + table(head, lines)


def _two(values: Sequence[float] | None) -> list[str]:
    return [f"{value:.2f}" for value in values] if values else ["", ""]


def _cell(own: pd.DataFrame, names: Mapping[str, str]) -> str:
    if own.empty:
        return ""
    cell = percent(own.accuracy.mean(), pooled(own.ci95))
    if own.best_baseline.notna().all():
        best = " / ".join(names[each] for each in own.best_baseline.unique())
        cell += f" ({percent(own.paired_diff.mean(), pooled(own.paired_ci95), sign='+')}, {best})"
    return cell
