"""params.yaml as nobody should write it, hyperparameters that make numbers infinite, and environments that make no
sense."""

import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from campaign_world import Fine, Refused, World, Wrong
from conftest import REPOSITORY, write_tiny

BOMB = "a: &a [x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(9)
)
TEXTS: dict[str, Callable[[str], str | bytes]] = {
    "empty": lambda text: "",
    "of bytes": lambda text: b"\0\xff\xfe" * 50,
    "of another encoding": lambda text: text.encode("utf-16"),
    "with a mark of its encoding": lambda text: b"\xef\xbb\xbf" + text.encode(),
    "with other ends of lines": lambda text: text.replace("\n", "\r\n"),
    "with a key twice": lambda text: text + "\nseed: 3\n",
    "with a tab": lambda text: text.replace("trajectories:", "trajectories:\n\tx: 1"),
    "of two documents": lambda text: text + "\n---\nseed: 5\n",
    "that would run something": lambda text: text + "\nx: !!python/object/apply:os.getpid []\n",
    "nested deeply": lambda text: text + "\nx: " + "[" * 5000 + "]" * 5000,
    "nested deeply, by name": lambda text: text + "\nx: " + "{a: " * 3000 + "1" + "}" * 3000,
    "of names of names": lambda text: text + BOMB,
    "that holds itself": lambda text: text.replace("seed: 0", "seed: &a [*a]"),
    "with a number of 5000 digits": lambda text: text.replace("seed: 0", f"seed: {'9' * 5000}"),
    "with a word of a million letters": lambda text: text.replace("seed: 0", f"seed: {'x' * 10**6}"),
    "with what moves the cursor": lambda text: text.replace("seed: 0", r'seed: "\e[31m[/red]"'),
    "with a date": lambda text: text.replace("seed: 0", "seed: 2001-01-01"),
    "with a truth for a number": lambda text: text.replace("seed: 0", "seed: true"),
    "with a truth for a rate": lambda text: text.replace("  lr: 0.01", "  lr: true"),
    "of one list": lambda text: "- 1\n",
    "of one number": lambda text: "5",
    "without a section": lambda text: text.replace("learner:", "lerner:"),
    "with a section of nothing": lambda text: text.split("trajectories:")[0] + "trajectories:\n",
}
PLACES: dict[str, Callable[[Path], object]] = {
    "a folder": Path.mkdir,
    "a pipe": os.mkfifo,
    "a link to itself": lambda file: file.symlink_to(file.name),
    "a device": lambda file: file.symlink_to("/dev/zero"),
    "what cannot be read": lambda file: file.symlink_to("/proc/self/mem"),
}
INFINITE = (
    ("pretrain_body", "body.lr"),
    ("pretrain_body", "body.weight_decay"),
    ("pretrain_body", "body.augment.max_rotation"),
    ("collect_trajectories", "trajectories.lr"),
    ("collect_trajectories", "trajectories.sam"),
    ("meta_train", "meta.outer_lr"),
    ("meta_train", "meta.inner_lr"),
    ("meta_train", "meta.weight_loss"),
    ("meta_train", "meta.query_loss"),
    ("meta_train", "diffusion.chain_noise"),
    ("meta_train", "diffusion.start_noise"),
    ("generate_weights", "generate.adapt_lr"),
)
ENVIRONMENTS: tuple[dict[str, str], ...] = (
    *({"LTDI_DEVICE": each} for each in ("", "meta", "cuda:99", "cpu:-1", "nonsense", "xla", "\udcff")),
    *({"COLUMNS": each} for each in ("0", "1", "-5", "x", "100000000")),
    *({"WORLD_SIZE": each} for each in ("x", "0", "-1", "2")),
    {"RANK": "x"},
    {"WORLD_SIZE": "2", "RANK": "0"},
    {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "x"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"},
    {"LC_ALL": "no_such"},
    {"PYTHONIOENCODING": "utf-16"},
    {"TERM": "dumb", "FORCE_COLOR": "1"},
    {"HOME": "/nowhere", "LTDI_STORE": ""},
    {"HOME": "", "LTDI_STORE": "", "XDG_CACHE_HOME": ""},
    {"LTDI_STORE": "/dev/null"},
    {"OMP_NUM_THREADS": "-4"},
)


def attempts(world: World, chance: random.Random) -> Iterator[tuple[str, Callable[[], None]]]:
    for told, change in TEXTS.items():
        yield f"params {told}", partial(_text, world, change)
    for told, make in PLACES.items():
        yield f"params that are {told}", partial(_place, world, make)
    for stage, key in INFINITE:
        for value in (1e300, 10.0 ** chance.uniform(25, 29), float("nan"), float("inf"), -1.0):
            yield f"{stage}, {key} = {value:g}", partial(_infinite, world, stage, key, value)
    for changes in ENVIRONMENTS:
        told = ", ".join(f"{key} = {value!r}" for key, value in changes.items())
        program = "stage" if "RANK" in told or "WORLD" in told else chance.choice(["stage", "command"])
        yield f"the {program}, {told}", partial(_environment, world, program, changes)


def _text(world: World, change: Callable[[str], str | bytes]) -> None:
    with world.copy() as data:
        changed = change(world.params[0].read_text())
        file = data.parent / "params.yaml"
        file.write_bytes(changed if isinstance(changed, bytes) else changed.encode())
        world.stage("collect_trajectories", data, file)


def _place(world: World, make: Callable[[Path], object]) -> None:
    with world.copy() as data:
        make(data.parent / "params.yaml")
        world.stage("collect_trajectories", data, data.parent / "params.yaml")


def _infinite(world: World, stage: str, key: str, value: float) -> None:
    """The line names the hyperparameter that is at fault, and no other."""
    with world.copy() as data:
        params = write_tiny(data.parent / "params", {"generate.adapt_steps": 3, key: value})
        try:
            world.stage(stage, data, params)
        except Refused as line:
            if key not in str(line):
                raise Wrong(f"{key} is not named: {line}") from line
            raise
        except Wrong as other:
            if "wrote another" not in str(other):
                raise
            raise Fine from other  # numbers, as large as they were asked for


def _environment(world: World, program: str, changes: dict[str, str]) -> None:
    with world.copy() as data:
        env = os.environ | {"PYTHONPATH": str(REPOSITORY)} | changes
        arguments = {
            "stage": ["pipeline.evaluate", "--params", world.params[0]],
            "command": ["ltdi", "classify", world.support, world.query],
        }[program]
        command = [sys.executable, "-m", *arguments, "--data", data]
        ended = subprocess.run(list(map(str, command)), env=env, capture_output=True)
    said = (ended.stdout + ended.stderr).replace(b"\0", b"")
    if b"Traceback" in said or ended.returncode not in (0, 2):
        raise RuntimeError(said.decode(errors="replace"))
    if not said.strip():
        raise Wrong("nothing is said")
    raise Fine
