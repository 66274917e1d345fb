"""``python -m bench sharpness``: λ_max at the trained heads, beside those of sharpness-aware minimisation."""

from itertools import product
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from bench import RUNS
from bench.harness.rows import add, origin
from bench.harness.settings import (
    ONE_SEED,
    RAW,
    Base,
    Budget,
    Root,
    Runs,
    Seeds,
    Settings,
    prefix_of,
    variant_params,
)
from bench.harness.stages import run_stages
from ltdi.evaluation.sharpness import largest_eigenvalue
from ltdi.trajectories.storage import load_initialization, load_sources, load_trajectories
from ltdi.utils.console import say
from ltdi.utils.devices import device
from ltdi.utils.metrics import mean_and_ci95
from ltdi.utils.seeding import generator


def main(
    setting: Settings,
    variant: Annotated[str, typer.Option(help="The variant that is compared with Lt-Di.")] = "sam",
    base: Base = "defaults",
    seed: Seeds = ONE_SEED,
    budget: Budget = "cpu",
    root: Root = RAW,
    runs: Runs = RUNS,
) -> None:
    for each_seed, where in product(seed, setting):
        found = {}
        for name in ("ltdi", variant):
            params = variant_params(where, name, base=base, budget=budget, seed=each_seed, root=root)
            found[name] = _of_trained_weights(run_stages(params, runs, until="collect_trajectories"))
        both = found["ltdi"].isfinite() & found[variant].isfinite()
        common = {"setting": where, "budget": budget, "seed": each_seed, "tasks": int(both.sum()), **origin()}
        rows = []
        for name, values in found.items():
            mean, ci95 = mean_and_ci95(values[both])
            difference, paired_ci95 = mean_and_ci95((values - found["ltdi"])[both])
            row = {"variant": prefix_of(base) + name, "lambda_max": mean, "ci95": ci95}
            rows.append(common | row | {"paired_diff": difference, "paired_ci95": paired_ci95})
            say(f"{where} seed {each_seed}: λ_max of {name} {mean:.4f} ± {ci95:.4f}")
        add("sharpness.csv", rows)


def _of_trained_weights(data: Path) -> Tensor:
    """λ_max of each meta-test task's loss on all its data, at its trained weights (M,); NaN where there are none."""
    where = device()
    test = load_sources(data, splits=["meta_test"], device=where)["meta_test"]
    learner = load_initialization(data, where)[0].learner
    trajectories, kept = load_trajectories(data, "meta_test")
    found = torch.full((len(test),), float("nan"))
    for part in torch.arange(len(kept)).split(64):
        batch, w = test.fitted_on(kept[part]), trajectories.trained(part).to(where)
        found[kept[part]] = largest_eigenvalue(learner.loss, w, batch, generator=generator(0, "λ")).cpu()
    return found
