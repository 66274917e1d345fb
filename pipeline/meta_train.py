"""Stage 4: the method learns from the trajectories; the controls choose their knobs on meta-val -> data/model/."""

import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from torch import Tensor

from ltdi.errors import InputError
from ltdi.methods import Method
from ltdi.methods.base import query_accuracies
from ltdi.metrics import best_and_paired
from ltdi.seeding import generator
from ltdi.store import Cache, digest, write_json, write_tensors, write_tsv
from ltdi.tasks import TaskSource
from ltdi.training import Training
from ltdi.trajectories import Trajectories
from pipeline import params as parameters
from pipeline.body import load_body
from pipeline.build import KNOBS, build_method, method_class
from pipeline.checkpoints import resumable, source_digest
from pipeline.files import load_start, load_tasks, load_trajectories
from pipeline.progress import say
from pipeline.stage import deterministic, device, run

# what dvc.yaml plots of the curve: without one of these columns DVC draws none; a vanilla process leaves some empty
PLOTTED = ["loss", "val_loss_w0", "val_loss_w1", "val_loss_w2", "val_accuracy"]


def main(params_file: Path, data: Path) -> None:
    params = parameters.load(params_file, "seed", "method", "methods", "diffusion", "denoiser", "meta")
    meta, seed, name = params.meta, params.seed, params.method.name
    deterministic()
    where = device()
    names = [name, *(each for each in params.method.controls if each != name)]
    images_of = ["meta_train", "meta_val"] if any(method_class(each).from_images for each in names) else []
    sources = {
        split: source.to(where)
        for split, source in load_tasks(data, splits=["meta_train", "meta_val"], images_of=images_of).items()
    }
    start = load_start(data, where)
    trajectories, kept = load_trajectories(data, "meta_train")
    train = sources["meta_train"].rows(kept.to(where))
    val_trajectories, kept_val = load_trajectories(data, "meta_val")
    val = sources["meta_val"].rows(kept_val.to(where))

    knobs = {section: getattr(params, section).model_dump() for section in KNOBS}
    knobs["methods"] = {each: knobs["methods"][each] for each in names}
    sizes = {
        "length": trajectories.points.shape[1],
        "n_way": val.classes.shape[1],
        "n_tasks": len(train),
        "n_classes": len(train.features),
    }
    _check_tasks(train, val, meta, params.denoiser)
    body = load_body(data)
    built = {each: build_method(each, knobs, start, body, **sizes, seed=seed).to(where) for each in names}
    for each in built.values():
        each.prepare(train, trajectories, val)
    method = built.pop(name)
    key = digest(
        "meta",
        source_digest(),
        knobs,
        sizes,
        seed,
        start.state()[1],
        *body.state_dict().values(),
        trajectories.points,
        train.features,
        train.support,
    )
    checkpoints, curve = Cache("checkpoints"), pd.DataFrame()
    started = time.monotonic()
    if any(True for _ in method.parameters()):
        training = Training(method, lr=meta.outer_lr, steps=meta.steps, ema=meta.ema, lr_schedule=meta.lr_schedule)
        rows = _validated(method, training, train, trajectories, val, val_trajectories, meta.val_every, seed)
        curve = resumable(
            training, rows, checkpoints, key, every=meta.val_every, name="meta_train", rate="meta.outer_lr"
        )
        method.eval().load_state_dict(training.average)
        method.finish(val, seed=seed)
    seconds = time.monotonic() - started

    tensors, values = start.state()
    for each, made in {name: method, **built}.items():
        write_tensors(
            data / "model" / "methods" / f"{each}.safetensors", made.state_dict() | tensors, values | knobs | sizes
        )
    write_json(data / "model" / "methods" / "names.json", {"method": name, "controls": list(built)})
    scores = {each: _accuracies(control, val, seed) for each, control in built.items()}
    write_tsv(data / "model" / "curve.tsv", curve.reindex(columns=curve.columns.union(PLOTTED, sort=False)))
    write_json(data / "model" / "metrics.json", _summary(method, _accuracies(method, val, seed), scores, seconds))
    checkpoints.drop(key)


def _check_tasks(train: TaskSource, val: TaskSource, meta: parameters.Meta, denoiser: parameters.Denoiser) -> None:
    there, train_n_way, n_way = train.features.shape[1], train.classes.shape[1], val.classes.shape[1]
    if denoiser.name == "unet" and meta.weight_loss > 0 and train_n_way != n_way:
        raise InputError(
            f"denoiser.name = unet is for one number of classes, and tasks.train_n_way = {train_n_way} is not tasks.n_way = {n_way}; set it to null"
        )
    if meta.max_shot + meta.query_images > there:
        raise InputError(
            f"meta.max_shot + meta.query_images = {meta.max_shot} + {meta.query_images} is more than the {there} images of a class; lower one"
        )


def _summary(method: Method, own: Tensor, controls: dict[str, Tensor], seconds: float) -> dict:
    """What to choose by: the method and the controls on the same meta-val tasks."""
    metrics = {
        "val_accuracy": own.mean().item(),
        "parameters": sum(p.numel() for p in method.parameters()),
        "seconds": seconds,
    }
    compared = ""
    if controls:
        best, paired = best_and_paired(own, controls)
        metrics |= {
            "controls": {name: values.mean().item() for name, values in controls.items()},
            "best_control": best,
            "paired": paired,
        }
        compared = f", {paired['difference']:+.4f} ± {paired['ci95']:.4f} over {best}"
    say(f"meta-val accuracy {own.mean():.4f}{compared}; {metrics['parameters']} parameters")
    return metrics


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
    return query_accuracies(
        method, val, lambda support: method.generate(support, generator=generator(seed, "val noise"))
    )


if __name__ == "__main__":
    run(main)
