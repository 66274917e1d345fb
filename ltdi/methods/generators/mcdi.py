"""Mc-Di: local consistency diffusion, by the same authors, CVPR 2026: every recorded point below is a target."""

from ltdi.diffusion.process import LocalConsistencyProcess
from ltdi.methods.common.diffusion import DiffusionMethod


class McDi(DiffusionMethod):
    process_class = LocalConsistencyProcess
