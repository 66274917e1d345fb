"""Stage 5: heads for the meta-test tasks from their support sets alone, and the time it takes -> data/weights/."""

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch

from ltdi.errors import InputError
from ltdi.methods import CONTROLS, Method
from ltdi.methods.diffusion_method import DiffusionMethod
from ltdi.seeding import generator
from ltdi.store import write_table, write_tensors
from ltdi.tasks import Support, TaskSource
from pipeline import params as parameters
from pipeline.build import load_control, load_method
from pipeline.files import load_start, load_tasks
from pipeline.progress import follow, say
from pipeline.stage import deterministic, device, run

BATCHES = (1, 64)


def main(params_file: Path, data: Path) -> None:
    params = parameters.load(params_file, "seed", "generate")
    knobs, seed = params.generate, params.seed
    deterministic()
    where = device()
    test = load_tasks(data)["meta_test"].to(where)
    if knobs.chain_task >= len(test):
        raise InputError(f"generate.chain_task = {knobs.chain_task} is not one of the {len(test)} meta-test tasks; lower it")
    start = load_start(data, where)
    name, method = load_method(data / "model", where)
    methods = {name: method} | {name: load_control(data / "model", name, start, where) for name in CONTROLS}

    timings = []
    for row in follow(({"method": j} for j in range(len(methods))), name="generate_weights", total=len(methods), show="method"):
        each, chosen = list(methods.items())[row["method"]]
        write_tensors(data / "weights" / f"{each}.safetensors", {"w": _generate_all(chosen, test, seed)}, {"method": each})
        timings += [{"name": each, "batch": batch, "ms_per_task": _time(chosen, test, batch, knobs.timing_repeats, seed)} for batch in BATCHES]
    write_table(data / "weights" / "timing.parquet", pd.DataFrame(timings))
    if isinstance(method, DiffusionMethod):
        support = test.support_of(torch.tensor([knobs.chain_task], device=where))
        states = method.generate_chain(support, generator=generator(seed, "noise"))[:, 0]
        write_tensors(data / "weights" / "chain.safetensors", {"chain": states}, {"task": knobs.chain_task})
    say(", ".join(f"{t['name']} {t['ms_per_task']:.2f} ms" for t in timings if t["batch"] == 1))


def _generate_all(method: Method, test: TaskSource, seed: int) -> torch.Tensor:
    parts = torch.arange(len(test)).split(max(BATCHES))
    return torch.cat([method.generate(test.support_of(part), generator=generator(seed, "noise")) for part in parts])


def _time(method: Method, test: TaskSource, batch: int, repeats: int, seed: int) -> float:
    """Milliseconds a task from support features to weights: the median of ``repeats`` calls after three to warm up."""
    support = test.support_of(torch.arange(batch) % len(test))
    seconds = [_seconds(lambda: method.generate(support, generator=generator(seed, "noise")), support) for _ in range(3 + repeats)]
    return 1000 * statistics.median(seconds[3:]) / batch


def _seconds(call: Callable[[], torch.Tensor], support: Support) -> float:
    cuda = support.features.is_cuda
    if cuda:
        torch.cuda.synchronize()
    started = time.perf_counter()
    call()
    if cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started


if __name__ == "__main__":
    run(main)
