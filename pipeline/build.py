"""From params or a saved file to a method: the one look-up by name."""

from pathlib import Path

import torch

from ltdi.errors import InputError
from ltdi.methods import CONTROLS, METHODS, Method
from ltdi.seeding import generator
from ltdi.store import read_tensors
from ltdi.trajectories import Start


def build_method(knobs: dict, start: Start, *, length: int, seed: int) -> Method:
    """The method that ``knobs["method"]["name"]`` names, its weights drawn from the seed.

    Raises:
        InputError: the name is unknown, or knobs of two sections do not fit together.
    """
    name, denoiser = knobs["method"]["name"], knobs["denoiser"]
    if name not in METHODS:
        raise InputError(f"method.name = {name!r} is unknown; allowed: {', '.join(METHODS)}")
    if denoiser["width"] % denoiser["heads"]:
        raise InputError(f"denoiser.width = {denoiser['width']} is not a multiple of denoiser.heads = {denoiser['heads']}; change one")
    if knobs["meta"]["weight_loss"] == knobs["meta"]["query_loss"] == 0:
        raise InputError("meta.weight_loss = 0 and meta.query_loss = 0 leave nothing to learn; raise one")
    try:
        METHODS[name].process_class.index_map(length, knobs["diffusion"]["steps"])
    except ValueError as error:
        raise InputError(f"diffusion.steps = {knobs['diffusion']['steps']}: {error}; raise it or lower trajectories.length") from error
    torch.manual_seed(generator(seed, "denoiser").initial_seed())
    return METHODS[name](start, length=length, diffusion=knobs["diffusion"], denoiser=denoiser, meta=knobs["meta"])


def build_control(name: str, start: Start, n_heads: int) -> Method:
    extra = {"n_heads": n_heads} if name == "nearest_head" else {}
    return CONTROLS[name](start, **extra)


def load_method(folder: Path, device: torch.device) -> tuple[str, Method]:
    """The meta-trained method of a model folder, by its name."""
    tensors, values = read_tensors(folder / "model.safetensors")
    start = Start.from_state({"start/shared": tensors.pop("start/shared").to(device)}, values)
    method = build_method(values, start, length=values["length"], seed=0)
    return values["method"]["name"], _restored(method, tensors, device)


def load_control(folder: Path, name: str, start: Start, device: torch.device) -> Method:
    tensors, values = read_tensors(folder / "controls" / f"{name}.safetensors")
    return _restored(build_control(name, start, values["n_heads"]), tensors, device)


def _restored(method: Method, tensors: dict[str, torch.Tensor], device: torch.device) -> Method:
    method.load_state_dict(tensors)
    return method.to(device).eval()
