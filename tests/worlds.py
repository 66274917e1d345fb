"""A small world of tasks for the tests of methods: sources of two splits, trajectories, every method by its name."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import torch

from ltdi.bodies.conv4 import Conv4
from ltdi.bodies.embedding import embed
from ltdi.config import Denoiser, Diffusion, MetaTraining
from ltdi.initialization import INITIALIZATIONS
from ltdi.initialization.closed_form import ClosedForm
from ltdi.learners import TwoLayerHead
from ltdi.methods.common.base import Method
from ltdi.methods.common.setup import Setup
from ltdi.methods.registry import build
from ltdi.tasks.base import Context
from ltdi.tasks.class_tasks import Classes, ClassTasks
from ltdi.trajectories.collection import Trajectories, collect
from ltdi.utils.seeding import generator
from ltdi.utils.trainer import Row, Training

Hyperparameters = Mapping[str, Any]
NONE: Hyperparameters = MappingProxyType({})
F, HIDDEN, N_WAY, N_SHOT, N_QUERY, SIDE = 8, 12, 3, 2, 5, 16
DIFFUSION = {
    "steps": 4,
    "schedule": "cosine",
    "max_beta": 0.999,
    "prediction": "weights",
    "weighting": "weights",
    "on_policy": 1.0,
    "chain_noise": 0.0,
    "start_noise": 1.0,
    "gradient_input": False,
    "min_alpha_bar": 0.0,
    "noise": "gaussian",
    "final_share": 0.0,
    "sampler": "ddpm",
    "scaled_joins": False,
}
PAPER = {"schedule": "linear", "prediction": "epsilon", "weighting": "theorem", "on_policy": 0.0}
DENOISER = {
    "name": "transformer",
    "width": 16,
    "depth": 1,
    "heads": 2,
    "neurons_a_token": 4,
    "condition": "mean",
    "dropout": 0.0,
    "skip": False,
    "linear_map": False,
}
META = {
    "n_way": 5,
    "min_shot": 1,
    "max_shot": 3,
    "new_tasks": 4,
    "recorded_tasks": 16,
    "streamed_tasks": 0,
    "uses_per_trajectory": 1,
    "query_images": 3,
    "inner_steps": 1,
    "inner_optimizer": "sgd",
    "inner_lr": 0.05,
    "weight_loss": 1.0,
    "query_loss": 0.1,
}
# what params.yaml says in `methods`, made small
OWN: dict[str, dict] = {
    "reptile_head": {
        "tasks_a_batch": 16,
        "train_shots": 4,
        "inner_steps": 3,
        "adapt_steps": 3,
        "inner_optimizer": "adam",
        "inner_lr": 1e-2,
        "inner_images": 2,
    },
    "ghn3": {"width": 16, "depth": 2, "heads": 2, "block": 5},
    "weight_flow": {"steps": 3, "noise": 0.5, "on_policy": 0.5},
    "reptile": {
        "tasks_a_batch": 4,
        "inner_steps": 2,
        "adapt_steps": 3,
        "inner_optimizer": "sgd",
        "inner_lr": 1e-3,
        "inner_images": 1,
    },
    "meta_baseline": {"classify": 0.5, "images_a_batch": 24, "tasks_a_batch": 4, "temperature": 10.0},
    "reptile_names": {"inner_steps": 3, "inner_optimizer": "sgd", "inner_lr": 0.05},
    "meta_baseline_names": {"classify": 0.3, "temperature": 5.0},
    "meta_hypernetwork": {"adapt_steps": 1, "adapt_lr": 0.1},
    "llo_vae": {"latent": 4, "beta": 0.01, "temperature": 1.0},
    "ocd": {"scale_width": 16},
    "icis": {"width": 32, "classes_a_batch": 16},
    "metadiff": {"diffusion_steps": 1000, "sampling_steps": 5, "classifier": "distance", "width": 16},
}


def clusters(n_classes: int, name: str) -> torch.Tensor:
    """Features (C, 10, F) of classes that are blobs, cut off below zero as a body's are."""
    stream = generator(0, name)
    centres = 2 * torch.rand(n_classes, 1, F, generator=stream)
    return (centres + 0.25 * torch.randn(n_classes, 10, F, generator=stream)).relu()


