"""Adapters as folders of ``peft``: written so that ``PeftModel.from_pretrained`` loads them, and read back.

A folder holds adapter_config.json and adapter_model.safetensors, whose names are ``base_model.model.<module>`` with
``lora_A.weight`` (r, in) and ``lora_B.weight`` (out, r). What the model's checkpoint lacks, the head among it, is saved
whole. ``peft`` itself is not needed. The names of the classes are the ``id2label`` of config.json, which
is the model's: peft's own config has no place for them.
"""

import json
import math
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ltdi.learners.lora import Lora
from ltdi.store import write_plain_tensors, write_text
from ltdi.utils.errors import InputError
from ltdi.utils.plain_files import read_any_json

CONFIG, TENSORS, MODEL = "adapter_config.json", "adapter_model.safetensors", "config.json"
PREFIX = "base_model.model."
# what changes the forward pass and is not read, with the values that leave it as it is
PLAIN: dict[str, tuple[Any, ...]] = {
    "use_dora": (None, False),
    "fan_in_fan_out": (None, False),
    "bias": (None, "none"),
    "rank_pattern": (None, {}),
    "alpha_pattern": (None, {}),
    "lora_bias": (None, False),
}


def write_adapter(folder: Path, learner: Lora, w: Tensor) -> None:
    """The weights w (D,) of a learner as a folder of peft's.

    Raises:
        InputError: the folder holds a model, whose config.json would be lost, or cannot be written to.
    """
    if (folder / MODEL).exists() and not (folder / CONFIG).exists():
        raise InputError(f"{folder}: holds a {MODEL} and no adapter; name another folder, which the adapter has alone")
    encoder = learner.encoder
    saved = [encoder.head.partition(".")[0]]
    saved += [name for name in encoder.drawn if name.partition(".")[0] != saved[0]]
    tensors = {}
    for name in saved:
        for part, value in learner.network.get_submodule(name).state_dict().items():
            tensors[f"{PREFIX}{name}.{part}"] = value
    for name, value in learner.space.unflatten(w).items():
        layer, _, part = name.rpartition(".")
        if layer == "head":
            tensors[f"{PREFIX}{encoder.head}.{part}"] = value
        else:
            tensors[f"{PREFIX}{encoder.layers}.{name}"] = value.mT if layer.endswith("lora_B") else value
    write_plain_tensors(folder / TENSORS, tensors, {"format": "pt"})
    config = {
        "base_model_name_or_path": learner.body,
        "bias": "none",
        "inference_mode": True,
        "lora_alpha": learner.alpha,
        "lora_dropout": 0.0,
        "modules_to_save": saved,
        "peft_type": "LORA",
        "r": learner.rank,
        # by their names in a layer: a last name alone may also be that of a module outside
        "target_modules": encoder.linears(learner.modules),
        "task_type": "SEQ_CLS",
    }
    if learner.lowest:
        config["layers_to_transform"] = list(range(learner.lowest, encoder.depth))
    write_text(folder / CONFIG, json.dumps(config, indent=2) + "\n")
    write_text(folder / MODEL, json.dumps(_model_config(learner), indent=2, ensure_ascii=False) + "\n")


def _model_config(learner: Lora) -> dict[str, Any]:
    """The model's own, with the names of the classes where these have some."""
    config = json.loads(learner.encoder.model.config.to_json_string())
    if learner.classes:
        config["id2label"] = dict(enumerate(learner.classes))
        config["label2id"] = {name: label for label, name in enumerate(learner.classes)}
    return config


def read_adapter(folder: Path, body: str = "") -> tuple[Lora, Tensor]:
    """An adapter that peft or ``write_adapter`` wrote, as a learner and its weights (D,).

    ``body`` is the model's folder or name, where it is not the one that the adapter names. Modules that were trained
    whole beside the head are put into the learner; linear maps without an adapter have one of zeros.

    Raises:
        InputError: the folder holds no adapter, one of another kind than LoRA, or one for other modules than linear
            maps in the layers.
    """
    config, tensors = _read(folder)
    scale = math.sqrt(config["r"]) if config.get("use_rslora") else 1.0
    modules = config["target_modules"]
    if not isinstance(modules, list):
        raise InputError(f"{folder}: target_modules = {modules!r} is a pattern; name the modules in a list")
    lasts = list(dict.fromkeys(module.rpartition(".")[2] for module in modules))
    numbers = (re.search(r"\.(\d+)\..*lora_A\.weight$", name) for name in tensors)
    lowest = min((int(number[1]) for number in numbers if number), default=0)
    body = body or config["base_model_name_or_path"]
    hparams = {"rank": config["r"], "alpha": scale * config["lora_alpha"], "modules": lasts}
    learner = Lora(body, **hparams)
    if lowest:
        learner = Lora(body, **hparams, layers=learner.encoder.depth - lowest)
    if (folder / MODEL).is_file():
        names = read_any_json(folder / MODEL).get("id2label") or {}
        learner.classes = tuple(str(names[label]) for label in sorted(names))
    return learner, _weights(folder, learner, tensors)


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    config = read_any_json(folder / CONFIG)
    kind = config.get("peft_type")
    if kind != "LORA":
        raise InputError(f"{folder}: an adapter of kind {kind!r}, which is not low-rank matrices alone; allowed: LORA")
    for key, allowed in PLAIN.items():
        if config.get(key) not in allowed:
            raise InputError(f"{folder}: {key} = {config[key]!r} of a LORA adapter is not read; allowed: {allowed[-1]}")
    if not (folder / TENSORS).is_file():  # a pipe would be waited for
        raise InputError(f"{folder / TENSORS}: no such file; save the adapter again")
    try:
        return config, load_file(folder / TENSORS)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{folder / TENSORS}: no safetensors file ({error}); save the adapter again") from error


def _weights(folder: Path, learner: Lora, tensors: dict[str, Tensor]) -> Tensor:
    """The tensors of a file as weights (D,); those of other modules go into the learner."""
    encoder = learner.encoder
    left = {name.removeprefix(PREFIX): value.float() for name, value in tensors.items()}
    own = learner.space.unflatten(torch.zeros(learner.space.dim(encoder.n_classes)))
    for name in own:
        layer, _, part = name.rpartition(".")
        key = f"{encoder.head}.{part}" if layer == "head" else f"{encoder.layers}.{name}"
        if key in left:
            value = left.pop(key)
            value = value.mT if layer.endswith("lora_B") else value
            if value.shape != own[name].shape:
                raise InputError(f"{folder}: {key} is of shape {tuple(value.shape)}, not {tuple(own[name].shape)}")
            own[name] = value
        elif layer == "head":
            raise InputError(f"{folder}: {key}, the classification head, is missing; save it with modules_to_save")
    learner.replace(left)
    return learner.space.flatten(own)
