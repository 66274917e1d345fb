"""``python -m bench photo-refit``: what learning once more, of the classes that all was chosen on, is worth in the
preset of photographs, on domains of its meta-training and meta-val held out in turn -> photo_refit.md."""

from collections.abc import Mapping

from torch import Tensor

from bench import BENCH, RESULTS, RUNS
from bench.machine import origin
from bench.options import RAW, Root, Runs, Shots, Weights
from bench.photos import by_domain, n_query
from bench.settings import bench_params, defaults, load_yaml, override
from bench.stages import run_stages
from bench.text import percent, table
from ltdi.store import write_text
from ltdi.utils.console import say
from ltdi.utils.metrics import best_and_paired, mean_and_ci95

ABOUT = """# Photographs: learning once more of the classes that all was chosen on

[`photos.yaml`](../photos.yaml) with domains of its meta-training and meta-val held out in turn, as
[`photo_refit.yaml`](../photo_refit.yaml) says; its own test sets are not read. Lt-Di − the best baseline of the row in
points, without `meta.refit` and with it, and the difference of the two, all paired over the same tasks ({tasks} a row)
with 95 % intervals over these. Start, normalisation, strengths and the baselines' hyperparameters are those of the
first training in both; the baseline is picked by these very tasks. 5 ways, seed {seed}, {device}, commit {commit}.

"""
SHOTS = [1, 10]
HEAD = ["held out", "domain", "images a class", "best baseline", "without", "with", "with − without"]


def main(
    weights: Weights = "hub",
    n_shot: Shots = SHOTS,
    seed: int = 0,
    tasks: int = 2000,
    root: Root = RAW,
    runs: Runs = RUNS,
) -> None:
    said, lines = load_yaml(BENCH / "photo_refit.yaml"), []
    fixed = {"seed": seed, "body.weights": weights, "data.root": str(root), "tasks.meta_test": tasks}
    for held_out, domains in said["held_out"].items():
        for shots in n_shot:
            found: dict[bool, dict[str, dict[str, Tensor]]] = {}
            for refit in (False, True):
                say(f"bench: photos, {held_out} held out, {shots} images, {'with' if refit else 'without'} refit")
                changes = {"data.domains": domains, "meta.refit": refit, "tasks.n_shot": shots}
                changes["tasks.n_query"] = n_query(shots)
                params = override(defaults(), load_yaml(BENCH / "photos.yaml") | said["common"] | fixed | changes)
                found[refit] = by_domain(run_stages(params, runs))
            method = params["method"]["name"]
            lines += [
                [held_out, domain, str(shots), *cells(found[False][domain], found[True][domain], method)]
                for domain in found[False]
            ]
            about = ABOUT.format(tasks=tasks // len(domains["test"]), seed=seed, **origin())
            write_text(RESULTS / "photo_refit.md", about + table(HEAD, lines))


def cells(without: Mapping[str, Tensor], refit: Mapping[str, Tensor], method: str) -> list[str]:
    """The best baseline of scores (M,) by method, the trained method − it, and the difference that learning once more
    makes. A baseline that learns from classes is that of the same run."""
    columns: list[str] = []
    for scores in (without, refit):
        best, paired = best_and_paired(scores[method], {name: own for name, own in scores.items() if name != method})
        columns.append(percent(paired["difference"], paired["ci95"], sign="+"))
    names = bench_params()["names"]
    return [names.get(best, best), *columns, percent(*mean_and_ci95(refit[method] - without[method]), sign="+")]
