"""Lt-Di, "Learning to Learn Weight Generation via Trajectory Diffusion": meta-learned trajectory diffusion."""

from ltdi.diffusion.process import TrajectoryProcess
from ltdi.methods.common.diffusion import DiffusionMethod


class LtDi(DiffusionMethod):
    """The paper's method: every state is trained toward the next recorded point of the training trajectory."""

    process_class = TrajectoryProcess
