"""Hyperparameters of meta-training that do not fit together, or not with the tasks: one line each."""

from ltdi.methods.common.base import Method
from ltdi.methods.common.diffusion import DiffusionMethod
from ltdi.methods.common.setup import Setup
from ltdi.utils.errors import InputError


def check(setup: Setup, one_start: bool, chosen: type[Method]) -> None:
    """Hyperparameters of two sections that do not fit together."""
    denoiser, meta = setup.denoiser, setup.meta
    if denoiser.width % denoiser.heads:
        raise InputError(
            f"denoiser.width = {denoiser.width} is not a multiple of denoiser.heads = {denoiser.heads}; change one"
        )
    if meta.min_shot > meta.max_shot:
        raise InputError(f"meta.min_shot = {meta.min_shot} is more than meta.max_shot = {meta.max_shot}; change one")
    recorded, new = meta.weight_loss * meta.recorded_tasks, meta.query_loss * meta.new_tasks
    if recorded == new == 0:
        raise InputError(
            "meta.weight_loss × meta.recorded_tasks and meta.query_loss × meta.new_tasks are 0 and leave nothing to"
            " learn; raise one of each pair"
        )
    of_fixed_n_way = {"denoiser.name = unet": setup.fixed_n_way, "trajectories.initialization = shared": one_start}
    for key in (key for key, holds in of_fixed_n_way.items() if holds):
        if new and meta.n_way != setup.n_way:
            raise InputError(
                f"{key} is for one number of classes, and meta.n_way = {meta.n_way} is not tasks.n_way = {setup.n_way};"
                " make them equal, or set meta.new_tasks = 0"
            )
    if issubclass(chosen, DiffusionMethod):
        try:
            chosen.process_class.index_map(setup.length, setup.diffusion.steps)
        except ValueError as error:
            raise InputError(
                f"diffusion.steps = {setup.diffusion.steps}: {error}; raise it or lower trajectories.length"
            ) from error


def check_refit(setup: Setup) -> None:
    """Where it is asked to learn of the meta-val classes too."""
    if not {"classes", "examples"} <= setup.provides:
        raise InputError(
            "meta.refit = true is for classes that images are given of, which the tasks of this scenario do not have;"
            " set it to false"
        )
    if not setup.meta.new_tasks * setup.meta.query_loss:
        raise InputError(
            "meta.refit = true learns from new tasks of the meta-val classes, and meta.new_tasks × meta.query_loss is"
            " 0; raise it, or set meta.refit = false"
        )
