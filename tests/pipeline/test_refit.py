"""Once all is chosen on meta-val, methods learn once more, of the meta-training and the meta-val classes together."""

import shutil

import pytest
import torch
from small_classes import M, by_class, classes_of, coordinates, sample
from test_resume import tensors_under
from torch.testing import assert_close

from ltdi.bodies.registry import read_body
from ltdi.learners.base import Classifier
from ltdi.methods.baselines.lda import shrunk_inverse, within_class_covariance
from ltdi.methods.registry import build
from ltdi.methods.storage import read_method
from ltdi.store import read_json
from ltdi.tasks.class_tasks import Classes
from ltdi.tasks.domain_tasks import DomainTasks
from ltdi.tasks.feature_normalization import FeatureMap
from ltdi.tasks.merging import pooled
from ltdi.trajectories.storage import load_sources
from ltdi.utils.errors import InputError
from ltdi.utils.seeding import generator
from ltdi.utils.trainer import Training
from pipeline import meta_train
from pipeline.common import checkpoints
from pipeline.common.params import load

CHANGES = {"meta.refit": True, "method.baselines": []}


# --- the classes of two splits


@pytest.mark.parametrize("n_views", [1, 3])
def test_the_classes_of_both_with_their_copies_and_the_table_of_the_first(n_views):
    features = coordinates().repeat(1, n_views, 1)
    features[..., 0] += torch.arange(n_views).repeat_interleave(M) / 10
    whole = sample(classes_of(features), n_way=3)
    first, second = (sample(classes_of(part), n_way=3) for part in (features[:5], features[5:]))
    both = pooled(first, second)
    assert both.of.features.equal(whole.of.features) and both.of.counts.equal(whole.of.counts)
    tasks = torch.arange(len(first))
    assert by_class(both.fitted_on(tasks), 3).equal(by_class(first.fitted_on(tasks), 3))
    names = both.draw(50, generator(0, "draw"), n_way=4)
    assert names.unique().tolist() == list(range(8))
    assert both.new(names, generator(0, "new")).context.rows.equal(whole.new(names, generator(0, "new")).context.rows)


def test_unequal_classes_their_images_and_what_they_are_seen_through():
    seen = FeatureMap.fit(torch.rand(10, 2), normalise="centred", projection=None)
    of = [
        Classes(torch.full((n, 2), float(n)), torch.tensor([n]), torch.full((n, 1, 2, 2), n, dtype=torch.uint8), seen)
        for n in (3, 5)
    ]
    both = pooled(*(sample(each, n_tasks=2, n_way=1, n_shot=1, n_query=1) for each in of)).of
    assert both.counts.tolist() == [3, 5] and both.seen is seen
    places = both.rows_of(torch.tensor([[0, 1]]), torch.tensor([[[2], [4]]])).flatten()
    assert both.features[places, 0].tolist() == both.images[places, 0, 0, 0].tolist() == [3, 5]


def test_domains_stay_domains():
    of = [Classes(torch.arange(float(n * M))[:, None], torch.full((n,), M)) for n in (5, 9)]
    tables = [each.classes for each in (sample(of[0], n_way=2), sample(of[1], n_way=2))]
    empty = torch.zeros(40, 2, 1, dtype=torch.long)
    first = DomainTasks(of[0], tables[0], empty, empty, (2, 3), power=1.0)
    second = DomainTasks(of[1], tables[1], empty, empty, (4, 5), among=[1])
    both = pooled(first, second)
    assert both.sizes == (2, 3, 4, 5) and both.among == (0, 1, 3) and both.power == 1
    drawn = both.parts[2].draw(1, generator(0, "draw"), n_way=9)
    assert sorted(drawn[0].tolist()) == [9, 10, 11, 12, 13]


def test_copies_of_one_split_alone_are_refused():
    features = coordinates()
    with pytest.raises(InputError, match="tasks.views = 1 .*meta.refit") as caught:
        pooled(sample(classes_of(features.repeat(1, 2, 1))), sample(classes_of(features)))
    assert "\n" not in str(caught.value)


# --- the stage


@pytest.fixture
def refitted(finished, write_params, run_stage, tmp_path, monkeypatch):
    """A function: the stage meta_train of the finished run with refit and other changes, choosing on few tasks -> its
    folder."""
    monkeypatch.setattr(Classifier, "selection_tasks", 40)

    def run(changes=(), name="refit"):
        data = tmp_path / name / "data"
        for folder in ("body", "tasks", "trajectories"):
            shutil.copytree(finished.data / folder, data / folder)
        run_stage("meta_train", write_params(tmp_path / name, CHANGES | dict(changes)), data)
        return data

    return run


