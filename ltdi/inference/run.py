"""A finished run as a model that still has its tasks."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ltdi.inference.class_names import by_name
from ltdi.inference.head import Head
from ltdi.inference.model import Model
from ltdi.inference.model_files import read_run
from ltdi.inference.run_info import info_of
from ltdi.inference.user_images import Pictures, images_by_class
from ltdi.learners import LinearHead
from ltdi.methods.common.name_image_fusion import NameImageFusion
from ltdi.trajectories.storage import load_sources
from ltdi.utils.devices import device as device_of
from ltdi.utils.devices import exact
from ltdi.utils.errors import InputError


class Run(Model):
    """A finished run.

    Args:
        data: the folder that its stages wrote.
        method: the trained method, if no other of the run's methods and baselines is named.
        device: where it computes; by default ``LTDI_DEVICE``, or a GPU where there is one.

    Raises:
        InputError: the folder holds no finished run, or not that method.
    """

    def __init__(self, data: str | Path = "data", *, method: str = "", device: str = "") -> None:
        super().__init__(read_run(Path(data), device_of(device), method), method=method)

    @exact()
    @torch.no_grad()
    def joined(self, made: Head, examples: str | Path | Mapping[str, Pictures], *, seed: int = 0) -> tuple[Head, str]:
        """A head of names, joined with a few images of some of its classes, by name or in a folder of a folder each;
        and what meta-val says of it. It joins as is best on meta-val tasks of as many classes and images.

        Raises:
            InputError: the head is of images already or not linear, or a class is none of its own.
        """
        if any(made.shots):
            raise InputError(
                "--examples are for a head of --names, and this one is of images; leave one of the two out"
            )
        by_class = by_name(examples, at_least=1)
        if strange := [name for name in by_class if name not in made.classes]:
            raise InputError(f"class {strange[0]!r} is not among the names {', '.join(made.classes)}; name it as well")
        if not isinstance(made.learner, LinearHead):
            raise InputError(
                f"names and images are joined in a linear head, and {self.data} generates"
                f" {made.learner.facts()['name']}; set learner.name = linear_head"
            )
        images = images_by_class(self.extractor, by_class)
        rows = [self.extractor(images[name]) if name in images else None for name in made.classes]
        sources = load_sources(self.data, splits=["meta_train", "meta_val"], device=self.device)
        joiner = NameImageFusion(
            made.learner, self.method, sources["meta_train"].of.means().mean(0), sources["meta_val"].of
        )
        w, told = joiner(made.w, rows, seed)
        shots = tuple(0 if each is None else len(each) for each in rows)
        joint = replace(made, w=w, shots=shots, method=f"{made.method} and the images", support=(), again=None)
        return joint, told

    def info(self) -> dict[str, Any]:
        """Describe the run: plain values by name."""
        setup = self.files.saved(self.name)[1]["setup"]
        return info_of(self.files, self.method, setup)
