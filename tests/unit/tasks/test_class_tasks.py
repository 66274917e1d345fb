"""Tasks of classes: which images they have, and that a table brings them back."""

import pytest
import torch
from small_classes import C, F, M, by_class, classes_of, coordinates, sample
from torch.testing import assert_close

from ltdi.store import read_table, write_table
from ltdi.tasks.base import Context
from ltdi.tasks.class_tasks import ClassTasks, labelled
from ltdi.tasks.feature_normalization import FeatureMap
from ltdi.utils.errors import InputError
from ltdi.utils.seeding import generator


def test_sizes():
    source = sample()
    task = source.batch(torch.arange(4))
    assert len(source) == 40
    assert task.context.rows.shape == (4, 5, 2, F)
    assert by_class(task.query).shape == (4, 5, 3, F)
    assert by_class(source.fitted_on(torch.arange(4))).shape == (4, 5, M, F)


def test_features_are_those_of_the_indexed_images():
    source = sample()
    tasks = torch.tensor([7, 3, 7])
    task = source.batch(tasks)
    for features, images in ((task.context.rows, source.support), (by_class(task.query), source.query)):
        assert features[..., 0].equal(source.classes[tasks][..., None].expand_as(features[..., 0]).float())
        assert features[..., 1].equal(images[tasks].float())
    assert by_class(source.fitted_on(tasks))[..., 0].equal(source.classes[tasks][..., None].expand(-1, -1, M).float())
    assert by_class(source.fitted_on(tasks))[..., 1].equal(torch.arange(M).expand(3, 5, M).float())


def test_a_row_of_support_and_of_query_is_one_class():
    task = sample().batch(torch.arange(40))
    assert task.context.rows[..., 0].amax(-1).equal(by_class(task.query)[..., 0].amin(-1))


def test_support_and_query_share_no_image_and_repeat_none():
    source = sample(n_shot=3, n_query=4)
    images = torch.cat([source.support, source.query], -1)
    assert images.sort(-1).values.equal(torch.arange(M).expand(40, 5, M))


def test_the_classes_of_a_task_are_different_and_tasks_differ():
    source = sample()
    assert (source.classes.sort(-1).values.diff(dim=-1) > 0).all()
    assert len(source.classes.unique(dim=0)) > 30


def test_every_class_stands_at_every_label_equally_often():
    classes = sample(n_tasks=4000).classes
    counts = torch.stack([classes[:, n].bincount(minlength=C) for n in range(5)])
    # each is binomial(4000, 1/8), with deviation 21
    assert (counts - 500).abs().max() < 105


def test_tasks_depend_on_the_generator_alone():
    assert sample().support.equal(sample().support)
    other = sample(seed=1)
    assert not other.classes.equal(sample().classes)


def test_a_table_brings_the_tasks_back(tmp_path):
    source = sample()
    write_table(tmp_path / "tasks.parquet", source.to_table())
    for table in (source.to_table(), read_table(tmp_path / "tasks.parquet")):
        again = ClassTasks.from_table(source.of, table)
        assert (
            again.classes.equal(source.classes)
            and again.support.equal(source.support)
            and again.query.equal(source.query)
        )
    assert len(source.to_table()) == len(source)


def test_rows_of_a_table_are_tasks():
    source = sample()
    one = ClassTasks.from_table(source.of, source.to_table().iloc[[11]])
    assert one.batch(torch.tensor([0])).query["inputs"].equal(source.batch(torch.tensor([11])).query["inputs"])


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"n_way": C + 1}, rf"n_way = {C + 1} .* {C} classes"),
        ({"n_shot": 4, "n_query": 4}, rf"n_shot \+ tasks.n_query = 4 \+ 4 .* {M} images"),
    ],
)
def test_too_large_tasks_are_refused(sizes, message):
    with pytest.raises(InputError, match=message) as error:
        sample(**sizes)
    assert "\n" not in str(error.value)


def test_a_task_may_use_all_there_is():
    source = sample(n_way=C, n_shot=3, n_query=4)
    assert source.classes.sort(-1).values.equal(torch.arange(C).expand(40, C))


def test_labels_are_the_rows():
    inputs, labels = labelled(torch.arange(24.0).reshape(2, 3, 2, 2)).values()
    assert labels.tolist() == [[0, 0, 1, 1, 2, 2]] * 2
    assert inputs[1, 3].tolist() == [18, 19]


def test_class_means():
    context = Context(torch.tensor([[[[1.0, 0], [3, 4]], [[0, 0], [0, 2]]]]))
    assert_close(context.means, torch.tensor([[[2.0, 2], [0, 1]]]))
    assert len(context) == 1 and context.n_way == 2


def test_a_part_of_a_context_is_its_tasks():
    context = sample().context(torch.arange(5))
    for some in (slice(1, 3), torch.tensor([4, 0])):
        assert context[some].rows.equal(context.rows[some])
        for name, value in context.examples.items():
            assert context[some].examples[name].equal(value[some])


def test_the_examples_of_a_context_are_its_rows_with_their_labels():
    context = sample().context(torch.arange(5))
    assert context.examples["inputs"].equal(context.rows.flatten(1, 2))
    assert context.examples["labels"].tolist() == [[0, 0, 1, 1, 2, 2, 3, 3, 4, 4]] * 5


