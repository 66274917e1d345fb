"""Tasks within domains, and the scenario that learns from some domains, chooses on others and is tested on others."""

import pandas as pd
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from ltdi.evaluation.condition_ablation import compare_conditions
from ltdi.learners import LinearHead
from ltdi.meta_learning.model_selection import scores_on_new_tasks
from ltdi.scenarios.domains import all_domains
from ltdi.store import read_json, read_table, read_tensors
from ltdi.tasks.class_tasks import Classes
from ltdi.tasks.domain_tasks import DomainTasks
from ltdi.trajectories.storage import load_sources
from ltdi.utils.errors import InputError
from ltdi.utils.seeding import generator
from pipeline.common.params import load
from pipeline.report import page

pytestmark = pytest.mark.slow

SIZES, F, M = (6, 9, 5), 4, 7
SAMPLE = {"n_tasks": 10, "n_way": 4, "n_shot": 1, "n_query": 3, "seed": 0, "split": "meta_val"}


def source(**changes):
    features = torch.rand(sum(SIZES) * M, F, generator=generator(0, "features"))
    of = Classes(features, torch.full((sum(SIZES),), M))
    return DomainTasks.sample_within(of, SIZES, ("a", "b", "c"), **SAMPLE | changes)


def domain_of(classes):
    """Of class numbers (…,): which domain each is of."""
    ends = torch.tensor(SIZES).cumsum(0)
    return torch.bucketize(classes, ends, right=True)


# --- tasks


def test_the_tasks_of_the_table_are_of_the_domains_in_turn():
    tasks = source()
    of = domain_of(tasks.classes)
    assert (of == of[:, :1]).all() and of[:, 0].tolist() == [i % 3 for i in range(10)]
    assert all(len(row.unique()) == 4 for row in tasks.classes)
    assert source(n_tasks=4).classes.equal(tasks.classes[:4])
    images = torch.cat([tasks.support, tasks.query], -1)
    assert images.min() >= 0 and images.max() < M


def test_new_tasks_drawn_together_are_of_one_domain_and_as_wide_as_it_is():
    tasks, stream = source(), generator(0, "draw")
    widths = set()
    for _ in range(40):
        drawn = tasks.draw(3, stream, n_way=8)
        of = domain_of(drawn)
        assert (of == of[0, 0]).all() and all(len(row.unique()) == drawn.shape[1] for row in drawn)
        assert drawn.shape[1] == min(8, SIZES[of[0, 0]])
        widths.add(drawn.shape[1])
    assert widths == {5, 6, 8}
    assert tasks.new(drawn, stream, n_shot=2).context.rows.shape == (3, drawn.shape[1], 2, F)


@pytest.mark.parametrize("power, shares", [(0.0, (1, 1, 1)), (0.5, (6**0.5, 3, 5**0.5)), (1.0, SIZES)])
def test_a_domain_is_drawn_in_proportion_to_a_power_of_its_classes(power, shares):
    tasks, stream, n = source(), generator(0, "draws"), 2000
    drawn = DomainTasks(tasks.of, tasks.classes, tasks.support, tasks.query, SIZES, power=power).take(torch.arange(2))
    found = torch.stack([domain_of(drawn.draw(1, stream))[0, 0] for _ in range(n)]).bincount() / n
    expected = torch.tensor(shares) / sum(shares)
    assert ((found - expected).abs() < 4 * (expected * (1 - expected) / n).sqrt()).all()


def test_what_tasks_are_drawn_by_names_a_training():
    """A training that is done is found by this name: with other domains, or as often, it is another one."""
    tasks = source()
    own = (tasks.of, tasks.classes, tasks.support, tasks.query)
    others = [DomainTasks(*own, SIZES), DomainTasks(*own, (9, 6, 5)), DomainTasks(*own, SIZES, power=0.5)]
    told = {each.description(torch.arange(10)) for each in (tasks, *others, *tasks.parts)}
    assert len(told) == 6 and tasks.description(torch.arange(9)) not in told


