"""``python -m bench zero-shot``: heads from names on a pre-trained body, learned from the rows of its own classifier
and from how heads of images differ from them -> bench/results/zero_shot.md, figures/zero_shot.png.

Tiny-ImageNet's classes are split anew by every seed: 100 for meta-training, 50 for meta-val, 50 for meta-test; of the
body's 1,000 rows those of the latter two are left out. CIFAR-10 is the second test; ``--data`` names further ones. A
seed that was measured by the same code on the same data is not measured again.
"""

import time
from collections import defaultdict
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from matplotlib.figure import Figure
from torch import Tensor

from bench import BENCH, RESULTS
from bench.harness import report
from bench.harness.rows import origin, scored
from bench.harness.settings import NONE, ONE_SEED, Seeds, conf
from bench.zero_shot import tracks
from bench.zero_shot.data import features, files_of, further, shuffled, split
from bench.zero_shot.world import (
    INITIALIZATION,
    World,
    by_class,
    by_similarity,
    given_back,
    milliseconds,
    of_means,
    of_rows,
    probabilities,
)
from ltdi.bodies.sentence_encoder import read_descriptions
from ltdi.datasets import read_images
from ltdi.methods.common.base import scores
from ltdi.store import Cache, write_text
from ltdi.store.code_digest import name_of
from ltdi.tasks.feature_normalization import NORMALISATIONS
from ltdi.utils.console import say
from pipeline.figures import save

OF_NAMES = ["nearest_name", "softmax_rows", "text_ridge", "kernel_ridge", "eszsl", "conse"]
GENERATORS = ["ltdi", "lvdi", "mcdi", "weight_flow", "meta_hypernetwork", "ghn3", "icis"]
GENERATORS += ["reptile_names", "meta_baseline_names"]
SHUFFLES = (1, 7)
FOR_GENERATORS = "centred"
"""Features; chosen on meta-val. Baselines have their own best normalisation, but for ``SLOW`` ones."""
SLOW = ("eszsl", "conse")
CODE = ("ltdi.methods.common.name_image_fusion", "ltdi.methods", "ltdi.scenarios.zero_shot")

Found = dict[str, dict[str, Tensor]]
"""The measures of a seed: a test and a column -> a method -> a value a task."""


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
    names = list(read_descriptions(classes).values())
    overlap = {key: torch.tensor(overlapping(key, called, names)) for key, (called, _) in of.items() if key != "tiny"}
    found: dict[str, dict[str, list[Tensor]]] = defaultdict(lambda: defaultdict(list))
    for each in seed:
        for column, row in _kept(each, of, hparams, method, steps).items():
            for name, values in row.items():
                found[column][name].append(values)
        done = seed[: seed.index(each) + 1]
        command = command_of(done, images, steps, method if method != GENERATORS else [], data)
        about = {"command": command, "seeds": len(done), "initialization": INITIALIZATION, "device": origin()["device"]}
        shown = {"generators": method, "tracks": [name for name in tracks.NAMES if name in found["val"]]}
        text = report.render("zero_shot", found=found, baselines=OF_NAMES, overlap=overlap, **shown, **about)
        write_text(RESULTS / "zero_shot.md", text)
    if "pictures" in found:
        called, matrix = of["cifar"][0], torch.stack(found["pictures"]["matrix"]).mean(0)
        rows = [f"images of {name}" for name in called]
        file, title = RESULTS / "figures" / "zero_shot.png", "Lt-Di's head from the names of CIFAR-10"
        draw(file, matrix, called, rows, [], title)
        if picture:
            first, by = of["cifar"][1].shape[1] // 2, files_of(cifar, "test", 5 * images)
            draw_task(picture, found["pictures"]["images"][0], called, by, first)
            say(f"wrote {picture}, with images of {cifar.name}")


def command_of(seeds: list[int], images: int, steps: int, methods: list[str], data: list[str]) -> str:
    """The command line, without places."""
    parts = [f"--seed {each}" for each in seeds] + [f"--images {images} --steps {steps}"]
    parts += [f"--method {each}" for each in methods] + [f"--data {each.partition('=')[0]}=…" for each in data]
    return f"python -m bench zero-shot --tiny … --cifar … --body … --classes … --encoder … {' '.join(parts)}"


def overlapping(data: str, names: list[str], of_imagenet: list[str]) -> list[bool]:
    """Which classes are among ImageNet's: by their name, however it is written, or by conf/overlaps.yaml."""
    listed = conf("overlaps").get(data, [])
    if listed == "all":
        return [True] * len(names)
    plain = {_plain(each) for each in chain(of_imagenet, listed)}
    return [_plain(name) in plain for name in names]


