"""What the system refuses: places that cannot be written, full disks, folders where files should be, terminals that are
gone; and sizes that no machine has."""

import builtins
import errno
import io
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from campaign_world import FOLDERS, Fine, World, Wrong, refused
from command import call
from conftest import REPOSITORY, write_tiny

ERRORS = ("ENOSPC", "EROFS", "EACCES", "EIO", "EDQUOT", "ENAMETOOLONG", "EMFILE")
WRITING = ("os.replace", "os.mkdir", "builtins.open", "os.link")
SIZES = (
    ("collect_trajectories", "learner.hidden", (10**6, 10**7, 10**30)),
    ("collect_trajectories", "trajectories.shard_size", (10**30,)),
    ("collect_trajectories", "trajectories.length", (10**9, 10**30)),
    ("pretrain_body", "body.filters", (10**5, 10**8, 10**30)),
    ("pretrain_body", "body.classes_a_batch", (10**30,)),
    ("prepare_tasks", "tasks.meta_train", (10**30,)),
    ("prepare_tasks", "tasks.views", (10**7, 10**30)),
    ("meta_train", "denoiser.width", (10**5, 10**7, 10**30)),
    ("meta_train", "denoiser.depth", (10**30,)),
    ("meta_train", "meta.new_tasks", (10**9, 10**30)),
    ("meta_train", "meta.recorded_tasks", (10**12, 10**30)),
    ("evaluate", "evaluate.landscape_points", (10**5, 10**7, 10**30)),
    ("evaluate", "evaluate.task", (10**30,)),
    ("generate_weights", "generate.heads", (10**30,)),
    ("generate_weights", "generate.chains", (10**30,)),
    ("generate_weights", "seed", (10**30,)),
)


def attempts(world: World, chance: random.Random) -> Iterator[tuple[str, Callable[[], None]]]:
    for told, place in OUTPUTS.items():
        for option in ("--csv", "--head"):
            yield f"classify {option} {told}", partial(_output, world, option, place)
        yield f"export to {told}", partial(_export, world, place)
    for stage in FOLDERS:
        for told, spoil in OUTS.items():
            yield f"{stage}, its folder {told}", partial(_out, world, stage, spoil)
        by_chance = chance.choice(WRITING), chance.choice(ERRORS)
        for where, error in (by_chance, ("builtins.open", "ENOSPC"), ("os.replace", "ENOSPC")):
            yield f"{stage}, {where} fails by {error}", partial(_failing, world, stage, where, error)
        yield f"{stage}, files of 4 kB at most", partial(_small, world, stage)
    for told, place in STORES.items():
        yield f"a store that is {told}", partial(_store, world, place)
    for stage, key, values in SIZES:
        for value in values:
            yield f"{stage}, {key} = {value:g}", partial(_size, world, stage, key, value)
    for told, redirect in TERMINALS.items():
        yield f"a terminal {told}", partial(_terminal, world, redirect)


def _output(world: World, option: str, place: Callable[[Path], Path]) -> None:
    with world.place() as folder:
        target = place(folder)
        before = os.readlink(target) if os.path.islink(target) else ""
        ended = call("classify", world.support, world.query, option, target, "--data", world.runs[0])
        if ended.exit_code:
            refused(ended.exit_code, ended.output, ended)
        if before and (not os.path.islink(target) or os.readlink(target) != before):
            raise Wrong("the link was replaced")
        if option == "--csv" and target.read_text() != world.answers:
            raise Wrong("other answers")
    raise Fine


def _export(world: World, place: Callable[[Path], Path]) -> None:
    with world.place() as folder:
        target = place(folder)
        ended = call("export", world.support, target, "--data", world.runs[0])
        if ended.exit_code:
            refused(ended.exit_code, ended.output, ended)
        if not target.is_file():
            raise Wrong("nothing was written")
    raise Fine


def _linked(folder: Path, to: str) -> Path:
    (folder / "link").symlink_to(to)
    return folder / "link"


def _made(path: Path, make: Callable[[Path], object]) -> Path:
    make(path)
    return path


