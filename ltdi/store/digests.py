"""Names that follow the content."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch


def digest(*values: Any) -> str:
    """A name for values made of JSON types, tensors and dicts of tensors: equal values, equal name, everywhere."""
    sha = hashlib.sha256()
    for value in values:
        if isinstance(value, torch.Tensor):
            sha.update(repr((str(value.dtype), tuple(value.shape))).encode())
            sha.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        elif isinstance(value, Mapping) and any(isinstance(each, torch.Tensor) for each in value.values()):
            for name in sorted(value):
                sha.update(digest(name, value[name]).encode())
        else:
            # JSON holds no NUL, so this marks where one value ends
            sha.update(json.dumps(value, sort_keys=True).encode() + b"\0")
    return sha.hexdigest()
