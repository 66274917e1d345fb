"""Stage 4: the method learns from the trajectories; the controls choose their knobs on meta-val -> data/model/."""

from collections.abc import Iterator
from pathlib import Path

import torch

from ltdi.methods import CONTROLS, Method
from ltdi.methods.base import val_accuracy
from ltdi.seeding import generator
from ltdi.store import Cache, digest, write_json, write_tensors, write_tsv
from ltdi.tasks import TaskSource
from ltdi.training import Training
from ltdi.trajectories import Trajectories
from pipeline import params as parameters
from pipeline.build import build_control, build_method
from pipeline.checkpoints import resumable
from pipeline.files import load_start, load_tasks, load_trajectories, rows_of
from pipeline.progress import say
from pipeline.stage import deterministic, device, run


def main(params_file: Path, data: Path) -> None:
    params = parameters.load(params_file, "seed", "method", "diffusion", "denoiser", "meta")
    meta, seed = params.meta, params.seed
    deterministic()
    where = device()
    sources = {split: source.to(where) for split, source in load_tasks(data).items()}
    start = load_start(data, where)
    trajectories, kept = load_trajectories(data, "meta_train")
    train = rows_of(sources["meta_train"], kept.to(where))
    val_trajectories, kept_val = load_trajectories(data, "meta_val")
    val = rows_of(sources["meta_val"], kept_val.to(where))

    knobs = {name: getattr(params, name).model_dump() for name in ("method", "diffusion", "denoiser", "meta")}
    length = trajectories.points.shape[1]
    method = build_method(knobs, start, length=length, seed=seed)
    method.to(where).prepare(train, trajectories, val)
    training = Training(method, lr=meta.outer_lr, steps=meta.steps, ema=meta.ema, lr_schedule=meta.lr_schedule)
    rows = _validated(method, training, train, trajectories, val, val_trajectories, meta.val_every, seed)
    key = digest("meta", knobs, seed, start.state()[1], trajectories.points, train.features, train.support)
    checkpoints = Cache("checkpoints")
    curve = resumable(training, rows, checkpoints, key, every=meta.val_every, name="meta_train")
    method.load_state_dict(training.average)

    scores = {"val_accuracy": _accuracy(method, val, seed), "parameters": sum(p.numel() for p in method.parameters())}
    say(f"{knobs['method']['name']}: meta-val accuracy {scores['val_accuracy']:.4f}, {scores['parameters']} parameters")
    tensors, values = start.state()
    write_tensors(data / "model" / "model.safetensors", method.state_dict() | tensors, values | knobs | {"length": length})
    for name in CONTROLS:
        fitted = build_control(name, start, len(train)).to(where)
        fitted.prepare(train, trajectories, val)
        write_tensors(data / "model" / f"{name}.safetensors", fitted.state_dict(), {"n_heads": len(train)})
    write_tsv(data / "model" / "curve.tsv", curve)
    write_json(data / "model" / "metrics.json", scores)
    checkpoints.drop(key)


def _validated(
    method: Method,
    training: Training,
    train: TaskSource,
    trajectories: Trajectories,
    val: TaskSource,
    val_trajectories: Trajectories,
    every: int,
    seed: int,
) -> Iterator[dict[str, float]]:
    """The method's rows, every so often with the averaged weights' losses and accuracy on meta-val."""
    for row in method.meta_train(training, train, trajectories, seed=seed):
        if training.step % every == 0 or training.step == training.steps:
            with training.averaged():
                row |= method.validate(val, val_trajectories, seed=seed)
                row["val_accuracy"] = _accuracy(method, val, seed)
        yield row


def _accuracy(method: Method, val: TaskSource, seed: int) -> float:
    return val_accuracy(method.head, val, lambda support: method.generate(support, generator=generator(seed, "val noise")))


if __name__ == "__main__":
    run(main)
