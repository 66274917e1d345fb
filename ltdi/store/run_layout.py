"""What every stage's files are made from: their seals are written into them, so that files of two runs in one folder
are told apart."""

from pathlib import Path

TASKS = ("tasks/features.safetensors", "tasks/examples.safetensors", "tasks/images.safetensors", "tasks/tasks.parquet")
TRAJECTORIES = ("trajectories/initialization.safetensors", "trajectories/index.parquet")
MADE_FROM = {
    "tasks": ("body/body.safetensors",),
    "trajectories": TASKS,
    "model": ("body/body.safetensors", *TASKS, *TRAJECTORIES),
    "weights": ("body/body.safetensors", *TASKS, *TRAJECTORIES, "model/methods/names.json"),
    "results": (*TASKS, *TRAJECTORIES),
}
"""Folder of a stage's outputs -> what it is made from, as far as it is there: files that are alike whenever they are
made again."""


def made_from(data: Path, folder: str) -> list[Path]:
    return [data / file for file in MADE_FROM[folder]]