def _plain(name: str) -> str:
    return name.replace("_", " ").replace("-", " ").lower().strip()


def _kept(seed: int, of: dict[str, Any], hparams: dict[str, Any], generators: list[str], steps: int) -> Found:
    """The measures of a seed, from the cache where the same code has measured it."""
    files = [path.read_text(encoding="utf-8") for path in sorted((BENCH / "zero_shot").glob("*.py"))]
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
    cache.keep(key, {f"{column}|{name}": values for column, row in found.items() for name, values in row.items()}, {})
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
        scale = "" if update_scale is None else f", update scale {update_scale[0]:.2f}"
        say(f"seed {seed}, {name}: {chosen} features, meta-val {val.mean():.4f}, {seconds:.0f} s{scale}")
        _tested(found, name, method, world, tests, seed)
        if name in tracks.NAMES:
            mean = world.sources["meta_train"].of.means().mean(0)
            tracks.measure(found, name, method, world.sources, labelled, world.seen, mean, seed)
    _oracles(found, worlds[FOR_GENERATORS], labelled, rows, tests)
    return found


def _tested(found: Found, name: str, method: Any, world: World, tests: list[str], seed: int) -> None:
    for test in tests:
        source = world.sources[test]
        found[test][name] = scored(method, source, seed)
        found[f"{test} shuffled"][name] = torch.cat([scored(method, shuffled(source, by), seed) for by in SHUFFLES])
        if test != "tiny":
            right, matrix = by_class(method, source, seed)
            found[f"{test} by class"][name] = right
            if name == "ltdi" and test == "cifar":
                found["pictures"] = {"matrix": matrix, "images": probabilities(method, source, seed)}
    found["ms"][name] = milliseconds(method, world.sources["cifar"], seed)
    found["back"][name] = given_back(method, world, seed)


def _oracles(
    found: Found, world: World, labelled: dict[str, Tensor], rows: dict[str, Tensor], tests: list[str]
) -> None:
    """The initialization, and heads of labelled images, of the body's own rows, and of rows by their similarity to
    labelled images."""
    initialization, means = world.initialization, {part: world.seen(of).mean(1) for part, of in labelled.items()}
    similar = by_similarity(world, means, ["meta_val", *tests])
    for part, column in {"meta_val": "val", **dict(zip(tests, tests))}.items():
        source = world.sources[part]
        found[column]["start"] = scores(initialization.learner, source, initialization.centre)
        found[column]["means"] = of_means(world, means[part], source)
        found[column]["likeness"] = similar[part]
        if part in rows:
            found[column]["rows"] = of_rows(world, world.seen(rows[part]) - initialization.table.mean, source)


def draw_task(file: Path, shares: Tensor, names: list[str], by: dict[str, list[Any]], first: int) -> None:
    """The probabilities of single images (C, M, C), the ``first`` of a class and those after it, beside its row."""
    n = shares.shape[1]
    files = [image for name in names for image in by[name][first : first + n]]
    images = list(read_images(files, mode="RGB", size=32).permute(0, 2, 3, 1).numpy())
    rows = [name for name in names for _ in range(n)]
    draw(file, shares.flatten(0, 1), names, rows, images, "what a head from these names says of each image")


def draw(file: Path, shares: Tensor, names: list[str], rows: list[str], images: list[Any], title: str) -> None:
    """The mean probability of each name (a column) for the images of each row (R, C)."""
    figure = Figure(figsize=(1.6 + 0.55 * len(names), 1.4 + 0.42 * len(rows)), layout="constrained")
    ax = figure.subplots()
    ax.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for i, row in enumerate(shares.tolist()):
        for j, share in enumerate(row):
            style: dict[str, Any] = {"color": "white" if share > 0.55 else "black", "fontsize": 7}
            ax.text(j, i, f"{100 * share:.0f}", ha="center", va="center", **style)
    ax.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=8)
    ax.set_yticks(range(len(rows)), rows, fontsize=8)
    if images:
        ax.tick_params(axis="y", pad=46)
        for i, image in enumerate(images):
            inset = ax.inset_axes((-0.6 - 1.1, i - 0.48, 1.1, 0.96), transform=ax.transData)
            inset.imshow(image)
            inset.set_axis_off()
    ax.set_title(f"{title}: % probability", fontsize=9)
    save(figure, file, dpi=80)
