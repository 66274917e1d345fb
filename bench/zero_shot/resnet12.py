"""``python -m bench zero-shot-resnet12``: heads from names on the paper's body, ResNet-12, trained here on the classes
that are learned from, in small images and a quarter of its filters -> bench/results/zero_shot_resnet12.md.

Unlike the body of ``zero-shot`` it has seen no image of a class that is chosen or tested on; known are its classifier's
hundred rows, and no more. It is trained on other images of these classes than heads are.
"""

import tempfile
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import typer
from safetensors.torch import save_file
from torch import Tensor, nn

from bench import RESULTS
from bench.harness import report
from bench.harness.rows import origin
from bench.harness.settings import LTDI
from bench.zero_shot.data import files_of, parts_of
from bench.zero_shot.run import OF_NAMES, measured
from ltdi.bodies.embedding import embed
from ltdi.bodies.resnet12 import WIDTHS, ResNet12
from ltdi.bodies.sentence_encoder import read_descriptions
from ltdi.datasets import read_images
from ltdi.store import write_text
from ltdi.utils.console import say
from ltdi.utils.seeding import generator
from ltdi.utils.trainer import Training

SIZE, FILTERS, BATCH, LR = 32, 16, 128, 3e-3


def main(
    tiny: Annotated[Path, typer.Option(help="A zip that holds train/<wnid>/*.")],
    cifar: Annotated[Path, typer.Option(help="A zip that holds test/<class>/*.")],
    classes: Annotated[Path, typer.Option(help="A wnid, a tab and a name a line.")],
    encoder: Annotated[str, typer.Option(help="A text encoder: a folder, or the hub's name of one.")],
    seed: int = 0,
    images: Annotated[int, typer.Option(help="Of a class, beside those that the body is trained on.")] = 60,
    body_images: Annotated[int, typer.Option(help="Of a class, that the body is trained on.")] = 90,
    body_steps: Annotated[int, typer.Option(help="Of the body's training.")] = 300,
    steps: Annotated[int, typer.Option(help="Of meta-training.")] = 120,
    method: Annotated[list[str], typer.Option(help="What generates; may be repeated.")] = LTDI,
) -> None:
    of_tiny, of_cifar = pixels(tiny, "train", images + body_images), pixels(cifar, "test", 5 * images)
    names, wnids = read_descriptions(classes), list(of_tiny)
    others = [wnids[j] for j in parts_of(len(wnids), seed)[0].tolist()]
    learned_on = torch.stack([of_tiny[key][images:] for key in others])
    body, classifier, right = trained(learned_on, body_steps, seed)
    of = {
        "tiny": (wnids, torch.stack([embed(body, each[:images]) for each in of_tiny.values()])),
        "cifar": (list(of_cifar), torch.stack([embed(body, each) for each in of_cifar.values()])),
    }
    with tempfile.TemporaryDirectory() as place:
        rows, known = Path(place) / "rows.safetensors", Path(place) / "known.tsv"
        save_file({"fc.weight": classifier}, rows)
        known.write_text("".join(f"{key}\t{names[key]}\n" for key in others), encoding="utf-8")
        hparams = {"classes": known, "names": classes, "classifier": rows, "encoder": encoder, "prompts": "photos"}
        found = measured(seed, of, hparams, method, steps)
    command = (
        f"python -m bench zero-shot-resnet12 --tiny … --cifar … --classes … --encoder … --seed {seed} --images {images}"
        f" --body-images {body_images} --body-steps {body_steps} --steps {steps}"
    )
    about: dict[str, Any] = {"command": command, "body_steps": body_steps, "body_images": body_images, "right": right}
    about |= {"filters": FILTERS, "size": SIZE, "batch": BATCH, "device": origin()["device"]}
    about["found"] = {column: {name: [values] for name, values in row.items()} for column, row in found.items()}
    text = report.render("zero_shot_resnet12", baselines=OF_NAMES, generators=method, **about)
    write_text(RESULTS / "zero_shot_resnet12.md", text)


def pixels(file: Path, part: str, images: int) -> dict[str, Tensor]:
    """The first images of each class of a zip, uint8 (images, 3, SIZE, SIZE)."""
    by_class = files_of(file, part, images)
    return {name: read_images(by_class[name], mode="RGB", size=SIZE) for name in sorted(by_class)}


def trained(images: Tensor, steps: int, seed: int) -> tuple[ResNet12, Tensor, float]:
    """A body trained to tell classes by their images (C, I, 3, SIZE, SIZE), the rows (C, F) of its classifier, and the
    share of the last fifty batches that it told rightly."""
    torch.manual_seed(generator(seed, "body").initial_seed())
    body = ResNet12(3, [FILTERS * each for each in WIDTHS])
    classifier = nn.Linear(body.width, len(images))
    model = nn.Sequential(body, classifier).train()
    training, right = Training(model, lr=LR, steps=steps, ema=0.99, weight_decay=1e-4), []
    while training.step < steps:
        stream = generator(seed, "body", training.step)
        labels = torch.randint(len(images), (BATCH,), generator=stream)
        batch = images[labels, torch.randint(images.shape[1], (BATCH,), generator=stream)].float() / 255
        mirrored = torch.rand(BATCH, generator=stream) < 0.5
        logits = model(torch.where(mirrored[:, None, None, None], batch.flip(-1), batch))
        loss = F.cross_entropy(logits, labels)
        loss.backward()
        training.descend()
        right.append((logits.argmax(-1) == labels).float().mean().item())
        if training.step % 50 == 0:
            say(f"body, step {training.step}: loss {loss.item():.3f}, {100 * sum(right[-50:]) / 50:.1f} % right")
    model.load_state_dict(training.average)
    return body.eval().requires_grad_(False), classifier.weight.detach(), sum(right[-50:]) / len(right[-50:])
