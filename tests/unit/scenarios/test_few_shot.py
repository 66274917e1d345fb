"""Where training starts, what features are seen through: something else only where meta-val shows it to be better."""

from dataclasses import replace

import pytest
import torch
from ruamel.yaml import YAML
from torch.testing import assert_close
from worlds import World, frozen_body, patterns

from ltdi.datasets import DATASETS, ImageSet
from ltdi.initialization import INITIALIZATIONS, Prototype
from ltdi.initialization.closed_form import ClosedForm
from ltdi.initialization.selection import CLOSED_FORMS, IMAGE_TASKS, _calibrated, accuracies_of, of_images
from ltdi.learners import LinearHead, TwoLayerHead
from ltdi.meta_learning.model_selection import significantly_better
from ltdi.scenarios import SCENARIOS
from ltdi.scenarios.few_shot import FewShot
from ltdi.scenarios.image_features import _scores, image_sets
from ltdi.tasks.class_tasks import Classes, ClassTasks
from ltdi.tasks.feature_normalization import NORMALISATIONS
from ltdi.utils.seeding import generator

FROM_EXAMPLES = ("fresh", "shared", "prototype", "ridge", "adaptive_ridge")
LEARNER = {"name": "two_layer_head", "hidden": 12, "normalise": "none", "projection": None}
C, M, F, N = 14, 12, 8, 3


@pytest.fixture(scope="module")
def world():
    return World("prototype")


def begin(train, val, kind="closed_form", **learner):
    return of_images(train, val, LEARNER | learner, kind, seed=0)


def sample(features, split):
    """Tasks over features (C, M, F)."""
    of = Classes(features.flatten(0, 1), torch.full((len(features),), features.shape[1]))
    return ClassTasks.sample(of, n_tasks=60, n_way=N, n_shot=2, n_query=3, seed=0, split=split)


def stretched(split="meta_val"):
    """Classes that differ in one feature, the others being noise that drowns it: the case for ridge regression, not for
    the nearest mean."""
    stream = generator(0, "stretched", split)
    features = 20 * torch.rand(C, M, F, generator=stream)
    features[..., 0] = torch.arange(C)[:, None] + 0.05 * torch.rand(C, M, generator=stream)
    return sample(features, split)


def directions(split):
    """Classes that are directions, their examples of any length: the case for unit length."""
    stream = generator(0, "directions", split)
    rows = torch.rand(C, 1, F, generator=stream) + 0.1 * torch.rand(C, M, F, generator=stream)
    lengths = torch.exp(2 * torch.randn(C, M, 1, generator=stream))
    return sample(lengths * rows / rows.norm(dim=-1, keepdim=True), split)


def lengths(split):
    """Classes that differ in length alone: unit length takes away all that tells them apart."""
    stream = generator(0, "lengths", split)
    rows = torch.ones(F) + 0.02 * torch.randn(C, M, F, generator=stream)
    return sample(rows * torch.arange(1, C + 1)[:, None, None], split)


# --- which closed form


def test_the_scenario_is_there_by_its_name():
    assert isinstance(SCENARIOS["few_shot"], FewShot)


def test_only_a_gain_beyond_chance_counts(world):
    good = _calibrated(world.initialization, world.val)
    # all classes score the same
    chance = INITIALIZATIONS["fresh"](good.learner, good.shared)
    of_good, of_chance = (
        accuracies_of(initialization, world.val, n_tasks=IMAGE_TASKS, seed=0) for initialization in (good, chance)
    )
    assert significantly_better(of_good, of_chance)
    assert not significantly_better(of_chance, of_good)
    assert not significantly_better(of_good, of_good)


def test_ridge_is_taken_where_it_is_better_and_the_prototype_else(world):
    assert CLOSED_FORMS == ("prototype", "ridge")
    assert begin(world.train, world.val)[0].kind == "prototype"
    assert begin(stretched("meta_train"), stretched())[0].kind == "ridge"


@pytest.mark.parametrize("kind", FROM_EXAMPLES)
def test_a_start_without_a_choice_is_left_alone(kind, world):
    for val in (world.val, stretched()):
        assert begin(world.train, val, kind)[0].kind == kind


@pytest.mark.parametrize("kind", FROM_EXAMPLES)
def test_a_closed_form_is_calibrated_and_what_is_none_has_nothing_to_calibrate(kind):
    initialization, _ = begin(stretched("meta_train"), stretched(), kind)
    assert "temperature" not in initialization.values() or (
        isinstance(initialization, ClosedForm) and initialization.temperature != 1.0
    )


# --- which normalisation


def test_unit_length_is_taken_where_it_is_better():
    initialization, seen = begin(directions("meta_train"), directions("meta_val"), "prototype", normalise="auto")
    assert seen.normalise == "unit"
    assert isinstance(initialization, Prototype) and initialization.learner.floor == seen.floor(torch.zeros(1, F)) < 0
    plain, unseen = begin(directions("meta_train"), directions("meta_val"), "prototype")
    assert unseen.normalise == "none" and plain.learner.floor == 0.0
    val = directions("meta_val")
    sizes = {"n_tasks": IMAGE_TASKS, "seed": 0}
    gained = accuracies_of(initialization, val.through(seen), **sizes) - accuracies_of(
        plain, val.through(unseen), **sizes
    )
    assert gained.mean() > 0.1


