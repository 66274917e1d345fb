"""λ_max against the whole Hessian's eigenvalues, task by task."""

import pytest
import torch
from torch.testing import assert_close

from ltdi.evaluation.sharpness import largest_eigenvalue
from ltdi.learners import TwoLayerHead
from ltdi.tasks.batch import map_batch
from ltdi.utils.seeding import generator

HEAD = TwoLayerHead(3, 4)


@pytest.fixture(scope="module")
def tasks():
    """Weights (3, D) and a batch of 7 labelled features each, in double precision."""
    stream = generator(0, "tasks")
    inputs, labels = torch.rand(3, 7, 3, generator=stream), torch.randint(2, (3, 7), generator=stream)
    return HEAD.initial(3, 2, stream).double(), {"inputs": inputs.double(), "labels": labels}


def test_it_is_the_hessians_eigenvalue_of_largest_size(tasks):
    def loss(w, batch):
        return HEAD.loss(w[None], map_batch(lambda value: value[None], batch))[0]

    hessian = torch.func.vmap(torch.func.hessian(loss))(*tasks)
    values = torch.linalg.eigvalsh(hessian)
    largest = values.take_along_dim(values.abs().argmax(-1, keepdim=True), -1).squeeze(-1)
    assert_close(
        largest_eigenvalue(HEAD.loss, *tasks, generator=generator(0, "λ"), iterations=500),
        largest,
        rtol=1e-6,
        atol=1e-8,
    )


def test_of_a_quadratic_it_is_the_largest_curvature():
    """Two classes, logits ±w·x/2 at w = 0: the Hessian of the cross-entropy is the mean of x·xᵀ/4."""
    x = torch.tensor([[3.0, 0.0], [0.0, 1.0]], dtype=torch.float64)

    def loss(w, batch):
        score = batch["inputs"] @ w[..., None] / 2
        logits = torch.cat([-score, score], -1)
        return torch.nn.functional.cross_entropy(logits.mT, batch["labels"], reduction="none").mean(-1)

    batch = {"inputs": x[None], "labels": torch.tensor([[0, 1]])}
    found = largest_eigenvalue(loss, torch.zeros(1, 2, dtype=torch.float64), batch, generator=generator(0, "λ"))
    assert_close(found, torch.tensor([9 / 4 / 2], dtype=torch.float64))


def test_a_task_does_not_depend_on_its_neighbours(tasks):
    def of(rows: slice) -> torch.Tensor:
        w, batch = tasks
        own = map_batch(lambda value: value[rows], batch)
        return largest_eigenvalue(HEAD.loss, w[rows], own, generator=generator(0, "λ"))

    assert_close(torch.cat([of(slice(j, j + 1)) for j in range(3)]), of(slice(None)))
