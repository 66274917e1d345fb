"""The files that generation needs, of a finished run or of a model folder, read and checked.

A model folder holds ``model.json``, the generator and its baselines under ``methods/``, the feature map in
``features.safetensors``, and the backbone in ``body.safetensors`` unless a package of its own has it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ltdi.bodies.feature_extractor import FeatureExtractor
from ltdi.bodies.packaged import PACKAGES, read_packaged
from ltdi.bodies.registry import read_body
from ltdi.datasets import DATASETS
from ltdi.store import Schema, read_json, read_tensors
from ltdi.store.schemas import BODY, FEATURE_MAP, FEATURES, METHOD, MODEL, REPACK
from ltdi.tasks.feature_normalization import FeatureMap
from ltdi.trajectories.storage import load_initialization, method_of_run, names
from ltdi.utils.devices import exact
from ltdi.utils.errors import InputError

FORMAT = 1
"""Of a model folder."""
FACTS, FEATURE_FILE, BODY_FILE, METHODS = "model.json", "features.safetensors", "body.safetensors", "methods"

PACKED_METHOD, PACKED_BODY = replace(METHOD, heal=REPACK), replace(BODY, heal=REPACK)


@dataclass(frozen=True, eq=False)
class ModelFiles:
    """What is read of a run or a model folder.

    ``folder`` and its ``methods`` folder; the names of the ``trained`` method and the ``baselines``; the facts of the
    ``scenario``; how class names are read (``naming``, empty for images); the ``extractor``; ``facts``: model.json's,
    or a run's features'; ``name``: of a packed model, "" of a run.
    """

    folder: Path
    methods: Path
    trained: str
    baselines: tuple[str, ...]
    scenario: dict[str, Any]
    naming: dict[str, Any]
    extractor: FeatureExtractor
    facts: dict[str, Any]
    method_schema: Schema = METHOD
    name: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """The trained method, then the baselines."""
        return self.trained, *self.baselines

    def saved(self, method: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Read the tensors and facts of a method's file."""
        return read_tensors(self.methods / f"{method}.safetensors", kind=self.method_schema)


def is_run(folder: Path) -> bool:
    """Whether a folder holds a finished run."""
    return (folder / "model" / METHODS).is_dir()


def is_model(folder: Path) -> bool:
    """Whether a folder is a packed model."""
    return (folder / FACTS).is_file()


@exact()
def read_run(data: Path, device: torch.device | str, method: str = "") -> ModelFiles:
    """Read a finished run.

    Raises:
        InputError: the folder holds none, not that method, or a run of the scenario adapters.
    """
    method_of_run(data, method)
    trained, baselines = names(data)
    _, feature_map, scenario = load_initialization(data, device)
    if scenario["source"] == "texts":
        raise InputError(
            f"{data}: a run of {scenario['scenario']}, which generates adapters of texts; use `ltdi adapt`"
        )
    facts = read_tensors(data / "tasks" / "features.safetensors", kind=FEATURES)[1]
    extractor = _extractor(read_body(data / "body" / BODY_FILE), facts, feature_map, device)
    naming = {} if "examples" in scenario["provides"] else dict(facts["names"])
    methods = data / "model" / METHODS
    return ModelFiles(data, methods, trained, tuple(baselines), scenario, naming, extractor, facts)


@exact()
def read_model(folder: Path, device: torch.device | str, method: str = "") -> ModelFiles:
    """Read a model folder.

    Raises:
        InputError: a file is missing or altered, of another format, not that method, or the backbone's package is not
            installed.
    """
    file = folder / FACTS
    facts = read_json(file, kind=MODEL)
    if facts["format"] != FORMAT:
        raise InputError(
            f"{file}: of format {facts['format']}, and {FORMAT} is read; install a version of ltdi that reads it, or"
            " pack the run again"
        )
    all_names = (facts["method"], *facts["baselines"])
    if (method or facts["method"]) not in all_names:
        raise InputError(f"--method {method} is not in {folder}; allowed: {', '.join(all_names)}")
    if facts["images"]["data_set"] not in DATASETS:
        raise MODEL.refuse(file, f"images like those of {facts['images']['data_set']!r}, which is no data set here")
    tensors, values = read_tensors(folder / FEATURE_FILE, kind=FEATURE_MAP)
    with FEATURE_MAP.interpreting(folder / FEATURE_FILE):
        feature_map = FeatureMap.from_state(tensors, values).to(device) if "normalise" in values else None
    body = _read_backbone(folder, facts["backbone"])
    return ModelFiles(
        folder=folder,
        methods=folder / METHODS,
        trained=facts["method"],
        baselines=tuple(facts["baselines"]),
        scenario=facts["scenario"],
        naming=facts["names"],
        extractor=_extractor(body, facts["images"], feature_map, device),
        facts=facts,
        method_schema=PACKED_METHOD,
        name=facts["name"],
    )


def _read_backbone(folder: Path, facts: Mapping[str, Any]) -> nn.Module:
    if not facts.get("package"):
        return read_body(folder / BODY_FILE, schema=PACKED_BODY)
    if facts["name"] not in PACKAGES:
        raise MODEL.refuse(folder / FACTS, f"no package is known for the backbone {facts['name']!r}")
    return read_packaged(facts)


def _extractor(
    body: nn.Module, facts: Mapping[str, Any], feature_map: FeatureMap | None, device: torch.device | str
) -> FeatureExtractor:
    body = body.to(device).to(memory_format=torch.channels_last)
    return FeatureExtractor(facts["data_set"], facts["size"], body, facts["scale"], feature_map, device)
