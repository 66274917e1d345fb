"""``python -m bench scale``: memory and time of every stage at 1, 4 and 16 times the tasks, and 10 times the classes ->
bench/results/scale.md.

Memory is the peak of what is a stage's own: mapped files, which the system drops when it needs the place, do not count.
"""

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from ruamel.yaml import YAML

from bench import BENCH, ROOT
from bench.machine import origin
from bench.settings import load_yaml, override
from bench.stages import read_stages
from bench.text import table
from ltdi.datasets import DATASETS, glyphs
from ltdi.store import write_text
from ltdi.utils.console import say

TASKS, CLASSES = (1, 4, 16), (1, 10)
BASE: dict[str, Any] = {
    "body.weights": str(BENCH / "bodies" / "glyphs.safetensors"),
    "tasks.meta_train": 100,
    "tasks.meta_val": 100,
    "tasks.meta_test": 250,
    "trajectories.shard_size": 100,
    "meta.steps": 60,
    "meta.val_every": 60,
    "meta.weight_loss": 0.01,
    "generate.timing_repeats": 2,
}


def main(
    child: Annotated[str, typer.Option(hidden=True)] = "",
    params: Annotated[Path, typer.Option(hidden=True)] = Path(),
    data: Annotated[Path, typer.Option(hidden=True)] = Path(),
    n_classes: Annotated[int, typer.Option(hidden=True)] = 500,
) -> None:
    if child:
        return _run_stage(child, params, data, n_classes)
    measured = {("tasks", times): _measured(times, 1) for times in TASKS}
    measured |= {("classes", times): _measured(1, times) for times in CLASSES[1:]}
    write_text(BENCH / "results" / "scale.md", _table(measured))


def _run_stage(stage: str, params: Path, data: Path, n_classes: int) -> None:
    DATASETS["glyphs"] = replace(DATASETS["glyphs"], load=partial(glyphs.load, n_classes=n_classes))
    read_stages()[stage].run(params, data)


def _measured(tasks: int, classes: int) -> dict[str, tuple[float, float]]:
    """Peak MiB and seconds of each stage, in a process of its own, in an empty folder with an empty store."""
    sizes = {key: BASE[key] * tasks for key in ("tasks.meta_train", "tasks.meta_val", "tasks.meta_test")}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        YAML(typ="safe").dump(override(load_yaml(ROOT / "params.yaml"), BASE | sizes), folder / "params.yaml")
        env = os.environ | {"LTDI_STORE": str(folder / "store"), "LTDI_DEVICE": "cpu"}
        found = {}
        for stage in read_stages():
            say(f"bench.scale: {tasks} × the tasks, {classes} × the classes, {stage}")
            command = [sys.executable, "-m", "bench", "scale", "--child", stage, "--params", folder / "params.yaml"]
            command += ["--data", folder / "data", "--n-classes", str(500 * classes)]
            found[stage] = watched(list(map(str, command)), env)
        return found


def watched(command: list[str], env: dict[str, str]) -> tuple[float, float]:
    """The peak of a process's own memory in MiB, and the processor's seconds that it took."""
    peak = 0
    process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL)
    status = Path(f"/proc/{process.pid}/status")
    while True:
        ended, code, used = os.wait4(process.pid, os.WNOHANG)
        if ended:
            break
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        peak = max(peak, int(lines.get("RssAnon", "0").split()[0]))
        time.sleep(0.02)
    if code:
        raise SystemExit(os.waitstatus_to_exitcode(code))
    return peak / 1024, used.ru_utime + used.ru_stime


def _table(measured: dict[tuple[str, int], dict[str, tuple[float, float]]]) -> str:
    base = f"{BASE['tasks.meta_train']} / {BASE['tasks.meta_val']} / {BASE['tasks.meta_test']}"
    text = (
        "# What grows with the number of tasks and of classes\n\n"
        f"Glyphs, one run each on {origin()['device']}: the peak of a stage's own memory in MiB (mapped files, which"
        " the system drops when it needs the place, do not count) and the processor's seconds, the start of Python with"
        f" them. 1 × is {base} tasks of 500 classes before turning, {BASE['meta.steps']} steps of meta-training."
        " `python -m bench scale`\n\n"
    )
    rows = [[stage, *(_cell(*found[stage]) for found in measured.values())] for stage in read_stages()]
    return text + table(["stage", *(f"{times} × {what}" for what, times in measured)], rows)


def _cell(mebibytes: float, seconds: float) -> str:
    return f"{mebibytes:.0f} MiB, {seconds:.1f} s"