@pytest.mark.slow
def test_what_is_chosen_is_of_the_first_training_and_what_is_learned_of_both_splits(refitted):
    before, data = refitted({"meta.refit": False}, "first"), refitted()
    first, again = (read_method(each / "model" / "methods", "ltdi", None, "cpu") for each in (before, data))
    assert again.update_scale.equal(first.update_scale)
    said = [read_json(each / "model" / "metrics.json") for each in (before, data)]
    assert said[0].pop("seconds") < said[1].pop("seconds") and said[0] == said[1]
    assert (data / "model/curve.tsv").read_text() == (before / "model/curve.tsv").read_text()

    # by hand
    params = load(data.parent / "params.yaml", "method", "diffusion", "denoiser", "meta")
    world = meta_train._world(data, ["ltdi"])
    method = build("ltdi", world.initialization, meta_train._setup(params, world), {}, seed=0)
    method.prepare(world.train, world.trajectories, world.val)
    training = Training(method, lr=params.meta.outer_lr, steps=params.meta.steps, ema=params.meta.ema)
    for _ in method.meta_train(training, pooled(world.train, world.val), world.trajectories, seed=0):
        pass
    expected = training.average | {"update_scale": first.update_scale}
    assert_close(dict(again.state_dict()), expected, rtol=0, atol=0)
    assert any(not value.equal(first.state_dict()[key]) for key, value in again.state_dict().items())


@pytest.mark.slow
def test_baselines_learn_of_both_splits_what_they_choose_on_meta_val_stays(refitted):
    baselines = {"method.name": "prototype", "method.baselines": ["simpleshot", "lda", "ridge"]}
    found = {}
    for name, refit in (("first", False), ("again", True)):
        data = refitted(baselines | {"meta.refit": refit, "learner.name": "linear_head"}, name)
        found[name] = {each: read_method(data / "model/methods", each, None, "cpu") for each in ("simpleshot", "lda")}
        ridge = (data / "model/methods/ridge.safetensors").read_bytes()
        assert found.setdefault("ridge", ridge) == ridge
    sources = load_sources(data, splits=["meta_train", "meta_val"])
    both = pooled(sources["meta_train"], sources["meta_val"])
    rows = torch.cat(list(both.by_class()))
    assert_close(found["again"]["simpleshot"].mean, rows.mean(0))
    assert found["again"]["simpleshot"].temperature == found["first"]["simpleshot"].temperature
    first, again = (found[name]["lda"].precision.double() for name in ("first", "again"))
    alone, together = (within_class_covariance(each) for each in (sources["meta_train"], both))
    shrinkages = [1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005]
    (chosen,) = [each for each in shrinkages if shrunk_inverse(alone, each).float().equal(first.float())]
    assert again.float().equal(shrunk_inverse(together, chosen).float())


@pytest.mark.slow
@pytest.mark.parametrize("after", [1, 3], ids=["in the first training", "in the second"])
def test_a_killed_run_goes_on_in_either_training(after, refitted, tmp_path, monkeypatch, capsys):
    straight = refitted(name="straight")
    monkeypatch.setenv("LTDI_STORE", str(tmp_path / "another store"))
    kept, keep = [], checkpoints.Cache.keep

    def killed(self, *args, **kwargs):
        path = keep(self, *args, **kwargs)
        kept.append(path)
        if len(kept) == after:
            raise KeyboardInterrupt
        return path

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(checkpoints.Cache, "keep", killed)
        refitted(name="killed")
    assert not (tmp_path / "killed/data/model").exists()
    capsys.readouterr()
    data = refitted(name="killed again")
    said = " ".join(capsys.readouterr().out.split())
    steps = [(4, "meta_train")] if after == 1 else [(8, "meta_train"), (4, "meta_train, meta-val classes too")]
    assert all(f"{name}: going on from step {step} of 8" in said for step, name in steps)
    refitted({"meta.refit": False}, "without")
    assert "meta_train: going on from step 8 of 8" in " ".join(capsys.readouterr().out.split()), "both have the first"
    assert_close(tensors_under(data / "model"), tensors_under(straight / "model"), rtol=0, atol=0)
    assert (data / "model/curve.tsv").read_text() == (straight / "model/curve.tsv").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llo_vae", "meta_baseline"])
def test_other_methods_learn_once_more_and_are_read_back(name, refitted):
    data = refitted({"method.name": name, "method.baselines": []}, name)
    body = read_body(data / "body" / "body.safetensors")
    method = read_method(data / "model" / "methods", name, body, "cpu")
    if name == "meta_baseline":
        assert method.classifier.out_features == 36 + 9


@pytest.mark.slow
def test_nothing_to_learn_of_meta_val_is_one_line(refitted):
    with pytest.raises(InputError, match="^meta.refit = true learns from new tasks .*; raise it[^\n]*$"):
        refitted({"meta.new_tasks": 0})
