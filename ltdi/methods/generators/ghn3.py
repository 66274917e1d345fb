"""GHN-3, a graph hypernetwork: a transformer over the computation graph of the head predicts its weights.

Knyazev, Hwang & Lacoste-Julien 2023, "Can We Scale Transformers to Predict Parameters of Diverse ImageNet Models?".
Attention is biased by the lengths of the shortest paths both ways (Graphormer: Ying et al. 2021); a decoder turns the
state of a node into its tensor. As published: a node is embedded by its operation, degrees, distance from the input
and shape; a decoded block is tiled where a tensor is larger and cut where it is smaller; training minimises the loss of
the network whose weights are predicted.

Differences from the published form, which predicts from the architecture alone and is not conditioned on a task:
- a node for each class with its class-conditioning vector (support mean, or text embedding and initial row) and an edge
  to the input is added to the graph; the rest of the graph is the same for all tasks;
- the output layer is decoded row by row from its own node and that of the class, so that the method is equivariant to
  permutations of the classes;
- the decoded numbers are the difference from the initialization, zero at first; published are weights scaled by fan-in.
"""

from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ltdi.initialization import Initialization
from ltdi.learners.weight_space import WeightSpace
from ltdi.methods.common.setup import Setup
from ltdi.methods.common.trained import TrainedMethod
from ltdi.tasks.base import Context, Task
from ltdi.utils.nn import Standardise, TransformerBlock, zero

NODE_OPERATIONS = {
    "input": "input",
    "hidden.weight": "linear",
    "hidden.bias": "bias",
    "relu": "relu",
    "output.weight": "linear",
    "output.bias": "bias",
    "output": "output",
}
"""The nodes of a two-layer head in order, and the operation of each."""
HIDDEN_NODES = ("hidden.weight", "hidden.bias", "relu")
"""The nodes that a linear head lacks."""
OPERATIONS = (*dict.fromkeys(NODE_OPERATIONS.values()), "class")
"""All operations, in the order of their embeddings."""
NO_PATH = len(NODE_OPERATIONS) + 1
"""Distance of unconnected nodes, longer than any path; also the cap of the degrees."""


