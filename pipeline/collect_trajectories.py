"""Stage 3: weights of all tasks trained together, recorded on the way -> data/trajectories/."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from ltdi import config
from ltdi.initialization import Initialization
from ltdi.initialization.selection import SELECTIONS
from ltdi.scenarios import SCENARIOS
from ltdi.scenarios.base import Scenario
from ltdi.store import Cache, digest, link_or_copy
from ltdi.store.code_digest import name_of
from ltdi.tasks.base import TaskSource
from ltdi.tasks.loading import SOURCES, has_images
from ltdi.trajectories.collection import Recorded, collect
from ltdi.trajectories.storage import SPLITS, index_rows, write_index, write_initialization
from ltdi.utils import distributed
from ltdi.utils.console import say
from ltdi.utils.devices import deterministic, device, give_back_memory, precision
from ltdi.utils.errors import InputError
from ltdi.utils.memory import check_fits
from pipeline.common import params as parameters
from pipeline.common.progress import follow
from pipeline.common.stage import run


def main(params_file: Path, data: Path) -> None:
    params = parameters.load(params_file, "seed", "scenario", "learner", "trajectories")
    hparams, seed = params.trajectories, params.seed
    deterministic(training=True)
    where = device()
    scenario = SCENARIOS[params.scenario.name]
    if params.learner.name not in scenario.learners:
        raise InputError(
            f"learner.name = {params.learner.name} is none of the scenario {params.scenario.name}; allowed:"
            f" {', '.join(scenario.learners)}"
        )
    _check(hparams, scenario)
    read = SOURCES[scenario.source]
    sources = {split: source.to(where) for split, source in read(data / "tasks", SPLITS).items()}
    if hparams.augment and sources["meta_train"].n_views == 1:
        raise InputError("trajectories.augment = true needs further views; set tasks.views to 1 or more")
    learner = params.learner.model_dump()
    initialization, seen = SELECTIONS[scenario.source](
        sources["meta_train"],
        sources["meta_val"],
        learner,
        hparams.initialization,
        seed=seed,
        output_scale=hparams.output_scale,
    )
    if seen is not None:
        sources = {split: source.through(seen) for split, source in sources.items()}
    _check_memory(initialization, sources, hparams)
    settings = hparams.model_dump(exclude={"initialization", "output_scale", "shard_size", "max_dropped"})
    settings["precision"] = str(precision(hparams.precision, where)).removeprefix("torch.")

    index, found = [], {}
    shards = _shards(sources, hparams.shard_size)
    if distributed.size() > 1:
        _own_shards(initialization, sources, shards, settings, seed)
        if not distributed.leads():
            return
    rows = ({"shard": j} for j in range(len(shards)))
    for row in follow(rows, name="collect_trajectories", total=len(shards), show="shard"):
        split, number, tasks = shards[row["shard"]]
        name = f"{split}-{number:04d}.safetensors"
        found[name], recorded = _shard(initialization, sources[split], split, tasks, settings, seed)
        index.append(index_rows(split, name, tasks, recorded))
        del recorded
        give_back_memory()

    table = pd.concat(index, ignore_index=True)
    _check_dropped(table, hparams)
    for name, path in found.items():
        link_or_copy(path, data / "trajectories" / name)
    provides = scenario.provides - (set() if has_images(data / "tasks") else {"images"})
    facts = {"scenario": params.scenario.name, "source": scenario.source, "provides": sorted(provides)}
    facts["collection"] = settings
    write_initialization(data, initialization, seen, facts)
    write_index(data, table)
    train = table[(table.split == "meta_train") & table.kept]
    first, last = train[f"score_w{hparams.length - 1}"].mean(), train["score_w0"].mean()
    say(f"{len(train)} trajectories of {hparams.length} points, score {first:.4f} -> {last:.4f}")


def _shards(sources: Mapping[str, TaskSource], size: int) -> list[tuple[str, int, torch.Tensor]]:
    """Each's split, its number there, and its tasks."""
    parts = {split: torch.arange(len(source)).split(size) for split, source in sources.items()}
    return [(split, number, tasks) for split, those in parts.items() for number, tasks in enumerate(those)]


def _own_shards(
    initialization: Initialization,
    sources: Mapping[str, TaskSource],
    shards: list[tuple[str, int, torch.Tensor]],
    settings: dict[str, Any],
    seed: int,
) -> None:
    """Each process's into the store, where the one that leads finds them all."""
    for split, _, tasks in distributed.mine(shards):
        _shard(initialization, sources[split], split, tasks, settings, seed)
    distributed.wait()


def _shard(
    initialization: Initialization,
    source: TaskSource,
    split: str,
    tasks: torch.Tensor,
    settings: dict[str, Any],
    seed: int,
) -> tuple[Path, Recorded]:
    """The trajectories of these tasks, from the cache or made now: their file, and they."""
    cache = Cache("trajectories")
    tensors, values = initialization.state()
    described = (split, tasks, settings, seed, values, tensors, source.description(tasks))
    code = ("ltdi.trajectories.collection", type(initialization.learner).__module__, type(source).__module__)
    key = name_of("trajectories", *described, code=code)
    # not of the key, which is of code: where an edit changes no trajectory, no later stage has to run again
    of = digest(*described)
    if kept := cache.find(key, of=of):
        return kept[0], Recorded(*(kept[1][name] for name in ("points", "losses", "scores")))
    recorded = collect(initialization, source, tasks, seed=seed, **settings)
    return cache.keep(key, vars(recorded), {}, of=of, finite=False), recorded


def _check(hparams: config.Trajectories, scenario: Scenario) -> None:
    of_names = {"fit_on": ("rows",), "initialization": ("from_names", "softmax_rows", "text_ridge", "kernel_ridge")}
    for key, values in of_names.items():
        if getattr(hparams, key) in values and "names" not in scenario.provides:
            raise InputError(
                f"trajectories.{key} = {getattr(hparams, key)} is for tasks of names, which this scenario does not"
                " have; choose another, or scenario.name = zero_shot"
            )
    if hparams.length > hparams.steps + 1:
        raise InputError(
            f"trajectories.length = {hparams.length} is more than the {hparams.steps + 1} points that"
            f" trajectories.steps ="
            f" {hparams.steps} has; change one"
        )


def _check_memory(
    initialization: Initialization, sources: Mapping[str, TaskSource], hparams: config.Trajectories
) -> None:
    """Of what is collected together: a trajectory's points, the weights, their gradient and what an optimiser keeps."""
    of = max(sources.values(), key=lambda source: source.n_way)
    n_tasks, dim = min(hparams.shard_size, max(map(len, sources.values()))), initialization.learner.space.dim(of.n_way)
    check_fits(
        n_tasks * dim * (hparams.length + 4),
        f"trajectories of {hparams.length} points of {dim} numbers, of {n_tasks} tasks",
        "lower trajectories.shard_size, trajectories.length or learner.hidden",
    )


def _check_dropped(table: pd.DataFrame, hparams: config.Trajectories) -> None:
    lost = table[~table.kept]
    if lost.empty:
        return
    first = lost.iloc[0]
    named = (
        f"{len(lost)} of {len(table)} trajectories hold NaN or infinity, the first is task {first.task} of"
        f" {first.split} in {first.shard}"
    )
    if len(lost) > hparams.max_dropped * len(table):
        raise InputError(
            f"{named}; more than trajectories.max_dropped = {hparams.max_dropped} allows; lower"
            f" trajectories.lr = {hparams.lr}"
        )
    say(f"dropped: {named}; they diverged; lower trajectories.lr = {hparams.lr} to keep them")


if __name__ == "__main__":
    run(main, writes="trajectories")
