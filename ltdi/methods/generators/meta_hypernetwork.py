"""Meta-Hypernetwork: a hypernetwork generates a task's weights from an embedding of the support set.

Zhao, Kobayashi, Sacramento & von Oswald 2020, "Meta-Learning via Hypernetworks"; Ha et al. 2017, "HyperNetworks". It is
trained through the query loss alone, without trained heads. As published, weights are shared softly within a layer: a
neuron's weights are its own coefficients times templates common to all neurons of the layer.

Differences from the published form:
- the embedding e has a row per class and is computed from the support set in one pass. Published is one learned
  vector, fitted to each task by gradient steps on the support loss; here those steps are optional (``adapt_steps``)
  and start from the computed e;
- the coefficients are a small network of e and an embedding of the neuron. Class slots share their embedding and add
  their class's row of e, so that permuting the classes permutes the output layer;
- the output is the difference from the initialization in coordinates x, as for every trained method here.
"""

import torch
from torch import Tensor, nn
from torch.func import grad

from ltdi.diffusion.denoiser import SupportEncoder
from ltdi.initialization import Initialization
from ltdi.learners.weight_space import WeightSpace
from ltdi.methods.common.setup import Setup
from ltdi.methods.common.trained import TrainedMethod
from ltdi.tasks.base import Context, Task
from ltdi.utils.errors import InputError
from ltdi.utils.nn import zero


class MetaHypernetwork(TrainedMethod):
    """Hypernetwork conditioned on the support set.

    Args:
        setup: width, depth, heads, condition and dropout of the section ``denoiser``. ``meta.weight_loss`` and the
            size of ``meta.query_loss`` have no effect.
        adapt_steps, adapt_lr: gradient steps of e on the support loss, differentiated through; 0 for none.

    Raises:
        InputError: ``adapt_steps`` > 0, and the tasks have no labelled examples.
    """

    uses_trajectories = False

    def __init__(self, initialization: Initialization, setup: Setup, *, adapt_steps: int, adapt_lr: float) -> None:
        super().__init__(initialization, setup)
        if adapt_steps and "examples" not in setup.provides:
            raise InputError(
                f"methods.meta_hypernetwork.adapt_steps = {adapt_steps} takes steps on labelled examples, which these"
                " tasks do not have; set 0"
            )
        denoiser = setup.denoiser
        self.adapt_steps, self.adapt_lr, self.adapts = adapt_steps, adapt_lr, adapt_steps > 0
        self.condition = SupportEncoder(
            self.conditioning_width, denoiser.width, denoiser.heads, denoiser.condition, denoiser.dropout
        )
        self.hypernetwork = Hypernetwork(
            self.space, width=denoiser.width, depth=denoiser.depth, dropout=denoiser.dropout
        )

    def loss(self, task: Task, points: Tensor | None, stream: torch.Generator) -> Tensor:
        """Return the query loss of the generated weights (B,)."""
        return self.learner.loss(self.weights(task.context, self.initialization.centre(task.context)), task.query)

    def propose(self, context: Context, centre: Tensor, *, generator: torch.Generator) -> Tensor:
        """Return ``weights`` (B, D); deterministic."""
        return self.weights(context, centre)

    def weights(self, context: Context, centre: Tensor) -> Tensor:
        """Generate weights (B, D) from the embedding of the support set, adapted by ``adapt_steps``."""

        def weights_of(e: Tensor) -> Tensor:
            return self.to_w(self.hypernetwork(e), centre)

        def example_loss(e: Tensor) -> Tensor:
            assert context.examples is not None
            return self.learner.loss(weights_of(e), context.examples).sum()

        rows, present = context.rows, context.present
        if self.initialization.shown:  # the class-conditioning vector is the class's only row
            rows = self.conditioning(context, centre)[:, :, None]
            present = torch.ones_like(rows[..., 0])
        e = self.condition(rows, present)
        for _ in range(self.adapt_steps):
            e = e - self.adapt_lr * grad(example_loss)(e)
        return weights_of(e)


class Hypernetwork(nn.Module):
    """Generate x (B, D), neuron by neuron, from a task's embedding e (B, N, width).

    Args:
        space: layout of the weight vectors.
        width, depth, dropout: of the residual MLP.
    """

    def __init__(self, space: WeightSpace, *, width: int, depth: int, dropout: float) -> None:
        super().__init__()
        self.space = space
        # lists in the order of the layers: a layer's name may hold a dot, which module names must not
        self.neurons, self.templates = nn.ParameterList(), nn.ModuleList()
        kinds = list(dict.fromkeys(space.kinds.values()))
        self.kinds = [kinds.index(kind) for kind in space.kinds.values()]
        for kind, (layer, neurons) in zip(self.kinds, space.neurons.items()):
            # class slots share their embedding, which makes them interchangeable
            self.neurons.append(nn.Parameter(torch.randn(neurons or 1, width)))
            if kind == len(self.templates):
                self.templates.append(zero(nn.Linear(width, space.numbers[layer])))
        self.task = nn.Linear(width, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width),
                nn.Linear(width, 4 * width),
                nn.GELU(),
                nn.Dropout(dropout),
                nn.Linear(4 * width, width),
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, e: Tensor) -> Tensor:
        """Map the embedding e (B, N, width) to x (B, D)."""
        task = self.task(e.mean(1, keepdim=True))
        tokens = {}
        for layer, neurons, kind in zip(self.space.layers, self.neurons, self.kinds):
            h = neurons + task + (e if layer == self.space.slot_layer else 0)
            for block in self.blocks:
                h = h + block(h)
            tokens[layer] = self.templates[kind](self.norm(h))
        return self.space.from_tokens(tokens)
