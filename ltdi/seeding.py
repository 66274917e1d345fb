"""The only source of randomness: every generator is named after what it is for."""

import hashlib

import torch


def generator(seed: int, *names: object, device: str | torch.device = "cpu") -> torch.Generator:
    """A generator whose stream depends on ``seed`` and ``names`` alone, e.g. ``generator(0, "task", 17)``.

    Streams of different names are independent, so that work can be cut, reordered or resumed
    without touching what the rest draws.
    """
    digest = hashlib.sha256(repr((seed, *map(str, names))).encode()).digest()
    return torch.Generator(device=device).manual_seed(int.from_bytes(digest[:8], "little") >> 1)
