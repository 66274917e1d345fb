"""A meta-trained method, or a baseline, as a file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ltdi.config import Denoiser, Diffusion, MetaTraining
from ltdi.initialization import initialization_of
from ltdi.learners import learner_of
from ltdi.methods.common.base import Method
from ltdi.methods.common.setup import Setup
from ltdi.methods.registry import build
from ltdi.store import Schema, read_tensors, write_tensors
from ltdi.store.schemas import METHOD, made_from


def write_method(folder: Path, name: str, method: Method, setup: Setup, own: Mapping[str, Any]) -> None:
    tensors, values = method.initialization.state()
    facts = {key: value for key, value in vars(setup).items() if key != "body"}
    facts |= {key: facts[key].model_dump() for key in ("meta", "diffusion", "denoiser")}
    values |= {"setup": facts | {"provides": sorted(setup.provides)}, "own": dict(own)}
    before = made_from(folder.parents[1], "model")
    file = folder / f"{name}.safetensors"
    write_tensors(file, method.state_dict() | tensors, values, kind="method", made_from=before)


def read_method(
    folder: Path, name: str, body: nn.Module | None, device: torch.device | str, *, schema: Schema = METHOD
) -> Method:
    file = folder / f"{name}.safetensors"
    tensors, values = read_tensors(file, kind=schema)
    with schema.interpreting(file):
        return _built(name, tensors, values, body, device)


def _built(
    name: str, tensors: dict[str, Tensor], values: dict[str, Any], body: nn.Module | None, device: torch.device | str
) -> Method:
    of_start = {name: tensors.pop(name) for name in list(tensors) if name.startswith("initialization/")}
    initialization = initialization_of(learner_of(values["learner"]), of_start, values)
    facts = values["setup"]
    sections = {"meta": MetaTraining, "diffusion": Diffusion, "denoiser": Denoiser}
    facts |= {key: section(**facts[key]) for key, section in sections.items()}
    setup = Setup(**(facts | {"body": body, "provides": frozenset(facts["provides"])}))
    method = build(name, initialization.to(device), setup, values["own"], seed=0)
    method.load_state_dict(tensors)
    return method.to(device).eval()
