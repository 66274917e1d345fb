"""The tables of ``python -m bench zero-shot``."""

from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from bench import BENCH, zero_shot_tracks
from bench.machine import origin
from bench.settings import load_yaml
from bench.text import percent, table
from bench.zero_shot_world import INITIALIZATION
from ltdi.bodies.sentence_encoder import read_descriptions
from ltdi.methods.registry import BASELINES
from ltdi.utils.metrics import mean_and_ci95

TESTS = {"cifar": "CIFAR-10, 10-way", "tiny": "Tiny-ImageNet, 50-way"}
CEILINGS = {
    "rows": "the body's own rows of these classes (ceiling of the text)",
    "likeness": "softmax_rows by likeness of labelled images, not of texts (ceiling of the map)",
    "means": "class means of labelled images (ceiling)",
}
REPORTED = {
    "CLIP RN50": {"cifar": 71.6, "cifar100": 40.3, "stl10": 94.2, "aircraft": 17.0, "pets": 85.3},
    "CLIP ViT-B/32": {"cifar": 89.8, "cifar100": 64.2, "stl10": 97.1, "aircraft": 19.5, "pets": 87.0},
}
"""Of the same data sets, whole: what a user would take instead; it has seen images with texts."""

Found = dict[str, dict[str, list[Tensor]]]


def command_of(seeds: list[int], images: int, steps: int, methods: list[str], data: list[str]) -> str:
    """As it is typed, without places."""
    told = [f"--seed {each}" for each in seeds] + [f"--images {images} --steps {steps}"]
    told += [f"--method {each}" for each in methods] + [f"--data {each.partition('=')[0]}=…" for each in data]
    return f"python -m bench zero-shot --tiny … --cifar … --body … --classes … --encoder … {' '.join(told)}"


def about(command: str, seeds: int) -> str:
    return (
        "# Heads from names\n\n"
        "EfficientNet-lite0 (ImageNet) at 128 px, names by a text encoder in the prompts of `ltdi/prompts.json`; no"
        " image of a class is seen before it is asked. Known are the rows of the body's own classifier but for those"
        " of the classes that are chosen or tested on, and images of 100 other classes of Tiny-ImageNet, from which"
        " generators learn how heads of images differ from rows; baselines have the rows. Each baseline has the"
        " normalisation that is best on meta-val, but ESZSL and ConSE, which take long, centred features; generators"
        f" begin at {INITIALIZATION} on centred features, which is the row *start*, and are told the text and where"
        f" their row"
        " starts; their learning rate was chosen for Lt-Di. ICIS is trained ten times as many steps, from rows alone."
        " What differs from what is published stands in the methods' files: GHN3 has a node for each class, which the"
        " published one lacks; REPTILE and Meta-Baseline of names are ours, for the publications do not say what these"
        " do without labels."
        f" {seeds} seed{'s' if seeds > 1 else ''}, each with its own classes of Tiny-ImageNet; accuracy in % with 95 %"
        " intervals over tasks, which share their classes: they are of the images, and not of the choice of classes,"
        " which the columns by seed show. Chance is 10 and 2. *names back*: of the known classes, how many get from"
        " their name alone a row that is nearest to their own. ms: from the texts to the weights of a 10-way task, on"
        f" {origin()['device']}, other work beside. *update scale*: by seed, how far meta-val lets generated heads go"
        f" from"
        " their start; 0 is the start itself."
        " With shuffled names no class has its own, so that chance is an upper bound. The body has seen images of all"
        f" classes of Tiny-ImageNet. `{command}`\n\n"
    )


def text(
    found: Found, baselines: tuple[str, ...], generators: tuple[str, ...], of: dict[str, tuple], classes: Path
) -> str:
    """The table, who wins, and the other tracks."""
    return (
        main_table(found, baselines, generators)
        + _winner(found, generators)
        + _picture(found)
        + zero_shot_tracks.text(found, tuple(each for each in zero_shot_tracks.NAMES if each in found["val"]))
        + _others(found, (*baselines, "start", *generators), of, classes)
    )


def main_table(found: Found, baselines: tuple[str, ...], generators: tuple[str, ...]) -> str:
    """Baselines, then generators, each against the best baseline of its test; ceilings."""
    best = {test: _best(found[test], baselines) for test in TESTS}
    rows = [_row(found, name, best) for name in (*baselines, "start", *generators)]
    blank = [""] * 3
    for key, name in ((key, name) for key, name in CEILINGS.items() if key in found["val"]):
        cells = [_percent(found[part][key]) if key in found[part] else "" for part in ("val", *TESTS)]
        rows.append([name, cells[0], cells[1], *blank, cells[2], *blank, "", "", ""])
    rows += [[f"*reported:* {name}", "", str(of["cifar"]), *blank, *[""] * 7] for name, of in REPORTED.items()]
    columns = [
        part for name in TESTS.values() for part in (name, "over the best baseline", "by seed", "shuffled names")
    ]
    return table(["method", "meta-val, 50-way", *columns, "update_scale", "names back", "ms"], rows)