def test_views_are_copies_behind_the_images():
    source = sample(classes_of(coordinates()[:, :6], n_rows=3))
    assert source.n_views == source.of.n_views == 2 and source.of.n_rows == 3 * C
    for view in (0, 1):
        rows = by_class(source.fitted_on(torch.arange(2), view=view))
        assert rows[..., 0].equal(source.classes[:2, :, None].expand(-1, -1, 3).float())
        assert rows[..., 1].equal(torch.arange(3 * view, 3 * view + 3).expand(2, 5, 3).float())


def test_tasks_are_drawn_from_the_copies_too():
    source = sample(classes_of(coordinates()[:, :6], n_rows=3), n_tasks=200)
    assert source.support.unique().equal(torch.arange(6)) and source.most_shots == 5
    rows = source.context(torch.arange(200)).rows
    assert rows[..., 0].equal(source.classes[..., None].expand(-1, -1, 2).float())
    assert rows[..., 1].equal(source.support.float())


def test_the_first_tasks_stay_when_more_are_asked_for():
    few, many = sample(n_tasks=10), sample(n_tasks=500)
    for name in ("classes", "support", "query"):
        assert getattr(few, name).equal(getattr(many, name)[:10])


def pictures():
    """Images (C, M, 1, 2, 2) of a single value: 16·class + image."""
    value = 16 * torch.arange(C)[:, None] + torch.arange(M)
    return value[..., None, None, None].expand(C, M, 1, 2, 2).to(torch.uint8).flatten(0, 1)


def test_images_stand_beside_their_features():
    source = sample().with_images(pictures())
    task = source.new(source.draw(6, generator(0, "new")), generator(0, "images"))
    table = source.batch(torch.arange(4))
    for batch in (task.context.examples, task.query, table.query, table.context[1:].examples):
        assert batch["images"].shape == (*batch["inputs"].shape[:2], 1, 2, 2)
        expected = 16 * batch["inputs"][..., 0] + batch["inputs"][..., 1]
        assert batch["images"][..., 0, 0, 0].equal(expected.to(torch.uint8))
    assert source.take(torch.tensor([3])).of is source.of
    bare = sample().batch(torch.arange(4))
    assert "images" not in bare.query and "images" not in bare.context.examples


def test_copies_have_no_images_to_stand_beside():
    with pytest.raises(InputError, match="tasks.views = 1"):
        sample(classes_of(coordinates()[:, :6], n_rows=3), n_shot=1, n_query=2).with_images(pictures())


def test_new_tasks_are_of_different_classes_and_no_image_twice():
    source = sample()
    classes = source.draw(200, generator(0, "new"))
    assert classes.shape == (200, 5) and (classes.sort(1).values.diff(dim=1) > 0).all()
    assert classes.unique().equal(torch.arange(C))
    task = source.new(classes, generator(0, "images"))
    both = torch.cat([task.context.rows, by_class(task.query)], dim=2)
    assert both[..., 0].equal(classes[..., None].expand(-1, -1, 5).float())
    assert (both[..., 1].sort(2).values.diff(dim=2) > 0).all()


@pytest.mark.parametrize("n_way, expected", [(None, 5), (2, 2), (C, C), (C + 1, C), (256, C)])
def test_new_tasks_are_of_the_tables_size_or_of_one_that_is_asked_for(n_way, expected):
    classes = sample().draw(30, generator(0, "new"), n_way=n_way)
    assert classes.shape == (30, expected) and (classes.sort(1).values.diff(dim=1) > 0).all()
    assert len(classes.unique(dim=0)) > 15


@pytest.mark.parametrize(
    "n_shot, n_query, expected", [(None, None, (2, 3)), (1, None, (1, 3)), (None, 1, (2, 1)), (4, 3, (4, 3))]
)
def test_new_tasks_have_the_tables_numbers_of_images_or_others(n_shot, n_query, expected):
    source = sample()
    task = source.new(source.draw(20, generator(0, "new")), generator(0, "images"), n_shot=n_shot, n_query=n_query)
    assert (task.context.rows.shape[2], by_class(task.query).shape[2]) == expected
    images = torch.cat([task.context.rows, by_class(task.query)], dim=2)[..., 1]
    assert (images.sort(2).values.diff(dim=2) > 0).all()


def test_the_same_tasks_seen_through_a_map():
    source = sample()
    seen = FeatureMap("centred", torch.tensor([3.0, 2.0, 1.0]))
    other, tasks = source.through(seen), torch.arange(4)
    assert_close(other.context(tasks).rows, seen(source.context(tasks).rows))
    assert_close(other.fitted_on(tasks)["inputs"], seen(source.fitted_on(tasks)["inputs"]))
    assert_close(other.batch(tasks).query["inputs"], seen(source.batch(tasks).query["inputs"]))
    assert_close(other.of.means(), seen(coordinates()).mean(1))
    assert other.of.features is source.of.features


def test_a_description_names_all_that_weights_are_trained_on():
    source, tasks = sample(), torch.arange(4)
    changed = coordinates()
    changed[0, 0, 0] += 1
    others = [
        sample().description(torch.arange(1, 5)),
        sample(classes_of(changed)).description(tasks),
        sample(seed=1).description(tasks),
        sample(n_shot=1).description(tasks),
        source.through(FeatureMap("unit", torch.zeros(F))).description(tasks),
        source.through(FeatureMap("unit", torch.zeros(F), torch.eye(F))).description(tasks),
    ]
    assert len({source.description(tasks), *others}) == 7
    assert sample().description(tasks) == source.description(tasks)
    # what is asked is no part of it
    asked = ClassTasks(source.of, source.classes, source.support, source.query.flip(0))
    assert asked.description(tasks) == source.description(tasks)
