"""A made-up world of named classes: a class's text is a rotation of its features' centre, with noise."""

from dataclasses import replace

import torch
from torch import Tensor
from worlds import World

from ltdi.initialization import INITIALIZATIONS
from ltdi.initialization.base import shared_draw
from ltdi.learners import LinearHead
from ltdi.methods.common.setup import Setup
from ltdi.tasks.named_class_tasks import NamedClasses, NamedClassTasks
from ltdi.utils.seeding import generator

F, E, N_WAY, IMAGES = 8, 12, 5, 10
CLASSES = {"train": 60, "val": 20, "test": 20}


def named_classes(split: str, *, shuffled: bool = False) -> NamedClasses:
    """Of a split; ``shuffled``: each has another's text."""
    stream = generator(0, "named", split)
    n = CLASSES[split]
    centres = torch.randn(n, F, generator=stream)
    turn = torch.linalg.qr(torch.randn(E, E, generator=generator(0, "turn")))[0][:, :F]
    texts = centres @ turn.mT + 0.1 * torch.randn(n, E, generator=stream)
    features = centres[:, None] + 0.3 * torch.randn(n, IMAGES, F, generator=stream)
    return NamedClasses(
        features.flatten(0, 1),
        torch.full((n,), IMAGES),
        texts=texts.roll(1, 0) if shuffled else texts,
        learned_from=split == "train",
    )


def named_tasks(split: str, n_tasks: int, **changes: bool) -> NamedClassTasks:
    of = named_classes(split, **changes)
    return NamedClassTasks.of_classes(of, n_tasks=n_tasks, n_way=N_WAY, n_query=5, seed=0, split=split)


class NamedWorld(World):
    """What ``World`` is of classes of blobs."""

    def __init__(self, kind: str = "softmax_rows") -> None:
        self.body = None
        self.train, self.val, self.test = (
            named_tasks(split, n) for split, n in (("train", 40), ("val", 40), ("test", 60))
        )
        learner = LinearHead(F, E)
        shared = shared_draw(learner, N_WAY, 0)
        own = {} if kind == "shared" else {"texts": self.train.of.texts, "rows": self.train.of.means()}
        self.initialization = INITIALIZATIONS[kind](learner, shared, **own)
        if own:
            self.initialization = self.initialization.calibrated(self.train, self.val)
        self.record()

    def setup(self, **changes) -> Setup:
        setup = super().setup(**({"n_way": N_WAY} | changes))
        return replace(setup, provides=frozenset({"classes", "names"}))

    def permuted(self, w: Tensor, order: Tensor) -> Tensor:
        """Weights with the class slots of others, (B, D)."""
        space = self.initialization.learner.space
        tokens = space.tokens(w)
        return space.from_tokens(tokens | {space.slot_layer: tokens[space.slot_layer][:, order]})
