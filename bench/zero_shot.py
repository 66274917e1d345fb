"""``python -m bench zero-shot``: heads from names on a pre-trained body, learned from the rows of its own classifier
and from how heads of images differ from them -> bench/results/zero_shot.md, figures/zero_shot.png.

Tiny-ImageNet's classes are split anew by every seed: 100 whose images are learned from, 50 to choose on, 50 to test on;
of the body's 1,000 rows those of the latter two are left out. CIFAR-10 is the second test, and what ``--data`` names
are further ones. What is chosen is chosen on the 50 to choose on. A seed that was measured by the same code on the same
data is not measured again.
"""

import time
from collections import defaultdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from bench import BENCH, zero_shot_tracks
from bench.options import NONE, ONE_SEED, Seeds
from bench.zero_shot_data import features, files_of, further, shuffled, split
from bench.zero_shot_picture import draw_matrix, draw_task
from bench.zero_shot_text import about, command_of, text
from bench.zero_shot_world import (
    World,
    by_class,
    given_back,
    milliseconds,
    of_likeness,
    of_means,
    of_rows,
    said_of_images,
    scored,
)
from ltdi.methods.common.base import scores
from ltdi.store import Cache, write_text
from ltdi.store.code_digest import name_of
from ltdi.tasks.feature_normalization import NORMALISATIONS
from ltdi.utils.console import say

OF_NAMES = ("nearest_name", "softmax_rows", "text_ridge", "kernel_ridge", "eszsl", "conse")
GENERATORS = ["ltdi", "lvdi", "mcdi", "weight_flow", "meta_hypernetwork", "ghn3", "icis"]
GENERATORS += ["reptile_names", "meta_baseline_names"]
SHUFFLES = (1, 7)
FOR_GENERATORS = "centred"
"""Features; chosen on the classes to choose on. Baselines have their own best normalisation, but for ``SLOW`` ones."""
SLOW = ("eszsl", "conse")
CODE = ("ltdi.methods.common.name_image_fusion", "ltdi.methods", "ltdi.scenarios.zero_shot")

Found = dict[str, dict[str, Tensor]]
"""What a seed has: a test and a column -> a method -> a value a task."""


def main(
    tiny: Annotated[Path, typer.Option(help="A zip that holds train/<wnid>/*.")],
    cifar: Annotated[Path, typer.Option(help="A zip that holds test/<class>/*.")],
    body: Annotated[Path, typer.Option(help="tf_efficientnet_lite0's weights in timm's keys.")],
    classes: Annotated[Path, typer.Option(help="A wnid, a tab and a name for each row of its classifier.")],
    encoder: Annotated[str, typer.Option(help="A text encoder: a folder, or the hub's name of one.")],
    seed: Seeds = ONE_SEED,
    images: Annotated[int, typer.Option(help="Of a class, the first half labelled for what needs that.")] = 60,
    steps: Annotated[int, typer.Option(help="Of meta-training.")] = 120,
    prompts: Annotated[str, typer.Option(help="A set of ltdi/prompts.json.")] = "photos",
    method: Annotated[list[str], typer.Option(help="What generates; may be repeated.")] = GENERATORS,
    data: Annotated[list[str], typer.Option(help="NAME=FOLDER of a further data set, e.g. pets=data/raw.")] = NONE,
    picture: Annotated[Path | None, typer.Option(help="Where to draw a task with its images, for oneself.")] = None,
) -> None:
    torch.manual_seed(0)
    hparams = {"classes": classes, "classifier": body, "encoder": encoder, "prompts": prompts}
    of = {"tiny": features(tiny, "train", images, body), "cifar": features(cifar, "test", 5 * images, body)}
    of |= further(data, images, body)
    found: dict[str, dict[str, list[Tensor]]] = defaultdict(lambda: defaultdict(list))
    for each in seed:
        for column, row in _kept(each, of, hparams, method, steps).items():
            for name, values in row.items():
                found[column][name].append(values)
        done = seed[: seed.index(each) + 1]
        told = about(command_of(done, images, steps, method if method != GENERATORS else [], data), len(done))
        write_text(BENCH / "results" / "zero_shot.md", told + text(found, OF_NAMES, tuple(method), of, classes))
    if "pictures" in found:
        matrix = torch.stack(found["pictures"]["matrix"]).mean(0)
        draw_matrix(BENCH / "results" / "figures" / "zero_shot.png", matrix, of["cifar"][0])
        if picture:
            shown, first = found["pictures"]["images"][0], of["cifar"][1].shape[1] // 2
            draw_task(picture, shown, of["cifar"][0], files_of(cifar, "test", 5 * images), first)
            say(f"wrote {picture}, with images of {cifar.name}")


