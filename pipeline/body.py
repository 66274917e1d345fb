"""The frozen body, read back."""

from pathlib import Path

from torch import nn

from ltdi.bodies import BODIES
from ltdi.store import read_tensors


def load_body(data: Path) -> nn.Module:
    weights, shape = read_tensors(data / "body" / "body.safetensors")
    body = BODIES[shape["name"]](shape["channels"], filters=shape["filters"])
    body.load_state_dict(weights)
    return body.eval().requires_grad_(False)
