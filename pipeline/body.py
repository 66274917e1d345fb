"""The frozen body, read back."""

from pathlib import Path

from torch import nn

from ltdi.bodies import BODIES
from ltdi.errors import InputError
from ltdi.store import read_tensors


def load_body(data: Path) -> nn.Module:
    return read_body(data / "body" / "body.safetensors")


def read_body(file: Path, wanted: dict[str, object] | None = None) -> nn.Module:
    """The body of a file that ``pretrain_body`` wrote.

    Raises:
        InputError: it is not of the ``wanted`` name, channels and filters.
    """
    weights, shape = read_tensors(file)
    if wanted and shape != wanted:
        raise InputError(
            f"body.weights = {file} holds a body of {shape}, and {wanted} is asked for; name another file, or null to train one"
        )
    body = BODIES[shape["name"]](shape["channels"], filters=shape["filters"])
    body.load_state_dict(weights)
    return body.eval().requires_grad_(False)
