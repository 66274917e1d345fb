"""Any network of timm (Wightman 2019) as a body: images at the size and with the normalisation that it was trained on.

timm is an optional extra, imported when such a body is built.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ltdi.bodies.base import Body
from ltdi.utils.errors import InputError

PREFIX = "timm/"
HUB = "hub"

SMALL_SIDE = 64
"""Pixels a side of images of which a processor's thread takes 64 at once. Of larger ones it takes 16, whose layers'
outputs stay in its cache: a tenth to a third faster."""


class TimmBody(Body):
    """Images (M, 3, height, width) or (M, 1, height, width), uint8 or in [0, 1], -> pooled features (M, F).

    Images of another size than ``image_size`` are brought to it, those of one channel made grey; timm's mean and
    deviation are taken off here.

    Args:
        name: of the model in timm.
        image_size: pixels a side; None: those that it was trained on.
        hub: with timm's own weights, from its hub.

    Raises:
        InputError: timm is not installed, does not know the name or cannot have the size, or its hub cannot be reached.
    """

    precision: ClassVar[str] = "auto"
    mean: Tensor
    deviation: Tensor

    def __init__(self, name: str, *, image_size: int | None = None, hub: bool = False) -> None:
        super().__init__()
        timm = _timm(name)
        sized = {"img_size": image_size} if image_size and _has_fixed_size(timm, name) else {}
        try:
            self.model = timm.create_model(name, num_classes=0, pretrained=hub, **sized)
        except Exception as error:  # whatever a hub, a proxy or any of a thousand models raises
            why = " ".join(str(error).split())[:200]
            raise InputError(f"body.name = {PREFIX}{name}: {_cure(hub, image_size)} ({why})") from error
        config = timm.data.resolve_model_data_config(self.model)
        self.name = name
        self.image_size = image_size or config["input_size"][-1]
        self.images_a_pass = 64 if self.image_size <= SMALL_SIDE else 16
        self.interpolation = config["interpolation"] if config["interpolation"] == "bicubic" else "bilinear"
        self.width = self.model.num_features
        # knowledge of the model's, not weights: they stay out of its file
        self.register_buffer("mean", torch.tensor(config["mean"])[:, None, None], persistent=False)
        self.register_buffer("deviation", torch.tensor(config["std"])[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        images = images.float() / 255 if images.dtype == torch.uint8 else images
        if images.shape[-2:] != (self.image_size, self.image_size):
            images = F.interpolate(images, self.image_size, mode=self.interpolation, antialias=True).clamp(0, 1)
        images = ((images - self.mean) / self.deviation).contiguous(memory_format=torch.channels_last)
        return self.model(images)

    def facts(self) -> dict[str, Any]:
        return {"name": PREFIX + self.name, "image_size": self.image_size}

    def load_timm(self, file: Path) -> "TimmBody":
        """Weights from a safetensors file in timm's keys; its classifier's are left out.

        Raises:
            InputError: the file is none, or of another model.
        """
        key = f"body.weights = {file}"
        try:
            if not file.is_file():  # a pipe would be waited for
                raise FileNotFoundError("no such file")
            found = load_file(file)
        except (OSError, SafetensorError) as error:
            raise InputError(
                f"{key}: no whole safetensors file ({error}); name a file in timm's keys, hub, or null to train a body"
            ) from error
        heads = self.model.pretrained_cfg.get("classifier") or ()
        heads = (heads,) if isinstance(heads, str) else tuple(heads)
        weights = {name: value for name, value in found.items() if not name.startswith(tuple(f"{h}." for h in heads))}
        if problem := _difference(weights, self.model.state_dict()):
            raise InputError(
                f"{key} does not fit body.name = {PREFIX}{self.name}: {problem}; name the weights of that model, or the"
                " model of those weights"
            )
        self.model.load_state_dict(weights)
        return self


def _timm(name: str) -> Any:
    """The package, if it has a model of that name."""
    try:
        import timm
        import timm.data
    except ImportError as error:
        raise InputError(
            f"body.name = {PREFIX}{name} needs timm, which is not installed; run `pip install 'ltdi[photos]'`, or"
            " `pip install timm`"
        ) from error
    if not timm.is_model(name):
        near = timm.list_models(f"*{name.split('.')[0][:6]}*")[:3]
        allowed = f"e.g. {', '.join(PREFIX + each for each in near or ('resnet18', 'mobilenetv2_100'))}"
        raise InputError(
            f"body.name = {PREFIX}{name}: timm has no such model; allowed: what timm.list_models() names, {allowed}"
        )
    return timm


def _has_fixed_size(timm: Any, name: str) -> bool:
    """Whether the model is built for one size of images, as those with positions are."""
    found = timm.get_pretrained_cfg(name, allow_unregistered=True)
    return bool(found and found.fixed_input_size)


def _cure(hub: bool, image_size: int | None) -> str:
    if hub:
        return "its weights cannot be had from the hub; set body.weights to a safetensors file in timm's keys"
    if image_size:
        return f"cannot be built for body.image_size = {image_size}; set another, or null for its own"
    return "cannot be built; name another model"


def _difference(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """What the first differing weight is, "" where none differs."""
    if missing := sorted(wanted.keys() - found.keys()):
        return f"{missing[0]} is not in the file, {len(missing)} of {len(wanted)} are not"
    if unknown := sorted(found.keys() - wanted.keys()):
        return f"the model has no {unknown[0]}"
    for name, value in wanted.items():
        if found[name].shape != value.shape:
            return f"{name} is {tuple(found[name].shape)} in the file and {tuple(value.shape)} in the model"
    return ""