def test_its_parts_are_a_domain_each_and_are_scored_alike():
    tasks, learner = source(), LinearHead(F)
    for i, part in enumerate(tasks.parts):
        assert (domain_of(part.draw(5, generator(0, "p"), n_way=20)) == i).all()
    widths = []

    def zero(context):
        widths.append(context.n_way)
        return [torch.zeros(len(context), context.n_way * (F + 1))]

    scores = scores_on_new_tasks(learner, tasks, zero, n_tasks=12, stream=generator(0, "s"), n_way=20)
    assert widths == list(SIZES) and scores.shape == (1, 12)


def test_what_makes_another_source_of_it_keeps_the_domains():
    tasks = source().take(torch.arange(3)).to("cpu")
    assert isinstance(tasks, DomainTasks) and tasks.sizes == SIZES and len(tasks) == 3
    assert tasks.parts[1].take(torch.arange(2)).among == (1,)


def test_too_few_classes_or_images_of_a_domain_are_one_line():
    with pytest.raises(InputError, match="data.domains: c has 5 classes, and tasks of meta_val have 6") as caught:
        source(n_way=6)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="7 images of a class of a"):
        source(n_query=7)


# --- the scenario

DOMAINS = {"train": ["glyphs/train", "mine/photo"], "val": ["glyphs/val", "mine/sketch"], "test": ["glyphs/test"]}


@pytest.fixture
def changes(tmp_path):
    """Two domains of ten classes of made-up images beside the glyphs."""
    for d, domain in enumerate(("photo", "sketch")):
        for c in range(10):
            stream = generator(0, domain, c)
            pattern = torch.rand(28, 28, 3, generator=stream)
            for j in range(6 + c % 3):
                image = (255 * (0.8 * pattern + 0.2 * torch.rand(28, 28, 3, generator=stream))).byte()
                file = tmp_path / "raw" / "mine" / domain / f"class {c}" / f"{j}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image.numpy()).resize((30 + d, 28)).save(file)
    return {
        "scenario.name": "domains",
        "data.domains": DOMAINS,
        "data.root": str(tmp_path / "raw"),
        "data.size": 28,
        "tasks.n_query": 3,
        "learner.normalise": "auto",
        "learner.name": "linear_head",
        "meta.n_way": 40,
        "meta.query_images": 3,
        "body.filters": 8,
    }


def prepared(changes, write_params, run_stage, tmp_path, **more):
    params = write_params(tmp_path / "run", changes | more)
    for stage in ("pretrain_body", "prepare_tasks"):
        run_stage(stage, params, tmp_path / "run" / "data")
    return params, tmp_path / "run" / "data"


def test_a_run_from_images_to_scores(changes, write_params, run_stage, tmp_path):
    params, data = prepared(changes, write_params, run_stage, tmp_path)
    table = read_table(data / "tasks" / "tasks.parquet")
    of_val = table[table.split == "meta_val"]
    assert list(of_val.domain[:3]) == ["glyphs/val", "mine/sketch", "glyphs/val"]
    features, facts = read_tensors(data / "tasks" / "features.safetensors", kind="features")
    assert features["meta_train/domains"].tolist()[1] == 10 and facts["size"] == 28
    assert not (data / "tasks" / "images.safetensors").exists()
    for stage in ("collect_trajectories", "meta_train", "generate_weights", "evaluate"):
        run_stage(stage, params, data)
    assert isinstance(load_sources(data)["meta_val"], DomainTasks)
    metrics = read_json(data / "results" / "metrics.json")
    assert 0.2 < metrics["score"] <= 1 and metrics["ms_per_task"]["batch_1"] > 0
    audited = compare_conditions(data, n_tasks=20).set_index("weights").score
    assert audited["right"] > max(audited["another task's"], audited["classes permuted"], audited["none"])
    assert "ltdi classify my_classes photos --data" in page(data)


