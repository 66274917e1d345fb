"""Stage 5: weights for the meta-test tasks from their support sets alone, and the time it takes -> data/weights/."""

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from ltdi.bodies.pretraining import embed
from ltdi.methods import Method
from ltdi.methods.diffusion_method import DiffusionMethod
from ltdi.methods.refined import Refined
from ltdi.seeding import generator
from ltdi.store import read_json, write_table, write_tensors
from ltdi.tasks import Query, Support, TaskSource
from pipeline import params as parameters
from pipeline.body import load_body
from pipeline.build import load_method
from pipeline.files import load_tasks
from pipeline.progress import follow, say
from pipeline.stage import deterministic, device, run

BATCHES = (1, 64)


def main(params_file: Path, data: Path) -> None:
    params = parameters.load(params_file, "seed", "generate")
    knobs, seed = params.generate, params.seed
    deterministic()
    where = device()
    test = load_tasks(data, splits=["meta_test"], images_of=["meta_test"])["meta_test"].to(where)
    body = load_body(data).to(where, memory_format=torch.channels_last)
    names = read_json(data / "model" / "methods" / "names.json")
    methods = {name: load_method(data / "model", name, body, where) for name in (names["method"], *names["controls"])}
    trained = methods[names["method"]]
    methods[names["method"]] = Refined(
        trained, heads=knobs.heads, adapt_steps=knobs.adapt_steps, adapt_lr=knobs.adapt_lr
    )

    # the same for all methods that take features, so it is timed once
    waits = (
        {}
        if all(method.from_images for method in methods.values())
        else {batch: _time_before(body, test, batch, knobs.timing_repeats) for batch in BATCHES}
    )
    timings = []
    for row in follow(
        ({"method": j} for j in range(len(methods))), name="generate_weights", total=len(methods), show="method"
    ):
        name, method = list(methods.items())[row["method"]]
        write_tensors(data / "weights" / f"{name}.safetensors", _generate_all(method, test, seed), {"method": name})
        for batch in BATCHES:
            facts = {
                "name": name,
                "batch": batch,
                "adapts": method.adapts,
                "ms_embed": 0.0 if method.from_images else waits[batch],
            }
            timings.append(facts | _times(method, body, test, batch, knobs.timing_repeats, seed))
        if name == names["method"] and isinstance(trained, DiffusionMethod):
            support = test.support_of(torch.arange(min(knobs.chains, len(test)), device=where))
            write_tensors(
                data / "weights" / "chain.safetensors",
                {"states": trained.generate_chain(support, generator=generator(seed, "noise"))},
            )
    write_table(data / "weights" / "timing.parquet", pd.DataFrame(timings))
    say(", ".join(f"{t['name']} {t['ms_generate']:.2f} ms" for t in timings if t["batch"] == 1))


def _generate_all(method: Method, test: TaskSource, seed: int) -> dict[str, Tensor]:
    """The heads w (M, D); of a method that makes more than a head, which would fill the disk, what it says of the queries (M, N·Q)."""
    made = []
    for tasks in torch.arange(len(test)).split(max(BATCHES)):
        w = method.generate(test.support_of(tasks), generator=generator(seed, "noise"))
        made.append(w if _is_head(method) else method.logits(w, test.batch(tasks).query).argmax(-1))
    return {"w" if _is_head(method) else "predicted": torch.cat(made)}


def _is_head(method: Method) -> bool:
    return method.space is method.head.space


def _time_before(body: torch.nn.Module, test: TaskSource, batch: int, repeats: int) -> float:
    """Milliseconds a task until a method can begin: its support images to the body's features."""
    support = test.batch(torch.arange(batch) % len(test)).support
    return _median(lambda: embed(body, support.images), repeats, support) / batch


def _times(
    method: Method, body: torch.nn.Module, test: TaskSource, batch: int, repeats: int, seed: int
) -> dict[str, float]:
    """Milliseconds as a user meets them: what the method is given to a task's weights, and a query image to its label."""
    task = test.batch(torch.arange(batch) % len(test))
    support, query = task.support, task.query
    w = method.generate(support, generator=generator(seed, "noise"))
    one = Query(query.features[:, :1, :1], query.images[:, :1, :1])

    def answer() -> Tensor:
        features = one.features if method.from_images else embed(body, one.images).to(w)
        return method.logits(w, Query(features, one.images)).argmax(-1)

    return {
        "ms_generate": _median(lambda: method.generate(support, generator=generator(seed, "noise")), repeats, support)
        / batch,
        "ms_query": _median(answer, repeats, support) / batch,
    }


def _median(call: Callable[[], Tensor], repeats: int, support: Support) -> float:
    """Milliseconds: the median of ``repeats`` calls after one to warm up; of slow calls as many as fill a second."""
    _seconds(call, support)
    seconds = [_seconds(call, support)]
    while len(seconds) < repeats and sum(seconds) < 1:
        seconds.append(_seconds(call, support))
    return 1000 * statistics.median(seconds)


def _seconds(call: Callable[[], Tensor], support: Support) -> float:
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
