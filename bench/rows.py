"""The long tables of bench/results/: runs.csv, every measured row; choices.csv, what was chosen by on meta-val;
beside.csv, a method − what learned without it, paired over tasks; sharpness.csv, how sharp the trained heads' minima are;
ways.csv, heads for other numbers of classes and images than a run was trained on."""

import platform
import subprocess
from pathlib import Path

import pandas as pd
import torch

from bench import RESULTS
from ltdi.store import write_text
from pipeline.stage import device

KEY = ["setting", "method", "variant", "train_classes", "seed", "beside", "n_way", "n_shot"]
COLUMNS = [
    "setting",
    "method",
    "variant",
    "train_classes",
    "seed",
    "tasks",
    "accuracy",
    "ci95",
    "best_control",
    "paired_diff",
    "paired_ci95",
    "ms_batch_1",
    "ms_batch_64",
    "seconds_meta_train",
    "device",
    "commit",
]
BESIDE_COLUMNS = [
    "setting",
    "method",
    "variant",
    "train_classes",
    "seed",
    "tasks",
    "beside",
    "paired_diff",
    "paired_ci95",
    "device",
    "commit",
]
CHOICE_COLUMNS = [
    "setting",
    "method",
    "variant",
    "train_classes",
    "seed",
    "tasks",
    "val_accuracy",
    "val_best_control",
    "val_paired_diff",
    "val_paired_ci95",
    "seconds_meta_train",
    "device",
    "commit",
]
WAYS_COLUMNS = [
    "setting",
    "seed",
    "n_way",
    "n_shot",
    "method",
    "tasks",
    "accuracy",
    "ci95",
    "best_control",
    "paired_diff",
    "paired_ci95",
    "device",
    "commit",
]
SHARPNESS_COLUMNS = [
    "setting",
    "variant",
    "seed",
    "tasks",
    "lambda_max",
    "ci95",
    "paired_diff",
    "paired_ci95",
    "device",
    "commit",
]


def add(name: str, columns: list[str], rows: list[dict]) -> None:
    """Put rows into a long table, in the place of older rows of the same cells."""
    key = [name for name in KEY if name in columns]
    file, new = RESULTS / name, pd.DataFrame(rows)
    if file.exists():
        new = pd.concat([pd.read_csv(file, dtype={"commit": str}), new]).drop_duplicates(key, keep="last")
    write_text(
        file,
        new.reindex(columns=columns).sort_values(key).to_csv(index=False, float_format="%.6g", lineterminator="\n"),
    )


def machine() -> str:
    """What the times were taken on."""
    if device().type == "cuda":
        return torch.cuda.get_device_name()
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    return f"{model}, {torch.get_num_threads()} threads"


def commit() -> str:
    return subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
