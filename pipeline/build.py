"""From params or a saved file to a method: the one look-up by name."""

from pathlib import Path

import torch
from torch import nn

from ltdi.errors import InputError
from ltdi.methods import CONTROLS, METHODS, Method
from ltdi.methods.diffusion_method import DiffusionMethod
from ltdi.seeding import generator
from ltdi.store import read_tensors
from ltdi.trajectories import Start

KNOBS = ("method", "methods", "diffusion", "denoiser", "meta")
"""The sections of params.yaml that a method is built from."""


def method_class(name: str) -> type[Method]:
    classes = METHODS | CONTROLS
    if name not in classes:
        raise InputError(f"method.name = {name!r} is unknown; allowed: {', '.join(classes)}")
    return classes[name]


def build_method(
    name: str,
    knobs: dict,
    start: Start,
    body: nn.Module,
    *,
    length: int,
    n_way: int,
    n_tasks: int,
    n_classes: int,
    seed: int,
) -> Method:
    """The method or control of that name, its weights drawn from the seed.

    Args:
        knobs: the sections ``KNOBS`` as plain values.
        body: the frozen body; a method that adapts it takes a copy.
        length: points of a trajectory.
        n_way: classes of a task.
        n_tasks, n_classes: how many training tasks there are, and classes to draw them from.

    Raises:
        InputError: the name is unknown, or knobs of two sections do not fit together.
    """
    chosen = method_class(name)
    _check(chosen, knobs, start, length, n_way)
    given = {section: knobs[section] for section in ("diffusion", "denoiser", "meta")}
    given |= {"length": length, "n_way": n_way, "n_tasks": n_tasks, "n_classes": n_classes, "body": body}
    torch.manual_seed(generator(seed, "denoiser").initial_seed())
    return chosen(start, **{each: given[each] for each in chosen.takes}, **knobs["methods"][name])


def load_method(folder: Path, name: str, body: nn.Module, device: torch.device) -> Method:
    """A meta-trained method or a control of a model folder."""
    tensors, values = read_tensors(folder / "methods" / f"{name}.safetensors")
    start = Start.from_state({"start/shared": tensors.pop("start/shared").to(device)}, values)
    sizes = {size: values[size] for size in ("length", "n_way", "n_tasks", "n_classes")}
    method = build_method(name, values, start, body, **sizes, seed=0)
    method.load_state_dict(tensors)
    return method.to(device).eval()


def _check(chosen: type[Method], knobs: dict, start: Start, length: int, n_way: int) -> None:
    denoiser, meta, steps = knobs["denoiser"], knobs["meta"], knobs["diffusion"]["steps"]
    if denoiser["width"] % denoiser["heads"]:
        raise InputError(
            f"denoiser.width = {denoiser['width']} is not a multiple of denoiser.heads = {denoiser['heads']}; change one"
        )
    if meta["min_shot"] > meta["max_shot"]:
        raise InputError(
            f"meta.min_shot = {meta['min_shot']} is more than meta.max_shot = {meta['max_shot']}; change one"
        )
    recorded, new = meta["weight_loss"] * meta["recorded_tasks"], meta["query_loss"] * meta["new_tasks"]
    if recorded == new == 0:
        raise InputError(
            "meta.weight_loss × meta.recorded_tasks and meta.query_loss × meta.new_tasks are 0 and leave nothing to learn; raise one of each pair"
        )
    for key, is_of_one_size in {
        "denoiser.name = unet": denoiser["name"] == "unet",
        "trajectories.start = shared": start.kind == "shared",
    }.items():
        if is_of_one_size and new and meta["n_way"] != n_way:
            raise InputError(
                f"{key} is for one number of classes, and meta.n_way = {meta['n_way']} is not tasks.n_way = {n_way}; make them equal, or set meta.new_tasks = 0"
            )
    if issubclass(chosen, DiffusionMethod):
        try:
            chosen.process_class.index_map(length, steps)
        except ValueError as error:
            raise InputError(f"diffusion.steps = {steps}: {error}; raise it or lower trajectories.length") from error