def test_features_of_a_domain_are_kept_for_runs_that_share_it(changes, write_params, run_stage, tmp_path, monkeypatch):
    _, data = prepared(changes, write_params, run_stage, tmp_path)
    before = read_tensors(data / "tasks" / "features.safetensors", kind="features")[0]

    def embedded(*args, **kwargs):
        raise AssertionError("embedded again")

    monkeypatch.setattr("ltdi.scenarios.domains.embed", embedded)
    other = write_params(tmp_path / "run", changes | {"tasks.n_shot": 2, "seed": 1})
    run_stage("prepare_tasks", other, data)
    assert_close(read_tensors(data / "tasks" / "features.safetensors", kind="features")[0], before, rtol=0, atol=0)


def refused(changes, write_params, run_stage, tmp_path, *words):
    with pytest.raises(InputError) as caught:
        prepared(changes, write_params, run_stage, tmp_path)
    assert "\n" not in str(caught.value) and all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(
    "domains, words",
    [
        ({"train": []}, ("data.domains.train is empty",)),
        ({"test": ["mine/clay"]}, ("mine/clay", "mine/photo")),
        ({"test": ["nowhere"]}, ("nowhere", "known data set")),
        ({"test": ["mine/photo"]}, ("mine/photo", "meta_train", "meta_test")),
    ],
)
def test_wrong_domains_are_one_line(domains, words, changes, write_params, tmp_path):
    params = load(write_params(tmp_path / "run", changes | {"data.domains": DOMAINS | domains}), "data")
    with pytest.raises(InputError) as caught:
        all_domains(params.data.model_dump(), size=28)
    assert "\n" not in str(caught.value) and all(word in str(caught.value) for word in words), str(caught.value)


def split_as(changes, write_params, tmp_path, *lines):
    """The domains of the splits where a table says which split some classes are of."""
    file = tmp_path / "splits.csv"
    file.write_text("class,split\n" + "".join(f"{line}\n" for line in lines))
    params = load(write_params(tmp_path / "run", changes | {"data.splits": str(file)}), "data")
    return all_domains(params.data.model_dump(), size=28)


def test_classes_of_a_table_are_of_their_split_alone(changes, write_params, tmp_path):
    sets = split_as(changes, write_params, tmp_path, "class 0,train", "class 1,train", "class 9,val")
    photo, sketch = sets["meta_train"]["mine/photo"], sets["meta_val"]["mine/sketch"]
    assert photo.names == tuple(f"mine/photo/class {c}" for c in range(9))
    assert sketch.names == tuple(f"mine/sketch/class {c}" for c in range(2, 10))
    assert photo.counts == tuple(6 + c % 3 for c in range(9)) and len(photo.images) == sum(photo.counts)
    assert len(sets["meta_test"]["glyphs/test"].names) > 10


@pytest.mark.parametrize(
    "lines, word",
    [
        (["class 0,test"], "data.domains.test has a class 'class 0'"),
        (["no class,val"], "'no class'"),
        ([f"class {c},test" for c in range(10)], "mine/photo has no class of its split"),
    ],
)
def test_a_table_that_does_not_fit_is_one_line(lines, word, changes, write_params, tmp_path):
    with pytest.raises(InputError, match="data.splits") as caught:
        split_as(changes, write_params, tmp_path, *lines)
    assert "\n" not in str(caught.value) and word in str(caught.value), str(caught.value)


def test_too_few_classes_for_the_ways_are_one_line(changes, write_params, run_stage, tmp_path):
    refused(changes | {"tasks.n_way": 11}, write_params, run_stage, tmp_path, "has 10 classes", "tasks.n_way")


def test_a_method_that_works_on_images_is_refused(changes, write_params, run_stage, tmp_path):
    params, data = prepared(changes | {"method.name": "reptile"}, write_params, run_stage, tmp_path)
    run_stage("collect_trajectories", params, data)
    with pytest.raises(InputError, match="images"):
        run_stage("meta_train", params, data)
    assert isinstance(read_table(data / "tasks" / "tasks.parquet"), pd.DataFrame)
