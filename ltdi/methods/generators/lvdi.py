"""Lv-Di: the paper's method with the vanilla diffusion process, its ablation without trajectories (Table 1, C1 +
C2)."""

from ltdi.diffusion.process import VanillaProcess
from ltdi.methods.common.diffusion import DiffusionMethod


class LvDi(DiffusionMethod):
    process_class = VanillaProcess
