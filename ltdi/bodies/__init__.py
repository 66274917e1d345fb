"""What is frozen. Feature extractors, once trained: images (M, channels, height, width) in [0, 1] -> features (M, F);
and language models, which are there already."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ltdi.bodies.conv4 import Conv4
from ltdi.bodies.text_encoder import TextEncoder
from ltdi.errors import InputError
from ltdi.store import read_tensors, write_tensors

BODIES: dict[str, type[nn.Module]] = {"conv4": Conv4, "text_encoder": TextEncoder}


def write_body(file: Path, body: nn.Module, facts: Mapping[str, Any]) -> None:
    """``facts``: its name, and the arguments that it is built from."""
    write_tensors(file, body.state_dict(), facts, kind="body")


def read_body(file: Path, wanted: Mapping[str, Any] | None = None) -> nn.Module:
    """A frozen body that ``write_body`` wrote.

    Raises:
        InputError: it is not built from the ``wanted`` facts.
    """
    weights, facts = read_tensors(file, kind="body")
    if wanted and facts != wanted:
        raise InputError(
            f"body.weights = {file} holds a body of {facts}, and {dict(wanted)} is asked for; name another file, or"
            " null to train one"
        )
    body = BODIES[facts["name"]](**{key: value for key, value in facts.items() if key != "name"})
    body.load_state_dict(weights)
    return body.eval().requires_grad_(False)