def _kept(seed: int, of: dict[str, Any], hparams: dict[str, Any], generators: list[str], steps: int) -> Found:
    """What a seed has, from the cache where the same code has measured it."""
    files = [path.read_text(encoding="utf-8") for path in sorted(BENCH.glob("zero_shot*.py"))]
    read = [hparams["classes"].read_text(encoding="utf-8"), hparams["classifier"].stat().st_size]
    seen = {f"{name}/{'/'.join(classes)}": rows for name, (classes, rows) in of.items()}
    inputs = seed, seen, str(hparams["encoder"]), hparams["prompts"], read, generators, steps, files
    cache, key = Cache("zero_shot"), name_of("bench zero-shot", *inputs, code=CODE)
    if kept := cache.find(key):
        found: Found = defaultdict(dict)
        for place, values in kept[1].items():
            column, _, name = place.partition("|")
            found[column][name] = values
        return found
    found = measured(seed, of, hparams, generators, steps)
    flat = {f"{column}|{name}": values for column, row in found.items() for name, values in row.items()}
    cache.keep(key, flat, {})
    return found


def measured(seed: int, of: dict[str, Any], hparams: dict[str, Any], generators: list[str], steps: int) -> Found:
    """All methods of one seed."""
    sources, labelled, rows = split(seed, of, hparams)
    worlds = {normalise: World.of(sources, normalise, seed) for normalise in NORMALISATIONS}
    found: Found = defaultdict(dict)
    tests = list(of)
    for name in (*OF_NAMES, *generators):
        started = time.perf_counter()
        val: Tensor | None = None
        for each in worlds if name in OF_NAMES and name not in SLOW else (FOR_GENERATORS,):
            candidate = worlds[each].learned(name, steps, seed)
            accuracies = scored(candidate, worlds[each].sources["meta_val"], seed)
            if val is None or accuracies.mean() > val.mean():
                val, method, world, chosen = accuracies, candidate, worlds[each], each
        assert val is not None
        found["val"][name] = val
        update_scale = getattr(method, "update_scale", None)
        if update_scale is not None:
            found["update_scale"][name] = update_scale[:1]
        seconds = time.perf_counter() - started
        say(
            f"seed {seed}, {name}: {chosen} features, meta-val {val.mean():.4f}, {seconds:.0f} s"
            f"{'' if update_scale is None else f', update scale {update_scale[0]:.2f}'}"
        )
        _tested(found, name, method, world, tests, seed)
        if name in zero_shot_tracks.NAMES:
            mean = world.sources["meta_train"].of.means().mean(0)
            zero_shot_tracks.measure(found, name, method, world.sources, labelled, world.seen, mean, seed)
    _ceilings(found, worlds[FOR_GENERATORS], labelled, rows, tests)
    return found


def _tested(found: Found, name: str, method: Any, world: World, tests: list[str], seed: int) -> None:
    for test in tests:
        source = world.sources[test]
        found[test][name] = scored(method, source, seed)
        others = [scored(method, shuffled(source, by), seed) for by in SHUFFLES]
        found[f"{test} shuffled"][name] = torch.cat(others)
        if test != "tiny":
            right, said = by_class(method, source, seed)
            found[f"{test} by class"][name] = right
            if name == "ltdi" and test == "cifar":
                found["pictures"] = {"matrix": said, "images": said_of_images(method, source, seed)}
    found["ms"][name] = milliseconds(method, world.sources["cifar"], seed)
    found["back"][name] = given_back(method, world, seed)


def _ceilings(
    found: Found, world: World, labelled: dict[str, Tensor], rows: dict[str, Tensor], tests: list[str]
) -> None:
    """The start, and what heads of labelled images, the body's own rows, and rows by their likeness to labelled images
    have."""
    initialization, means = world.initialization, {part: world.seen(of).mean(1) for part, of in labelled.items()}
    found["val"]["start"] = scores(initialization.learner, world.sources["meta_val"], initialization.centre)
    likeness = of_likeness(world, means, ["meta_val", *tests])
    found["val"]["likeness"] = likeness["meta_val"]
    found["val"]["means"] = of_means(world, means["meta_val"], world.sources["meta_val"])
    for part in rows:
        values = of_rows(world, world.seen(rows[part]) - initialization.table.mean, world.sources[part])
        found["val" if part == "meta_val" else part]["rows"] = values
    for test in tests:
        found[test]["start"] = scores(initialization.learner, world.sources[test], initialization.centre)
        found[test]["means"] = of_means(world, means[test], world.sources[test])
        found[test]["likeness"] = likeness[test]
