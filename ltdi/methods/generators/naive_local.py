"""Naive local targets, a baseline of Lt-Di: its targets on each segment without the correction of Theorem 1."""

from ltdi.diffusion.process import NaiveLocalProcess
from ltdi.methods.common.diffusion import DiffusionMethod


class NaiveLocal(DiffusionMethod):
    """Diffusion toward the next recorded point with DDPM's uncorrected loss on each segment."""

    process_class = NaiveLocalProcess
