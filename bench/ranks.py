"""``python -m bench ranks``: collection by one process and by several of ``torchrun`` -> bench/results/ranks.md.

Pairs, one after the other, each in an empty store, every process on one thread.
"""

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from ruamel.yaml import YAML

from bench import BENCH, RESULTS, ROOT
from bench.machine import origin
from bench.settings import load_yaml, override
from bench.stages import read_stages
from bench.text import table
from ltdi.store import write_text
from ltdi.utils.console import say

STAGE = "collect_trajectories"
BASE: dict[str, Any] = {
    "body.weights": str(BENCH / "bodies" / "glyphs.safetensors"),
    "tasks.train_n_way": None,
    "tasks.meta_train": 4000,
    "tasks.meta_val": 500,
    "tasks.meta_test": 500,
    "trajectories.steps": 200,
    "trajectories.shard_size": 250,
}


def main(
    processes: Annotated[int, typer.Option(help="Beside one.", min=2)] = 2,
    pairs: Annotated[int, typer.Option(help="Of measurements.", min=1)] = 5,
) -> None:
    found: dict[int, list[tuple[float, float]]] = {1: [], processes: []}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        params = folder / "params.yaml"
        YAML(typ="safe").dump(override(load_yaml(ROOT / "params.yaml"), BASE), params)
        for stage in list(read_stages().values())[:2]:
            stage.run(params, folder / "data")
        for pair in range(pairs):
            for n, measured in found.items():
                say(f"bench.ranks: pair {pair}, processes {n}")
                measured.append(_seconds(n, params, folder))
    text = _said(found)
    write_text(RESULTS / "ranks.md", text)
    print(text)


def _seconds(processes: int, params: Path, folder: Path) -> tuple[float, float]:
    """Of the whole command, and of the stage within it as it says itself."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    command += ["-m", f"pipeline.{STAGE}", "--params", str(params), "--data", str(folder / "data")]
    with tempfile.TemporaryDirectory() as store:
        env = os.environ | {"LTDI_STORE": store, "LTDI_DEVICE": "cpu", "OMP_NUM_THREADS": "1"}
        started = time.perf_counter()
        ended = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
        seconds = time.perf_counter() - started
    said = re.search(r"done in ([\d.]+) s", ended.stdout + ended.stderr)
    if ended.returncode or not said:
        raise SystemExit(ended.stderr)
    return seconds, float(said[1])


def _said(found: dict[int, list[tuple[float, float]]]) -> str:
    n_tasks = sum(BASE[f"tasks.{split}"] for split in ("meta_train", "meta_val", "meta_test"))
    rows = [
        [str(n), *(f"{statistics.median(each):.1f} s" for each in zip(*measured)), *_ratios(found[1], measured)]
        for n, measured in found.items()
    ]
    return (
        "# Collection by several processes\n\n"
        f"`python -m bench ranks`, glyphs, {n_tasks:,} tasks of 5 classes and {BASE['trajectories.steps']} steps, on"
        f" {origin()['device'].partition(',')[0]}, commit {origin()['commit']}: every process of torchrun on one"
        f" thread, each run with an empty store, medians of {len(found[1])} pairs one after the other. The stage counts"
        " from its params to its index; before it the command starts torchrun and imports torch.\n\n"
    ) + table(["processes", "command", "stage", "command, times as fast", "stage, times as fast"], rows)


def _ratios(one: list[tuple[float, float]], several: list[tuple[float, float]]) -> list[str]:
    pairs = [[a / b for a, b in zip(*both)] for both in zip(one, several)]
    return [f"{statistics.median(each):.2f} ({min(each):.2f} to {max(each):.2f})" for each in zip(*pairs)]
