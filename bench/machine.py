"""Where a row comes from: the machine that its times were taken on, and the commit."""

import os
import platform
import subprocess
from pathlib import Path

import torch

from ltdi.utils.devices import device


def origin() -> dict[str, str]:
    """The columns ``device`` and ``commit`` of a row."""
    return {"device": _machine(), "commit": _commit()}


def _machine() -> str:
    if device().type == "cuda":
        return torch.cuda.get_device_name()
    model, cpuinfo = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
    return f"{model}, {torch.get_num_threads()} threads"


def _commit() -> str:
    """``LTDI_COMMIT``, for a node that has the files alone, or what git says here."""
    if named := os.environ.get("LTDI_COMMIT"):
        return named
    return subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
