"""A baseline: local targets without Theorem 1's correction."""

from ltdi.diffusion.process import NaiveLocalProcess
from ltdi.methods.common.diffusion import DiffusionMethod


class NaiveLocal(DiffusionMethod):
    process_class = NaiveLocalProcess
