"""Meta-Hypernetwork (Zhao, Kobayashi, Sacramento, von Oswald 2020, "Meta-Learning via Hypernetworks"; Ha et al. 2017,
"HyperNetworks").

A hypernetwork writes a task's weights from an embedding e of the task; it is trained through the loss on the
queries alone, and sees no trained head. As published, a layer's neurons share their rows softly: a neuron's
weights are coefficients of its own times templates that all neurons of the layer have in common.

Differences from the published form:
- e is a row a class, computed from the support set in one pass. The published e is one learned vector, fitted to
  each task by gradient steps on the support loss; here those steps are optional (``adapt_steps``) and go on from the
  computed e.
- The coefficients are a small network of e and an embedding of the neuron. Class slots share their embedding and
  have their class's row of e instead, so that permuted classes permute the output layer.
- It writes the difference from the start, in units of the trained heads' distance from it, as every trained method
  here does.
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
    """
    Args:
        setup: of the denoiser width, depth, heads, condition and dropout; of meta, what ``TrainedMethod`` names, but
            for weight_loss and the coefficient of the query loss, which do not count.
        adapt_steps, adapt_lr: gradient steps of e on the support loss, learned through; 0 for none.
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
        return self.learner.loss(self.weights(task.context, self.initialization.centre(task.context)), task.query)

    def propose(self, context: Context, centre: Tensor, *, generator: torch.Generator) -> Tensor:
        return self.weights(context, centre)

    def weights(self, context: Context, centre: Tensor) -> Tensor:
        """(B, D)"""

        def weights_of(e: Tensor) -> Tensor:
            return self.to_w(self.hypernetwork(e), centre)

        def example_loss(e: Tensor) -> Tensor:
            assert context.examples is not None
            return self.learner.loss(weights_of(e), context.examples).sum()

        rows, present = context.rows, context.present
        if self.initialization.shown:  # one row a class, of all that is told of it
            rows = self.conditioning(context, centre)[:, :, None]
            present = torch.ones_like(rows[..., 0])
        e = self.condition(rows, present)
        for _ in range(self.adapt_steps):
            e = e - self.adapt_lr * grad(example_loss)(e)
        return weights_of(e)


class Hypernetwork(nn.Module):
    """A task's embedding e (B, N, width), a row a class -> x (B, D), neuron by neuron."""

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
        task = self.task(e.mean(1, keepdim=True))
        tokens = {}
        for layer, neurons, kind in zip(self.space.layers, self.neurons, self.kinds):
            h = neurons + task + (e if layer == self.space.slot_layer else 0)
            for block in self.blocks:
                h = h + block(h)
            tokens[layer] = self.templates[kind](self.norm(h))
        return self.space.from_tokens(tokens)
