"""Stage 3: the support encoder, trained on the features of classes that the body has not seen -> data/encoder/."""

from pathlib import Path

import torch

from ltdi.encoder import Encoder, EncoderLoss, pretrain_encoder
from ltdi.metrics import best_and_paired, nearest_mean_accuracy
from ltdi.seeding import generator
from ltdi.store import Cache, digest, write_json, write_tensors, write_tsv
from ltdi.training import Training
from pipeline import params as parameters
from pipeline.checkpoints import resumable, source_digest
from pipeline.files import load_tasks
from pipeline.progress import say
from pipeline.stage import deterministic, device, run


def main(params_file: Path, data: Path) -> None:
    params = parameters.load(params_file, "seed", "encoder")
    knobs, seed = params.encoder, params.seed
    deterministic()
    if knobs.name == "none":
        write_tensors(data / "encoder" / "encoder.safetensors", {}, {"name": "none"})
        write_json(data / "encoder" / "metrics.json", {})
        return
    sources = {split: source.to(device()) for split, source in load_tasks(data).items()}
    train, val = sources["meta_train"], sources["meta_val"]
    features, n_shot = train.features, train.support.shape[-1]
    shape = {"n_features": features.shape[-1], "width": knobs.width, "depth": knobs.depth, "dropout": knobs.dropout}

    torch.manual_seed(generator(seed, "encoder").initial_seed())
    model = EncoderLoss(Encoder(**shape)).to(device())
    training = Training(model, lr=knobs.lr, steps=knobs.steps, ema=knobs.ema, weight_decay=knobs.weight_decay)
    sizes = {"n_shot": n_shot, "classes_a_batch": knobs.classes_a_batch, "query_images": knobs.query_images}
    key = digest("encoder", source_digest(), knobs.model_dump(), sizes, seed, features)
    rows = pretrain_encoder(training, features, **sizes, seed=seed)
    # the last checkpoint stays: tasks of other ways over the same features have the same encoder
    curve = resumable(training, rows, Cache("encoders"), key, every=500, name="pretrain_encoder", rate="encoder.lr")
    model.load_state_dict(training.average)
    encoder = model.encoder.eval().requires_grad_(False)

    task = val.batch(torch.arange(len(val)))
    encoded, plain = (nearest_mean_accuracy(each, task.query.features) for each in (encoder(task.support.features), task.support.features))
    _, paired = best_and_paired(encoded, {"body": plain})
    scores = {"val_accuracy": encoded.mean().item(), "val_body": plain.mean().item(), "paired": paired}
    say(f"meta-val, nearest mean: {scores['val_accuracy']:.4f} with the encoder, {paired['difference']:+.4f} ± {paired['ci95']:.4f} over the body alone")
    write_tensors(data / "encoder" / "encoder.safetensors", encoder.state_dict(), {"name": knobs.name, **shape})
    write_tsv(data / "encoder" / "curve.tsv", curve)
    write_json(data / "encoder" / "metrics.json", scores)


if __name__ == "__main__":
    run(main)
