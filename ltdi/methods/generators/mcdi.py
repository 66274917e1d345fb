"""Mc-Di, local consistency diffusion by the authors of Lt-Di (CVPR 2026): every recorded point below is a target."""

from ltdi.diffusion.process import LocalConsistencyProcess
from ltdi.methods.common.diffusion import DiffusionMethod


class McDi(DiffusionMethod):
    """Diffusion whose states are trained toward a recorded point drawn among all points below them."""

    process_class = LocalConsistencyProcess
