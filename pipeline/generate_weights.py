"""Stage 5: weights for the meta-test tasks from their contexts alone, and the time it takes -> data/weights/."""

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from ltdi import config
from ltdi.bodies.feature_extractor import FeatureExtractor
from ltdi.bodies.registry import read_body
from ltdi.methods.common.base import Method
from ltdi.methods.common.diffusion import DiffusionMethod
from ltdi.methods.common.test_time_refinement import TestTimeRefinement
from ltdi.methods.storage import read_method
from ltdi.store import write_table, write_tensors
from ltdi.store.schemas import made_from
from ltdi.tasks.base import Context, Task, TaskSource, batches
from ltdi.tasks.batch import Batch, map_batch
from ltdi.tasks.loading import has_images
from ltdi.trajectories.storage import SHARD_NUMBERS, load_initialization, load_sources, names, read_index, write_weights
from ltdi.utils.console import say, say_fewer
from ltdi.utils.devices import deterministic, device
from ltdi.utils.errors import InputError
from ltdi.utils.seeding import generator
from pipeline.common import params as parameters
from pipeline.common.progress import follow
from pipeline.common.stage import run

BATCHES = (1, 64)


def main(params_file: Path, data: Path) -> None:
    params = parameters.load(params_file, "seed", "generate")
    hparams, seed = params.generate, params.seed
    deterministic()
    read_index(data)  # its seal is written into what is made here
    where = device()
    images_of = ["meta_test"] if has_images(data / "tasks") else []
    test = load_sources(data, splits=["meta_test"], images_of=images_of, device=where)["meta_test"]
    body = read_body(data / "body" / "body.safetensors").to(where).to(memory_format=torch.channels_last)
    name, baselines = names(data)
    methods = {each: read_method(data / "model" / "methods", each, body, where) for each in (name, *baselines)}
    trained = methods[name]
    methods[name] = TestTimeRefinement(
        trained, heads=hparams.heads, adapt_steps=hparams.adapt_steps, adapt_lr=hparams.adapt_lr
    )

    seen = load_initialization(data, where)[1]
    # texts are read once, by the stage that prepares them
    is_seen = (data / "tasks" / "features.safetensors").is_file()
    extractor = FeatureExtractor.of(data / "tasks", body, seen, where) if is_seen else None
    clock = _Clock(extractor, test, hparams.timing_repeats, seed)
    timings = []
    rows = ({"method": j} for j in range(len(methods)))
    for row in follow(rows, name="generate_weights", total=len(methods), show="method"):
        each, method = list(methods.items())[row["method"]]
        _generate(method, test, data / "weights" / each, seed, hparams)
        timings += clock.rows(each, method)
    if isinstance(trained, DiffusionMethod):
        say_fewer("generate.chains", hparams.chains, len(test), "meta-test tasks")
        context = test.context(torch.arange(min(hparams.chains, len(test))))
        states = trained.generate_sampling_trajectory(context, generator=generator(seed, "noise"))
        file = data / "weights" / "chain.safetensors"
        write_tensors(file, {"states": states}, kind="chain", made_from=made_from(data, "weights"))
    # the last, and beside the weights that it was measured on: they are of one run
    of = [*made_from(data, "weights"), *sorted((data / "weights").rglob("*.safetensors"))]
    write_table(data / "weights" / "timing.parquet", pd.DataFrame(timings), made_from=of)
    say(", ".join(f"{t['name']} {t['ms_generate']:.2f} ms" for t in timings if t["batch"] == 1))


