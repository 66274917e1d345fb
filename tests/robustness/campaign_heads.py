"""Kept heads that nobody kept: crafted, with digests that are right."""

import json
import os
import random
import struct
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from campaign_world import World, refused
from safetensors.torch import save_file

from ltdi.store import read_tensors, write_json, write_tensors

STRANGE = (None, "", "x", 5, -1, 0, 2.5, 10**30, -(10**30), 1e308, True, [], [None], ["a"], {}, {"name": "x"}, "[/red]")


def attempts(world: World, chance: random.Random) -> Iterator[tuple[str, Callable[[], None]]]:
    tensors, facts = read_tensors(world.head, kind="head")
    for path in sorted(_paths(facts), key=str):
        yield f"without {path}", partial(_head, world, tensors, _without(facts, path))
        for value in chance.sample(STRANGE, 9):
            yield f"{path} = {value!r}", partial(_head, world, tensors, _with(facts, path, value))
    for name in tensors:
        yield f"without tensor {name}", partial(_head, world, {k: v for k, v in tensors.items() if k != name}, facts)
        for told, change in TENSORS.items():
            yield f"{name} {told}", partial(_head, world, tensors | {name: change(tensors[name])}, facts)
    for told, names in NAMES.items():
        classes = [*names, *facts["classes"][len(names) :]]
        yield f"classes {told}", partial(_refused_or_same, world, tensors, facts | {"classes": classes})
    yield "a tensor more", partial(_head, world, tensors | {"more": torch.ones(3)}, facts)
    for told, write in FILES.items():
        yield told, partial(_file, world, write, chance.random())


def _paths(facts: Any, above: tuple = ()) -> list[tuple]:
    items = facts.items() if isinstance(facts, dict) else enumerate(facts) if isinstance(facts, list) else ()
    return [path for key, value in items for path in ((*above, key), *_paths(value, (*above, key)))]


def _with(facts: dict, path: tuple, value: Any) -> dict:
    changed = deepcopy(facts)
    part: Any = changed
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    return changed


def _without(facts: dict, path: tuple) -> dict:
    changed = deepcopy(facts)
    part: Any = changed
    for key in path[:-1]:
        part = part[key]
    del part[path[-1]]
    return changed


NAMES = {
    "that look the same": ["\u00e9", "e\u0301"],
    "of which one is a million letters": ["x" * 10**6],
    "of letters that are none": ["\ud800"],
    "of no letter that is seen": ["\x00"],
    "of the same letters, small and large": ["a", "A"],
}


def _refused_or_same(world: World, tensors: dict, facts: dict) -> None:
    with world.place() as place:
        write_tensors(place / "head.safetensors", tensors, facts, kind="head")
        ended = world.classify(place / "head.safetensors", world.query)
        if ended.exit_code:
            refused(ended.exit_code, ended.output, ended)


def _head(world: World, tensors: dict, facts: dict) -> None:
    with world.place() as place:
        write_tensors(place / "head.safetensors", tensors, facts, kind="head", finite=False)
        _judge(world, place / "head.safetensors", facts)


def _judge(world: World, head: Path, facts: dict | None = None) -> None:
    before = world.answers
    if facts and isinstance(names := facts.get("classes"), list) and all(isinstance(each, str) for each in names):
        # a class of another name is the maker's own choice: the answers are those names
        known = read_tensors(world.head, kind="head")[1]["classes"]
        for old, new in zip(known, names):
            if old != new:
                world.answers = "\n".join(line.replace(f",{old},", f",{new},") for line in world.answers.split("\n"))
    try:
        world.judged(world.classify(head, world.query))
    finally:
        world.answers = before


def _file(world: World, write: Callable[..., None], seed: float) -> None:
    with world.place() as place:
        write(place / "head.safetensors", world, random.Random(seed))
        _judge(world, place / "head.safetensors")


def _header(head: Path, header: bytes, length: int | None = None, data: bytes = b"") -> None:
    head.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + data)


def _deep(head: Path, *_: object) -> None:
    text = json.dumps({"__metadata__": {"ltdi": "[" * 100_000 + "]" * 100_000}})
    _header(head, text.encode())


def _lies(head: Path, *_: object) -> None:
    text = json.dumps({"w": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}})
    _header(head, text.encode(), data=b"\0" * 4)


TENSORS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "of NaN": lambda t: t * torch.nan,
    "of infinity": lambda t: t + torch.inf,
    "with a NaN": lambda t: torch.where(torch.arange(t.numel()).view(t.shape) == 0, torch.nan, t),
    "empty": lambda t: t[:0],
    "shorter": lambda t: t[:-1],
    "longer": lambda t: torch.cat([t, t[:1]]),
    "flat": lambda t: t.flatten() if t.dim() > 1 else t[None],
    "of integers": lambda t: t.long(),
    "of doubles": lambda t: t.double(),
    "of halves": lambda t: t.half(),
    "of truths": lambda t: t > 0,
    "of bytes": lambda t: t.to(torch.int8),
    "of numbers of 8 bits": lambda t: t.to(torch.float8_e4m3fn),
    "of numbers of 16 bits": lambda t: t.bfloat16(),
    "of complex numbers": lambda t: t.to(torch.complex64),
    "a number": lambda t: t.sum(),
}
FILES: dict[str, Callable[..., None]] = {
    "nothing": lambda head, *_: None,
    "empty": lambda head, *_: head.touch(),
    "noise": lambda head, _, chance: head.write_bytes(chance.randbytes(999)),
    "a folder": lambda head, *_: head.mkdir(),
    "a pipe": lambda head, *_: os.mkfifo(head),
    "a link to itself": lambda head, *_: head.symlink_to(head.name),
    "a link to nothing": lambda head, *_: head.symlink_to("nowhere"),
    "a device": lambda head, *_: head.symlink_to("/dev/zero"),
    "another program's": lambda head, *_: save_file({"w": torch.ones(2)}, head),
    "another program's, with our key": lambda head, *_: save_file({"w": torch.ones(2)}, head, metadata={"ltdi": "[]"}),
    "JSON of ours": lambda head, *_: write_json(head, {"a": 1}, kind="head"),
    "a body": lambda head, world, _: head.write_bytes((world.runs[0] / "body/body.safetensors").read_bytes()),
    "a method": lambda head, world, _: head.write_bytes(
        (world.runs[0] / "model/methods/ltdi.safetensors").read_bytes()
    ),
    "a header too deep": _deep,
    "a header that lies": _lies,
    "a header too long": lambda head, *_: _header(head, b"{}", length=2**62),
    "a header that is no text": lambda head, *_: _header(head, b"\xff" * 64),
}
