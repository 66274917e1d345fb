"""Lv-Di: Lt-Di with the vanilla diffusion process, the paper's ablation without trajectories (Table 1, C1 + C2)."""

from ltdi.diffusion.process import VanillaProcess
from ltdi.methods.common.diffusion import DiffusionMethod


class LvDi(DiffusionMethod):
    """The ablation: every state is trained toward the trained weights w_0 alone."""

    process_class = VanillaProcess
