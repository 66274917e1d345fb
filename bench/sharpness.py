"""``python -m bench.sharpness``: λ_max at the trained heads, with sharpness-aware minimisation and without -> bench/results/sharpness.csv."""

from itertools import product
from pathlib import Path
from typing import Annotated

import torch
import typer
from pipeline.files import load_start, load_tasks, load_trajectories
from torch import Tensor

from bench.rows import SHARPNESS_COLUMNS, add, commit, machine
from bench.stages import run_stages
from bench.variants import prefix_of, variant_params
from ltdi.errors import InputError
from ltdi.metrics import mean_and_ci95
from ltdi.seeding import generator
from ltdi.sharpness import largest_eigenvalue
from ltdi.tasks import labelled
from pipeline.progress import say
from pipeline.stage import device


def main(
    setting: Annotated[list[str], typer.Option(help="A setting of bench/params.yaml; may be repeated.")],
    variant: Annotated[str, typer.Option(help="The variant that is compared with Lt-Di.")] = "sam",
    base: Annotated[str, typer.Option(help="What the variant changes: a base of bench/params.yaml.")] = "defaults",
    seed: Annotated[list[int], typer.Option(help="May be repeated.")] = [0],
    budget: Annotated[str, typer.Option(help="A budget of bench/params.yaml.")] = "cpu",
    root: Annotated[Path, typer.Option(envvar="LTDI_DATA", help="The folder that holds the data sets.")] = Path(
        "data/raw"
    ),
    runs: Annotated[Path, typer.Option(help="Where the stages' outputs are kept.")] = Path("runs"),
) -> None:
    try:
        for each_seed, each_setting in product(seed, setting):
            params = {
                name: variant_params(each_setting, name, base=base, budget=budget, seed=each_seed, root=root)
                for name in ("ltdi", variant)
            }
            found = {
                name: _of_trained_heads(run_stages(each, runs, until="collect_trajectories"))
                for name, each in params.items()
            }
            both = found["ltdi"].isfinite() & found[variant].isfinite()
            common = {
                "setting": each_setting,
                "seed": each_seed,
                "tasks": int(both.sum()),
                "device": machine(),
                "commit": commit(),
            }
            rows = []
            for name, values in found.items():
                (mean, ci95), (difference, paired_ci95) = (
                    mean_and_ci95(values[both]),
                    mean_and_ci95((values - found["ltdi"])[both]),
                )
                rows.append(
                    common
                    | {
                        "variant": prefix_of(base) + name,
                        "lambda_max": mean,
                        "ci95": ci95,
                        "paired_diff": difference,
                        "paired_ci95": paired_ci95,
                    }
                )
                say(f"{each_setting} seed {each_seed}: λ_max of {name} {mean:.4f} ± {ci95:.4f}")
            add("sharpness.csv", SHARPNESS_COLUMNS, rows)
    except InputError as error:
        say(f"bench: {error}")
        raise SystemExit(2) from error


def _of_trained_heads(data: Path) -> Tensor:
    """λ_max of each meta-test task's loss on all images of its classes, at its trained head (M,); NaN where there is none."""
    where = device()
    test, head = load_tasks(data, splits=["meta_test"])["meta_test"].to(where), load_start(data, where).head
    trajectories, kept = load_trajectories(data, "meta_test")
    found = torch.full((len(test),), float("nan"))
    for rows in torch.arange(len(kept)).split(64):
        inputs, labels = labelled(test.all_images(kept[rows].to(where)))
        found[kept[rows]] = largest_eigenvalue(
            head, trajectories.points[rows, 0].to(where), inputs, labels, generator=generator(0, "λ")
        ).cpu()
    return found


if __name__ == "__main__":
    typer.run(main)
