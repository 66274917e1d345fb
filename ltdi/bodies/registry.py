"""Backbones by name: built, read from a file, written."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from ltdi.bodies.base import Body
from ltdi.bodies.conv4 import Conv4
from ltdi.bodies.resnet12 import WIDTHS, ResNet12
from ltdi.bodies.text_encoder import TextEncoder
from ltdi.bodies.timm_body import HUB, PREFIX, TimmBody
from ltdi.store import Schema, read_tensors, write_tensors
from ltdi.store.schemas import BODY, OWN_BODY
from ltdi.utils.errors import InputError

BODIES = ("conv4", "resnet12", f"{PREFIX}<any model of timm>")


def new_body(section: Mapping[str, Any], channels: int) -> Body:
    """An untrained body as the section ``body`` of params.yaml says, for images of so many channels.

    Raises:
        InputError: there is no such body.
    """
    name, filters = section["name"], section["filters"]
    if name.startswith(PREFIX):
        return TimmBody(name.removeprefix(PREFIX), image_size=section["image_size"], hub=str(section["weights"]) == HUB)
    if name not in ("conv4", "resnet12"):
        raise InputError(f"body.name = {name!r} is unknown; allowed: {', '.join(BODIES)}")
    if section["image_size"]:
        raise InputError(
            f"body.image_size = {section['image_size']} is for bodies of timm, and body.name = {name} takes images of"
            " any size; set it to null"
        )
    if name == "conv4":
        return Conv4(channels, filters=filters)
    return ResNet12(channels, [filters * each for each in WIDTHS])


def pretrained_body(section: Mapping[str, Any], channels: int) -> Body:
    """The frozen body that ``body.weights`` holds: a file that ``write_body`` wrote, of a timm body also one in timm's
    keys, or what its hub has.

    Raises:
        InputError: it is not of the section's body.
    """
    weights, body = str(section["weights"]), new_body(section, channels)
    if isinstance(body, TimmBody) and (weights == HUB or not is_ours(Path(weights))):
        body = body if weights == HUB else body.load_timm(Path(weights))
        return body.eval().requires_grad_(False)
    if weights == HUB:
        raise InputError(
            f"body.weights = {HUB}: there are none of body.name = {section['name']}; name a file, or null to train one"
        )
    if not Path(weights).is_file():
        raise InputError(f"body.weights = {weights}: no such file; name one, or null to train a body")
    return read_body(Path(weights), body.facts())


def write_body(file: Path, body: nn.Module, facts: Mapping[str, Any]) -> None:
    """``facts``: the body's, from which it is built; the file's digest names its weights."""
    write_tensors(file, body.state_dict(), facts, kind="body")


def read_body(file: Path, wanted: Mapping[str, Any] | None = None, *, schema: Schema | None = None) -> Any:
    """A frozen body that ``write_body`` wrote: a stage, or, where one of ``wanted`` facts is asked for, the user's own.
    A ``schema`` says what its owner does where the file is not as it must be.

    Raises:
        InputError: it is not one of the ``wanted`` facts.
    """
    schema = schema or (OWN_BODY if wanted else BODY)
    weights, facts = read_tensors(file, kind=schema)
    if wanted and facts != wanted:
        raise InputError(
            f"body.weights = {file} holds a body of {facts}, and {dict(wanted)} is asked for; name another file, or"
            " null to train one"
        )
    with schema.interpreting(file):
        body = _built(facts)
        body.load_state_dict(weights)
    return body.eval().requires_grad_(False)


def _built(facts: Mapping[str, Any]) -> nn.Module:
    if facts["name"] == "text_encoder":
        return TextEncoder(facts["body"], facts["digest"])
    if facts["name"] == "conv4":
        return Conv4(facts["channels"], filters=facts["filters"])
    if facts["name"] == "resnet12":
        return ResNet12(facts["channels"], facts["widths"])
    # what the weights from a file replace needs no random numbers
    with torch.random.fork_rng():
        return TimmBody(facts["name"].removeprefix(PREFIX), image_size=facts["image_size"])


def is_ours(file: Path) -> bool:
    """Whether ``write_tensors`` wrote the file."""
    if not file.is_file():  # a pipe would be waited for
        return False
    try:
        with safe_open(file, framework="pt") as opened:
            return "ltdi" in (opened.metadata() or {})
    except (OSError, SafetensorError):
        return False