def patterns(n_classes: int, name: str) -> torch.Tensor:
    """Images (C, 10, 1, SIDE, SIDE) uint8 of classes that are a random pattern each, with noise."""
    stream = generator(0, name, "images")
    pattern = torch.rand(n_classes, 1, 1, SIDE, SIDE, generator=stream)
    noise = 0.2 * torch.randn(n_classes, 10, 1, SIDE, SIDE, generator=stream)
    return ((pattern + noise).clamp(0, 1) * 255).to(torch.uint8)


def frozen_body() -> Conv4:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Conv4(1, filters=F).eval().requires_grad_(False)


class World:
    """Tasks of two splits and the trajectories of each, from a kind of start; on blobs, or images and features."""

    def __init__(self, kind: str, *, with_images: bool = False) -> None:
        self.body = frozen_body()
        self.head = TwoLayerHead(F, HIDDEN)
        shared = self.head.initial(1, N_WAY, generator(0, "shared"))[0]
        values = {"temperature": 2.0, "ridge": 1.0} if issubclass(INITIALIZATIONS[kind], ClosedForm) else {}
        self.initialization = INITIALIZATIONS[kind](self.head, shared, **values)
        self.train, self.val = (self._source(name, n, with_images) for name, n in (("train", 40), ("val", 8)))
        self.record()

    def record(self) -> None:
        """The trajectories of both splits, and some contexts."""
        hparams = {
            "fit_on": "class",
            "augment": False,
            "optimizer": "adam",
            "lr": 0.02,
            "steps": 6,
            "length": 4,
            "sam": 0.0,
            "seed": 0,
        }
        self.points, self.val_points = (
            collect(self.initialization, source, torch.arange(len(source)), **hparams).points
            for source in (self.train, self.val)
        )
        self.trajectories, self.val_trajectories = Trajectories.of(self.points), Trajectories.of(self.val_points)
        self.context = self.val.context(torch.arange(5))

    def _source(self, name: str, n_tasks: int, with_images: bool) -> ClassTasks:
        images = patterns(12, name) if with_images else None
        features = embed(self.body, images) if images is not None else clusters(12, name)
        if with_images:
            features = features / features.square().mean().sqrt()
        sizes = {"n_tasks": n_tasks, "n_way": N_WAY, "n_shot": N_SHOT, "n_query": N_QUERY}
        classes = Classes(features.flatten(0, 1), torch.full((12,), 10))
        source = ClassTasks.sample(classes, **sizes, seed=1, split=name)
        return source.with_images(images.flatten(0, 1)) if images is not None else source

    def setup(
        self,
        *,
        n_way: int = N_WAY,
        diffusion: Hyperparameters = NONE,
        denoiser: Hyperparameters = NONE,
        meta: Hyperparameters = NONE,
    ) -> Setup:
        """``n_way``: classes of a task of the table; new tasks have more, but where there is no generator of more."""
        denoiser = DENOISER | denoiser
        of_fixed_n_way = {"n_way": n_way} if self.initialization.fixed_n_way or denoiser["name"] == "unet" else {}
        return Setup(
            meta=MetaTraining(**(META | of_fixed_n_way | meta)),
            diffusion=Diffusion(**(DIFFUSION | diffusion)),
            denoiser=Denoiser(**denoiser),
            length=4,
            n_way=n_way,
            n_shot=self.train.n_shot,
            n_tasks=len(self.train),
            n_classes=self.train.n_classes,
            body=self.body,
            provides=frozenset({"classes", "examples", "images"}),
        )

    def build(self, name: str, *, own: Hyperparameters = NONE, **changes) -> Method:
        return build(name, self.initialization, self.setup(**changes), OWN.get(name, {}) | own, seed=0)

    def prepared(self, name: str, **changes) -> Method:
        method = self.build(name, **changes)
        method.prepare(self.train, self.trajectories, self.val)
        return method

    def rows(self, method: Method, training: Training) -> list[dict[str, float]]:
        return read(method.meta_train(training, self.train, self.trajectories, seed=0))


def read(rows: Iterable[Row]) -> list[dict[str, float]]:
    """A log's rows as numbers."""
    return [{key: each.item() if torch.is_tensor(each) else each for key, each in row.items()} for row in rows]


def stirred(method: Method) -> Method:
    """The method with all its parameters moved: a last layer that starts at zero hides all before it."""
    stream = generator(0, "stir")
    with torch.no_grad():
        for parameter in method.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=stream)
    return method.eval()


def draw(method: Method, context: Context, seed: int = 0) -> torch.Tensor:
    return method.generate(context, generator=generator(seed, "noise"))
