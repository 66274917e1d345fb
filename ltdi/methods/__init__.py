"""Every method by its name; each file is one paper or one control."""

from collections.abc import Mapping
from typing import Any

import torch

from ltdi.errors import InputError
from ltdi.learner import Classifier
from ltdi.methods.adaptive_ridge import AdaptiveRidge
from ltdi.methods.base import Method
from ltdi.methods.conse import Conse
from ltdi.methods.eszsl import Eszsl
from ltdi.methods.ghn3 import Ghn3
from ltdi.methods.head_sgd import HeadSgd, PrototypeSgd
from ltdi.methods.icis import Icis
from ltdi.methods.kernel_ridge import KernelRidge
from ltdi.methods.lda import Lda
from ltdi.methods.llo_vae import LloVae
from ltdi.methods.logistic import Logistic
from ltdi.methods.ltdi import LtDi
from ltdi.methods.lvdi import LvDi
from ltdi.methods.mcdi import McDi
from ltdi.methods.mean_head import MeanHead
from ltdi.methods.meta_baseline import MetaBaseline
from ltdi.methods.meta_baseline_names import MetaBaselineNames
from ltdi.methods.meta_hypernetwork import MetaHypernetwork
from ltdi.methods.metadiff import MetaDiff
from ltdi.methods.naive_local import NaiveLocal
from ltdi.methods.nearest_head import NearestHead
from ltdi.methods.nearest_name import NearestName
from ltdi.methods.nearest_unit import NearestUnit
from ltdi.methods.ocd import Ocd
from ltdi.methods.prototype import Prototype
from ltdi.methods.reptile import Reptile
from ltdi.methods.reptile_head import ReptileHead
from ltdi.methods.reptile_names import ReptileNames
from ltdi.methods.ridge import Ridge
from ltdi.methods.setup import Setup
from ltdi.methods.simpleshot import SimpleShot
from ltdi.methods.softmax_rows import SoftmaxRows
from ltdi.methods.text_ridge import TextRidge
from ltdi.methods.weight_flow import WeightFlow
from ltdi.methods.weight_regression import WeightRegression
from ltdi.seeding import generator
from ltdi.starts import Start

NEEDS = {
    "head": "weights that hold a linear classifier",
    "classes": "tasks made of classes",
    "names": "the names of its classes",
    "examples": "labelled examples",
    "images": "the images of its tasks",
}

METHODS: dict[str, type[Method]] = {
    "lvdi": LvDi,
    "ltdi": LtDi,
    "mcdi": McDi,
    "naive_local": NaiveLocal,
    "reptile": Reptile,
    "reptile_head": ReptileHead,
    "reptile_names": ReptileNames,
    "meta_baseline": MetaBaseline,
    "meta_baseline_names": MetaBaselineNames,
    "meta_hypernetwork": MetaHypernetwork,
    "ocd": Ocd,
    "ghn3": Ghn3,
    "metadiff": MetaDiff,
    "llo_vae": LloVae,
    "weight_flow": WeightFlow,
    "icis": Icis,
}

CONTROLS: dict[str, type[Method]] = {
    "prototype": Prototype,
    "ridge": Ridge,
    "adaptive_ridge": AdaptiveRidge,
    "head_sgd": HeadSgd,
    "prototype_sgd": PrototypeSgd,
    "mean_head": MeanHead,
    "nearest_head": NearestHead,
    "weight_regression": WeightRegression,
    "nearest_unit": NearestUnit,
    "simpleshot": SimpleShot,
    "logistic": Logistic,
    "lda": Lda,
    "nearest_name": NearestName,
    "softmax_rows": SoftmaxRows,
    "text_ridge": TextRidge,
    "kernel_ridge": KernelRidge,
    "eszsl": Eszsl,
    "conse": Conse,
}


def method_class(name: str) -> type[Method]:
    """
    Raises:
        InputError: there is none of that name.
    """
    classes = METHODS | CONTROLS
    if name not in classes:
        raise InputError(f"method.name = {name!r} is unknown; allowed: {', '.join(classes)}")
    return classes[name]


def build(name: str, start: Start, setup: Setup, own: Mapping[str, Any], *, seed: int) -> Method:
    """The method or control of that name with its ``own`` knobs, its weights drawn from the seed.

    Raises:
        InputError: the name is unknown, or the method needs what the learner or the tasks do not have.
    """
    chosen, there = method_class(name), set(setup.provides)
    there |= {"head"} if isinstance(start.learner, Classifier) else set()
    if missing := [need for need in chosen.needs if need not in there]:
        fitting = [each for each, cls in (METHODS | CONTROLS).items() if set(cls.needs) <= there]
        raise InputError(
            f"method.name = {name!r} needs {NEEDS[missing[0]]}, and {type(start.learner).__name__} on these tasks has"
            f" none; allowed: {', '.join(fitting)}"
        )
    torch.manual_seed(generator(seed, "denoiser").initial_seed())
    return chosen(start, setup, **own)
