"""Pack a finished run into a model folder: what generation needs, without features, tasks and trajectories."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ltdi.bodies.packaged import package_of, weights_digest
from ltdi.datasets import DATASETS
from ltdi.inference.calibration import temperatures
from ltdi.inference.model_files import BODY_FILE, FACTS, FEATURE_FILE, FORMAT, METHODS, ModelFiles, is_model, read_run
from ltdi.methods.storage import read_method
from ltdi.store import read_json, read_table, write_json, write_tensors
from ltdi.store.schemas import MOST_LETTERS, RESULTS, TASKS
from ltdi.trajectories.storage import load_sources
from ltdi.utils.console import note
from ltdi.utils.devices import exact
from ltdi.utils.errors import InputError

PRECISIONS = {"float32": torch.float32, "float16": torch.float16}


@exact()
def pack(
    run: str | Path, folder: str | Path, *, name: str = "", licence: str = "unstated", precision: str = "float32"
) -> Path:
    """Write the model folder of a finished run, whole or not at all; an earlier model there is replaced. Baselines that
    are larger than the trained method, as those that keep the heads of all meta-training tasks, are left out.

    Args:
        run: the run's data folder.
        folder: where to write.
        name: the model's, the folder's by default; heads name the model that opens them.
        licence: of the trained generator.
        precision: "float32", in which heads of the run fit the model, or "float16" for matrices, half as large.

    Raises:
        InputError: there is no finished run, the folder holds something else than a model, or a value is not allowed.
    """
    data, folder = Path(run), Path(folder)
    name = name or folder.resolve().name
    if precision not in PRECISIONS:
        raise InputError(f"--precision {precision!r} is unknown; allowed: {', '.join(PRECISIONS)}")
    if not name or len(name) > MOST_LETTERS or not name.isprintable():
        raise InputError(
            f"--name {name!r}: a model's name is of 1 to {MOST_LETTERS:,} printable characters; choose one"
        )
    if folder.exists() and not is_model(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        raise InputError(f"{folder} is there and is no model folder; name another, or remove it")
    files = read_run(data, torch.device("cpu"))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as place:
        packed = Path(place) / "model"
        _write(files, packed, name, licence, PRECISIONS[precision])
        if folder.exists():
            folder.rename(Path(place) / "replaced")
        packed.rename(folder)
    return folder


def _write(files: ModelFiles, folder: Path, name: str, licence: str, dtype: torch.dtype) -> None:
    """Write the files; each names the seals of those that it belongs to."""
    extractor, body = files.extractor, files.extractor.body
    backbone = {**body.facts(), "digest": weights_digest(body.state_dict())}  # type: ignore[operator]
    made_from = []
    if package := package_of(body, backbone):
        backbone["package"] = package.distribution
    else:
        made_from.append(folder / BODY_FILE)
        weights = rounded(body.state_dict(), dtype)
        write_tensors(folder / BODY_FILE, weights, body.facts(), kind="body")  # type: ignore[operator]
    tensors, values = ({}, {}) if extractor.seen is None else extractor.seen.state()
    write_tensors(folder / FEATURE_FILE, tensors, values, kind="feature_map", made_from=made_from)
    made_from.append(folder / FEATURE_FILE)
    most = _n_numbers(files, files.trained)
    baselines = [each for each in files.baselines if _n_numbers(files, each) <= most]
    if left_out := [each for each in files.baselines if each not in baselines]:
        note(f"left out, for they are larger than {files.trained}: {', '.join(left_out)}")
    methods = [folder / METHODS / f"{each}.safetensors" for each in (files.trained, *baselines)]
    for file in methods:
        tensors, values = files.saved(file.stem)
        write_tensors(file, rounded(tensors, dtype), values, kind="method", made_from=made_from)
    setup = files.saved(files.trained)[1]["setup"]
    initialization = read_method(files.methods, files.trained, body, "cpu").initialization
    facts = {
        "format": FORMAT,
        "name": name,
        "licence": licence,
        "method": files.trained,
        "baselines": baselines,
        "learner": initialization.learner.facts()["name"],
        "initialization": initialization.kind,
        "backbone": backbone,
        "images": {
            "data_set": extractor.data_set,
            "mode": DATASETS[extractor.data_set].mode,
            "channels": len(DATASETS[extractor.data_set].mode),
            "size": extractor.size,
            "scale": extractor.scale,
        },
        "normalization": "none" if extractor.seen is None else extractor.seen.normalise,
        "tasks": {"n_way": setup["n_way"], "n_shot": setup["n_shot"]},
        "scenario": files.scenario,
        "names": files.naming,
        "trained_on": trained_on(files, setup),
        "temperatures": _temperatures(files, methods, setup["n_way"]),
        "results": results_of(files.folder),
    }
    write_json(folder / FACTS, facts, kind="model", made_from=[*made_from, *methods])


def _temperatures(files: ModelFiles, methods: list[Path], n_way: int) -> dict[str, list[dict[str, Any]]]:
    """Of each method that is packed (``calibration.temperatures``); empty for heads of names."""
    if "examples" not in files.scenario["provides"]:
        return {}
    val = load_sources(files.folder, splits=["meta_val"])["meta_val"]
    found = {}
    for file in methods:
        method = read_method(files.methods, file.stem, files.extractor.body, "cpu")
        if not method.from_images:
            found[file.stem] = temperatures(method, val, n_way=n_way)
    return found


def rounded(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Round matrices to a precision; vectors, whose statistics span many orders of magnitude, stay as they are."""
    return {
        name: value.to(dtype) if value.dtype == torch.float32 and value.dim() > 1 else value
        for name, value in tensors.items()
    }


def trained_on(files: ModelFiles, setup: Mapping[str, Any]) -> dict[str, Any]:
    """What a run learned from and was chosen on: the data set or the domains of each split, and numbers of classes and
    tasks."""
    facts = files.facts
    found = {"data set": files.extractor.data_set, "meta-training classes": facts["train_classes"]}
    found |= {"meta-val classes": facts["val_classes"]} if "val_classes" in facts else {}
    found["meta-training tasks"] = setup["n_tasks"]
    table = read_table(files.folder / "tasks" / "tasks.parquet", kind=TASKS)
    if "domain" in table:
        for split, of_split in table.groupby("split", sort=True):
            found[f"{split} domains"] = sorted(of_split["domain"].unique().tolist())
    return found


def results_of(data: Path) -> dict[str, Any]:
    """The scores on meta-test tasks with their 95 % intervals; empty where the run was not evaluated."""
    file = data / "results" / "metrics.json"
    if not file.is_file():
        return {}
    metrics = read_json(file, kind=RESULTS)
    found = {
        name: metrics[name] for name in ("scored_by", "score", "ci95", "best_baseline", "paired") if name in metrics
    }
    rows = metrics.get("baselines", {}).items()
    return found | {"baselines": {name: {"score": row["score"], "ci95": row["ci95"]} for name, row in rows}}


def _n_numbers(files: ModelFiles, method: str) -> int:
    return sum(value.numel() for value in files.saved(method)[0].values())
