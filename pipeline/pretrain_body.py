"""Stage 1: the frozen body, trained on the meta-training classes alone -> data/body/."""

from pathlib import Path

import pandas as pd
import torch

from ltdi.bodies import BODIES
from ltdi.bodies.pretraining import EpisodicLoss, embed, pretrain
from ltdi.datasets import expand_classes
from ltdi.metrics import mean_and_ci95, nearest_mean_accuracy
from ltdi.seeding import generator
from ltdi.store import Cache, digest, write_json, write_tensors, write_tsv
from ltdi.tasks import TaskSource
from ltdi.training import Training
from pipeline import params as parameters
from pipeline.body import read_body
from pipeline.checkpoints import resumable, source_digest
from pipeline.images import augmentation, image_sets
from pipeline.progress import say
from pipeline.stage import deterministic, device, precision, run


def main(params_file: Path, data: Path) -> None:
    params = parameters.load(params_file, "seed", "data", "body")
    body, seed = params.body, params.seed
    deterministic()
    splits = image_sets(params.data)
    channels = splits["meta_train"].images.shape[2]
    shape = {"name": body.name, "channels": channels, "filters": body.filters}
    if body.weights:
        trained = read_body(body.weights, shape).to(device(), memory_format=torch.channels_last)
        return _write(data, trained, shape, pd.DataFrame(), _validate(trained, splits["meta_val"].images, seed))

    images = expand_classes(splits["meta_train"], body.transforms).images
    torch.manual_seed(generator(seed, "body").initial_seed())
    model = EpisodicLoss(BODIES[body.name](channels, filters=body.filters))
    model.to(device(), memory_format=torch.channels_last)
    training = Training(model, lr=body.lr, steps=body.steps, ema=body.ema, weight_decay=body.weight_decay)

    rows = pretrain(
        training,
        images,
        classes_a_batch=body.classes_a_batch,
        images_a_class=body.images_a_class,
        augment=augmentation(body.augment),
        precision=precision(body.precision, device()),
        seed=seed,
    )
    key = digest("body", source_digest(), body.model_dump(), seed, images)
    checkpoints = Cache("checkpoints")
    curve = resumable(training, rows, checkpoints, key, every=500, name="pretrain_body", rate="body.lr")

    model.load_state_dict(training.average)
    _write(data, model.body, shape, curve, _validate(model.body, splits["meta_val"].images, seed))
    checkpoints.drop(key)


def _write(data: Path, body: torch.nn.Module, shape: dict, curve: pd.DataFrame, scores: dict[str, float]) -> None:
    say(", ".join(f"{name} {value:.4f}" for name, value in scores.items()))
    write_tensors(data / "body" / "body.safetensors", body.state_dict(), shape)
    write_tsv(data / "body" / "curve.tsv", curve)
    write_json(data / "body" / "metrics.json", scores)


def _validate(body: torch.nn.Module, images: torch.Tensor, seed: int) -> dict[str, float]:
    """Nearest-mean accuracy on 600 meta-val tasks of the usual sizes."""
    features = embed(body, images)
    scores = {}
    for n_way, n_shot in ((5, 1), (5, 5), (20, 1), (20, 5)):
        if n_way <= len(features):
            source = TaskSource.sample(
                features, n_tasks=600, n_way=n_way, n_shot=n_shot, n_query=10, seed=seed, split="meta_val"
            )
            task = source.batch(torch.arange(len(source)))
            scores[f"val_{n_way}w{n_shot}s"], _ = mean_and_ci95(
                nearest_mean_accuracy(task.support.features, task.query.features)
            )
    return scores


if __name__ == "__main__":
    run(main)
