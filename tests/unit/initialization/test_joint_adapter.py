"""The joint start: its bias by a few examples, as far as meta-val trusts these."""

from types import SimpleNamespace

import pytest
import torch
from language import sentence, write_bert
from torch.testing import assert_close

from ltdi.initialization import INITIALIZATIONS, initialization_of
from ltdi.initialization.joint_adapter import TRUSTS, best_joint
from ltdi.learners import Lora
from ltdi.tasks.base import Context, Task
from ltdi.tasks.batch import ABSENT
from ltdi.utils.seeding import generator

pytest.importorskip("transformers")

B, N, K, L = 5, 2, 4, 12


@pytest.fixture(scope="module")
def learner(tmp_path_factory):
    body = write_bert(tmp_path_factory.mktemp("model") / "bert")
    return Lora(body, rank=2, alpha=6.0, modules=("query", "value"), layers=2)


@pytest.fixture(scope="module")
def shared(learner):
    return 0.3 * torch.randn(learner.space.dim(N), generator=generator(0, "shared"))


def inputs(learner, *shape, stream):
    texts = [(sentence(torch.randint(0, 60, (6,), generator=stream)),) for _ in range(torch.Size(shape).numel())]
    read = learner.encoder.read(learner.encoder.tokens(texts, L), learner.lowest)
    return {name: read[name].unflatten(0, shape) for name in ("hidden", "mask")}


def task(learner, stream, labels_of):
    """A task whose examples and queries are labelled by how much more likely the start finds class 1."""
    known, asked = (inputs(learner, B, n, stream=stream) for n in (N * K, 12))
    examples, query = known | {"labels": labels_of(known)}, asked | {"labels": labels_of(asked)}
    return Task(Context(torch.zeros(B, N, K, 3), None, examples), query)


@pytest.fixture(scope="module")
def surplus(learner, shared):
    def of(batch):
        logits = learner.logits(shared.expand(B, -1), batch["hidden"], batch["mask"])
        return logits[..., 1] - logits[..., 0]

    return of


@pytest.fixture(scope="module")
def context(learner):
    labels = torch.arange(N).repeat_interleave(K).expand(B, -1).clone()
    labels[0, -1] = ABSENT
    examples = inputs(learner, B, N * K, stream=generator(0, "few")) | {"labels": labels}
    return Context(torch.zeros(B, N, K, 3), None, examples)


def middle(learner, w, context):
    """Of the two classes' means of logit 1 − logit 0."""
    logits, labels = learner.logits(w, context.examples["hidden"], context.examples["mask"]), context.examples["labels"]
    of = logits[..., 1] - logits[..., 0]
    return torch.stack([sum(of[b][labels[b] == label].mean() for label in (0, 1)) / 2 for b in range(B)])


def joint(learner, shared, trust):
    return INITIALIZATIONS["joint"](learner, shared, trust)


def test_without_trust_or_examples_it_is_one_adapter_for_all(learner, shared, context):
    assert joint(learner, shared, 0.0).centre(context).equal(shared.expand(B, -1))
    assert joint(learner, shared, 1.0).centre(Context(context.rows)).equal(shared.expand(B, -1))


def test_trusted_entirely_the_line_is_in_the_middle_of_the_classes(learner, shared, context):
    w = joint(learner, shared, 1e9).centre(context)
    assert middle(learner, shared.expand(B, -1), context).abs().min() > 1e-2
    assert_close(middle(learner, w, context), torch.zeros(B), rtol=0, atol=1e-5)


def test_the_way_there_is_that_of_n_examples_beside_the_starts_word(learner, shared, context):
    before = middle(learner, shared.expand(B, -1), context)
    after = middle(learner, joint(learner, shared, 0.25).centre(context), context)
    n = torch.tensor([N * K - 1.0, *[N * K] * (B - 1)])
    assert_close(after, before / (1 + n / 4), rtol=1e-4, atol=1e-6)
    moved = learner.space.unflatten(joint(learner, shared, 0.25).centre(context) - shared)
    assert all((value == 0).all() for name, value in moved.items() if name != "head.bias")


def test_a_task_does_not_depend_on_its_neighbours(learner, shared, context):
    initialization = joint(learner, shared, 0.25)
    assert_close(initialization.centre(context)[2:3], initialization.centre(context[2:3]), rtol=1e-5, atol=1e-6)


def test_where_a_class_has_no_example_nothing_moves(learner, shared, context):
    labels = context.examples["labels"].clone()
    labels[1] = torch.where(labels[1] == 1, ABSENT, 0)
    w = joint(learner, shared, 0.25).centre(Context(context.rows, None, context.examples | {"labels": labels}))
    assert [w[b].equal(shared) for b in range(B)] == [False, True, False, False, False]


@pytest.mark.parametrize("by_chance", [False, True])
def test_meta_val_says_how_far_examples_are_trusted(learner, shared, surplus, by_chance):
    """Where tasks draw the line elsewhere than the start, they are; where it is right and their labels are by chance,
    they are not."""
    stream = generator(0, "val")
    some = surplus(inputs(learner, B, 40, stream=stream))
    line = 0.0 if by_chance else (some.mean() + 0.8 * some.std()).item()
    # with logits as sure as those of what has learned something
    tensors = learner.space.unflatten(shared)
    shared = learner.space.flatten(tensors | {name: 5 * tensors[name] for name in ("head.weight", "head.bias")})

    def new(names, stream):
        made = task(learner, stream, lambda batch: (surplus(batch) > line).long())
        if by_chance:
            labels = made.context.examples["labels"]
            labels.copy_(torch.randint(0, 2, labels.shape, generator=stream))
        return made

    val = SimpleNamespace(draw=lambda n, stream: torch.zeros(n, 2), new=new)
    one = joint(learner, shared, 0.0)
    worse = joint(learner, -shared, 0.0)
    initialization = best_joint({"worse": worse, "one": one}, val, n_tasks=32, stream=stream)
    assert initialization.shared is shared
    assert initialization.trust in TRUSTS and (initialization.trust == 0 if by_chance else initialization.trust > 0)
    tensors, values = initialization.state()
    assert initialization_of(learner, tensors, values).trust == initialization.trust


def test_more_bias_is_more_of_the_logit(learner, shared):
    w, more = shared.expand(B, -1), torch.randn(B, N, generator=generator(0, "more"))
    batch = inputs(learner, B, 3, stream=generator(0, "asked"))
    logits = [learner.logits(each, batch["hidden"], batch["mask"]) for each in (w, learner.with_bias(w, more))]
    assert_close(logits[1], logits[0] + more[:, None], rtol=1e-5, atol=1e-5)
