"""Weights for one's own training loop: features and a context of tensors, no files: python
examples/generate_in_a_loop.py <data>"""

import sys

import torch

import ltdi
from ltdi.tasks.class_tasks import context_of
from ltdi.trajectories.storage import load_sources

data = sys.argv[1] if len(sys.argv) > 1 else "data"
run = ltdi.load(data)
test = load_sources(run.data, splits=["meta_test"])["meta_test"]

task = test.batch(torch.arange(8))  # eight tasks at once: contexts (8, N, K, F), queries to score on
w = run.method.generate(context_of(task.context.rows), generator=run.noise())
print("weights", tuple(w.shape), run.method.learner.scored_by, run.method.learner.score(w, task.query).tolist())

w = w.requires_grad_()  # they are ordinary tensors: a loss, a gradient, a step
run.method.learner.loss(w, task.context.examples).sum().backward()
print("after a step", run.method.learner.score(w - 0.01 * w.grad, task.query).tolist())
