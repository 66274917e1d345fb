"""A meta-training as the paper's figures see it: measured on the way, on meta-test tasks, against the time it took.

Weights are taken at full update scale, as the chain ends, and of averaged parameters. Time is the processor's and of
meta-training alone: neither the measuring nor other programs count.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from bench import BENCH, RUNS
from bench.machine import origin
from bench.plan import LOCATE
from bench.settings import bench_params, changes_of, defaults, load_yaml, override, pick
from bench.stages import name_of_code, read_stages, run_stages
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
from ltdi.utils.console import say
from ltdi.utils.devices import deterministic
from ltdi.utils.errors import InputError
from ltdi.utils.metrics import weight_mse
from ltdi.utils.seeding import generator
from ltdi.utils.trainer import Training

FORMS = ("paper", "default")
GLYPHS = ("glyphs-5w1s",)
MEASURED = 5
"""How often a training is measured, the beginning apart."""


@dataclass(frozen=True)
class Bench:
    """What a figure measures with: a budget of bench/params.yaml, seeds, and where data lie and runs are kept."""

    budget: str
    seeds: tuple[int, ...]
    root: Path
    runs: Path

    def params(self, setting: str, form: str, seed: int, changes: dict[str, Any]) -> dict[str, Any]:
        bench = bench_params()
        budget = pick(bench, "budgets", self.budget)
        own = (load_yaml(BENCH / "paper.yaml")["shared"] if form == "paper" else {}) | pick(bench, "forms", form)
        # a budget is reduced for every form, the paper's own numbers of tasks among it
        own |= {key: value for key, value in budget["overrides"].items() if key.startswith("tasks.")}
        common = {"seed": seed, "data.root": str(self.root), "method.baselines": []}
        return override(defaults(), changes_of(bench, setting, budget) | own | common | changes)

    def curves(self, settings: Iterable[str], cases: dict[str, dict[str, Any]], forms: Iterable[str]) -> pd.DataFrame:
        """The measured rows of every case, a case being what it changes, in every setting, form and seed."""
        parts = []
        for setting, form, seed, (case, changes) in product(self.found(settings), forms, self.seeds, cases.items()):
            params = self.params(setting, form, seed, changes)
            say(f"bench: {setting}, {form}, seed {seed}: {case}")
            about = {"setting": setting, "form": form, "seed": seed, "case": case, "T": params["diffusion"]["steps"]}
            about |= {"length": params["trajectories"]["length"], **origin()}
            parts.append(curve(params, self.runs).assign(**about))
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()

    def of_one_seed(self) -> "Bench":
        return replace(self, seeds=self.seeds[:1])

    def found(self, settings: Iterable[str]) -> list[str]:
        """Those whose data are here."""
        bench = bench_params()
        return [each for each in settings if self._is_found(pick(bench, "settings", each)["data"])]

    def _is_found(self, data: str) -> bool:
        try:
            LOCATE[data](self.root)
        except InputError as error:
            say(f"bench: {data} is skipped: {error}")
            return False
        return True


@dataclass(frozen=True, eq=False)
class World:
    """What is learned from, and the meta-test tasks with their trajectories, by which it is measured."""

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
        sources = load_sources(data)
        found = {split: load_trajectories(data, split) for split in SPLITS}
        train, val, test = (sources[split].take(kept) for split, (_, kept) in found.items())
        trajectories, val_recorded, recorded = (each for each, _ in found.values())
        provides = frozenset(facts["provides"])
        return cls(
            initialization, train, trajectories, val, val_recorded, test, recorded, provides, facts["collection"]
        )

    def streamed(self, params: Mapping[str, Any]) -> Trajectories:
        """The trajectories that a training of ``params`` draws from: those stored, or those collected meanwhile."""
        meta = params["meta"]
        if not meta["streamed_tasks"]:
            return self.trajectories
        sizes = {
            "pool": meta["streamed_tasks"],
            "uses_per_trajectory": meta["uses_per_trajectory"],
            "tasks_a_step": meta["recorded_tasks"],
        }
        return StreamedTrajectories(
            self.trajectories, self.initialization, self.collection, seed=params["seed"], **sizes
        )

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


def curve(params: dict[str, Any], runs: Path = RUNS) -> pd.DataFrame:
    """A row for the beginning and for every measured step of the training that ``params`` say, kept under ``runs``:
    ``step``, ``seconds``, the training's ``loss``; on meta-test tasks the mean ``score`` and ``distance2`` to the
    trained weights, ``val_loss_w…`` by sub-chain, and ``of_mean``: the distance² of the mean of the training weights.
    """
    data = run_stages(params, runs, until="collect_trajectories")
    stage = read_stages()["meta_train"]
    own_code = name_of_code(BENCH, (BENCH / "curves.py",))
    key = digest(str(data.parent.name), stage.values(params), stage.code(params), own_code)
    file = runs / "curves" / f"{key[:16]}.tsv"
    if not file.exists():
        world = World.read(data)
        method = world.diffusion(params)
        write_tsv(file, pd.DataFrame(trained(method, world, params)))
    return pd.read_csv(file, sep="\t")


def trained(method: DiffusionMethod, world: World, params: Mapping[str, Any]) -> Iterator[dict[str, float]]:
    """The rows of ``curve``, as it is trained; in the end the method has its averaged parameters."""
    deterministic()
    meta, seed = params["meta"], params["seed"]
    hparams = {"lr": meta["outer_lr"], "ema": meta["ema"], "lr_schedule": meta["lr_schedule"]}
    training = Training(method, steps=meta["steps"], **hparams)
    of_mean = {"of_mean": weight_mse(_mean(world), _trained(world)).mean().item()}
    yield {"step": 0, "seconds": 0.0} | measured(method.eval(), world, seed) | of_mean
    seconds, every = 0.0, max(1, meta["steps"] // MEASURED)
    method.train()
    started = time.process_time()
    for row in method.meta_train(training, world.train, world.streamed(params), seed=seed):
        if training.step % every == 0:
            seconds += time.process_time() - started
            with training.averaged():
                yield row | {"seconds": seconds} | measured(method, world, seed) | of_mean
            started = time.process_time()
    method.eval().load_state_dict(training.average)


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
    everything = torch.arange(len(world.trajectories))
    weights = world.initialization.learner.space.some_slots(world.trajectories.trained(everything), world.test.n_way)
    return weights.mean(0, keepdim=True)
