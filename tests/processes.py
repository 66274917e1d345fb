"""Processes of few steps, and states on their way."""

import torch

from ltdi.diffusion.process import uniform_index_map
from ltdi.diffusion.schedule import Schedule, linear
from ltdi.utils.seeding import generator

T, LENGTH, D = 20, 4, 48


def process_of(kind, make=linear, max_beta=0.5, k=None):
    """In double precision, so that what is exact can be told from what is close."""
    schedule = Schedule(make(T, max_beta).alpha.double())
    return kind(schedule, uniform_index_map(LENGTH, T) if k is None else torch.tensor(k))


def normal(*shape):
    return torch.randn(*shape, generator=generator(0, "process", shape), dtype=torch.float64)
