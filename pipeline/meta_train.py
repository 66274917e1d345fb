"""Stage 4: the method learns from the trajectories; the controls choose their knobs on meta-val -> data/model/."""

import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from ltdi.methods import CONTROLS, Method
from ltdi.methods.base import val_accuracies
from ltdi.metrics import mean_and_ci95
from ltdi.seeding import generator
from ltdi.store import Cache, digest, write_json, write_tensors, write_tsv
from ltdi.tasks import TaskSource
from ltdi.training import Training
from ltdi.trajectories import Trajectories
from pipeline import params as parameters
from pipeline.build import build_control, build_method
from pipeline.checkpoints import resumable, source_digest
from pipeline.files import load_start, load_tasks, load_trajectories
from pipeline.progress import say
from pipeline.stage import deterministic, device, run

# what dvc.yaml plots of the curve: without one of these columns DVC draws none; a vanilla process leaves some empty
PLOTTED = ["loss", "val_loss_w0", "val_loss_w1", "val_loss_w2", "val_accuracy"]


def main(params_file: Path, data: Path) -> None:
    params = parameters.load(params_file, "seed", "method", "diffusion", "denoiser", "meta")
    meta, seed = params.meta, params.seed
    deterministic()
    where = device()
    sources = {split: source.to(where) for split, source in load_tasks(data).items()}
    start = load_start(data, where)
    trajectories, kept = load_trajectories(data, "meta_train")
    train = sources["meta_train"].rows(kept.to(where))
    val_trajectories, kept_val = load_trajectories(data, "meta_val")
    val = sources["meta_val"].rows(kept_val.to(where))

    knobs = {name: getattr(params, name).model_dump() for name in ("method", "diffusion", "denoiser", "meta")}
    length = trajectories.points.shape[1]
    method = build_method(knobs, start, length=length, seed=seed)
    method.to(where).prepare(train, trajectories, val)
    controls = {name: build_control(name, start, len(train)).to(where) for name in CONTROLS}
    for control in controls.values():
        control.prepare(train, trajectories, val)
    training = Training(method, lr=meta.outer_lr, steps=meta.steps, ema=meta.ema, lr_schedule=meta.lr_schedule)
    rows = _validated(method, training, train, trajectories, val, val_trajectories, meta.val_every, seed)
    key = digest("meta", source_digest(), knobs, seed, start.state()[1], trajectories.points, train.features, train.support)
    checkpoints = Cache("checkpoints")
    started = time.monotonic()
    curve = resumable(training, rows, checkpoints, key, every=meta.val_every, name="meta_train", rate="meta.outer_lr")
    seconds = time.monotonic() - started
    method.load_state_dict(training.average)

    tensors, values = start.state()
    write_tensors(data / "model" / "model.safetensors", method.state_dict() | tensors, values | knobs | {"length": length})
    scores = {}
    for name, control in controls.items():
        write_tensors(data / "model" / "controls" / f"{name}.safetensors", control.state_dict(), {"n_heads": len(train)})
        scores[name] = _accuracies(control, val, seed)
    write_tsv(data / "model" / "curve.tsv", curve.reindex(columns=curve.columns.union(PLOTTED, sort=False)))
    write_json(data / "model" / "metrics.json", _summary(method, _accuracies(method, val, seed), scores, seconds))
    checkpoints.drop(key)


def _summary(method: Method, own: Tensor, controls: dict[str, Tensor], seconds: float) -> dict:
    """What to choose by: the method and the controls on the same meta-val tasks."""
    best = max(controls, key=lambda name: controls[name].mean().item())
    difference, ci95 = mean_and_ci95(own - controls[best])
    parameters = sum(p.numel() for p in method.parameters())
    say(f"meta-val accuracy {own.mean():.4f}, {difference:+.4f} ± {ci95:.4f} over {best}; {parameters} parameters")
    return {
        "val_accuracy": own.mean().item(),
        "controls": {name: values.mean().item() for name, values in controls.items()},
        "best_control": best,
        "paired": {"difference": difference, "ci95": ci95},
        "parameters": parameters,
        "seconds": seconds,
    }


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
                row["val_accuracy"] = _accuracies(method, val, seed).mean().item()
        yield row


def _accuracies(method: Method, val: TaskSource, seed: int) -> Tensor:
    """The accuracy of each meta-val task (M,)."""
    return val_accuracies(method.head, val, lambda support: method.generate(support, generator=generator(seed, "val noise")))


if __name__ == "__main__":
    run(main)
