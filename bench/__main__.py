"""``python -m bench <command>``; each command says its options with ``--help``."""

import sys
from importlib import import_module

import typer

from ltdi.utils.console import one_line_errors

COMMANDS = {
    "plan": ("bench.plan", "what each cell of the few-shot table would run here, or why it cannot"),
    "cell": ("bench.cell", "measure one cell, as it is planned"),
    "run": ("bench.run", "measure settings × variants × seeds beside the baselines: runs.csv, beside.csv, choices.csv"),
    "photos": ("bench.photos", "a pre-trained body and a mixture of domains, on others: photos.csv, photos.md"),
    "photo-parts": ("bench.photo_parts", "what each part of that preset does, on meta-val: photo_parts.md"),
    "photo-refit": (
        "bench.photo_refit",
        "what learning once more is worth, on domains held out in turn: photo_refit.md",
    ),
    "photos-speed": ("bench.photos_speed", "images a second beside timm, folder to answers, memory: photos_speed.md"),
    "transductive": ("bench.transductive", "photographs whose queries are known, unlabelled: transductive.csv, .md"),
    "domains": ("bench.domains", "unseen domains, classes and data sets, the form of Table 4: domains.csv, domains.md"),
    "zero-shot": ("bench.zero_shot", "heads from names beside the baselines of names: zero_shot.md"),
    "zero-shot-resnet12": ("bench.zero_shot_resnet12", "the same on a ResNet-12 trained here: zero_shot_resnet12.md"),
    "audit": ("bench.audit", "a finished run's weights for right and wrong conditions: audit.csv, audit.md"),
    "ways": ("bench.ways", "one run's heads for tasks of other sizes: ways.csv"),
    "sharpness": ("bench.sharpness", "how sharp the minima of trained heads are: sharpness.csv"),
    "theorem2": ("bench.theorem", "both sides of Theorem 2 at generated weights: theorem2.md"),
    "figure": ("bench.figure", "a figure of the paper and the table behind it: figures/<name>.png, .csv"),
    "search": ("bench.search", "a method's candidates, compared on meta-val: search.csv"),
    "scale": ("bench.scale", "memory and time of every stage at more tasks and more classes: scale.md"),
    "speed": ("bench.speed", "the hot paths' rates beside plain loops and the peak: speed.md"),
    "ranks": ("bench.ranks", "collection by one process and by several of torchrun: ranks.md"),
    "adapters": ("bench.adapters", "adapters for data sets held out whole, beside LoRA from scratch: adapters.md"),
    "adapter-speed": ("bench.adapter_speed", "many adapters together, and one by one with peft: adapter_speed.md"),
    "bodies": ("bench.bodies", "train the frozen bodies of the tables anew: bench/bodies/"),
    "backbones": (
        "bench.backbones",
        "the paper's methods on ResNet-18, MobileNetV2, Swin-T and ResNet-12: backbones.md",
    ),
    "report": ("bench.report", "the readable tables and the picture of bench/results/"),
    "paper": ("bench.paper", "the paper's own form, from noise on recorded weights alone: paper.csv, paper.md"),
    "paper-landscape": ("bench.paper_landscape", "trajectory and chains of that form over a loss: figures/"),
}


def app_of(command: str) -> typer.Typer:
    """The command as a program: its module's ``main``, whose user's mistakes are one line.

    Its module alone is imported: a cell that is missing should not wait for torch.
    """
    main = import_module(COMMANDS[command][0]).main
    app = typer.Typer(add_completion=False)
    app.command()(one_line_errors(f"bench {command}")(main))
    return app


def main() -> None:
    command, *arguments = sys.argv[1:] or [""]
    if command not in COMMANDS:
        lines = "".join(f"\n  {name:20}{what}" for name, (_, what) in COMMANDS.items())
        print(f"usage: python -m bench <command> [options]\n{lines}")
        sys.exit(0 if command in ("", "--help") else 2)
    app_of(command)(arguments, prog_name=f"python -m bench {command}")


if __name__ == "__main__":
    main()
