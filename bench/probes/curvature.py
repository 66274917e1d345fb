"""``python -m bench sharpness``: λ_max at the trained heads, beside those of sharpness-aware minimisation ->
sharpness.csv; ``theorem2``: both sides of Theorem 2 at the generated weights of meta-test tasks ->
theorem2.md.

E[L(ŵ)] − L(w*) ≤ (λ/2) δ + (l/2) (1 − μ/l)^K ‖w_init − w*‖², with ŵ the generated weights, w_K those that training
ended at after K steps, δ = ‖ŵ − w_K‖², λ the largest eigenvalue of the Hessian at w_K, l smoothness and μ strong
convexity.

Cross-entropy does not change when all classes' biases grow by the same, so that μ ≤ 0 everywhere: no head's loss is
strongly convex. With μ = 0 the second term is the least that it can be.
"""

from itertools import product, repeat
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import typer
from torch import Tensor

from bench import RESULTS, RUNS
from bench.harness import options as opt
from bench.harness import report
from bench.harness.rows import add, origin
from bench.harness.settings import prefix_of, variant_params
from bench.harness.stages import run_stages
from ltdi.evaluation.sharpness import largest_eigenvalue
from ltdi.learners.base import Learner
from ltdi.learners.fitting import adapt
from ltdi.store import write_text
from ltdi.tasks.batch import Batch
from ltdi.trajectories.storage import load_initialization, load_sources, load_trajectories, names, read_weights
from ltdi.utils.console import say
from ltdi.utils.devices import device
from ltdi.utils.metrics import mean_and_ci95
from ltdi.utils.seeding import generator

FURTHER = 300
"""Steps after which the loss stands for the optimum's: it can only be lower still."""

SAM_RADIUS, SAM_STEPS, BISECTIONS = 0.05, 90, 20


def sharpness(
    setting: opt.Settings,
    variant: Annotated[str, typer.Option(help="The variant that is compared with Lt-Di.")] = "sam",
    base: opt.Base = "defaults",
    seed: opt.Seeds = opt.ONE_SEED,
    budget: opt.Budget = "cpu",
    root: opt.Root = opt.RAW,
    runs: opt.Runs = RUNS,
) -> None:
    for each_seed, where in product(seed, setting):
        found = {}
        for name in ("ltdi", variant):
            params = variant_params(where, name, base=base, budget=budget, seed=each_seed, root=root)
            found[name] = _of_trained_heads(run_stages(params, runs, until="collect_trajectories"))
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


def _of_trained_heads(data: Path) -> Tensor:
    """λ_max of each meta-test task's loss on all its data, at its trained weights (M,); NaN where there are none."""
    where = device()
    test = load_sources(data, splits=["meta_test"], device=where)["meta_test"]
    learner = load_initialization(data, where)[0].learner
    trajectories, kept = load_trajectories(data, "meta_test")
    found = torch.full((len(test),), float("nan"))
    for part in torch.arange(len(kept)).split(64):
        batch, w = test.fitted_on(kept[part]), trajectories.trained(part).to(where)
        found[kept[part]] = _largest(learner, w, batch).cpu()
    return found


def theorem2(
    setting: Annotated[str, typer.Option(help="A setting of bench/conf/params.yaml.")] = "glyphs-5w1s",
    variant: Annotated[str, typer.Option(help="Of bench/conf/params.yaml.")] = "ltdi",
    tasks: Annotated[int, typer.Option(help="How many meta-test tasks.")] = 300,
    seed: int = 0,
    base: opt.Base = "defaults",
    budget: opt.Budget = "quick",
    root: opt.Root = opt.RAW,
    runs: opt.Runs = RUNS,
) -> None:
    params = variant_params(setting, variant, base=base, budget=budget, seed=seed, root=root)
    data = run_stages(params, runs, until="generate_weights")
    found = measured(data, tasks, params["trajectories"])
    command = f"python -m bench theorem2 --setting {setting} --variant {variant} --tasks {tasks} --seed {seed}"
    write_text(
        RESULTS / "theorem2.md", markdown(found, f"{command} --budget {budget}", params["trajectories"]["steps"])
    )
    say(f"{RESULTS / 'theorem2.md'}: {len(found)} tasks")


