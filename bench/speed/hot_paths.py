"""What ltdi spends its time on, each beside what a user would write: for ``bench.speed``.

Features, images and texts are random and of the default sizes: what takes the time does not depend on what they show.
"""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.harness.settings import defaults
from ltdi.bodies.conv4 import Conv4
from ltdi.bodies.embedding import embed
from ltdi.bodies.feature_extractor import FeatureExtractor
from ltdi.config import Denoiser, Diffusion, MetaTraining
from ltdi.initialization.closed_form import Prototype
from ltdi.learners import Lora, TwoLayerHead
from ltdi.learners.fitting import gradient
from ltdi.methods.common.diffusion import DiffusionMethod
from ltdi.methods.common.setup import Setup
from ltdi.methods.registry import build
from ltdi.tasks.batch import Batch
from ltdi.tasks.class_tasks import Classes, ClassTasks
from ltdi.trajectories.collection import Trajectories, collect
from ltdi.utils.seeding import generator
from ltdi.utils.trainer import Training

FEATURES, HIDDEN, IMAGES, CLASSES, SIDE = 64, 64, 20, 100, 28
STEPS, LR, SAM = 30, 1e-2, 0.05


@dataclass(frozen=True)
class HotPath:
    """``ours`` does ``n`` units of work, ``plain`` ``n_plain``; ``beside`` says what that is, ``products`` the number
    format of ours."""

    name: str
    unit: str
    n: int
    ours: Callable[[], object]
    beside: str
    n_plain: int
    plain: Callable[[], object]
    products: torch.dtype = torch.float32


class World:
    """Tasks of 5 classes and more on random features, a start, Lt-Di as params.yaml has it, and a body."""

    def __init__(self, device: torch.device) -> None:
        self.device, stream = device, generator(0, "speed")
        features = torch.randn(CLASSES * IMAGES, FEATURES, generator=stream).relu()
        self.classes = Classes(features, torch.full((CLASSES,), IMAGES)).to(device)
        self.learner = TwoLayerHead(FEATURES, HIDDEN)
        shared = self.learner.initial(1, 5, stream)[0].to(device)
        self.initialization = Prototype(self.learner, shared, temperature=0.5, ridge=1.0)
        self.body = Conv4(1).eval().requires_grad_(False).to(device).to(memory_format=torch.channels_last)
        self.images = torch.randint(256, (1000, 1, SIDE, SIDE), generator=stream, dtype=torch.uint8).to(device)
        self.extractor = FeatureExtractor("glyphs", SIDE, self.body, 1.0, None, device)

    def tasks(self, n: int, n_way: int) -> ClassTasks:
        of = Classes(self.classes.features.cpu(), self.classes.counts.cpu())
        made = ClassTasks.sample(of, n_tasks=n, n_way=n_way, n_shot=1, n_query=15, seed=0, split="meta_train")
        return made.to(self.device)

    def method(self, **changes: int) -> DiffusionMethod:
        params = defaults()
        keys = MetaTraining.model_fields
        meta = {key: value for key, value in params["meta"].items() if key in keys} | changes
        setup = Setup(
            MetaTraining(**meta), Diffusion(**params["diffusion"]), Denoiser(**params["denoiser"]), 4, 5, 1, 64, CLASSES
        )
        made = build("ltdi", self.initialization, setup, {}, seed=0).to(self.device)
        assert isinstance(made, DiffusionMethod)
        return made


def hot_paths(device: torch.device) -> Iterator[HotPath]:
    world = World(device)
    # a GPU is filled by more than a processor's cache holds
    times = 1 if device.type == "cpu" else 16
    for n, n_way, sam in ((256, 5, 0.0), (256, 5, SAM), (16, 64, 0.0)):
        for precision in ("float32", "bfloat16"):
            yield _collection(world, times * n, n_way, sam, precision)
    yield _meta_training(world)
    yield from (_generation(world, n) for n in (1, 64))
    yield _classification(world)
    yield _embedding(world)
    if find_spec("transformers"):
        yield _adapters(world)


