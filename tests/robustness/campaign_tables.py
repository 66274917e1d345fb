"""Tables that hold what they should not, with seals that are right; and declared outputs that are gone."""

import random
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from unittest.mock import patch

import numpy as np
import pandas as pd
from campaign_world import FOLDERS, Fine, World, Wrong

from ltdi.store import artifacts, read_table, write_table
from ltdi.store.schemas import MADE_FROM

READ = {
    "tasks/tasks.parquet": ("collect_trajectories", "meta_train", "generate_weights", "evaluate"),
    "trajectories/index.parquet": ("meta_train", "generate_weights", "evaluate"),
    "weights/timing.parquet": ("evaluate",),
}
ROWS: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "without rows": lambda table: table[:0],
    "of half the rows": lambda table: table[: len(table) // 2],
    "without its first row": lambda table: table[1:],
    "twice": lambda table: pd.concat([table, table]),
    "with a row twice": lambda table: pd.concat([table, table[:1]]),
    "reversed": lambda table: table[::-1],
    "with its columns reversed": lambda table: table[table.columns[::-1]],
    "with a column more": lambda table: table.assign(more=1),
}
NUMBERS = (float("nan"), float("inf"), -1, 10**9, 10**18)


def attempts(world: World, chance: random.Random) -> Iterator[tuple[str, Callable[[], None]]]:
    for file, stages in READ.items():
        table = pd.read_parquet(world.runs[0] / file)
        for told, change in (ROWS | _columns(table, chance)).items():
            stage = chance.choice(stages)
            yield f"{stage}, {file} {told}", partial(_crafted, world, stage, file, change)
    for stage, folder in FOLDERS.items():
        for file in MADE_FROM.get(folder, ()):
            if (world.runs[0] / file).is_file():
                yield f"{stage} without {file}", partial(_without, world, stage, file)


def _columns(table: pd.DataFrame, chance: random.Random) -> dict[str, Callable[[pd.DataFrame], pd.DataFrame]]:
    changes: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {}
    for name in table:
        changes[f"without {name}"] = partial(pd.DataFrame.drop, columns=name)
        changes[f"whose {name} is text"] = lambda table, name=name: table.assign(**{name: table[name].astype(str)})
        changes[f"whose {name} is nothing"] = lambda table, name=name: table.assign(**{name: [None] * len(table)})
        value = chance.choice(NUMBERS)
        if pd.api.types.is_bool_dtype(table[name]):
            continue
        if pd.api.types.is_numeric_dtype(table[name]):
            changes[f"whose {name} is {value}"] = partial(_with, name=name, value=value)
        elif not isinstance(table[name][0], str):
            number = chance.choice((-9, 10**6, 2**31 - 1))
            changes[f"whose {name} are {number}"] = lambda table, name=name, number=number: table.assign(
                **{name: [np.full_like(each, number) for each in table[name]]}
            )
            changes[f"whose {name} are shorter"] = lambda table, name=name: table.assign(
                **{name: [each[:-1] for each in table[name]]}
            )
    return changes


def _with(table: pd.DataFrame, name: str, value: float) -> pd.DataFrame:
    column = list(table[name])
    column[0] = value
    return table.assign(**{name: column})


def _crafted(world: World, stage: str, file: str, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    """What is made of it may be another result, which it is: only what is refused, and how, is looked at."""
    with world.copy() as data, patch.object(artifacts, "check_origins", lambda *_: None):
        path = data / file
        table = read_table(path)
        path.unlink()
        write_table(path, change(table))
        try:
            world.stage(stage, data)
        except Wrong as other:
            if "wrote another" not in str(other):
                raise
            raise Fine from other


def _without(world: World, stage: str, file: str) -> None:
    with world.copy() as data:
        (data / file).unlink()
        shutil.rmtree(data / FOLDERS[stage])
        world.stage(stage, data)
