"""Stage 4: the method learns from the trajectories; the controls choose their knobs on meta-val -> data/model/."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from ltdi import ranks
from ltdi.artefacts import load_sources, load_start, load_trajectories, taken
from ltdi.bodies import read_body
from ltdi.console import say, say_fewer
from ltdi.devices import deterministic, device
from ltdi.errors import InputError
from ltdi.methods import build, method_class
from ltdi.methods.base import Method, scores
from ltdi.methods.diffusion_method import DiffusionMethod
from ltdi.methods.saved import write_method
from ltdi.methods.setup import Denoiser, Diffusion, Meta, Setup
from ltdi.metrics import best_and_paired
from ltdi.provenance import name_of
from ltdi.seeding import generator
from ltdi.store import write_json, write_tsv
from ltdi.tasks import TaskSource
from ltdi.training import Row, Training
from pipeline import params as parameters
from pipeline.checkpoints import resumable
from pipeline.stage import run
from pipeline.suspects import suspect

# what dvc.yaml plots of the curve: without one of these columns DVC draws none; a vanilla process leaves some empty
PLOTTED = ["loss", "val_loss_w0", "val_loss_w1", "val_loss_w2", "val_score"]
# of the section meta: how it is optimised, and not what is
OPTIMISED = {"steps", "outer_lr", "lr_schedule", "ema", "val_every"}


def main(params_file: Path, data: Path) -> None:
    params = parameters.load(params_file, "seed", "method", "methods", "diffusion", "denoiser", "meta")
    deterministic(training=True)
    names = [params.method.name, *(each for each in params.method.controls if each != params.method.name)]
    world = _world(data, names)
    setup = _setup(params, world)
    own = {name: getattr(params.methods, name).model_dump() for name in names if method_class(name)}
    built = {name: build(name, world.start, setup, own[name], seed=params.seed).to(world.device) for name in names}
    for each in built.values():
        each.prepare(world.train, world.trajectories, world.val)

    method, curve, seconds = _trained(built[names[0]], world, params, setup, own[names[0]])
    if not ranks.leads():
        return
    folder = data / "model" / "methods"
    for name, each in built.items():
        write_method(folder, name, each, setup, own[name])
    of = [folder / f"{name}.safetensors" for name in names]
    write_json(folder / "names.json", {"method": names[0], "controls": names[1:]}, made_from=of)
    found = {name: _scores(each, world.val, params.seed) for name, each in built.items()}
    write_tsv(data / "model" / "curve.tsv", curve.reindex(columns=curve.columns.union(PLOTTED, sort=False)))
    write_json(data / "model" / "metrics.json", _summary(method, found.pop(names[0]), found, seconds))


def _world(data: Path, names: list[str]) -> SimpleNamespace:
    """The start, and of meta-training and meta-val the tasks that have a trajectory, and these."""
    where = device()
    images_of = ["meta_train", "meta_val"] if any("images" in method_class(each).needs for each in names) else []
    sources = load_sources(data, splits=["meta_train", "meta_val"], images_of=images_of, device=where)
    start, _, facts = load_start(data, where)
    world = SimpleNamespace(
        start=start,
        device=where,
        body=read_body(data / "body" / "body.safetensors"),
        provides=frozenset(facts["provides"]),
    )
    world.trajectories, kept = load_trajectories(data, "meta_train")
    world.train = taken(sources["meta_train"], kept, data)
    world.val_trajectories, kept = load_trajectories(data, "meta_val")
    world.val = taken(sources["meta_val"], kept, data)
    return world


def _setup(params: SimpleNamespace, world: SimpleNamespace) -> Setup:
    meta = Meta(**params.meta.model_dump(exclude=OPTIMISED))
    setup = Setup(
        meta=meta,
        diffusion=Diffusion(**params.diffusion.model_dump()),
        denoiser=Denoiser(**params.denoiser.model_dump()),
        length=world.trajectories.length,
        n_way=world.val.n_way,
        n_shot=world.val.n_shot,
        n_tasks=len(world.train),
        n_classes=world.train.n_classes,
        body=world.body,
        provides=world.provides,
    )
    _check(setup, world.start.one_size, method_class(params.method.name))
    if setup.one_size and meta.weight_loss > 0 and world.train.n_way != setup.n_way:
        raise InputError(
            f"denoiser.name = unet is for one number of classes, and tasks.train_n_way = {world.train.n_way} is not"
            f" tasks.n_way = {setup.n_way}; set it to null"
        )
    say_fewer("meta.recorded_tasks", meta.recorded_tasks if meta.weight_loss else 0, len(world.train), "tasks")
    say_fewer("meta.n_way", meta.n_way if meta.new_tasks else 0, setup.n_classes, "classes")
    if "examples" in world.provides and meta.max_shot + meta.query_images > world.train.most_shots + 1:
        raise InputError(
            f"meta.max_shot + meta.query_images = {meta.max_shot} + {meta.query_images} is more than the"
            f" {world.train.most_shots + 1} images of a class; lower one"
        )
    return setup


def _check(setup: Setup, one_start: bool, chosen: type[Method]) -> None:
    """Knobs of two sections that do not fit together."""
    denoiser, meta = setup.denoiser, setup.meta
    if denoiser.width % denoiser.heads:
        raise InputError(
            f"denoiser.width = {denoiser.width} is not a multiple of denoiser.heads = {denoiser.heads}; change one"
        )
    if meta.min_shot > meta.max_shot:
        raise InputError(f"meta.min_shot = {meta.min_shot} is more than meta.max_shot = {meta.max_shot}; change one")
    recorded, new = meta.weight_loss * meta.recorded_tasks, meta.query_loss * meta.new_tasks
    if recorded == new == 0:
        raise InputError(
            "meta.weight_loss × meta.recorded_tasks and meta.query_loss × meta.new_tasks are 0 and leave nothing to"
            " learn; raise one of each pair"
        )
    of_one_size = {"denoiser.name = unet": setup.one_size, "trajectories.start = shared": one_start}
    for key in (key for key, holds in of_one_size.items() if holds):
        if new and meta.n_way != setup.n_way:
            raise InputError(
                f"{key} is for one number of classes, and meta.n_way = {meta.n_way} is not tasks.n_way = {setup.n_way};"
                " make them equal, or set meta.new_tasks = 0"
            )
    if issubclass(chosen, DiffusionMethod):
        try:
            chosen.process_class.index_map(setup.length, setup.diffusion.steps)
        except ValueError as error:
            raise InputError(
                f"diffusion.steps = {setup.diffusion.steps}: {error}; raise it or lower trajectories.length"
            ) from error


def _trained(
    method: Method, world: SimpleNamespace, params: SimpleNamespace, setup: Setup, own: dict
) -> tuple[Method, pd.DataFrame, float]:
    """The method, meta-trained, the curve of it, and the seconds that it took."""
    if not any(True for _ in method.parameters()):
        return method, pd.DataFrame(), 0.0
    knobs = {section: getattr(params, section).model_dump() for section in ("diffusion", "denoiser", "meta")}
    tensors, values = world.start.state()
    everything = torch.arange(len(world.train))
    inputs = (params.method.name, own, knobs, params.seed, values, tensors, setup.n_way, world.body.state_dict())
    inputs = (*inputs, world.train.description(everything), *world.trajectories.parts)
    code = (type(method).__module__, type(world.start.learner).__module__, type(world.train).__module__)
    key = name_of("meta", *inputs, code=code)
    meta = params.meta
    training = Training(method, lr=meta.outer_lr, steps=meta.steps, ema=meta.ema, lr_schedule=meta.lr_schedule)
    rows = _validated(method, training, world, meta.val_every, params.seed)
    of = suspect(("meta", knobs["meta"]), ("diffusion", knobs["diffusion"]))
    curve, seconds = resumable(training, rows, key, every=meta.val_every, name="meta_train", suspect=of)
    method.eval().load_state_dict(training.average)
    method.finish(world.val, seed=params.seed)
    return method, curve, seconds


def _summary(method: Method, own: Tensor, controls: dict[str, Tensor], seconds: float) -> dict:
    """What to choose by: the method and the controls on the same meta-val tasks."""
    parameters = sum(p.numel() for p in method.parameters())
    metrics: dict[str, Any] = {"val_score": own.mean().item(), "parameters": parameters, "seconds": seconds}
    compared = ""
    if controls:
        best, paired = best_and_paired(own, controls)
        metrics |= {"controls": {name: values.mean().item() for name, values in controls.items()}}
        metrics |= {"best_control": best, "paired": paired}
        compared = f", {paired['difference']:+.4f} ± {paired['ci95']:.4f} over {best}"
    say(f"meta-val score {own.mean():.4f}{compared}; {metrics['parameters']} parameters")
    return metrics


def _validated(method: Method, training: Training, world: SimpleNamespace, every: int, seed: int) -> Iterator[Row]:
    """The method's rows, every so often with the averaged weights' losses and score on meta-val."""
    for row in method.meta_train(training, world.train, world.trajectories, seed=seed):
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
