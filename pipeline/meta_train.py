"""Stage 4: the method learns from the trajectories; the baselines choose their hyperparameters on meta-val ->
data/model/."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from ltdi.bodies.registry import read_body
from ltdi.config import MetaTraining
from ltdi.methods.common.base import Method, scores
from ltdi.methods.common.setup import Setup
from ltdi.methods.registry import build, method_class
from ltdi.methods.storage import write_method
from ltdi.store import write_json, write_tsv
from ltdi.store.code_digest import name_of
from ltdi.tasks.base import TaskSource
from ltdi.tasks.merging import pooled
from ltdi.trajectories.collection import Trajectories
from ltdi.trajectories.storage import load_initialization, load_sources, load_trajectories, taken
from ltdi.trajectories.streaming import StreamedTrajectories
from ltdi.utils import distributed
from ltdi.utils.console import say, say_fewer
from ltdi.utils.devices import deterministic, device
from ltdi.utils.errors import InputError
from ltdi.utils.metrics import best_and_paired
from ltdi.utils.seeding import generator
from ltdi.utils.trainer import Row, Training
from pipeline.common import params as parameters
from pipeline.common.checkpoints import resumable
from pipeline.common.stage import run
from pipeline.meta_checks import check, check_refit

# what dvc.yaml plots of the curve: without one of these columns DVC draws none; a vanilla process leaves some empty
PLOTTED = ["loss", "val_loss_w0", "val_loss_w1", "val_loss_w2", "val_score"]
# of the section meta: how it is optimised, and not what is


def main(params_file: Path, data: Path) -> None:
    params = parameters.load(params_file, "seed", "method", "methods", "diffusion", "denoiser", "meta")
    deterministic(training=True)
    names = [params.method.name, *(each for each in params.method.baselines if each != params.method.name)]
    world = _world(data, names)
    setup = _setup(params, world)
    own = {name: getattr(params.methods, name).model_dump() for name in names if method_class(name)}
    built = {
        name: build(name, world.initialization, setup, own[name], seed=params.seed).to(world.device) for name in names
    }
    for each in built.values():
        each.prepare(world.train, world.trajectories, world.val)

    curve, seconds = _trained(built[names[0]], world, params, setup, own[names[0]])
    found = {name: _scores(each, world.val, params.seed) for name, each in built.items()} if distributed.leads() else {}
    if params.meta.refit:
        setup, more = _refit(built, world, params, setup, own[names[0]])
        seconds += more
    if not distributed.leads():
        return
    folder = data / "model" / "methods"
    for name, each in built.items():
        write_method(folder, name, each, setup, own[name])
    of = [folder / f"{name}.safetensors" for name in names]
    write_json(folder / "names.json", {"method": names[0], "baselines": names[1:]}, made_from=of)
    write_tsv(data / "model" / "curve.tsv", curve.reindex(columns=curve.columns.union(PLOTTED, sort=False)))
    write_json(data / "model" / "metrics.json", _summary(built[names[0]], found.pop(names[0]), found, seconds))


def _world(data: Path, names: list[str]) -> SimpleNamespace:
    """The start, and of meta-training and meta-val the tasks that have a trajectory, and these."""
    where = device()
    images_of = ["meta_train", "meta_val"] if any("images" in method_class(each).needs for each in names) else []
    sources = load_sources(data, splits=["meta_train", "meta_val"], images_of=images_of, device=where)
    initialization, _, facts = load_initialization(data, where)
    world = SimpleNamespace(
        initialization=initialization,
        device=where,
        body=read_body(data / "body" / "body.safetensors"),
        provides=frozenset(facts["provides"]),
        collection=facts["collection"],
    )
    world.trajectories, kept = load_trajectories(data, "meta_train")
    world.train = taken(sources["meta_train"], kept, data)
    world.val_trajectories, kept = load_trajectories(data, "meta_val")
    world.val = taken(sources["meta_val"], kept, data)
    return world


def _setup(params: SimpleNamespace, world: SimpleNamespace) -> Setup:
    meta = params.meta.training
    setup = Setup(
        meta=meta,
        diffusion=params.diffusion,
        denoiser=params.denoiser,
        length=world.trajectories.length,
        n_way=world.val.n_way,
        n_shot=world.val.n_shot,
        n_tasks=len(world.train),
        n_classes=world.train.n_classes,
        body=world.body,
        provides=world.provides,
    )
    check(setup, world.initialization.fixed_n_way, method_class(params.method.name))
    if params.meta.refit:
        check_refit(setup)
    if setup.fixed_n_way and meta.weight_loss > 0 and world.train.n_way != setup.n_way:
        raise InputError(
            f"denoiser.name = unet is for one number of classes, and tasks.train_n_way = {world.train.n_way} is not"
            f" tasks.n_way = {setup.n_way}; set it to null"
        )
    say_fewer(
        "meta.recorded_tasks",
        meta.recorded_tasks if meta.weight_loss else 0,
        meta.streamed_tasks or len(world.train),
        "tasks",
    )
    # tasks of texts are of no classes, and of two slots always
    say_fewer("meta.n_way", meta.n_way if meta.new_tasks and setup.n_classes else 0, setup.n_classes, "classes")
    if "examples" in world.provides and meta.max_shot + meta.query_images > world.train.most_shots + 1:
        raise InputError(
            f"meta.max_shot + meta.query_images = {meta.max_shot} + {meta.query_images} is more than the"
            f" {world.train.most_shots + 1} images of a class; lower one"
        )
    return setup


def _trained(
    method: Method, world: SimpleNamespace, params: SimpleNamespace, setup: Setup, own: dict
) -> tuple[pd.DataFrame, float]:
    """The curve of a meta-training, and the seconds that it took."""
    if not any(True for _ in method.parameters()):
        return pd.DataFrame(), 0.0
    training, key = _training(method, world.train, world, params, setup, own)
    recorded = _recorded(world, setup.meta, params.seed)
    rows = _validated(method, training, world, recorded, params.meta.val_every, params.seed)
    curve, seconds = _finished(method, training, rows, key, params, "meta_train")
    method.finish(world.val, seed=params.seed)
    return curve, seconds


def _recorded(world: SimpleNamespace, meta: MetaTraining, seed: int) -> Trajectories:
    """The trajectories that meta-training draws from: the stored ones, or such as are collected meanwhile."""
    if not meta.streamed_tasks:
        return world.trajectories
    sizes = {
        "pool": meta.streamed_tasks,
        "uses_per_trajectory": meta.uses_per_trajectory,
        "tasks_a_step": meta.recorded_tasks,
    }
    return StreamedTrajectories(world.trajectories, world.initialization, world.collection, seed=seed, **sizes)


def _refit(
    built: dict[str, Method], world: SimpleNamespace, params: SimpleNamespace, setup: Setup, own: dict
) -> tuple[Setup, float]:
    """In the place of each method what is learned of the classes of meta-training and meta-val together, with what has
    been chosen on meta-val alone; the setup of it, and the seconds that it took."""
    name, method = next(iter(built.items()))
    both = pooled(world.train, world.val)
    for each in built.values():
        each.refit(both)
    if not any(True for _ in method.parameters()):
        return setup, 0.0
    setup = replace(setup, n_classes=both.n_classes)
    again = build(name, world.initialization, setup, own, seed=params.seed).to(world.device)
    again.prepare(world.train, world.trajectories, world.val)
    training, key = _training(again, both, world, params, setup, own)
    recorded = _recorded(world, setup.meta, params.seed)
    rows = again.meta_train(training, both, recorded, seed=params.seed)
    _, seconds = _finished(again, training, rows, key, params, "meta_train, meta-val classes too")
    again.copy_selection(method)
    built[name] = again
    return setup, seconds


def _training(
    method: Method, train: TaskSource, world: SimpleNamespace, params: SimpleNamespace, setup: Setup, own: dict
) -> tuple[Training, str]:
    """The training of a method on the tasks of a source, at its first step, and its name."""
    meta = params.meta
    hparams = {section: getattr(params, section).model_dump() for section in ("diffusion", "denoiser")}
    hparams["meta"] = meta.model_dump(exclude={"refit"})
    tensors, values = world.initialization.state()
    inputs: tuple[Any, ...] = (params.method.name, own, hparams, params.seed, values, tensors, setup.n_way)
    inputs = (*inputs, world.body.state_dict(), train.description(torch.arange(len(train))), *world.trajectories.parts)
    code: tuple[str, ...] = ()
    if meta.streamed_tasks:
        inputs, code = (*inputs, world.collection), ("ltdi.trajectories.streaming", "ltdi.trajectories.collection")
    code += (type(method).__module__, type(world.initialization.learner).__module__, type(train).__module__)
    training = Training(method, lr=meta.outer_lr, steps=meta.steps, ema=meta.ema, lr_schedule=meta.lr_schedule)
    return training, name_of("meta", *inputs, code=code)


def _finished(
    method: Method, training: Training, rows: Iterator[Row], key: str, params: SimpleNamespace, name: str
) -> tuple[pd.DataFrame, float]:
    """A training run to its end: its curve, and the seconds that it took; the method has the averaged weights."""
    lr = f"meta.outer_lr = {params.meta.outer_lr}"
    found = resumable(training, rows, key, every=params.meta.val_every, name=name, lr=lr)
    method.eval().load_state_dict(training.average)
    return found


def _summary(method: Method, own: Tensor, baselines: dict[str, Tensor], seconds: float) -> dict:
    """What to choose by: the method and the baselines on the same meta-val tasks."""
    parameters = sum(p.numel() for p in method.parameters())
    metrics: dict[str, Any] = {"val_score": own.mean().item(), "parameters": parameters, "seconds": seconds}
    compared = ""
    if baselines:
        best, paired = best_and_paired(own, baselines)
        metrics |= {"baselines": {name: values.mean().item() for name, values in baselines.items()}}
        metrics |= {"best_baseline": best, "paired": paired}
        compared = f", {paired['difference']:+.4f} ± {paired['ci95']:.4f} over {best}"
    say(f"meta-val score {own.mean():.4f}{compared}; {metrics['parameters']} parameters")
    return metrics


def _validated(
    method: Method, training: Training, world: SimpleNamespace, recorded: Trajectories, every: int, seed: int
) -> Iterator[Row]:
    """The method's rows, every so often with the averaged weights' losses and score on meta-val."""
    for row in method.meta_train(training, world.train, recorded, seed=seed):
        if training.step % every == 0 or training.step == training.steps:
            with training.averaged():
                row |= method.validate(world.val, world.val_trajectories, seed=seed)
                row["val_score"] = _scores(method, world.val, seed).mean().item()
        yield row


def _scores(method: Method, val: TaskSource, seed: int) -> Tensor:
    """The score of each meta-val task (M,)."""
    return scores(method.learner, val, lambda context: method.generate(context, generator=generator(seed, "val noise")))


if __name__ == "__main__":
    run(main, writes="model")
