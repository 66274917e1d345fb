"""``python -m bench photo-parts``: what each part of the preset of photographs does, on meta-val -> photo_parts.md."""

from typing import Any

from bench import BENCH, RESULTS, RUNS
from bench.machine import origin
from bench.options import RAW, Root, Runs, Weights
from bench.settings import bench_params, defaults, load_yaml, override
from bench.stages import run_stages
from bench.text import percent, table
from ltdi.store import read_json, write_text
from ltdi.utils.console import say

ABOUT = """# Photographs: what each part does

One part of [`photos.yaml`](../photos.yaml) changed at a time as [`photo_parts.yaml`](../photo_parts.yaml) says, seed
{seed}, {n_shot} image a class: accuracy in % on the same {tasks} meta-val tasks, 100 of each domain, and paired with
the best baseline. No test set is looked at. {device}, commit {commit}.

"""


def main(
    weights: Weights = "hub",
    n_shot: int = 1,
    seed: int = 0,
    root: Root = RAW,
    runs: Runs = RUNS,
) -> None:
    said, lines = load_yaml(BENCH / "photo_parts.yaml"), []
    fixed = {"seed": seed, "tasks.n_shot": n_shot, "body.weights": weights, "data.root": str(root)}
    about = ABOUT.format(seed=seed, n_shot=n_shot, tasks=said["common"]["tasks.meta_val"], **origin())
    for part, changes in said["parts"].items():
        params = override(defaults(), load_yaml(BENCH / "photos.yaml") | said["common"] | changes | fixed)
        say(f"bench: photos, {part}")
        lines.append(line(part, read_json(run_stages(params, runs, until="meta_train") / "model" / "metrics.json")))
        head = ["part", "accuracy", "best baseline", "paired", "seconds of meta-training"]
        write_text(RESULTS / "photo_parts.md", about + table(head, lines))


def line(part: str, chosen: dict[str, Any]) -> list[str]:
    """What the stage meta_train says of a part."""
    best, paired = chosen["best_baseline"], chosen["paired"]
    over = percent(paired["difference"], paired["ci95"], sign="+")
    name = bench_params()["names"].get(best, best)
    return [part, f"{100 * chosen['val_score']:.2f}", name, over, f"{chosen['seconds']:.0f}"]
