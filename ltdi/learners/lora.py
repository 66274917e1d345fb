"""LoRA (Hu et al. 2022, "LoRA: Low-Rank Adaptation of Large Language Models"): matrices A and B beside chosen linear
maps of a frozen language model, W x + (alpha / r) B A x, and its classification head.

Adapters of several tasks are trained together: the frozen maps see the inputs of all of them as one batch, and only the
low-rank ones are a product a task.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ltdi.bodies.language_model import read_encoder
from ltdi.learners.base import Learner, cross_entropy
from ltdi.learners.weight_space import WeightSpace
from ltdi.tasks.batch import Batch
from ltdi.tasks.text_examples import N_CLASSES
from ltdi.utils.errors import InputError
from ltdi.utils.metrics import accuracy

PASSES = 4
"""In how many parts, by their lengths, a task's inputs go through the model on a processor, which computes padding in
no less time than texts."""


class Lora(Learner):
    """Adapters and head of a sequence classifier.

    Its batches have ``hidden`` (B, M, L, …), what the lowest adapted layer is given, as ``Encoder.read`` says;
    ``mask`` (B, M, L), which of the L tokens are there; ``labels`` (B, M), ``ABSENT`` for an input that is not there.

    A and B are layers of the weight space with a neuron for each of the r ranks, so that a token is a rank's row of A,
    or its column of B; those of one module are of one kind, whatever the depth. The head has a neuron a class.

    Args:
        body: a folder of transformers, or a name on the hub.
        modules: the last names of the linear maps that are adapted, in each layer.
        layers: how many of the last layers are adapted; None for all.
        choose_on: on how many new tasks what is left open is chosen.
        digest: that the frozen weights must have; None for any.

    Raises:
        InputError: the model is not there, has no such modules or layers, or is not the one of this ``digest``.
    """

    scored_by = "accuracy"
    inputs_together, inputs_on_gpu = 64, 1024

    def __init__(
        self,
        body: str,
        *,
        rank: int,
        alpha: float,
        modules: Sequence[str],
        layers: int | None = None,
        selection_tasks: int = 50,
        digest: str | None = None,
    ) -> None:
        self.body, self.rank, self.alpha, self.modules, self.layers = body, rank, alpha, tuple(modules), layers
        self.selection_tasks = selection_tasks
        self.classes: tuple[str, ...] = ()
        """The names of its classes, where a task gave them some."""
        self.encoder = read_encoder(body, N_CLASSES)
        if digest not in (None, self.encoder.digest):
            raise InputError(f"texts.body = {body}: altered since these weights were made; name the model of that time")
        depth = self.encoder.depth
        if layers is not None and layers > depth:
            raise InputError(f"learner.layers = {layers} is more than the {depth} of {body}; lower it, or set null")
        self.lowest = 0 if layers is None else depth - layers
        linears = self.encoder.linears(self.modules)
        self.adapted = [(layer, module) for layer in range(self.lowest, depth) for module in linears]
        """The adapted linear maps: the number of their layer, and their name in it."""
        self.n_numbers = self.encoder.width
        self.space = self._space()
        self.network, self.names = self._network()
        self.where: torch.device | None = None
        """Where the network was last moved to."""

    def _space(self) -> WeightSpace:
        shapes: dict[str, tuple[int | None, ...]] = {}
        kinds = {}
        for layer, module in self.adapted:
            linear = self.encoder.linear(layer, module)
            for part, width in (("lora_A", linear.in_features), ("lora_B", linear.out_features)):
                shapes[f"{layer}.{module}.{part}.weight"] = (self.rank, width)
                kinds[f"{layer}.{module}.{part}"] = f"{module}.{part}"
        head = self.encoder.model.get_submodule(self.encoder.head)
        return WeightSpace(shapes | {"head.weight": (None, head.in_features), "head.bias": (None,)}, kinds)

    def _network(self) -> tuple[nn.Module, dict[str, str]]:
        """The frozen model from the lowest adapted layer on, with adapters and a head whose tensors a call brings, and
        of each tensor of the weight space the name there."""
        network, head = self.encoder.above(self.lowest), self.encoder.head
        names = {"head.weight": f"{head}.weight", "head.bias": f"{head}.bias"}
        for layer, module in self.adapted:
            place = f"{self.encoder.layers}.{layer - self.lowest}.{module}"
            network.set_submodule(place, _Adapted(network.get_submodule(place), self.alpha / self.rank))
            names |= {f"{layer}.{module}.{part}.weight": f"{place}.{part}" for part in ("lora_A", "lora_B")}
        network.set_submodule(head, _Head())
        return network, names

    def replace(self, tensors: Mapping[str, Tensor]) -> None:
        """Put other tensors in the place of frozen ones outside the layers, by their names in the model: for this
        learner alone. What it then is, ``facts`` does not say.

        Raises:
            InputError: there is no such tensor.
        """
        frozen = dict(self.network.named_parameters())
        for name, value in tensors.items():
            if name not in frozen or frozen[name].shape != value.shape:
                raise InputError(f"{name} {tuple(value.shape)} of an adapter is not in {self.body}; name its model")
            module, _, part = name.rpartition(".")
            setattr(self.network.get_submodule(module), part, nn.Parameter(value, requires_grad=False))

    def facts(self) -> dict[str, Any]:
        own = {"body": self.body, "rank": self.rank, "alpha": self.alpha, "modules": list(self.modules)}
        own |= {"layers": self.layers, "selection_tasks": self.selection_tasks}
        return {"name": "lora", **own, "digest": self.encoder.digest}

    def initial(self, n_tasks: int, n_way: int, generator: torch.Generator, *, output_scale: float = 1.0) -> Tensor:
        """Draw A uniformly within 1 / √in, as is usual. B is zero, which leaves the frozen model as it is, and the head
        is zero whatever its ``output_scale``, so that no class is preferred."""
        w = torch.zeros(n_tasks, self.space.dim(n_way), device=generator.device)
        tensors = self.space.unflatten(w)
        for name, value in tensors.items():
            if name.endswith("lora_A.weight"):
                draw = torch.rand(value.shape, generator=generator, device=generator.device)
                tensors[name] = (2 * draw - 1) / math.sqrt(value.shape[-1])
        return self.space.flatten(tensors)

    def with_bias(self, w: Tensor, more: Tensor) -> Tensor:
        """w (B, D) with so much more (B, N) in the head's bias."""
        tensors = self.space.unflatten(w)
        return self.space.flatten(tensors | {"head.bias": tensors["head.bias"] + more})

    def logits(self, w: Tensor, hidden: Tensor, mask: Tensor) -> Tensor:
        """w (B, D), hidden (B, M, L, …), mask (B, M, L) -> (B, M, N)."""
        tensors = {self.names[name]: value for name, value in self.space.unflatten(w).items()}
        # its weights may have been moved with another network that shares them, and its buffers not with them
        if self.where != w.device or next(self.network.parameters()).device != w.device:
            self.network.to(w.device)
            self.where = w.device
        order = mask.sum(-1).argsort(dim=1, stable=True)
        passes = min(PASSES if w.device.type == "cpu" else 1, order.shape[1])
        parts = [self._logits(tensors, hidden, mask, rows) for rows in order.tensor_split(passes, 1)]
        return torch.cat(parts, 1).take_along_dim(order.argsort(1)[..., None], 1)

    def _logits(self, tensors: dict[str, Tensor], hidden: Tensor, mask: Tensor, rows: Tensor) -> Tensor:
        """Of these of the inputs, ``rows`` (B, m), as long as the longest of them: (B, m, N)."""
        mask = mask.take_along_dim(rows[..., None], 1)
        # a GPU would have to be asked for the number
        last = int(mask.flatten(0, 1).any(0).nonzero().max()) + 1 if mask.device.type == "cpu" else mask.shape[-1]
        hidden, mask = hidden[:, :, :last].take_along_dim(rows[..., None, None], 1), mask[:, :, :last]
        # of four axes, because such a mask is taken as it is
        number = next(iter(tensors.values())).dtype
        away = (1 - mask.to(number)).flatten(0, 1)[:, None, None] * torch.finfo(number).min
        inputs = {"inputs_embeds": hidden.flatten(0, 1), "attention_mask": away.expand(-1, 1, last, -1)}
        return functional_call(self.network, tensors, (), inputs).logits.unflatten(0, rows.shape)

    def loss(self, w: Tensor, batch: Batch) -> Tensor:
        """Mean cross-entropy over the inputs that are there."""
        return cross_entropy(self.logits(w, batch["hidden"], batch["mask"]), batch["labels"])

    def score(self, w: Tensor, batch: Batch) -> Tensor:
        """The share of the inputs that are labelled rightly; as many tasks at once as memory holds."""
        inputs = self.inputs_together if w.device.type == "cpu" else self.inputs_on_gpu
        together = max(1, inputs // batch["labels"].shape[1])
        parts = [value.split(together) for value in (w, batch["hidden"], batch["mask"], batch["labels"])]
        return torch.cat([accuracy(self.logits(*known), labels) for *known, labels in zip(*parts)])


class _Adapted(nn.Module):
    """W x + scale · B A x for the inputs (B·M, L, in) of B tasks, with A (B, r, in) and Bᵀ (B, r, out)."""

    lora_A: Tensor
    lora_B: Tensor

    def __init__(self, frozen: nn.Module, scale: float) -> None:
        super().__init__()
        self.frozen, self.scale = frozen, scale
        for part in ("lora_A", "lora_B"):
            self.register_buffer(part, torch.empty(0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.lora_A, self.lora_B
        low = x.unflatten(0, (len(a), -1)).flatten(1, 2) @ a.mT
        return self.frozen(x) + self.scale * (low @ b).view(*x.shape[:-1], -1)


class _Head(nn.Module):
    """Features (B·M, …, in) of B tasks -> logits (B·M, …, N), with a weight (B, N, in) and a bias (B, N)."""

    weight: Tensor
    bias: Tensor

    def __init__(self) -> None:
        super().__init__()
        for part in ("weight", "bias"):
            self.register_buffer(part, torch.empty(0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        tasks = x.unflatten(0, (len(self.weight), -1)).flatten(1, -2)
        return torch.baddbmm(self.bias[:, None], tasks, self.weight.mT).view(*x.shape[:-1], -1)
