"""What the stages compute on a device, on one that nobody has: no tensor of the processor's meets its, and nothing asks
it for a number.

Tensors of device "meta" have a shape and no values: to copy one to the processor, or to branch on it, is an error of
torch's own. That tensors of two devices do not meet torch leaves to the real ones, so it is checked here.
"""

from dataclasses import replace
from functools import partial
from itertools import repeat

import pytest
import torch
from described_worlds import NamedWorld
from language import write_bert
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from worlds import World, draw

from ltdi.bodies.conv4 import Conv4
from ltdi.bodies.embedding import embed_there
from ltdi.bodies.feature_extractor import FeatureExtractor
from ltdi.initialization import INITIALIZATIONS
from ltdi.initialization.adapter_candidates import Mixture, batches, side_by_side, soft_loss
from ltdi.initialization.joint_adapter import Joint
from ltdi.learners import LinearHead, Lora
from ltdi.learners.fitting import adapt, train
from ltdi.methods.common.class_semantics import ClassSemanticsMethod
from ltdi.methods.registry import BASELINES, METHODS
from ltdi.tasks.text_examples import Examples
from ltdi.tasks.text_pairs import Pairs
from ltdi.tasks.text_tasks import Reading, TextTasks
from ltdi.trajectories.collection import Trajectories, collect
from ltdi.utils.seeding import generator
from ltdi.utils.trainer import Training

META = torch.device("meta")
TRANSFERS = {"aten._to_copy.default", "aten.copy_.default"}
# a device takes numbers of rows from the processor
CHOICES = {"aten.index.Tensor", "aten.index_put_.default", "aten.index_put.default"}


