"""Weight-regression baseline: ridge regression from class means to trained weights, the simplest weight generator.

With z the standardised class means (N, C) of a task, a row of the class slots' layer is a linear map of (z_n, the mean
of the other classes' z, 1); every other neuron is one of (the mean of z, the mean of z², 1). Both predict the
difference of the trained weights from the initialization. Without class slots, all weights are of the second kind.
"""

import math

import torch
from torch import Tensor

from ltdi.initialization import Initialization
from ltdi.methods.common.base import Method, scores
from ltdi.methods.common.setup import Setup
from ltdi.tasks.base import Context, TaskSource, batches
from ltdi.trajectories.collection import Trajectories
from ltdi.utils.memory import check_fits
from ltdi.utils.nn import Standardise, solved

PENALTIES = (1.0, 10.0, 100.0, 1000.0)
"""Candidate penalties."""


class WeightRegression(Method):
    """Linear map from class means to weights; its penalty is selected by the score on meta-val.

    Raises:
        InputError: the maps would not fit into memory.
    """

    def __init__(self, initialization: Initialization, setup: Setup) -> None:
        super().__init__(initialization, setup)
        C, slot = self.learner.n_numbers, self.space.slot_layer
        self.standardise = Standardise(C)
        self.layers = list(self.space.layers)
        n_inputs = 2 * C + 1
        for layer in self.layers:
            n_outputs = self.space.numbers[layer] * (1 if layer == slot else self.space.neurons[layer] or 0)
            check_fits(
                3 * n_inputs * n_outputs,
                f"weight_regression's map to {n_outputs} numbers of layer {layer}",
                "leave weight_regression out of method.baselines, lower learner.hidden or set learner.projection",
            )
            # by number, because a layer's name may contain a dot, which buffer names must not
            self.register_buffer(f"map_{len(self.maps)}", torch.zeros(n_inputs, n_outputs))

    @property
    def maps(self) -> list[Tensor]:
        """The linear maps of the layers in their order, (2C + 1, outputs) each."""
        return [value for name, value in self.named_buffers(recurse=False) if name.startswith("map_")]

    def prepare(self, train: TaskSource, trajectories: Trajectories, val: TaskSource) -> None:
        """Fit the maps on the recorded train tasks for each penalty; select the best on meta-val."""
        self._standardise(train)
        grams = [torch.zeros(2 * [each.shape[0]], dtype=torch.float64, device=each.device) for each in self.maps]
        products = [torch.zeros_like(each, dtype=torch.float64) for each in self.maps]
        for tasks in batches(len(train)):
            context = train.context(tasks)
            centre = self.initialization.centre(context)
            away = self.space.tokens(trajectories.trained(tasks).to(centre) - centre)
            for layer, x, gram, product in zip(self.layers, self._inputs(context), grams, products):
                y = away[layer].flatten(0, 1) if layer == self.space.slot_layer else away[layer].flatten(1)
                x = x.double()
                gram += x.mT @ x
                product += x.mT @ y.double()
        best = -math.inf
        for penalty in PENALTIES:
            found = [solved(g + penalty * torch.eye(len(g)).to(g), p) for g, p in zip(grams, products)]
            previous = [each.clone() for each in self.maps]
            for map_, new in zip(self.maps, found):
                map_.copy_(new)
            score = scores(self.learner, val, self._weights).mean().item()
            if score > best:
                best = score
            else:
                for map_, old in zip(self.maps, previous):
                    map_.copy_(old)

    def generate(self, context: Context, *, generator: torch.Generator) -> Tensor:
        """Predict the weights (B, D) from the class means; deterministic."""
        return self._weights(context)

    def _weights(self, context: Context) -> Tensor:
        """Add the predicted differences to the initialization: (B, D)."""
        centre = self.initialization.centre(context)
        away = {}
        for layer, initial, x, map_ in zip(
            self.layers, self.space.tokens(centre).values(), self._inputs(context), self.maps
        ):
            away[layer] = (x @ map_).view(initial.shape)
        return centre + self.space.from_tokens(away)

    def _inputs(self, context: Context) -> list[Tensor]:
        """Return the inputs of each layer's map: (B·N, 2C + 1) for the class slots, (B, 2C + 1) for others."""
        z = self.standardise(context.means)
        others = (z.sum(1, keepdim=True) - z) / max(1, z.shape[1] - 1)
        of_slots = torch.cat([z, others, torch.ones_like(z[..., :1])], -1).flatten(0, 1)
        of_task = torch.cat([z.mean(1), z.square().mean(1), torch.ones_like(z[:, 0, :1])], -1)
        return [of_slots if layer == self.space.slot_layer else of_task for layer in self.layers]

    def _standardise(self, train: TaskSource) -> None:
        means = torch.cat([train.context(tasks).means.flatten(0, 1) for tasks in batches(min(len(train), 1000))])
        self.standardise.fit(means.mean(0), means.std(0))