def _best(row: dict[str, list[Tensor]], baselines: tuple[str, ...]) -> str:
    return max(baselines, key=lambda each: torch.cat(row[each]).mean().item())


def _percent(values: list[Tensor]) -> str:
    return percent(*mean_and_ci95(torch.cat(values).double()))


def _row(found: Found, name: str, best: dict[str, str]) -> list[str]:
    row = [f"{name}{' (baseline)' if name in BASELINES else ''}", _percent(found["val"][name])]
    for test in TESTS:
        values, baseline = found[test][name], found[test][best[test]]
        row.append(_percent(values))
        if name == best[test]:
            row += ["the best baseline", ""]
        else:
            row.append(percent(*mean_and_ci95((torch.cat(values) - torch.cat(baseline)).double()), sign="+"))
            row.append(", ".join(f"{100 * (a - b).double().mean():+.1f}" for a, b in zip(values, baseline)))
        row.append(f"{100 * torch.cat(found[f'{test} shuffled'][name]).mean():.1f}" if name != "start" else "")
    if name == "start":
        return [*row, "", "", ""]
    update_scales = ", ".join(f"{each.item():g}" for each in found["update_scale"].get(name, []))
    back, ms = torch.cat(found["back"][name]), torch.cat(found["ms"][name]).mean()
    return [*row, update_scales, f"{100 * back.mean():.1f}" if len(back) else "", f"{ms:.2f}"]


def _winner(found: Found, generators: tuple[str, ...]) -> str:
    """The best generator on meta-val, and Lt-Di against the others on the tests."""
    if not generators:
        return ""
    first = max(generators, key=lambda each: torch.cat(found["val"][each]).mean().item())
    lines = f"\nThe generator with the highest accuracy on meta-val is {first}."
    if "ltdi" in generators:
        for test, title in TESTS.items():
            differences = {
                each: mean_and_ci95((torch.cat(found[test][each]) - torch.cat(found[test]["ltdi"])).double())
                for each in generators
                if each != "ltdi"
            }
            ahead = [f"{each} {percent(*gain, sign='+')}" for each, gain in differences.items() if gain[0] > gain[1]]
            lines += f" Above Lt-Di by more than the interval on {title}: {', '.join(ahead) or 'none'}."
    return lines + "\n"


def _picture(found: Found) -> str:
    if "pictures" not in found:
        return ""
    return (
        "\nWhat Lt-Di's heads from the names of CIFAR-10 say of the images of each class (rows), in the mean of the"
        " seeds; `--picture FILE` draws the same of single images, with these, for oneself:\n\n"
        "![what the names say](figures/zero_shot.png)\n"
    )


def overlapping(data: str, names: list[str], known: list[str]) -> list[bool]:
    """Which classes are among ImageNet's: by their name, however it is written, or by bench/overlaps.yaml."""
    told = load_yaml(BENCH / "overlaps.yaml").get(data, [])
    if told == "all":
        return [True] * len(names)
    listed = {_plain(each) for each in chain(known, told)}
    return [_plain(name) in listed for name in names]


def _plain(name: str) -> str:
    return name.replace("_", " ").replace("-", " ").lower().strip()


def _others(found: Found, names: tuple[str, ...], of: dict[str, tuple], classes: Path) -> str:
    """The further data sets, and CIFAR-10: all classes together, and those apart that are ImageNet's too."""
    known, head, columns = list(read_descriptions(classes).values()), ["method"], []
    for data, (called, _) in of.items():
        if data == "tiny":
            continue
        there = torch.tensor(overlapping(data, called, known))
        title = f"{'CIFAR-10' if data == 'cifar' else data}, {len(called)}-way"
        head += [title, f"{int(there.sum())} classes of ImageNet", f"{int((~there).sum())} others"]
        columns.append((data, there))
    if len(columns) == 1 and not bool(columns[0][1].any()):
        return (
            "\n## Overlap with ImageNet\n\nNo class of CIFAR-10 is called as one of the 1,000 is; kinds of most are"
            " among them (`Siamese cat`), and the body has seen their images. Further ones: `--data NAME=FOLDER`.\n"
        )
    rows = []
    for name in names:
        row = [name]
        for data, there in columns:
            row.append(_percent(found[data][name]))
            parts = torch.stack(found[f"{data} by class"][name]).mean(0) if name != "start" else None
            row += [
                f"{100 * parts[each].mean():.2f}" if parts is not None and bool(each.any()) else ""
                for each in (there, ~there)
            ]
        rows.append(row)
    for name, reported in REPORTED.items():
        told = [f"{reported[data]}" if data in reported else "" for data, _ in columns]
        rows.append([f"*reported:* {name}", *chain.from_iterable((each, "", "") for each in told)])
    return (
        "\n## Overlap with ImageNet\n\nAll classes of a data set together. Which are ImageNet's by name, or by"
        " `bench/overlaps.yaml`, stands apart: the body has learned from images of these, and has their rows.\n\n"
        + table(head, rows)
    )
