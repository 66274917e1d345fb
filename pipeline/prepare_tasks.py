"""Stage 2: the tasks of the three splits, and all that is known of them -> data/tasks/."""

from pathlib import Path

import torch

from ltdi.bodies.registry import read_body
from ltdi.scenarios import SCENARIOS
from ltdi.store import write_table, write_tensors
from ltdi.store.schemas import made_from
from ltdi.utils import distributed
from ltdi.utils.console import say
from ltdi.utils.devices import deterministic, device
from pipeline.common import params as parameters
from pipeline.common.progress import follow
from pipeline.common.stage import run


def main(params_file: Path, data: Path) -> None:
    params = parameters.load(params_file, "seed", "scenario", "data", "texts", "tasks")
    deterministic()
    body = read_body(data / "body" / "body.safetensors").to(device()).to(memory_format=torch.channels_last)
    scenario = SCENARIOS[params.scenario.name]
    sections = getattr(params, scenario.data).model_dump(), params.tasks.model_dump()
    prepared = scenario.prepare(body, *sections, seed=params.seed, follow=follow)
    if not distributed.leads():
        return
    before = made_from(data, "tasks")
    for kind, (tensors, facts) in prepared.tensors.items():
        file = data / "tasks" / f"{kind}.safetensors"
        write_tensors(file, tensors, facts, kind=kind, made_from=before)
    # the last, and made from the others: they are of one run
    before += [data / "tasks" / f"{kind}.safetensors" for kind in prepared.tensors]
    write_table(data / "tasks" / "tasks.parquet", prepared.table, made_from=before)
    say(prepared.line)


if __name__ == "__main__":
    run(main, writes="tasks")
