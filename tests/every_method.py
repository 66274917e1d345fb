"""Every method and baseline that the small world of tasks can try, by its name."""

import torch
from worlds import World

from ltdi.methods import registry
from ltdi.methods.common.diffusion import DiffusionMethod
from ltdi.methods.common.trained import TrainedMethod
from ltdi.tasks.base import Context
from ltdi.tasks.class_tasks import context_of
from ltdi.utils.seeding import generator

# those that tell classes from each other by their names have a world of their own, in test_described.py
METHODS, BASELINES = (
    {name: method for name, method in each.items() if "names" not in method.needs}
    for each in (registry.METHODS, registry.BASELINES)
)
DIFFUSIONS = [name for name, cls in METHODS.items() if issubclass(cls, DiffusionMethod)]

INITIALIZATIONS = ("fresh", "shared", "prototype", "ridge")


def every_world() -> dict[tuple[str, bool], World]:
    """By the start, and whether there are images."""
    return {(kind, images): World(kind, with_images=images) for kind in INITIALIZATIONS for images in (False, True)}


def from_images(name: str) -> bool:
    return "images" in (METHODS | BASELINES)[name].needs


TRAINED = [name for name, cls in METHODS.items() if issubclass(cls, TrainedMethod)]


def context_with(world, n_way, n_shot, n_tasks=5) -> Context:
    """Of new tasks of the split that nothing was trained on."""
    stream = generator(0, "another size")
    return world.val.new(world.val.draw(n_tasks, stream, n_way=n_way), stream, n_shot=n_shot).context


def images_of(context) -> torch.Tensor | None:
    """(B, N, K, …), where there are any."""
    images = context.examples.get("images")
    return None if images is None else images.unflatten(1, context.rows.shape[1:3])


def masked(context, shots, spoilt=False) -> Context:
    mask, images = torch.arange(context.rows.shape[2]) < shots[..., None], images_of(context)
    if not spoilt:
        return context_of(context.rows, mask, images)
    images = None if images is None else torch.where(mask[..., None, None, None], images, 255 - images)
    return context_of(context.rows.where(mask[..., None], 1e3), mask, images)
