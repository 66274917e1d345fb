"""Files that stages read, altered in many ways."""

import random
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from campaign_world import World

from ltdi.store import read_tensors, write_tensors

READ = {
    "prepare_tasks": ("body",),
    "collect_trajectories": ("tasks",),
    "meta_train": ("body", "tasks", "trajectories"),
    "generate_weights": ("body", "tasks", "trajectories", "model"),
    "evaluate": ("tasks", "trajectories", "weights"),
}
UNREAD = {"curve.tsv", "metrics.json"}
TRIES = 330


def attempts(world: World, chance: random.Random) -> Iterator[tuple[str, Callable[[], None]]]:
    for _ in range(TRIES):
        stage = chance.choice(list(READ))
        folder = world.runs[0] / chance.choice(READ[stage])
        files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name not in UNREAD)
        if stage == "generate_weights" and folder.name == "trajectories":
            files = [folder / "initialization.safetensors"]  # it reads no other
        file = chance.choice(files).relative_to(world.runs[0])
        # a body of another run is as good as any, before there are features
        kind = chance.choice([each for each in ALTER if stage != "prepare_tasks" or each != "of another run"])
        yield f"{stage}, {file}, {kind}", partial(_attempt, world, stage, file, kind, chance.random())
    for _ in range(20):
        kind, seed = chance.choice(["a bit", "a byte", "cut", "zeros", "longer", "empty"]), chance.random()
        yield f"a cached file, {kind}", partial(_cached, world, kind, seed)


def _attempt(world: World, stage: str, file: Path, kind: str, seed: float) -> None:
    with world.copy() as data:
        ALTER[kind](data / file, random.Random(seed), world, file)
        world.stage(stage, data)


def _cached(world: World, kind: str, seed: float) -> None:
    """What the store holds is made again where it is not what was kept."""
    chance = random.Random(seed)
    stage = chance.choice(["pretrain_body", "prepare_tasks", "collect_trajectories", "meta_train"])
    of = {"pretrain_body": "checkpoints", "prepare_tasks": "features", "collect_trajectories": "trajectories"}
    file = chance.choice(sorted((world.store / of.get(stage, "checkpoints")).iterdir()))
    content = file.read_bytes()
    with world.copy() as data:
        ALTER[kind](file, chance, world, file)
        try:
            world.stage(stage, data)
        finally:
            _replace(file, content)


def _replace(file: Path, content: bytes) -> None:
    file.unlink()
    file.write_bytes(content)


def _bit(file: Path, chance: random.Random, *_: object) -> None:
    content = bytearray(file.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    _replace(file, bytes(content))


def _byte(file: Path, chance: random.Random, *_: object) -> None:
    content = bytearray(file.read_bytes())
    content[chance.randrange(len(content))] ^= chance.randrange(1, 256)
    _replace(file, bytes(content))


def _early(file: Path, chance: random.Random, *_: object) -> None:
    """In the part that says what the rest is."""
    content = bytearray(file.read_bytes())
    content[chance.randrange(min(len(content), 400))] ^= chance.randrange(1, 256)
    _replace(file, bytes(content))


def _cut(file: Path, chance: random.Random, *_: object) -> None:
    content = file.read_bytes()
    _replace(file, content[: chance.randrange(len(content))])


def _longer(file: Path, chance: random.Random, *_: object) -> None:
    _replace(file, file.read_bytes() + chance.randbytes(chance.randrange(1, 99)))


def _zeros(file: Path, chance: random.Random, *_: object) -> None:
    content = bytearray(file.read_bytes())
    first = chance.randrange(len(content))
    content[first : first + 64] = b"\xa5" * len(content[first : first + 64])
    _replace(file, bytes(content))


def _noise(file: Path, chance: random.Random, *_: object) -> None:
    _replace(file, chance.randbytes(file.stat().st_size))


def _empty(file: Path, *_: object) -> None:
    _replace(file, b"")


def _gone(file: Path, *_: object) -> None:
    file.unlink()


def _folder(file: Path, *_: object) -> None:
    file.unlink()
    file.mkdir()


def _of_another_kind(file: Path, chance: random.Random, world: World, name: Path) -> None:
    """A whole file, where another's content is expected."""
    others = [each for each in sorted(world.runs[0].rglob(f"*{file.suffix}")) if each.is_file()]
    others = [each for each in others if each.relative_to(world.runs[0]) != name and each.name not in UNREAD]
    content = chance.choice(others).read_bytes() if others else b"{}"
    _replace(file, content if content != file.read_bytes() else b"{}")


def _of_another_run(file: Path, chance: random.Random, world: World, name: Path) -> None:
    other = (world.runs[1] / name).read_bytes()
    _replace(file, other)
    if chance.random() < 0.3:  # its neighbours too, but not what was made of them
        shutil.copytree(world.runs[1] / name.parts[0], file.parents[len(name.parts) - 2], dirs_exist_ok=True)


def _nan(file: Path, *_: object) -> None:
    """Whole, with seals that are right, and no numbers."""
    if file.suffix != ".safetensors":
        return _empty(file)
    kinds = ("body", "features", "images", "initialization", "trajectories", "method", "weights", "chain")
    for kind in kinds:
        try:
            tensors, values = read_tensors(file, kind=kind)
        except ValueError:
            continue
        spoilt = {k: v * torch.nan if v.is_floating_point() else v + 1 for k, v in tensors.items()}
        file.unlink()
        write_tensors(file, spoilt, values, kind=kind, finite=False)
    return None


ALTER: dict[str, Callable[..., None]] = {
    "a bit": _bit,
    "a byte": _byte,
    "a byte of the header": _early,
    "cut": _cut,
    "longer": _longer,
    "zeros": _zeros,
    "noise": _noise,
    "empty": _empty,
    "gone": _gone,
    "a folder": _folder,
    "of another kind": _of_another_kind,
    "of another run": _of_another_run,
    "NaN": _nan,
}
