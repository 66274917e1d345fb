"""Classes whose features say which image they are of."""

import torch

from ltdi.tasks.class_tasks import Classes, ClassTasks

C, M, F = 8, 7, 3
SIZES = {"n_tasks": 40, "n_way": 5, "n_shot": 2, "n_query": 3}


def coordinates():
    """Features that say where they stand: (class, image, 100·class + image)."""
    grid = torch.stack(torch.meshgrid(torch.arange(C), torch.arange(M), indexing="ij"), -1)
    return torch.cat([grid, 100 * grid[..., :1] + grid[..., 1:]], -1).float()


def classes_of(features, n_rows=M):
    """Of dense features (C, V·n_rows, F), an image's copies behind all images of its class."""
    views = features.unflatten(1, (-1, n_rows)).transpose(0, 1)
    return Classes(views.flatten(0, 2), torch.full((len(features),), n_rows))


def sample(of=None, **sizes):
    of = classes_of(coordinates()) if of is None else of
    return ClassTasks.sample(of, **({"seed": 0, "split": "meta_train"} | SIZES | sizes))


def by_class(batch, n_way=5):
    """The inputs of a batch (B, N, M, F)."""
    return batch["inputs"].unflatten(1, (n_way, -1))