class Ghn3(TrainedMethod):
    """Graph hypernetwork, conditioned on the classes of a task.

    Args:
        width, depth, heads: of the transformer.
        block: side length of the decoded block.
    """

    needs = ("head",)

    def __init__(
        self, initialization: Initialization, setup: Setup, *, width: int, depth: int, heads: int, block: int
    ) -> None:
        super().__init__(initialization, setup)
        self.node_operations = node_operations(self.space)
        self.embed_operation = nn.Embedding(len(OPERATIONS), width)
        self.embed_size = nn.Linear(2, width)
        self.embed_in, self.embed_out = (nn.Embedding(NO_PATH + 1, width) for _ in range(2))
        self.embed_from_input, self.embed_distance = (nn.Embedding(NO_PATH + 1, width) for _ in range(2))
        self.distance_bias = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, heads))
        self.condition = nn.Sequential(
            Standardise(self.conditioning_width), nn.Linear(self.conditioning_width, width, bias=False)
        )
        self.blocks = nn.ModuleList(TransformerBlock(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.matrix, self.vector = (
            nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), zero(nn.Linear(4 * width, size)))
            for size in (block * block, block)
        )
        self.block = block

    def propose(self, context: Context, centre: Tensor, *, generator: torch.Generator) -> Tensor:
        """Return ``weights`` (B, D); deterministic."""
        return self.weights(context, centre)

    def loss(self, task: Task, points: Tensor | None, stream: torch.Generator) -> Tensor:
        """Return the query loss and, for recorded tasks, the weight MSE of the predicted weights: (B,)."""
        return self.weights_loss(self.weights(task.context, self.initialization.centre(task.context)), task, points)

    def weights(self, context: Context, centre: Tensor) -> Tensor:
        """Predict the weights (B, D) of the tasks' heads."""
        return self.to_w(self._decode(self.node_states(self.condition(self.conditioning(context, centre)))), centre)

    def embed_nodes(self, distances: Tensor) -> Tensor:
        """Embed the nodes of a graph with shortest paths ``distances`` (V, V), without conditioning: (V, width)."""
        edges, n_way = (distances == 1).long(), len(distances) - len(self.node_operations)
        operations = [OPERATIONS.index(operation) for operation in (*self.node_operations.values(), *["class"] * n_way)]
        sizes = [
            (*(n_way if size is None else size for size in self.space.shapes.get(name, ())), 1, 1)[:2]
            for name in self.node_operations
        ]
        return (
            self.embed_operation(torch.tensor(operations, device=distances.device))
            + self.embed_size(torch.tensor(sizes + [(1, 1)] * n_way, device=distances.device).log())
            + self.embed_in(edges.sum(0).clamp(max=NO_PATH))
            + self.embed_out(edges.sum(1))
            + self.embed_from_input(distances[0])
        )

    def attention_bias(self, distances: Tensor) -> Tensor:
        """Return the attention bias of each pair of nodes by their shortest paths both ways: (heads, V, V)."""
        lengths = self.embed_distance.weight
        there, back = (
            each.flatten(0, 1)
            for each in (lengths[:, None].expand(-1, len(lengths), -1), lengths.expand(len(lengths), -1, -1))
        )
        of_pairs = self.distance_bias(torch.cat([there, back], -1)).unflatten(0, (len(lengths), len(lengths)))
        return of_pairs[distances, distances.T].movedim(-1, 0)

    def node_states(self, condition: Tensor) -> Tensor:
        """Run the transformer: class-conditioning vectors (B, N, width) -> final node states (B, V, width)."""
        distances = head_distances(condition.shape[1], len(self.node_operations)).to(condition.device)
        h = self.embed_nodes(distances).expand(len(condition), -1, -1)
        n = len(self.node_operations)
        h = torch.cat([h[:, :n], h[:, n:] + condition], 1)
        bias = self.attention_bias(distances)
        for block in self.blocks:
            h = block(h, bias)
        return self.norm(h)

    def _decode(self, h: Tensor) -> Tensor:
        """Decode node states (B, V, width) into x (B, D)."""
        node, classes = dict(zip(self.node_operations, h.unbind(1))), h[:, len(self.node_operations) :]
        shapes = self.space.shapes
        tensors = {
            "output.weight": tile(self.vector(node["output.weight"][:, None] + classes), shapes["output.weight"][1:]),
            "output.bias": self.vector(node["output.bias"][:, None] + classes)[..., 0],
        }
        if "hidden.weight" in shapes:
            block = self.matrix(node["hidden.weight"]).unflatten(-1, (self.block, self.block))
            tensors["hidden.weight"] = tile(block, shapes["hidden.weight"])
            tensors["hidden.bias"] = tile(self.vector(node["hidden.bias"]), shapes["hidden.bias"])
        return self.space.flatten(tensors)


def node_operations(space: WeightSpace) -> dict[str, str]:
    """Return the nodes of a two-layer or linear head in order, and the operation of each."""
    absent = () if "hidden.weight" in space.shapes else HIDDEN_NODES
    return {name: operation for name, operation in NODE_OPERATIONS.items() if name not in absent}


def head_edges(n_way: int, length: int = len(NODE_OPERATIONS)) -> list[tuple[int, int]]:
    """List the edges of the graph: a chain of the head's nodes, and an edge from each class's node to the input.

    Args:
        n_way: number of classes.
        length: number of nodes of the head.
    """
    return [*pairwise(range(length)), *((length + n, 0) for n in range(n_way))]


@cache
def head_distances(n_way: int, length: int = len(NODE_OPERATIONS)) -> Tensor:
    """Return the shortest paths between all nodes of the graph (V, V), ``NO_PATH`` where there is none."""
    return shortest_paths(length + n_way, head_edges(n_way, length)).clamp(max=NO_PATH)


def shortest_paths(n_nodes: int, edges: list[tuple[int, int]]) -> Tensor:
    """Compute the lengths of the shortest directed paths (V, V) by Floyd-Warshall; V where there is none."""
    distances = torch.full((n_nodes, n_nodes), n_nodes).fill_diagonal_(0)
    for a, b in edges:
        distances[a, b] = 1
    for via in range(n_nodes):
        distances = torch.minimum(distances, distances[:, via, None] + distances[via])
    return distances


def tile(block: Tensor, shape: Sequence[Any]) -> Tensor:
    """Tile ``block`` along its last axes and cut it to ``shape``."""
    for axis, size in zip(range(-len(shape), 0), shape):
        block = block.index_select(axis, torch.arange(size, device=block.device) % block.shape[axis])
    return block
