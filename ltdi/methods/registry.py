"""Registry of methods: generators and baselines by the name in params.yaml, and how one is built."""

from collections.abc import Mapping
from typing import Any

import torch

from ltdi.initialization import Initialization
from ltdi.learners.base import Classifier
from ltdi.methods.baselines.adaptive_ridge import AdaptiveRidge
from ltdi.methods.baselines.conse import Conse
from ltdi.methods.baselines.eszsl import Eszsl
from ltdi.methods.baselines.head_sgd import HeadSgd, PrototypeSgd
from ltdi.methods.baselines.kernel_ridge import KernelRidge
from ltdi.methods.baselines.lda import Lda
from ltdi.methods.baselines.logistic import Logistic
from ltdi.methods.baselines.mean_head import MeanHead
from ltdi.methods.baselines.nearest_head import NearestHead
from ltdi.methods.baselines.nearest_name import NearestName
from ltdi.methods.baselines.nearest_unit import NearestUnit
from ltdi.methods.baselines.prototype import Prototype
from ltdi.methods.baselines.ridge import Ridge
from ltdi.methods.baselines.simpleshot import SimpleShot
from ltdi.methods.baselines.softmax_rows import SoftmaxRows
from ltdi.methods.baselines.text_ridge import TextRidge
from ltdi.methods.baselines.weight_regression import WeightRegression
from ltdi.methods.common.base import Method
from ltdi.methods.common.setup import Setup
from ltdi.methods.generators.ghn3 import Ghn3
from ltdi.methods.generators.icis import Icis
from ltdi.methods.generators.llo_vae import LloVae
from ltdi.methods.generators.ltdi import LtDi
from ltdi.methods.generators.lvdi import LvDi
from ltdi.methods.generators.mcdi import McDi
from ltdi.methods.generators.meta_baseline import MetaBaseline
from ltdi.methods.generators.meta_baseline_names import MetaBaselineNames
from ltdi.methods.generators.meta_hypernetwork import MetaHypernetwork
from ltdi.methods.generators.metadiff import MetaDiff
from ltdi.methods.generators.naive_local import NaiveLocal
from ltdi.methods.generators.ocd import Ocd
from ltdi.methods.generators.reptile import Reptile
from ltdi.methods.generators.reptile_head import ReptileHead
from ltdi.methods.generators.reptile_names import ReptileNames
from ltdi.methods.generators.weight_flow import WeightFlow
from ltdi.utils.errors import InputError
from ltdi.utils.seeding import generator

NEEDS = {
    "head": "weights that hold a linear classifier",
    "classes": "tasks made of classes",
    "names": "the names of its classes",
    "examples": "labelled examples",
    "images": "the images of its tasks",
}
"""Requirements of methods (``Method.needs``) as error messages name them."""

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
"""Weight generators by the value of ``method.name``."""

BASELINES: dict[str, type[Method]] = {
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
"""Baselines by the values of ``method.baselines``."""


def method_class(name: str) -> type[Method]:
    """Look up the class of a method or baseline by its name in params.yaml.

    Raises:
        InputError: the name is unknown.
    """
    classes = METHODS | BASELINES
    if name not in classes:
        raise InputError(f"method.name = {name!r} is unknown; allowed: {', '.join(classes)}")
    return classes[name]


def build(name: str, initialization: Initialization, setup: Setup, hparams: Mapping[str, Any], *, seed: int) -> Method:
    """Build the method or baseline ``name``.

    Args:
        name: key of ``METHODS`` or ``BASELINES``.
        initialization: initial weights of the tasks; holds the learner.
        setup: hyperparameters that methods share, and the sizes of the run.
        hparams: hyperparameters of this method alone (params.yaml: ``methods.<name>``).
        seed: of the method's initial parameters.

    Raises:
        InputError: the name is unknown, or the learner or the tasks lack what the method needs.
    """
    cls, provided = method_class(name), set(setup.provides)
    provided |= {"head"} if isinstance(initialization.learner, Classifier) else set()
    if missing := [need for need in cls.needs if need not in provided]:
        allowed = [each for each, other in (METHODS | BASELINES).items() if set(other.needs) <= provided]
        raise InputError(
            f"method.name = {name!r} needs {NEEDS[missing[0]]}, and {type(initialization.learner).__name__} on these"
            f" tasks has none; allowed: {', '.join(allowed)}"
        )
    torch.manual_seed(generator(seed, "denoiser").initial_seed())
    return cls(initialization, setup, **hparams)