def _collection(world: World, n: int, n_way: int, sam: float, precision: str) -> HotPath:
    source, few = world.tasks(n, n_way), min(4, max(1, n // 64))
    how: dict[str, Any] = {"fit_on": "class", "augment": False, "optimizer": "adam", "lr": LR, "steps": STEPS}
    how |= {"length": 4, "seed": 0}
    tasks = torch.arange(n)
    name = f"collection, {n_way} classes, {precision}" + (", SAM" if sam else "")
    ours = partial(collect, world.initialization, source, tasks, sam=sam, precision=precision, **how)
    w, batch = world.initialization.centre(source.context(tasks)), source.fitted_on(tasks)
    plain = partial(_loop_of_adam, world.learner, w[:few], batch, sam)
    beside = "a loop over tasks: nn.Sequential, torch.optim.Adam"
    return HotPath(name, "tasks", n, ours, beside, few, plain, getattr(torch, precision))


def _loop_of_adam(learner: TwoLayerHead, w: Tensor, batch: Batch, sam: float) -> Tensor:
    """The trained weights (B, D) from w (B, D)."""
    trained = []
    for task in range(len(w)):
        tensors = learner.space.unflatten(w[task])
        n_way = len(tensors["output.bias"])
        head = nn.Sequential(nn.Linear(FEATURES, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, n_way)).to(w.device)
        with torch.no_grad():
            for parameter, name in zip(head.parameters(), tensors):
                parameter.copy_(tensors[name])
        optimizer = torch.optim.Adam(head.parameters(), lr=LR)
        inputs, labels = batch["inputs"][task], batch["labels"][task]
        for _ in range(STEPS):
            optimizer.zero_grad()
            F.cross_entropy(head(inputs), labels).backward()
            if sam:
                _ascend(head, inputs, labels, sam)
            optimizer.step()
        trained.append(learner.space.flatten(dict(zip(tensors, (p.detach() for p in head.parameters())))))
    return torch.stack(trained)


def _ascend(head: nn.Module, inputs: Tensor, labels: Tensor, radius: float) -> None:
    """The gradient at the worst neighbour, in place of the one here."""
    parameters = list(head.parameters())
    with torch.no_grad():
        norm = torch.stack([p.grad.norm() for p in parameters if p.grad is not None]).norm()
        moves = [radius * p.grad / norm for p in parameters if p.grad is not None]
        for parameter, move in zip(parameters, moves):
            parameter.add_(move)
    head.zero_grad()
    F.cross_entropy(head(inputs), labels).backward()
    with torch.no_grad():
        for parameter, move in zip(parameters, moves):
            parameter.sub_(move)


def _meta_training(world: World, n: int = 32) -> HotPath:
    source = world.tasks(n, 5)
    trajectories = Trajectories.of(torch.zeros(n, 4, world.learner.space.dim(5), device=world.device))
    method = world.method(recorded_tasks=0, new_tasks=n, n_way=5)
    one = world.method(recorded_tasks=0, new_tasks=1, n_way=5)
    training = Training(method, lr=1e-3, steps=10**9, ema=0.99)
    rows = method.meta_train(training, source, trajectories, seed=0)

    def plain() -> None:
        phi, stream = dict(one.named_parameters()), generator(0, "plain")
        for _ in range(n):
            task = source.new(source.draw(1, stream), stream, n_shot=1, n_query=one.meta.query_images)
            (one.functional_loss(phi, one.draw_inputs(task, None, stream)).mean() / n).backward()
        one.zero_grad()

    return HotPath("meta-training", "tasks", n, partial(next, rows), "a loop over tasks, gradients summed", n, plain)


def _generation(world: World, n: int) -> HotPath:
    source, method = world.tasks(n, 5), world.method().eval()
    context = source.context(torch.arange(n))
    support = world.images[: 5 * n]
    return HotPath(
        f"generation, {n} at once",
        "tasks",
        n,
        lambda: method.generate(context, generator=generator(0, "noise")),
        "embedding their support images",
        n,
        partial(embed, world.body, support),
    )


def _classification(world: World) -> HotPath:
    source = world.tasks(1, 5)
    w = world.initialization.centre(source.context(torch.arange(1)))
    image, body = world.images[:1], world.body
    head = nn.Sequential(nn.Linear(FEATURES, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 5)).to(world.device)

    @torch.no_grad()
    def ours() -> Tensor:
        return world.learner.logits(w, world.extractor(image)[None])[0].softmax(-1)

    @torch.no_grad()
    def plain() -> Tensor:
        return head(body(image.float() / 255)).softmax(-1)

    return HotPath("classification of an image", "images", 1, ours, "head(body(image))", 1, plain)


def _embedding(world: World) -> HotPath:
    few = world.images[:50]

    @torch.no_grad()
    def plain() -> list[Tensor]:
        return [world.body(image[None].float() / 255) for image in few]

    ours = partial(embed, world.body, world.images)
    return HotPath("embedding", "images", len(world.images), ours, "a loop over images", len(few), plain)


def _adapters(world: World, n: int = 4, texts: int = 8, length: int = 32) -> HotPath:
    """Gradients of LoRA, rank 4, in all six layers of a random model of MiniLM's width."""
    from transformers import BertConfig, BertModel, BertTokenizer

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "words").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n")
        BertTokenizer(str(Path(folder) / "words")).save_pretrained(folder)
        sizes: dict[str, Any] = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12}
        BertModel(BertConfig(vocab_size=5, intermediate_size=1536, **sizes)).save_pretrained(folder)
        learner = Lora(folder, rank=4, alpha=8.0, modules=["query", "value"])
    learner.network.to(world.device)
    w = learner.initial(n, 2, generator(0, "lora")).to(world.device)
    hidden = torch.ones(n, texts, length, 2, dtype=torch.int, device=world.device)
    mask, labels = torch.ones(n, texts, length), torch.arange(texts).remainder(2).expand(n, -1)
    batch = {"hidden": hidden, "mask": mask.to(world.device), "labels": labels.to(world.device)}

    def plain() -> None:
        for j in range(n):
            gradient(learner.loss, w[j : j + 1], {name: value[j : j + 1] for name, value in batch.items()})

    ours = partial(gradient, learner.loss, w, batch)
    return HotPath("adapters: a step", "texts", n * texts, ours, "a loop over tasks", n * texts, plain)
