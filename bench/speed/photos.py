"""``python -m bench photos-speed``: images a second beside a plain loop of timm, from a folder to answers, and the
memory of embedding -> photos_speed.md."""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from PIL import Image
from torch import Tensor

import ltdi
from bench import RESULTS
from bench.harness import report
from bench.harness.rows import origin
from bench.harness.settings import Weights
from bench.probes.scale import watched
from ltdi.bodies.embedding import embed
from ltdi.bodies.registry import pretrained_body
from ltdi.datasets.image_files import Streamed
from ltdi.store import write_text
from ltdi.utils.console import say
from ltdi.utils.devices import deterministic

NAME, SIZE, BATCH = "tf_efficientnet_lite0", 128, 64
FILES, SHAPE = 64, (375, 500)
"""Of JPEG files, as those of ImageNet are in the mean."""
SMALL, MANY, ALL = 32, (2000, 8000), 50_000
N_WAY, N_SHOT, QUERIES = 5, 5, 50


def main(
    weights: Weights = "hub",
    data: Annotated[Path, typer.Option(help="A finished run on such a body, for the answers.")] = Path("data"),
    pairs: Annotated[int, typer.Option(help="How many pairs of measurements a figure is the median of.")] = 5,
    child: Annotated[int, typer.Option(hidden=True)] = 0,
    folder: Annotated[Path, typer.Option(hidden=True)] = Path(),
) -> None:
    deterministic()
    if child:
        again = islice(cycle(sorted(folder.iterdir())), child)
        embed(pretrained_body(_section(weights) | {"image_size": SMALL}, 3), Streamed(tuple(again), "RGB", SMALL))
        return
    with tempfile.TemporaryDirectory() as place:
        files = made_files(Path(place) / "images", FILES)
        say("bench: images a second")
        found: dict[str, Any] = {"rates": embedding_rates(weights, files, pairs)}
        say("bench: from a folder to answers")
        found["answers"] = _answers(data, Path(place), files, pairs)
        say("bench: memory")
        found["memory"] = memory(weights, files[0].parent)
    found |= {"size": SIZE, "files": FILES, "shape": SHAPE, "batch": BATCH, "pairs": pairs}
    found |= {"n_way": N_WAY, "n_shot": N_SHOT, "queries": QUERIES, **origin()}
    text = report.render("photos_speed", **found)
    write_text(RESULTS / "photos_speed.md", text)
    print(text)


def made_files(folder: Path, n: int) -> list[Path]:
    """Photographs' sizes and about their bytes: smooth shapes with some noise."""
    folder.mkdir(parents=True)
    stream = np.random.default_rng(0)
    for i in range(n):
        coarse = Image.fromarray(stream.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize(SHAPE[::-1])
        noise = stream.normal(0, 8, (*SHAPE, 3))
        Image.fromarray((np.asarray(coarse) + noise).clip(0, 255).astype(np.uint8)).save(folder / f"{i}.jpg")
    return sorted(folder.iterdir())


def embedding_rates(weights: str, files: list[Path], pairs: int) -> list[list[str]]:
    """Ours beside two plain loops."""
    body = pretrained_body(_section(weights), 3).to(memory_format=torch.channels_last)
    images, lines = Streamed(tuple(files), "RGB", SIZE), []
    for layout, name in ((torch.contiguous_format, "plain loop"), (torch.channels_last, "channels last")):
        loop = plain_loop(body, files, layout)
        embed(body, images), loop()  # to warm up
        own, other = zip(*((_seconds(lambda: embed(body, images)), _seconds(loop)) for _ in range(pairs)))
        ratios = [theirs / mine for mine, theirs in zip(own, other)]
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        lines.append([name, f"{len(files) / statistics.median(own):.1f}", ratio])
    return lines


def plain_loop(body: torch.nn.Module, files: list[Path], layout: torch.memory_format) -> Callable[[], Tensor]:
    """What a user of timm would write, with the body's own weights."""
    import timm
    import timm.data

    model = timm.create_model(NAME, num_classes=0).eval()
    model.load_state_dict(body.model.state_dict())  # type: ignore[union-attr]
    config: dict[str, Any] = timm.data.resolve_model_data_config(model) | {"input_size": (3, SIZE, SIZE)}
    model.to(memory_format=layout)
    transform = timm.data.create_transform(**config, is_training=False)

    @torch.no_grad()
    def loop() -> Tensor:
        found = []
        for first in range(0, len(files), BATCH):
            opened = (Image.open(file).convert("RGB") for file in files[first : first + BATCH])
            batch = torch.stack([transform(image) for image in opened])
            found.append(model(batch.contiguous(memory_format=layout)))
        return torch.cat(found)

    return loop


def _answers(data: Path, place: Path, files: list[Path], pairs: int) -> list[str]:
    """Cold and warm seconds, by the run's trained method."""
    classes, queries = place / "classes", place / "queries"
    queries.mkdir()
    for i, file in enumerate(files[: N_WAY * N_SHOT]):
        own = classes / f"class {i % N_WAY}"
        own.mkdir(parents=True, exist_ok=True)
        (own / file.name).symlink_to(file)
    for file in files[-QUERIES:]:
        (queries / file.name).symlink_to(file)
    command = [sys.executable, "-m", "ltdi", "classify", str(classes), str(queries), "--data", str(data)]
    command += ["--csv", str(place / "answers.csv")]
    cold = [_seconds(lambda: watched(command, dict(os.environ))) for _ in range(3)]
    run = ltdi.load(data)
    warm = [_seconds(lambda: run.generate(classes).classify(queries)) for _ in range(pairs + 1)][1:]
    return [run.name, f"{statistics.median(cold):.1f} s", f"{statistics.median(warm):.2f} s"]


def memory(weights: str, folder: Path) -> list[list[str]]:
    """Peaks at two numbers of images, and what a line through them gives for ``ALL``."""
    command = [sys.executable, "-m", "bench", "photos-speed", "--weights", weights, "--folder", str(folder), "--child"]
    peaks = [watched([*command, str(n)], dict(os.environ))[0] for n in MANY]
    each = (peaks[1] - peaks[0]) / (MANY[1] - MANY[0])
    lines = [[f"{n:,}", f"{peak:.0f} MiB"] for n, peak in zip(MANY, peaks)]
    return [*lines, [f"{ALL:,}, extrapolated", f"{peaks[1] + each * (ALL - MANY[1]):.0f} MiB"]]


def _section(weights: str) -> dict[str, Any]:
    """The section ``body`` of params.yaml."""
    return {"name": f"timm/{NAME}", "weights": weights, "image_size": SIZE, "filters": 64, "precision": "auto"}


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
