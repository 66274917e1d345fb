"""A card computes what the processor does, and the same bits every time. Where there is none, nothing of this can be
shown: ``bench/gpu.sh`` runs it on a node that has one.
"""

from itertools import repeat

import pytest
import torch
from language import write_bert
from worlds import World, read, stirred

from ltdi.initialization import INITIALIZATIONS
from ltdi.learners import LinearHead, Lora
from ltdi.learners.fitting import gradient, train
from ltdi.methods.registry import BASELINES, METHODS
from ltdi.trajectories.collection import collect
from ltdi.utils.devices import deterministic, precision
from ltdi.utils.seeding import generator
from ltdi.utils.trainer import Training

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no card")
CARD, PROCESSOR = torch.device("cuda"), torch.device("cpu")
HOW = {"fit_on": "class", "augment": False, "lr": 0.01, "steps": 20, "length": 3, "seed": 0}
CLOSE = {"rtol": 2e-3, "atol": 2e-4}
STEPS = 4


@pytest.fixture(autouse=True)
def float32():
    """In float32 alone, and torch as it was afterwards."""
    kinds = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [kind.allow_tf32 for kind in kinds]
    for kind in kinds:
        kind.allow_tf32 = False
    yield
    for kind, was in zip(kinds, before, strict=True):
        kind.allow_tf32 = was
    torch.set_deterministic_debug_mode("default")


@pytest.fixture(scope="module")
def worlds():
    return {with_images: World("prototype", with_images=with_images) for with_images in (False, True)}


def collected(world, where, *, optimizer="adam", sam=0.0, linear=False, precision="float32"):
    initialization = world.initialization
    if linear:
        initialization = INITIALIZATIONS["prototype"](LinearHead(8), torch.zeros(27), temperature=1.0, ridge=1.0)
    how = HOW | {"optimizer": optimizer, "sam": sam, "precision": precision}
    return collect(initialization.to(where), world.train.to(where), torch.arange(12), **how)


@pytest.mark.parametrize("optimizer, sam", [("adam", 0.0), ("adam", 0.05), ("sgd", 0.05)])
@pytest.mark.parametrize("linear", [False, True])
def test_collection(worlds, optimizer, sam, linear):
    how = {"optimizer": optimizer, "sam": sam, "linear": linear}
    card, processor = (collected(worlds[False], where, **how) for where in (CARD, PROCESSOR))
    for name, value in vars(processor).items():
        torch.testing.assert_close(getattr(card, name).cpu(), value, **CLOSE)


def test_collection_in_bfloat16(worlds):
    assert precision("auto", CARD) is torch.bfloat16
    card, processor = (collected(worlds[False], where, precision="bfloat16") for where in (CARD, PROCESSOR))
    torch.testing.assert_close(card.losses.cpu(), processor.losses, rtol=0.1, atol=0.02)


def trained(world, name, where):
    """The losses of some steps of meta-training, and the weights for some tasks afterwards."""
    method = world.build(name).to(where)
    method.initialization = world.initialization.to(where)
    training = Training(method, lr=1e-3, steps=STEPS, ema=0.9)
    rows = read(method.meta_train(training, world.train.to(where), world.trajectories, seed=0))
    method = method.eval()
    context = world.val.to(where).context(torch.arange(5))
    w = method.generate(context, generator=generator(0, "noise"))
    return torch.tensor([row["loss"] for row in rows]), w.detach().cpu()


OF_FEATURES = [name for name in METHODS if "names" not in METHODS[name].needs]


@pytest.mark.parametrize("name", OF_FEATURES)
def test_meta_training_and_generation(worlds, name):
    world = worlds["images" in METHODS[name].needs]
    card, processor = (trained(world, name, where) for where in (CARD, PROCESSOR))
    assert len(processor[0]) == STEPS
    torch.testing.assert_close(card[0], processor[0], rtol=2e-2, atol=2e-3)
    # Adam takes a step of the same size for a gradient that is nearly zero, whose sign is rounding's
    assert (card[1] - processor[1]).norm() < 0.05 * processor[1].norm()


@pytest.mark.parametrize("name", [name for name in BASELINES if "names" not in BASELINES[name].needs])
def test_baselines(worlds, name):
    world = worlds["images" in BASELINES[name].needs]
    method = stirred(world.prepared(name))
    made = []
    for where in (CARD, PROCESSOR):
        method = method.to(where)
        method.initialization = world.initialization.to(where)
        context = world.val.to(where).context(torch.arange(5))
        made.append(method.generate(context, generator=generator(0, "noise")).detach().cpu())
    torch.testing.assert_close(made[0], made[1], **CLOSE)


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_adapters(tmp_path, kind):
    pytest.importorskip("transformers")
    body = write_bert(tmp_path / "model", kind=kind)
    stream = generator(0, "texts")
    hidden, labels = torch.randn(3, 4, 6, 32, generator=stream), torch.arange(12).view(3, 4) % 2
    found = []
    for where in (CARD, PROCESSOR):
        learner = Lora(body, rank=2, alpha=4.0, modules=["query", "value"], layers=2)
        w = learner.initial(3, 2, generator(0, "lora"))
        w = (w + 0.1 * torch.randn(w.shape, generator=generator(0, "moved"))).to(where)
        batch = {"hidden": hidden.to(where), "mask": torch.ones(3, 4, 6, device=where), "labels": labels.to(where)}
        path = train(learner, w, repeat(batch), optimizer="sgd", lr=0.1, record=[0, 3])
        found.append([each.cpu() for each in (*gradient(learner.loss, w, batch), path.weights)])
    for card, processor in zip(*found, strict=True):
        torch.testing.assert_close(card, processor, **CLOSE)


def test_the_same_bits(worlds):
    deterministic()
    first, again = (collected(worlds[False], CARD).points for _ in range(2))
    assert torch.equal(first, again)
    (losses, w), (losses_again, w_again) = (trained(worlds[False], "ltdi", CARD) for _ in range(2))
    assert torch.equal(losses, losses_again) and torch.equal(w, w_again)
