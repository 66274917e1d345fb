"""Trainings that survive a kill: rows are followed, a checkpoint is kept now and then, and a new run goes on from it."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from ltdi import store
from ltdi.errors import InputError
from ltdi.store import Cache, digest, read_tensors
from ltdi.training import Training
from pipeline.progress import follow, say


def source_digest() -> str:
    """A name for the code of ltdi: a checkpoint of edited code is not gone on from."""
    root = Path(store.__file__).parent
    return digest(*(path.read_text(encoding="utf-8") for path in sorted(root.rglob("*.py"))))


def resumable(
    training: Training, rows: Iterator[dict[str, float]], cache: Cache, key: str, *, every: int, name: str, rate: str
) -> pd.DataFrame:
    """Run ``rows`` to the end, a row a step of ``training``, and give them as a table.

    ``key`` names the training by all that decides its result. The last checkpoint stays until the caller drops it.

    Raises:
        InputError: the loss is no number any more; ``rate`` is the param of the learning rate.
    """
    table: list[dict[str, float]] = []
    if path := cache.find(key):
        state, metadata = read_tensors(path)
        training.load_state_dict(state)
        table = json.loads(metadata["rows"])
        say(f"{name}: going on from step {training.step} of {training.steps}")
    for row in follow(rows, name=name, total=training.steps, done=training.step):
        if not math.isfinite(row["loss"]):
            raise InputError(
                f"the loss is {row['loss']} after step {row['step']} with {rate} = {training.lr}; lower it"
            )
        table.append(row)
        if training.step % every == 0 or training.step == training.steps:
            cache.keep(key, training.state_dict(), {"rows": json.dumps(table)})
    return pd.DataFrame(table)
