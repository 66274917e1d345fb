"""The support encoder, read back."""

from pathlib import Path

from ltdi.encoder import Encoder
from ltdi.store import read_tensors


def load_encoder(data: Path) -> Encoder | None:
    """None where params.yaml says that there is none."""
    weights, shape = read_tensors(data / "encoder" / "encoder.safetensors")
    if shape.pop("name") == "none":
        return None
    encoder = Encoder(**shape)
    encoder.load_state_dict(weights)
    return encoder.eval().requires_grad_(False)