OUTPUTS: dict[str, Callable[[Path], Path]] = {
    "a folder": lambda f: f,
    "under a file": lambda f: _made(f / "file", Path.touch) / "x" / "y",
    "a name that is too long": lambda f: f / ("x" * 300),
    "a name that is long": lambda f: f / ("x" * 250),
    "a long path": lambda f: f / Path(*["x" * 200] * 30),
    "a pipe": lambda f: _made(f / "pipe", os.mkfifo),
    "a device": lambda f: Path("/dev/full"),
    "where nobody may": lambda f: Path("/proc/self/x"),
    "a link": lambda f: _linked(f, "target"),
    "a link to a folder": lambda f: _linked(f, "."),
    "a link to itself": lambda f: _linked(f, "link"),
    "a link to nowhere": lambda f: _linked(f, "no/such/folder"),
    "new folders": lambda f: f / "a" / "b" / "c",
    "a name of bytes": lambda f: f / "\udcff",
    "an image": lambda f: _made(f / "a.png", Path.touch),
}


def _out(world: World, stage: str, spoil: Callable[[Path], object]) -> None:
    with world.copy() as data:
        out = data / FOLDERS[stage]
        keep = shutil.rmtree
        keep(out)
        spoil(out)
        # what stands there is no folder that DVC could have removed
        shutil.rmtree = lambda *_, **__: None
        try:
            world.stage(stage, data)
        finally:
            shutil.rmtree = keep


OUTS: dict[str, Callable[[Path], object]] = {
    "a file": lambda out: out.write_text("x"),
    "a broken link": lambda out: out.symlink_to("nowhere/at/all"),
    "a link to itself": lambda out: out.symlink_to(out.name),
}


@contextmanager
def _failing_at(where: str, code: int, of: Path) -> Iterator[None]:
    module, name = (os, where.removeprefix("os.")) if where.startswith("os.") else (builtins, "open")
    real = getattr(module, name)

    def failing(path, *arguments, **keywords):
        mode = arguments[0] if arguments and isinstance(arguments[0], str) else keywords.get("mode", "w")
        writes = module is os or set(mode) & set("wax+")
        if writes and str(path).startswith(str(of)) and not str(path).endswith(".lock"):
            raise OSError(code, os.strerror(code), path)
        return real(path, *arguments, **keywords)

    setattr(module, name, failing)
    real_io = io.open
    io.open = failing if name == "open" else real_io
    try:
        yield
    finally:
        setattr(module, name, real)
        io.open = real_io


def _failing(world: World, stage: str, where: str, error: str) -> None:
    with world.copy() as data:
        shutil.rmtree(data / FOLDERS[stage])
        with _failing_at(where, getattr(errno, error), data):
            world.stage(stage, data)


def _small(world: World, stage: str) -> None:
    """As a full disk does, it ends writes in the middle."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with world.copy() as data:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
        try:
            world.stage(stage, data)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, handler)
            left = [file for file in data.rglob("*.tmp")]
            if left:
                raise Wrong(f"{left[0]} stays")


def _store(world: World, place: Callable[[Path], Path]) -> None:
    before = os.environ["LTDI_STORE"]
    with world.copy() as data:
        os.environ["LTDI_STORE"] = str(place(data.parent))
        try:
            world.stage("collect_trajectories", data)
        finally:
            os.environ["LTDI_STORE"] = before


STORES = {key: OUTPUTS[key] for key in ("under a file", "where nobody may", "a long path", "new folders")}
STORES |= {"a file": lambda f: _made(f / "file", Path.touch), "a link to itself": OUTPUTS["a link to itself"]}


def _size(world: World, stage: str, key: str, value: int) -> None:
    with world.copy() as data:
        params = write_tiny(data.parent / "params", {key: value})
        try:
            world.stage(stage, data, params)
        except Wrong as other:  # it could be done, and is another result
            raise Fine from other


def _terminal(world: World, redirect: str) -> None:
    """Of a command as a shell runs it."""
    with world.copy() as data:
        command = f'"{sys.executable}" -m pipeline.summary --data "{data}" {redirect}'
        env = os.environ | {"PYTHONPATH": str(REPOSITORY)}
        ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=env, errors="replace")
    if "Traceback" in ended.stderr + ended.stdout or "Exception ignored" in ended.stderr:
        raise RuntimeError(ended.stderr)
    raise Fine


TERMINALS = {
    "of ASCII": "| cat",
    "that is full": "> /dev/full",
    "that has gone": "| true",
    "that is closed": ">&-",
    "all closed": ">&- 2>&- <&-",
}
