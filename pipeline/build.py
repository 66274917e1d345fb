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
    name: str, knobs: dict, start: Start, body: nn.Module, *, length: int, n_tasks: int, n_classes: int, n_condition: int, seed: int
) -> Method:
    """The method or control of that name, its weights drawn from the seed.

    Args:
        knobs: the sections ``KNOBS`` as plain values.
        body: the frozen body; a method that adapts it takes a copy.
        length: points of a trajectory.
        n_tasks, n_classes: how many training tasks there are, and classes to draw them from.
        n_condition: numbers that a support image is described by.

    Raises:
        InputError: the name is unknown, or knobs of two sections do not fit together.
    """
    chosen = method_class(name)
    _check(chosen, knobs, length)
    given = {section: knobs[section] for section in ("diffusion", "denoiser", "meta")}
    given |= {"length": length, "n_tasks": n_tasks, "n_classes": n_classes, "n_condition": n_condition, "body": body}
    torch.manual_seed(generator(seed, "denoiser").initial_seed())
    return chosen(start, **{each: given[each] for each in chosen.takes}, **knobs["methods"][name])


def load_method(folder: Path, name: str, body: nn.Module, device: torch.device, n_way: int | None = None) -> Method:
    """A meta-trained method or a control of a model folder, for heads of ``n_way`` classes or as many as it was trained with.

    Raises:
        InputError: what the method has learned is for one number of classes.
    """
    tensors, values = read_tensors(folder / "methods" / f"{name}.safetensors")
    start = Start.from_state({"start/shared": tensors.pop("start/shared").to(device)}, values)
    trained = start.head.n_way
    start = start.of_ways(n_way or trained)
    sizes = {size: values[size] for size in ("length", "n_tasks", "n_classes", "n_condition")}
    method = build_method(name, values, start, body, **sizes, seed=0)
    if any(tensors[key].shape != value.shape for key, value in method.state_dict().items()):
        raise InputError(f"{name} has learned heads of {trained} classes, and generates none of {n_way}; set tasks.n_way = {n_way} in params.yaml and run `dvc repro`, or choose another method")
    method.load_state_dict(tensors)
    return method.to(device).eval()


def _check(chosen: type[Method], knobs: dict, length: int) -> None:
    denoiser, meta, steps = knobs["denoiser"], knobs["meta"], knobs["diffusion"]["steps"]
    if denoiser["width"] % denoiser["heads"]:
        raise InputError(f"denoiser.width = {denoiser['width']} is not a multiple of denoiser.heads = {denoiser['heads']}; change one")
    if meta["weight_loss"] == meta["query_loss"] == 0:
        raise InputError("meta.weight_loss = 0 and meta.query_loss = 0 leave nothing to learn; raise one")
    if meta["fresh"] == 1 and meta["query_loss"] == 0:
        raise InputError("meta.fresh = 1 and meta.query_loss = 0 leave nothing to learn: new tasks have no trajectory; change one")
    if issubclass(chosen, DiffusionMethod):
        try:
            chosen.process_class.index_map(length, steps)
        except ValueError as error:
            raise InputError(f"diffusion.steps = {steps}: {error}; raise it or lower trajectories.length") from error
