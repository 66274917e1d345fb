"""Stages that are killed, interrupted or run beside another, and run again."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial

from campaign_world import FOLDERS, Fine, Refused, World, Wrong
from conftest import REPOSITORY

PROGRAM = """
import signal
signal.signal(signal.SIGINT, signal.SIG_DFL)  # as ``python -m pipeline.<stage>`` does first of all
import importlib, sys
from dataclasses import replace
from functools import partial
from ltdi.datasets import DATASETS, glyphs
from pipeline import stage
DATASETS["glyphs"] = replace(DATASETS["glyphs"], load=partial(glyphs.load, n_classes=60))
name, folder = sys.argv[1:3]
sys.argv = [name, *sys.argv[3:]]
main = importlib.import_module("pipeline." + name).main
print("ready", flush=True)
stage.run(main, writes=folder)
"""
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGINT)
TRIES, BESIDE = 44, 6


def attempts(world: World, chance: random.Random) -> Iterator[tuple[str, Callable[[], None]]]:
    for j in range(TRIES):
        stage, how = chance.choice(list(FOLDERS)), SIGNALS[j % len(SIGNALS)]
        seconds = chance.uniform(0, 1.5)
        yield f"{stage}, {how.name} after {seconds:.2f} s", partial(_killed, world, stage, how, seconds)
    for _ in range(BESIDE):
        stage = chance.choice(["collect_trajectories", "meta_train", "generate_weights"])
        yield f"two of {stage}", partial(_beside, world, stage)


def _initialization(world: World, stage: str, data: os.PathLike, store: os.PathLike) -> subprocess.Popen:
    command = [sys.executable, "-c", PROGRAM, stage, FOLDERS[stage]]
    command += ["--params", str(world.params[0]), "--data", str(data)]
    env = os.environ | {"PYTHONPATH": str(REPOSITORY), "LTDI_STORE": str(store)}
    started = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert started.stdout is not None and started.stdout.readline() == "ready\n"
    return started


def _killed(world: World, stage: str, how: signal.Signals, seconds: float) -> None:
    """Run again, it ends as if nothing had been."""
    before = os.environ["LTDI_STORE"]
    with world.copy() as data:
        os.environ["LTDI_STORE"] = str(data.parent / "store")
        try:
            running = _initialization(world, stage, data, data.parent / "store")
            time.sleep(seconds)
            running.send_signal(how)
            said = running.communicate()[0]
            if "Traceback" in said:
                raise RuntimeError(said)
            world.stage(stage, data)
        finally:
            os.environ["LTDI_STORE"] = before


def _beside(world: World, stage: str) -> None:
    """Of two at once one is refused, or both have the same result one after the other."""
    with world.copy() as data:
        running = [_initialization(world, stage, data, data.parent / "store") for _ in range(2)]
        said = [each.communicate()[0] for each in running]
        if any("Traceback" in each for each in said):
            raise RuntimeError("\n".join(said))
        if different := world.different(data, FOLDERS[stage]):
            raise Wrong(f"another {different[0]}")
        if any(each.returncode for each in running):
            raise Refused(next(text for text, each in zip(said, running) if each.returncode))
    raise Fine