def _generate(method: Method, test: TaskSource, folder: Path, seed: int, hparams: config.Generate) -> None:
    """The weights of all tasks, file by file; of a method with a learner of its own, which later stages do not have,
    the scores."""
    own = method.learner is not method.initialization.learner
    held: list[Tensor] = []
    first = 0
    for tasks in batches(len(test), max(BATCHES)):
        task = test.batch(tasks)
        w = method.generate(task.context, generator=generator(seed, "noise"))
        finite = w.isfinite().all(-1)
        if not bool(finite.all()):
            # said here, because what has no number is scored like any other
            raise InputError(
                f"the weights of {folder.name} for task {int(tasks[finite.int().argmin()])} are not finite;"
                f" {_remedy(method, hparams)}"
            )
        held.append(method.learner.score(w, task.query) if own else w)
        if sum(part.numel() for part in held) >= SHARD_NUMBERS or int(tasks[-1]) == len(test) - 1:
            write_weights(folder, first, {"scores" if own else "w": torch.cat(held)})
            first, held = int(tasks[-1]) + 1, []


def _remedy(method: Method, hparams: config.Generate) -> str:
    """Of weights that are not finite: what to lower."""
    if isinstance(method, TestTimeRefinement) and method.adapt_steps:
        return f"lower generate.adapt_lr = {hparams.adapt_lr}"
    return "its training went wrong: lower meta.outer_lr, or meta.inner_lr, and run `dvc repro`"


class _Clock:
    """Milliseconds as a user meets them: what the method is given to a task's weights, and a query to its answer. Where
    tasks have no images, from what the frozen model made of their texts on."""

    def __init__(self, extractor: FeatureExtractor | None, test: TaskSource, repeats: int, seed: int) -> None:
        self.extractor, self.test, self.repeats, self.seed = extractor, test, repeats, seed
        self.embedding: dict[int, float] = {}

    def rows(self, name: str, method: Method) -> list[dict]:
        return [
            {"name": name, "batch": batch, "adapts": method.adapts, **self.times(method, batch)} for batch in BATCHES
        ]

    def times(self, method: Method, batch: int) -> dict[str, float]:
        task = self.test.batch(torch.arange(batch) % len(self.test))
        w = method.generate(task.context, generator=generator(self.seed, "noise"))
        one = map_batch(lambda value: value[:, :1], task.query)

        def answer() -> Tensor:
            if method.from_images or self.extractor is None:
                return method.learner.score(w, one)
            return method.learner.score(w, dict(one) | {"inputs": self.extractor(images(one, self.extractor))})

        def generate() -> Tensor:
            return method.generate(task.context, generator=generator(self.seed, "noise"))

        return {
            "ms_embed": 0.0 if method.from_images or not self.extractor else self.before(batch, task, self.extractor),
            "ms_generate": self.median(generate, task.context) / batch,
            "ms_query": self.median(answer, task.context) / batch,
        }

    def before(self, batch: int, task: Task, extractor: FeatureExtractor) -> float:
        """Until a method can begin: a task's images to the body's features. The same for all methods, so it is timed
        once."""
        if batch not in self.embedding:
            examples = task.context.examples
            self.embedding[batch] = 0.0
            if examples is not None:  # else names, whose rows are there
                pictures = images(examples, extractor)
                self.embedding[batch] = self.median(lambda: extractor(pictures), task.context) / batch
        return self.embedding[batch]

    def median(self, call: Callable[[], Tensor], context: Context) -> float:
        """Milliseconds: the median of ``repeats`` calls after one to warm up; of slow ones as a second holds."""
        _seconds(call, context)
        seconds = [_seconds(call, context)]
        while len(seconds) < self.repeats and sum(seconds) < 1:
            seconds.append(_seconds(call, context))
        return 1000 * statistics.median(seconds)


def images(batch: Batch, extractor: FeatureExtractor) -> Tensor:
    """Of its inputs (B, M, channels, size, size); blank ones, which take as long, where they are not kept."""
    return batch["images"] if "images" in batch else extractor.blank(batch["inputs"].shape[:2])


def _seconds(call: Callable[[], Tensor], context: Context) -> float:
    cuda = context.rows.is_cuda
    if cuda:
        torch.cuda.synchronize()
    started = time.perf_counter()
    call()
    if cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started


if __name__ == "__main__":
    run(main, writes="weights")
