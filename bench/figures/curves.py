"""A meta-training measured on the way, on meta-test tasks, against the time it took.

Weights are taken at full update scale, as the chain ends, and of averaged parameters. Time is the processor's and of
meta-training alone: neither the measuring nor other programs count.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from bench import BENCH, RUNS
from bench.harness.stages import digest_of_code, read_stages, run_stages
from ltdi.config import Denoiser, Diffusion, Meta
from ltdi.initialization import Initialization
from ltdi.methods.common.base import Method
from ltdi.methods.common.diffusion import DiffusionMethod
from ltdi.methods.common.setup import Setup
from ltdi.methods.registry import build
from ltdi.store import digest, write_tsv
from ltdi.tasks.base import TaskSource, batches
from ltdi.trajectories.collection import Trajectories
from ltdi.trajectories.storage import SPLITS, load_initialization, load_sources, load_trajectories
from ltdi.trajectories.streaming import StreamedTrajectories
from ltdi.utils.devices import deterministic
from ltdi.utils.metrics import weight_mse
from ltdi.utils.seeding import generator
from ltdi.utils.trainer import Training

MEASURED = 5
"""Number of measurements of a training, without the one before its first step."""


@dataclass(frozen=True, eq=False)
class World:
    """Tasks and trajectories of the three splits; those of meta-test measure."""

    initialization: Initialization
    train: TaskSource
    trajectories: Trajectories
    val: TaskSource
    val_recorded: Trajectories
    test: TaskSource
    recorded: Trajectories
    provides: frozenset[str]
    collection: Mapping[str, Any]

    @classmethod
    def read(cls, data: Path) -> "World":
        initialization, _, facts = load_initialization(data)
        sources, parts = load_sources(data), list[Any]()
        for split in SPLITS:
            trajectories, kept = load_trajectories(data, split)
            parts += [sources[split].take(kept), trajectories]
        facts = {"provides": frozenset(facts["provides"]), "collection": facts["collection"]}
        return cls(initialization, *parts, **facts)

    def streamed(self, params: Mapping[str, Any]) -> Trajectories:
        """The trajectories that a training of ``params`` draws from: those stored, or those collected meanwhile."""
        meta = params["meta"]
        if not meta["streamed_tasks"]:
            return self.trajectories
        sizes = {"pool": meta["streamed_tasks"], "uses_per_trajectory": meta["uses_per_trajectory"]}
        sizes |= {"tasks_a_step": meta["recorded_tasks"], "seed": params["seed"]}
        return StreamedTrajectories(self.trajectories, self.initialization, self.collection, **sizes)

    def diffusion(self, params: Mapping[str, Any]) -> DiffusionMethod:
        """Build the method of ``params``, which must be a diffusion."""
        method = self.build(params)
        assert isinstance(method, DiffusionMethod)
        return method

    def build(self, params: Mapping[str, Any]) -> Method:
        """The method of ``params``, not trained yet."""
        setup = Setup(
            meta=Meta(**params["meta"]).training,
            diffusion=Diffusion(**params["diffusion"]),
            denoiser=Denoiser(**params["denoiser"]),
            length=self.trajectories.length,
            n_way=self.test.n_way,
            n_shot=self.test.n_shot,
            n_tasks=len(self.train),
            n_classes=self.train.n_classes,
            provides=self.provides,
        )
        name = params["method"]["name"]
        method = build(name, self.initialization, setup, params["methods"][name], seed=params["seed"])
        method.prepare(self.train, self.trajectories, self.val)
        return method


def kept_key(params: dict[str, Any], runs: Path, *own: Any, code: tuple[str, ...]) -> tuple[Path, str]:
    """The folder of the collected trajectories, and a key of a training on them by bench files ``code``."""
    data, stage = run_stages(params, runs, until="collect_trajectories"), read_stages()["meta_train"]
    own_code = digest_of_code(BENCH, tuple(BENCH / name for name in code))
    return data, digest(data.parent.name, stage.values(params), stage.code(params), own_code, *own)[:16]


def curve(params: dict[str, Any], runs: Path = RUNS) -> pd.DataFrame:
    """A row for the beginning and every measured step of a training, kept under ``runs``: ``step``, ``seconds``, the
    training's ``loss``; on meta-test tasks the mean ``score``, ``distance2`` to the trained weights, ``val_loss_w…`` by
    sub-chain, and ``of_mean``: the distance² of the mean of the training weights.
    """
    data, key = kept_key(params, runs, code=("figures/curves.py",))
    file = runs / "curves" / f"{key}.tsv"
    if not file.exists():
        world = World.read(data)
        write_tsv(file, pd.DataFrame(trained(world.diffusion(params), world, params)))
    return pd.read_csv(file, sep="\t")


def trained(method: DiffusionMethod, world: World, params: Mapping[str, Any]) -> Iterator[dict[str, float]]:
    """The rows of ``curve``, as it is trained; in the end the method has its averaged parameters."""
    deterministic()
    steps, seed = params["meta"]["steps"], params["seed"]
    of_mean = {"of_mean": weight_mse(_mean(world), _trained(world)).mean().item()}
    yield {"step": 0, "seconds": 0.0} | measured(method.eval(), world, seed) | of_mean
    every = max(1, steps // MEASURED)
    measure = partial(measured, method, world, seed)
    for training, row in on_the_way(method, world, params, steps, every, measure):
        yield row | of_mean
        average = training.average
    method.eval().load_state_dict(average)


def on_the_way(
    method: Method, world: World, params: Mapping[str, Any], steps: int, every: int, measure: Callable[[], dict]
) -> Iterator[tuple[Training, dict[str, float]]]:
    """Train; at every so many steps and the last the training's row, CPU ``seconds`` so far, and ``measure`` of the
    averaged parameters."""
    meta = params["meta"]
    hparams = {"lr": meta["outer_lr"], "ema": meta["ema"], "lr_schedule": meta["lr_schedule"]}
    training, seconds = Training(method, steps=steps, **hparams), 0.0
    method.train()
    started = time.process_time()
    for row in method.meta_train(training, world.train, world.streamed(params), seed=params["seed"]):
        if training.step % every and training.step < steps:
            continue
        seconds += time.process_time() - started
        with training.averaged():
            found = measure()
        yield training, row | {"step": training.step, "seconds": seconds} | found
        started = time.process_time()


@torch.no_grad()
def measured(method: DiffusionMethod, world: World, seed: int) -> dict[str, float]:
    """``score``, ``distance2`` and the losses by sub-chain over the meta-test tasks."""
    scores, distances = [], []
    for tasks in batches(len(world.test)):
        task = world.test.batch(tasks)
        w = method.propose(task.context, method.initialization.centre(task.context), generator=generator(seed, "noise"))
        scores.append(method.learner.score(w, task.query))
        distances.append(weight_mse(w, world.recorded.trained(tasks).to(w)))
    found = {"score": torch.cat(scores).mean().item(), "distance2": torch.cat(distances).mean().item()}
    return found | method.validate(world.test, world.recorded, seed=seed)


def _trained(world: World) -> Tensor:
    """The trained weights of the meta-test tasks (M, D)."""
    return world.recorded.trained(torch.arange(len(world.recorded)))


def _mean(world: World) -> Tensor:
    """(1, D): of the training weights, cut to as many classes as a meta-test task has."""
    weights = world.trajectories.trained(torch.arange(len(world.trajectories)))
    return world.initialization.learner.space.some_slots(weights, world.test.n_way).mean(0, keepdim=True)