def test_features_stay_as_they_are_where_nothing_is_gained(world):
    assert NORMALISATIONS[0] == "none"
    assert begin(lengths("meta_train"), lengths("meta_val"), "prototype", normalise="auto")[1].normalise == "none"
    # all the same at unit length already, so that a scale is all that differs
    unit = directions("meta_val").of.features
    unit = (unit / unit.norm(dim=-1, keepdim=True)).unflatten(0, (C, M))
    _, seen = begin(sample(unit, "meta_train"), sample(unit, "meta_val"), "prototype", normalise="auto")
    assert seen.normalise == "none"


@pytest.mark.parametrize("of", NORMALISATIONS)
def test_a_normalisation_by_name_is_taken_whatever_it_is_worth(of):
    for make in (directions, lengths):
        initialization, seen = begin(make("meta_train"), make("meta_val"), "prototype", normalise=of)
        assert seen.normalise == of and initialization.kind == "prototype"


@pytest.mark.parametrize("kind", ["fresh", "shared"])
def test_a_start_without_closed_form_is_seen_through_what_is_better_for_one(kind):
    initialization, seen = begin(directions("meta_train"), directions("meta_val"), kind, normalise="auto")
    assert initialization.kind == kind and seen.normalise != "none"
    initialization, seen = begin(lengths("meta_train"), lengths("meta_val"), kind, normalise="auto")
    assert initialization.kind == kind and seen.normalise == "none"


@pytest.mark.parametrize("make, normalise", [(directions, "unit"), (lengths, "none")])
def test_closed_form_and_normalisation_are_chosen_together(make, normalise):
    initialization, seen = begin(make("meta_train"), make("meta_val"), normalise="auto")
    assert (initialization.kind, seen.normalise) == ("prototype", normalise)


def test_the_mean_is_that_of_the_meta_training_images_without_the_copies():
    train = directions("meta_train")
    copies = ClassTasks(
        Classes(torch.cat([train.of.features, 5 + train.of.features]), train.of.counts),
        train.classes,
        train.support,
        train.query,
    )
    _, seen = begin(copies, directions("meta_val"), "prototype", normalise="centred", projection=3)
    _, expected = begin(train, directions("meta_val"), "prototype", normalise="centred", projection=3)
    assert_close(seen.mean, train.of.features.mean(0))
    assert_close(seen.projection, expected.projection)


# --- heads that are narrower than the features


@pytest.mark.parametrize("kind", ["closed_form", "prototype", "ridge"])
@pytest.mark.parametrize("normalise", ["none", "unit", "centred", "auto"])
def test_a_closed_form_fits_fewer_hidden_units_than_features_behind_a_projection(kind, normalise, world):
    initialization, seen = begin(world.train, world.val, kind, hidden=5, projection=5, normalise=normalise)
    assert initialization.learner.n_features == seen.width == 5 and initialization.learner.hidden == 5
    # the head is the linear classifier itself: one without hidden units says the same of training classes
    context = world.train.through(seen).context(torch.arange(10))
    inputs = context.examples["inputs"]
    plain = type(initialization)(LinearHead(5), initialization.shared, **initialization.values())
    expected = plain.learner.logits(plain.centre(context), inputs)
    assert_close(initialization.learner.logits(initialization.centre(context), inputs), expected, rtol=1e-3, atol=1e-3)
    assert accuracies_of(initialization, world.val.through(seen), n_tasks=IMAGE_TASKS, seed=0).mean() > 0.6


def test_a_learner_is_the_one_that_is_named(world):
    initialization, seen = begin(world.train, world.val, name="linear_head", projection=6)
    assert isinstance(initialization.learner, LinearHead) and initialization.learner.n_features == seen.width == 6
    initialization, seen = begin(world.train, world.val)
    assert isinstance(initialization.learner, TwoLayerHead)
    assert (initialization.learner.n_features, initialization.learner.hidden, initialization.learner.floor) == (
        F,
        12,
        0.0,
    )


def test_a_linear_head_and_one_with_hidden_units_have_the_same_closed_forms(world):
    """One and the same classifier of the features."""
    (linear, _), (layered, _) = begin(world.train, world.val, name="linear_head"), begin(world.train, world.val)
    assert (linear.kind, linear.values()) == (layered.kind, layered.values())


# --- what a body is worth


@pytest.mark.parametrize(
    "counts, scored",
    [((2, 11, 8, 12, 12, 3), ["val_5w1s"]), ((2, 15, 8, 20, 12, 3), ["val_5w1s", "val_5w5s"]), ((12, 12, 12), [])],
)
def test_a_body_is_scored_on_the_tasks_that_there_are_classes_and_images_for(counts, scored):
    """Classes that are a pattern each, of unequal numbers of images: told apart better than by chance, 0.2."""
    dense = patterns(len(counts), "val").repeat(1, 2, 1, 1, 1)
    images = ImageSet(torch.cat([dense[c, :n] for c, n in enumerate(counts)]), tuple("abcdef"[: len(counts)]), counts)
    scores = _scores(frozen_body(), images, seed=0)
    assert list(scores) == scored and all(0.3 < score <= 1 for score in scores.values())


@pytest.mark.parametrize("name", DATASETS)
def test_every_data_set_is_loaded_by_what_params_say(name, monkeypatch, write_params, tmp_path):
    """All that ``data`` says reaches the data set that takes it, and no other."""
    told = {}

    def load(root, **hparams):
        told.update(hparams)
        return {}

    monkeypatch.setitem(DATASETS, name, replace(DATASETS[name], load=load))
    section = YAML(typ="safe").load(write_params(tmp_path, {"data.name": name, "data.size": 30}))["data"]
    assert image_sets(section) == {}
    assert told.get("size") == (30 if DATASETS[name].sized else None)
    assert ("table" in told) == DATASETS[name].classes_split
