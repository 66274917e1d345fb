"""Stage 3: heads of all tasks trained together, recorded on the way -> data/trajectories/."""

import inspect
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

from ltdi import adaptation, closed_form, heads, trajectories, weights
from ltdi.closed_form import PENALTIES, calibrated_temperature
from ltdi.errors import InputError
from ltdi.heads import Head
from ltdi.metrics import accuracy, mean_and_ci95
from ltdi.seeding import generator
from ltdi.store import Cache, checksum, digest, link_or_copy, read_tensors, write_table, write_tensors
from ltdi.tasks import TaskSource, labelled
from ltdi.trajectories import Start, Trajectories, collect
from pipeline import params as parameters
from pipeline.files import index_rows, load_tasks
from pipeline.progress import follow, say
from pipeline.stage import deterministic, device, run

# kinds of a start by name; one but the first only where it is shown to be better
KINDS = {"closed_form": ("prototype", "ridge")}
KIND_TASKS = 2000
# a shard in the cache is found again only by the code that would write the same
CODE = digest(*map(inspect.getsource, (adaptation, closed_form, heads, trajectories, weights)))


def main(params_file: Path, data: Path) -> None:
    params = parameters.load(params_file, "seed", "trajectories")
    knobs, seed = params.trajectories, params.seed
    deterministic()
    where = device()
    if knobs.length > knobs.steps + 1:
        raise InputError(
            f"trajectories.length = {knobs.length} is more than the {knobs.steps + 1} points that trajectories.steps = {knobs.steps} has; change one"
        )
    sources = {split: source.to(where) for split, source in load_tasks(data).items()}
    if knobs.augment and sources["meta_train"].n_views == 1:
        raise InputError("trajectories.augment = true needs augmented images; set tasks.views to 1 or more")
    start = _start(sources, knobs, seed)
    settings = knobs.model_dump(exclude={"hidden", "start", "shard_size", "max_dropped"})

    cache, index, found = Cache("trajectories"), [], {}
    shards = [
        (split, *part)
        for split in sources
        for part in enumerate(torch.arange(len(sources[split])).split(knobs.shard_size))
    ]
    for row in follow(
        ({"shard": j} for j in range(len(shards))), name="collect_trajectories", total=len(shards), show="shard"
    ):
        split, number, tasks = shards[row["shard"]]
        source = sources[split]
        key = digest(CODE, settings, seed, split, *start.state()[1].values(), start.shared, _description(source, tasks))
        path = cache.find(key)
        if path is None:
            recorded = collect(start, source, tasks, seed=seed, **settings)
            tensors = {"points": recorded.points, "losses": recorded.losses, "accuracies": recorded.accuracies}
            path = cache.keep(key, tensors, {"split": split})
        tensors, _ = read_tensors(path)
        name = f"{split}-{number:04d}.safetensors"
        found[name] = path
        index.append(index_rows(split, name, checksum(path), tasks, Trajectories(**tensors)))

    table = pd.concat(index, ignore_index=True)
    _check_dropped(table, knobs.max_dropped)
    for name, path in found.items():
        link_or_copy(path, data / "trajectories" / name)
    tensors, values = start.state()
    write_tensors(data / "trajectories" / "start.safetensors", tensors, values)
    write_table(data / "trajectories" / "index.parquet", table)
    train = table[(table.split == "meta_train") & table.kept]
    say(
        f"{len(train)} trajectories of {knobs.length} points, accuracy {train[f'accuracy_w{knobs.length - 1}'].mean():.4f} -> {train['accuracy_w0'].mean():.4f}"
    )


def _start(sources: dict[str, TaskSource], knobs: parameters.Trajectories, seed: int) -> Start:
    """The start, with what its closed form leaves open chosen on meta-val."""
    val = sources["meta_val"]
    head = Head(val.features.shape[-1], knobs.hidden)
    shared = head.initial(1, val.classes.shape[1], generator(seed, "shared start"))[0].to(val.features.device)
    first, *others = [_calibrated(Start(head, kind, shared), val) for kind in KINDS.get(knobs.start, (knobs.start,))]
    return next((other for other in others if _gains(first, other, val, seed)), first)


def _calibrated(start: Start, val: TaskSource) -> Start:
    """Penalty and temperature of a closed form, by the cross-entropy of the queries."""
    if start.kind not in ("prototype", "ridge"):
        return start
    task, candidates = val.batch(torch.arange(len(val))), []
    for penalty in PENALTIES if start.kind == "ridge" else (start.ridge,):
        candidate = replace(start, ridge=penalty)
        temperature, loss = calibrated_temperature(start.head, candidate.centre(task.support), task.query)
        candidates.append((loss, replace(candidate, temperature=temperature)))
    return min(candidates, key=lambda each: each[0])[1]


def _gains(first: Start, other: Start, val: TaskSource, seed: int) -> bool:
    """Whether the other's accuracy on new tasks of the split is above the first's by more than the 95 % interval over these tasks.
    Its cross-entropy would not do: where nearly every query is right, the lower one can go with the more mistakes."""
    stream, differences = generator(seed, "start"), []
    for classes in val.draw_classes(KIND_TASKS, stream).split(64):
        task = val.of_classes(classes, stream)
        queries, labels = labelled(task.query.features)
        of_first, of_other = (
            accuracy(each.head(each.centre(task.support), queries), labels) for each in (first, other)
        )
        differences.append(of_other - of_first)
    gain, ci95 = mean_and_ci95(torch.cat(differences))
    return gain > ci95


def _description(source: TaskSource, tasks: torch.Tensor) -> str:
    """A name for all that the trajectories of these tasks are computed from."""
    classes = source.classes[tasks]
    return digest(tasks, source.features[classes.unique()], source.n_images, classes, source.support[tasks])


def _check_dropped(table: pd.DataFrame, max_dropped: float) -> None:
    lost = table[~table.kept]
    if lost.empty:
        return
    first = lost.iloc[0]
    named = f"{len(lost)} of {len(table)} trajectories hold NaN or infinity, the first is task {first.task} of {first.split} in {first.shard}"
    if len(lost) > max_dropped * len(table):
        raise InputError(f"{named}; more than trajectories.max_dropped = {max_dropped} allows; lower trajectories.lr")
    say(f"dropped: {named}")


if __name__ == "__main__":
    run(main)
