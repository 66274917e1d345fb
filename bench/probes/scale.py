"""``python -m bench scale``: memory and time of every stage at 1, 4 and 16 times the tasks, and 10 times the classes ->
scale.md; ``python -m bench ranks``: collection by one process and by several of ``torchrun`` -> ranks.md.

Memory is the peak of a stage's own: mapped files, which the system drops when it needs the place, do not count.
"""

import os
import re
import statistics
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

from bench import RESULTS, ROOT
from bench.harness import report
from bench.harness.rows import origin
from bench.harness.settings import conf, defaults, override
from bench.harness.stages import read_stages
from ltdi.datasets import DATASETS, glyphs
from ltdi.store import write_text
from ltdi.utils.console import say

TASKS, CLASSES = (1, 4, 16), (1, 10)
SPLITS = ("tasks.meta_train", "tasks.meta_val", "tasks.meta_test")
COLLECT = "collect_trajectories"


def scale(
    child: Annotated[str, typer.Option(hidden=True)] = "",
    params: Annotated[Path, typer.Option(hidden=True)] = Path(),
    data: Annotated[Path, typer.Option(hidden=True)] = Path(),
    n_classes: Annotated[int, typer.Option(hidden=True)] = 500,
) -> None:
    if child:
        DATASETS["glyphs"] = replace(DATASETS["glyphs"], load=partial(glyphs.load, n_classes=n_classes))
        return read_stages()[child].run(params, data)
    measured = {("tasks", times): _measured(times, 1) for times in TASKS}
    measured |= {("classes", times): _measured(1, times) for times in CLASSES[1:]}
    base = conf("params")["scale"]
    about = {"sizes": [base[split] for split in SPLITS], "steps": base["meta.steps"], **origin()}
    write_text(RESULTS / "scale.md", report.render("scale", measured=measured, **about))


def _measured(tasks: int, classes: int) -> dict[str, tuple[float, float]]:
    """Peak MiB and seconds of each stage, in a process of its own, in an empty folder with an empty store."""
    base = conf("params")["scale"]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        changes = base | {split: base[split] * tasks for split in SPLITS}
        YAML(typ="safe").dump(override(defaults(), changes), folder / "params.yaml")
        env = os.environ | {"LTDI_STORE": str(folder / "store"), "LTDI_DEVICE": "cpu"}
        found = {}
        for stage in read_stages():
            say(f"bench scale: {tasks} × the tasks, {classes} × the classes, {stage}")
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


def ranks(
    processes: Annotated[int, typer.Option(help="Beside one.", min=2)] = 2,
    pairs: Annotated[int, typer.Option(help="Of measurements.", min=1)] = 5,
) -> None:
    found: dict[int, list[tuple[float, float]]] = {1: [], processes: []}
    base = conf("params")["ranks"]
    with tempfile.TemporaryDirectory() as place:
        folder, params = Path(place), Path(place) / "params.yaml"
        YAML(typ="safe").dump(override(defaults(), base), params)
        for stage in list(read_stages().values())[:2]:
            stage.run(params, folder / "data")
        for pair in range(pairs):
            for n, measured in found.items():
                say(f"bench ranks: pair {pair}, processes {n}")
                measured.append(_seconds(n, params, folder))
    text = ranks_table(found, base)
    write_text(RESULTS / "ranks.md", text)
    print(text)


def _seconds(processes: int, params: Path, folder: Path) -> tuple[float, float]:
    """Time collection by so many processes: seconds of the whole command, and of the stage as it prints them."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    command += ["-m", f"pipeline.{COLLECT}", "--params", str(params), "--data", str(folder / "data")]
    with tempfile.TemporaryDirectory() as store:
        env = os.environ | {"LTDI_STORE": store, "LTDI_DEVICE": "cpu", "OMP_NUM_THREADS": "1"}
        started = time.perf_counter()
        ended = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
        seconds = time.perf_counter() - started
    printed = re.search(r"done in ([\d.]+) s", ended.stdout + ended.stderr)
    if ended.returncode or not printed:
        raise SystemExit(ended.stderr)
    return seconds, float(printed[1])


def ranks_table(found: dict[int, list[tuple[float, float]]], base: dict[str, Any]) -> str:
    lines = []
    for n, measured in found.items():
        medians = [f"{statistics.median(each):.1f} s" for each in zip(*measured)]
        pairs = zip(*([a / b for a, b in zip(*both)] for both in zip(found[1], measured)))
        ratios = [f"{statistics.median(each):.2f} ({min(each):.2f} to {max(each):.2f})" for each in pairs]
        lines.append([n, *medians, *ratios])
    about = origin() | {"tasks": sum(base[split] for split in SPLITS), "steps": base["trajectories.steps"]}
    about["device"] = about["device"].partition(",")[0]
    return report.render("ranks", lines=lines, pairs=len(found[1]), **about)
