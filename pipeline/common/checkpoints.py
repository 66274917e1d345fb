"""Trainings that survive a kill: rows are followed, a checkpoint is kept now and then, a new run goes on from it."""

import json
import math
import time
from collections.abc import Iterator

import pandas as pd
from torch import Tensor

from ltdi.store import Cache
from ltdi.utils import distributed
from ltdi.utils.console import say
from ltdi.utils.errors import InputError
from ltdi.utils.trainer import Row, Training
from pipeline.common.progress import follow

LOOK = 50
"""After how many steps their losses are looked at."""


def resumable(
    training: Training, rows: Iterator[Row], key: str, *, every: int, name: str, lr: str
) -> tuple[pd.DataFrame, float]:
    """Run ``rows`` to the end, a row a step of ``training``, and give them as a table, with the seconds that they took.

    ``key`` names the training by all that decides its result. The last checkpoint stays: a stage that runs again for
    another reason finds its training done.

    Raises:
        InputError: the loss is NaN or infinity; ``lr`` is the key of the learning rate and its value.
    """
    cache, started, seconds = Cache("checkpoints"), time.monotonic(), 0.0
    table: list[dict[str, float]] = []
    if found := cache.find(key):
        _, state, metadata = found
        training.load_state_dict(state)
        table, seconds = json.loads(metadata["rows"]), metadata["seconds"]
        say(f"{name}: going on from step {training.step} of {training.steps}")
    before = seconds
    new: list[Row] = []
    for row in follow(rows, name=name, total=training.steps, done=training.step):
        new.append(row)
        kept = training.step % every == 0 or training.step == training.steps
        if kept or len(new) == LOOK:
            table += _looked_at(new, lr)
            new = []
        if kept:
            seconds = before + time.monotonic() - started
            facts = {"rows": json.dumps(table), "seconds": seconds}
            if distributed.leads():
                cache.keep(key, training.state_dict(), facts, finite=False)
    # those kept with the last step: a training that is found done says the same of itself again
    return pd.DataFrame(table), seconds


def _looked_at(rows: list[Row], lr: str) -> list[dict[str, float]]:
    """The rows as numbers."""
    read = [{key: each.item() if isinstance(each, Tensor) else each for key, each in row.items()} for row in rows]
    for row in read:
        if not math.isfinite(row["loss"]):
            raise InputError(f"training diverged: the loss is {row['loss']} after step {row['step']}; lower {lr}")
    return read