def measured(data: Path, n_tasks: int, hparams: dict) -> pd.DataFrame:
    """A row a task. Losses are of all images of the task's classes, on which w_K was trained."""
    where = device()
    test = load_sources(data, splits=["meta_test"], device=where)["meta_test"]
    learner = load_initialization(data, where)[0].learner
    trajectories, kept = load_trajectories(data, "meta_test")
    made = torch.cat([part["w"] for _, part in read_weights(data / "weights" / names(data)[0])])
    rows = []
    for part in torch.arange(min(n_tasks, len(kept))).split(64):
        batch, points = test.fitted_on(kept[part]), trajectories.points(part).to(where)
        rows.append(pd.DataFrame(_of_tasks(learner, batch, points, made[kept[part]].to(where), hparams)))
    return pd.concat(rows, ignore_index=True)


def _of_tasks(learner: Learner, batch: Batch, points: Tensor, w: Tensor, hparams: dict) -> dict[str, list[float]]:
    """points (B, P, D) of the tasks' trajectories, generated weights w (B, D)."""
    trained, first = points[:, 0], points[:, -1]
    how = {"optimizer": hparams["optimizer"], "lr": hparams["lr"]}
    best = adapt(learner.loss, trained, repeat(batch), record=[FURTHER], **how).weights[:, 0]
    curvatures = [_largest(learner, each, batch) for each in (trained, *points[:, 1:].unbind(1), w)]
    with torch.no_grad():
        losses = {name: learner.loss(each, batch) for name, each in (("hat", w), ("K", trained), ("best", best))}
    values = {f"loss_{name}": value for name, value in losses.items()}
    values |= {"delta": (w - trained).square().sum(-1), "lambda": curvatures[0]}
    values["l"] = torch.stack(curvatures).max(0).values
    values["way"] = (first - best).square().sum(-1)
    values |= _sam(learner, batch, first, losses["K"], how)
    return {name: value.tolist() for name, value in values.items()}


def _sam(learner: Learner, batch: Batch, first: Tensor, loss: Tensor, how: dict) -> dict[str, Tensor]:
    """λ where a training with SAM first has the same loss as ``loss`` (B,), on the way from the last step above it to
    the next; NaN where it has it never."""
    path = adapt(learner.loss, first, repeat(batch), record=range(SAM_STEPS + 1), sam=SAM_RADIUS, **how)
    low = path.losses <= loss[:, None]
    reached, rows = low.int().argmax(1), torch.arange(len(first))
    above, below = path.weights[rows, (reached - 1).clamp_min(0)], path.weights[rows, reached]
    w = _where_the_loss_is(learner, batch, loss, above, below)
    found = {"loss_sam": learner.loss(w, batch).detach(), "lambda_sam": _largest(learner, w, batch)}
    return {name: torch.where(low.any(1), value, torch.nan) for name, value in found.items()}


@torch.no_grad()
def _where_the_loss_is(learner: Learner, batch: Batch, loss: Tensor, above: Tensor, below: Tensor) -> Tensor:
    """Weights (B, D) on the line between two, of which one's loss is above ``loss`` (B,) and the other's is not, by
    bisection."""
    for _ in range(BISECTIONS):
        middle = (above + below) / 2
        is_low = (learner.loss(middle, batch) <= loss)[:, None]
        above, below = torch.where(is_low, above, middle), torch.where(is_low, middle, below)
    return below


def _largest(learner: Learner, w: Tensor, batch: Batch) -> Tensor:
    return largest_eigenvalue(learner.loss, w, batch, generator=generator(0, "λ"))


def markdown(found: pd.DataFrame, command: str, steps: int) -> str:
    both = found.dropna(subset=["lambda_sam"])
    difference, ci95 = mean_and_ci95(torch.tensor((both.lambda_sam - both["lambda"]).to_numpy()))
    about = {"command": command, "steps": steps, "further": FURTHER, "device": origin()["device"]}
    about |= {"sam_steps": SAM_STEPS, "sam_radius": SAM_RADIUS, "difference": f"{difference:+.3f} ± {ci95:.3f}"}
    return report.render("theorem2", found=found, **about)