class OneDevice(TorchDispatchMode):
    """Raises where one operation has tensors of two devices, but for transfers and single numbers."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if str(func) not in TRANSFERS | CHOICES:
            tensors = [each for each in tree_flatten((args, kwargs or {}))[0] if isinstance(each, Tensor)]
            places = {each.device.type for each in tensors if each.dim()}
            assert len(places) < 2, f"{func} has tensors of {sorted(places)}"
        return func(*args, **(kwargs or {}))


@pytest.fixture(autouse=True)
def one_device():
    with OneDevice():
        yield


@pytest.fixture(scope="module")
def worlds():
    made = {False: World("prototype"), True: World("prototype", with_images=True)}
    for world in made.values():
        world.there = world.initialization.to(META)
        world.train_there, world.val_there = world.train.to(META), world.val.to(META)
    return made


def test_mixing_devices_is_noticed():
    with pytest.raises(AssertionError, match=r"aten.add.Tensor has tensors of \['cpu', 'meta'\]"):
        torch.ones(3) + torch.ones(3, device=META)
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        torch.ones(3, device=META).sum().item()


def test_embedding():
    body = Conv4(1, filters=8).eval().to(META)
    images = torch.zeros(2, 3, 1, 16, 16, dtype=torch.uint8, device=META)
    assert embed_there(body, images, batch=4).device == META
    extractor = FeatureExtractor("glyphs", 16, body, 1.0, None, META)
    assert extractor(images).shape[:2] == (2, 3) and extractor(images).device == META


@pytest.mark.parametrize("optimizer, sam", [("adam", 0.0), ("sgd", 0.05)])
@pytest.mark.parametrize("fit_on", ["class", "support"])
@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_collection(worlds, optimizer, sam, fit_on, linear, precision):
    world, initialization = worlds[False], worlds[False].there
    if linear:
        initialization = INITIALIZATIONS["prototype"](
            LinearHead(8), torch.zeros(27, device=META), temperature=1.0, ridge=1.0
        )
    how = {"fit_on": fit_on, "augment": False, "optimizer": optimizer, "lr": 0.1, "steps": 4, "length": 3, "seed": 0}
    recorded = collect(initialization, world.train_there, torch.arange(6), sam=sam, precision=precision, **how)
    assert {each.device for each in vars(recorded).values()} == {META}
    assert recorded.points.shape[:2] == (6, 3) and recorded.scores.shape == (6, 3)


@pytest.mark.parametrize("name", METHODS)
def test_a_step_of_meta_training(worlds, name):
    world = worlds["images" in METHODS[name].needs]
    if "names" in METHODS[name].needs:
        pytest.skip("of names")
    method = world.build(name).to(META)
    method.initialization = world.there
    training = Training(method, lr=1e-3, steps=3, ema=0.9)
    rows = method.meta_train(training, world.train_there, world.trajectories, seed=0)
    assert next(rows)["loss"].device == META
    assert next(rows)["step"] == 2


# what they learned is how many steps to take, or how long to go on
ASK = {"head_sgd", "prototype_sgd", "logistic"}


@pytest.mark.parametrize("name", [name for name in METHODS | BASELINES if name not in ASK])
def test_generation(worlds, name):
    world = worlds["images" in (METHODS | BASELINES)[name].needs]
    if "names" in (METHODS | BASELINES)[name].needs:
        pytest.skip("of names")
    method = world.build(name).eval().to(META)
    method.initialization = world.there
    task = world.val_there.batch(torch.arange(5))
    w = draw(method, task.context)
    assert w.device == META and w.shape[0] == 5
    assert method.learner.score(w, task.query).device == META


OF_NAMES = [name for name, method in (METHODS | BASELINES).items() if "names" in method.needs]


@pytest.fixture(scope="module")
def named():
    world = NamedWorld()
    world.there = world.initialization.to(META)
    world.train_there, world.val_there = world.train.to(META), world.val.to(META)
    return world


@pytest.mark.parametrize("name", OF_NAMES)
def test_methods_of_names(named, name):
    prepared = named.prepared(name)
    hparams = {key: value for key, value in prepared.named_buffers() if key in ("hparams", "temperature")}
    method = prepared.to(META)
    method.initialization = named.there
    if isinstance(method, ClassSemanticsMethod):
        method.fit(named.train_there)
    else:
        method.rows = named.there  # where its centroids come from
    if name in METHODS:
        method._unseen = named.val_there.of.texts
        training = Training(method, lr=1e-3, steps=3, ema=0.9)
        rows = method.meta_train(training, named.train_there, named.trajectories, seed=0)
        assert next(rows)["loss"].device == META
    # these it is asked for once a call, which a number on the processor answers
    for key, value in hparams.items():
        setattr(method, key, value)
    method = method.eval()
    task = named.val_there.batch(torch.arange(5))
    w = method.weights(task.context) if isinstance(method, ClassSemanticsMethod) else draw(method, task.context)
    assert w.device == META and w.shape[0] == 5


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_adapters_of_a_language_model(tmp_path, kind):
    pytest.importorskip("transformers")
    learner = Lora(write_bert(tmp_path / "model", kind=kind), rank=2, alpha=4.0, modules=["query", "value"], layers=2)
    learner.network.to(META)
    w = learner.initial(3, 2, generator(0, "lora")).to(META)
    there = {"hidden": torch.zeros(3, 4, 6, 32), "mask": torch.ones(3, 4, 6), "labels": torch.zeros(3, 4).long()}
    batch = {name: value.to(META) for name, value in there.items()}
    path = train(learner, w, repeat(batch), optimizer="adam", lr=0.1, record=[0, 2])
    assert path.weights.device == META and path.weights.shape == (3, 2, w.shape[1])
    assert learner.score(path.weights[:, -1], batch).device == META


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """A learner in all layers, and tasks of texts and pairs: as numbers of tokens, on the other device."""
    pytest.importorskip("transformers")
    body = write_bert(tmp_path_factory.mktemp("texts") / "model")
    # two that share the frozen weights: with those of one the other's are moved
    first, learner = (Lora(body, rank=2, alpha=4.0, modules=["query", "value"]) for _ in range(2))
    stream, n = generator(0, "texts"), 80
    tokens = torch.stack([torch.randint(5, 60, (n, 6), generator=stream), torch.zeros(n, 6).long()], -1).int()
    kinds = torch.arange(n)
    of = {"embedding": torch.randn(n, 32, generator=stream), "label": kinds % 2, "group": kinds // 2 % 2}
    examples = Examples(hidden=tokens, mask=torch.ones(n, 6).long(), **of, dev=kinds >= 60)
    reading = Reading(body, learner.encoder.digest, None, 0.5, 2, True)
    sizes = {"n_tasks": 4, "n_shot": 2, "n_query": 2, "n_fitted": 2, "seed": 0, "split": "meta_train"}
    source = TextTasks.sample(examples, reading, **sizes)
    pairs = Pairs(tokens, examples.mask, torch.rand(n, generator=stream))
    rows = (source.names, source.support, source.query, source.fitted)
    first.network.to(META)
    return learner, TextTasks(examples, reading, *rows, pairs=pairs).to(META)


def test_tasks_of_texts_are_drawn_without_asking(texts):
    learner, source = texts
    stream = generator(0, "new")
    assert source.pairs.likeness.device == META and source.take(torch.arange(2)).pairs is source.pairs
    task = source.new(source.draw(3, stream), stream, n_shot=1, n_query=2)
    assert task.context.rows.device == META and task.context.rows.shape == (3, 2, 1, 32)
    assert task.query["hidden"].device == META and task.query["hidden"].shape == (3, 4, 6, 2)
    initialization = Joint(learner, torch.zeros(learner.space.dim(2), device=META), 1.0)
    assert initialization.centre(task.context).shape == (3, learner.space.dim(2))
    assert initialization.cross_entropies([task]).device == META


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_training_of_the_joint_start(texts, share):
    learner, source = texts
    streams = [batches(source.of, source.pairs, Mixture(share, (0, 1)), 8, 0) for _ in range(2)]
    w = torch.zeros(2, learner.space.dim(2), device=META)
    parts = (side_by_side(each) for each in zip(*streams))
    path = adapt(partial(soft_loss, learner), w, parts, optimizer="adam", lr=0.1, record=[2])
    assert path.weights.device == META and path.weights.shape == (2, 1, w.shape[1])


def test_trajectories_and_meta_training_of_adapters(texts):
    learner, source = texts
    initialization = Joint(learner, torch.zeros(learner.space.dim(2), device=META), 1.0)
    how = {"fit_on": "class", "augment": True, "optimizer": "adam", "lr": 0.1, "steps": 4, "length": 4, "seed": 0}
    recorded = collect(initialization, source, torch.arange(4), sam=0.0, **how)
    assert recorded.points.device == META
    sizes = {"n_way": 2, "n_shot": 2, "n_tasks": 4, "n_classes": 0, "length": 4, "provides": frozenset({"examples"})}
    setup = replace(World("prototype").setup(), body=None, **sizes)
    setup = replace(
        setup, meta=setup.meta.model_copy(update={"new_tasks": 2, "recorded_tasks": 2, "n_way": 2, "weight_loss": 0.1})
    )
    for name in ("ltdi", "mean_head", "nearest_head"):
        method = (METHODS | BASELINES)[name](initialization, setup).to(META)
        method.initialization = initialization
        if name == "ltdi":
            training = Training(method, lr=1e-3, steps=3, ema=0.9)
            points = Trajectories.of(torch.zeros(4, 4, learner.space.dim(2)))
            assert next(method.meta_train(training, source, points, seed=0))["loss"].device == META
        assert draw(method.eval(), source.context(torch.arange(3))).device == META
