"""Feature extractors, frozen once trained: images (M, channels, height, width) in [0, 1] -> features (M, F)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ltdi.bodies.conv4 import Conv4
from ltdi.errors import InputError
from ltdi.store import read_tensors, write_tensors

BODIES: dict[str, type[nn.Module]] = {"conv4": Conv4}


def write_body(file: Path, body: nn.Module, facts: Mapping[str, Any]) -> None:
    """``facts``: name, channels and filters, from which the body is built."""
    write_tensors(file, body.state_dict(), facts, kind="body")


def read_body(file: Path, wanted: Mapping[str, Any] | None = None) -> nn.Module:
    """A frozen body that ``write_body`` wrote.

    Raises:
        InputError: it is not of the ``wanted`` name, channels and filters.
    """
    weights, facts = read_tensors(file, kind="body")
    if wanted and facts != wanted:
        raise InputError(
            f"body.weights = {file} holds a body of {facts}, and {dict(wanted)} is asked for; name another file, or"
            " null to train one"
        )
    body = BODIES[facts["name"]](facts["channels"], filters=facts["filters"])
    body.load_state_dict(weights)
    return body.eval().requires_grad_(False)
