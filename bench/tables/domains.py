"""``python -m bench domains``: the form of the paper's Table 4 in three columns, an unseen domain, unseen classes too,
an unseen data set -> domains.csv, domains.md. The third is of the rows of ``photos``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Self

import torch
import typer
from torch import Tensor

from bench import RUNS
from bench.harness import report
from bench.harness.rows import add, compared, origin, summary
from bench.harness.settings import ONE_SEED, RAW, Root, Runs, Seeds, Weights, conf, defaults, override
from bench.harness.stages import run_stages
from ltdi.datasets import ImageSet
from ltdi.learners.base import Classifier
from ltdi.methods.baselines.logistic import CS, logistic_weights
from ltdi.methods.common.base import Method
from ltdi.methods.storage import read_method
from ltdi.scenarios.domains import all_domains
from ltdi.store import digest, read_json, write_text
from ltdi.tasks.class_tasks import context_of
from ltdi.trajectories.storage import load_sources
from ltdi.utils.console import say
from ltdi.utils.devices import deterministic, device
from ltdi.utils.errors import InputError
from ltdi.utils.seeding import generator

METHODS = ("ltdi", "lvdi")
ORDINARY = "ordinary"


def main(
    weights: Weights = "hub",
    column: Annotated[list[str] | None, typer.Option(help="May be repeated; all where none is named.")] = None,
    seed: Seeds = ONE_SEED,
    tasks: Annotated[int, typer.Option(help="Of each column.")] = 1000,
    root: Root = RAW,
    runs: Runs = RUNS,
) -> None:
    deterministic()
    plan = conf("domains")
    for each, name, shots in product(seed, column or plan["columns"], plan["n_shot"]):
        say(f"bench: domains ({name}) {shots} images seed {each}")
        place = {"body.weights": weights, "data.root": str(root), "seed": each, "tasks.n_shot": shots}
        add("domains.csv", _rows(plan, name, place, tasks, runs))
        report.write("domains.md")


def params_of(plan: Mapping[str, Any], column: str, method: str, runs: Path) -> dict[str, Any]:
    """The params of a column, its table of classes written below ``runs``."""
    entry = plan["columns"][column]
    changes = conf("photos") | plan["common"] | entry["changes"] | {"method.name": method}
    if "splits" in entry:
        lines = "".join(f"{name},{split}\n" for name, split in entry["splits"].items())
        # named by its content: runs are kept by their params
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
        folder = data / "model" / "methods"
        methods |= {name: read_method(folder, name, None, device()) for name in (method, *baselines)}
        seconds[method] = round(read_json(data / "model" / "metrics.json")["seconds"], 1)
    sources = load_sources(data, splits=["meta_train", "meta_test"], device=device())
    ordinary = None
    if plan["columns"][column].get("ordinary"):
        sets = all_domains(params["data"], size=params["body"]["image_size"])
        ordinary = Ordinary.fit(sources["meta_train"], sets, methods[METHODS[0]].initialization.learner)
    sizes = {"n_way": params["tasks"]["n_way"], "n_shot": params["tasks"]["n_shot"]}
    scores = scored(methods, ordinary, sources["meta_test"], n_tasks, **sizes, seed=params["seed"])
    against = {name: own for name, own in scores.items() if name not in METHODS}
    rows = []
    for name, own in scores.items():
        row = {"setting": column, **sizes, "seed": params["seed"], **origin(), "method": name, **summary(own)}
        if name in METHODS:
            row |= compared(own, against) | {"seconds_meta_train": seconds[name]}
        rows.append(row)
    return rows


@torch.no_grad()
def scored(
    methods: Mapping[str, Method],
    ordinary: "Ordinary | None",
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
        weights = {name: m.generate(task.context, generator=generator(seed, "noise")) for name, m in methods.items()}
        if ordinary:
            weights[ORDINARY] = ordinary.weights(names)
        found.append({name: learner.score(w, task.query) for name, w in weights.items()})
    return {name: torch.cat([each[name] for each in found]) for name in found[0]}


@dataclass(frozen=True, eq=False)
class Ordinary:
    """Baseline of the paper's protocol, where a task's classes are those of training: logistic regression on every
    image of the training domains, all classes at once; weight (C, F), bias (C,), in the order of meta-test's."""

    learner: Classifier
    weight: Tensor
    bias: Tensor

    def weights(self, classes: Tensor) -> Tensor:
        """Restricted to a task's classes (B, N), as weights (B, D)."""
        return self.learner.linear(self.weight[classes], self.bias[classes])

    @classmethod
    def fit(cls, train: Any, sets: Mapping[str, Mapping[str, ImageSet]], learner: Any) -> Self:
        """C is chosen by the accuracy on each training domain of a fit on the others.

        Raises:
            InputError: a meta-test class is not in every training domain.
        """
        names = [each.split("/")[-1] for of in sets["meta_test"].values() for each in of.names]
        features = iter(train.by_class())
        by_domain = [{name.split("/")[-1]: next(features) for name in of.names} for of in sets["meta_train"].values()]
        for name in names:
            if not all(name in domain for domain in by_domain):
                raise InputError(f"bench: the class {name} of the meta-test domain is not in every training domain")

        def right(held_out: int, c: float) -> float:
            weight, bias = _fitted(learner, by_domain[:held_out] + by_domain[held_out + 1 :], names, c)
            queries = [by_domain[held_out][name] for name in names]
            labels = torch.arange(len(names)).repeat_interleave(torch.tensor([len(each) for each in queries]))
            return ((torch.cat(queries) @ weight.T + bias).argmax(1).cpu() == labels).float().mean().item()

        best = max(CS, key=lambda c: sum(right(i, c) for i in range(len(by_domain))))
        return cls(learner, *_fitted(learner, by_domain, names, best))


def _fitted(
    learner: Classifier, by_domain: Sequence[Mapping[str, Tensor]], names: Sequence[str], c: float
) -> tuple[Tensor, Tensor]:
    """weight (C, F), bias (C,)"""
    rows = [torch.cat([domain[name] for domain in by_domain]) for name in names]
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)[None]
    mask = torch.arange(padded.shape[2]) < torch.tensor([len(each) for each in rows])[None, :, None]
    w = logistic_weights(learner, context_of(padded, mask.to(padded.device)), c)
    tensors = learner.space.unflatten(w)
    return tensors["output.weight"][0], tensors["output.bias"][0]
