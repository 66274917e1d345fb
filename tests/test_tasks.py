"""Tasks: which images they have, and that a table brings them back."""

import pytest
import torch
from torch.testing import assert_close

from ltdi.errors import InputError
from ltdi.seeding import generator
from ltdi.store import read_table, write_table
from ltdi.tasks import ABSENT, Support, TaskSource, labelled

C, I, F = 8, 7, 3
SIZES = {"n_tasks": 40, "n_way": 5, "n_shot": 2, "n_query": 3}


def coordinates():
    """Features that say where they stand: (class, image, 100·class + image)."""
    grid = torch.stack(torch.meshgrid(torch.arange(C), torch.arange(I), indexing="ij"), -1)
    return torch.cat([grid, 100 * grid[..., :1] + grid[..., 1:]], -1).float()


def sample(**sizes):
    return TaskSource.sample(coordinates(), **({"seed": 0, "split": "meta_train"} | SIZES | sizes))


def test_sizes():
    source = sample()
    task = source.batch(torch.arange(4))
    assert len(source) == 40
    assert task.support.features.shape == (4, 5, 2, F)
    assert task.query.features.shape == (4, 5, 3, F)
    assert source.all_images(torch.arange(4)).shape == (4, 5, I, F)


def test_features_are_those_of_the_indexed_images():
    source = sample()
    tasks = torch.tensor([7, 3, 7])
    task = source.batch(tasks)
    for features, images in ((task.support.features, source.support), (task.query.features, source.query)):
        assert features[..., 0].equal(source.classes[tasks][..., None].expand_as(features[..., 0]).float())
        assert features[..., 1].equal(images[tasks].float())
    assert source.all_images(tasks)[..., 0].equal(source.classes[tasks][..., None].expand(-1, -1, I).float())
    assert source.all_images(tasks)[..., 1].equal(torch.arange(I).expand(3, 5, I).float())


def test_a_row_of_support_and_of_query_is_one_class():
    task = sample().batch(torch.arange(40))
    assert task.support.features[..., 0].amax(-1).equal(task.query.features[..., 0].amin(-1))


def test_support_and_query_share_no_image_and_repeat_none():
    source = sample(n_shot=3, n_query=4)
    images = torch.cat([source.support, source.query], -1)
    assert images.sort(-1).values.equal(torch.arange(I).expand(40, 5, I))


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
    other = TaskSource.sample(coordinates(), **SIZES, seed=1, split="meta_train")
    assert not other.classes.equal(sample().classes)


def test_a_table_brings_the_tasks_back(tmp_path):
    source = sample()
    write_table(tmp_path / "tasks.parquet", source.to_table())
    for table in (source.to_table(), read_table(tmp_path / "tasks.parquet")):
        again = TaskSource.from_table(coordinates(), table)
        assert (
            again.classes.equal(source.classes)
            and again.support.equal(source.support)
            and again.query.equal(source.query)
        )
    assert len(source.to_table()) == len(source)


def test_rows_of_a_table_are_tasks():
    source = sample()
    one = TaskSource.from_table(coordinates(), source.to_table().iloc[[11]])
    assert one.batch(torch.tensor([0])).query.features.equal(source.batch(torch.tensor([11])).query.features)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"n_way": C + 1}, rf"n_way = {C + 1} .* {C} classes"),
        ({"n_shot": 4, "n_query": 4}, rf"n_shot \+ tasks.n_query = 4 \+ 4 .* {I} images"),
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
    inputs, labels = labelled(torch.arange(24.0).reshape(2, 3, 2, 2))
    assert labels.tolist() == [[0, 0, 1, 1, 2, 2]] * 2
    assert inputs[1, 3].tolist() == [18, 19]


def test_class_means():
    support = Support(torch.tensor([[[[1.0, 0], [3, 4]], [[0, 0], [0, 2]]]]))
    assert_close(support.class_means, torch.tensor([[[2.0, 2], [0, 1]]]))
    assert len(support) == 1


def test_a_part_of_a_support_is_its_tasks():
    support = sample().support_of(torch.arange(5))
    assert support[1:3].features.equal(support.features[1:3])
    assert support[torch.tensor([4, 0])].features.equal(support.features[[4, 0]])


def test_views_are_copies_behind_the_images():
    source = TaskSource.sample(coordinates(), **SIZES, seed=0, split="meta_train", n_images=3)
    assert source.n_views == 2
    assert source.all_images(torch.arange(2), view=1)[..., 1].equal(torch.arange(3, 6).expand(2, 5, 3).float())


def test_the_first_tasks_stay_when_more_are_asked_for():
    few, many = sample(n_tasks=10), sample(n_tasks=500)
    for name in ("classes", "support", "query"):
        assert getattr(few, name).equal(getattr(many, name)[:10])


def pictures():
    """Images (C, I, 1, 2, 2) of a single value: 16·class + image."""
    value = 16 * torch.arange(C)[:, None] + torch.arange(I)
    return value[..., None, None, None].expand(C, I, 1, 2, 2).to(torch.uint8)


def test_images_stand_beside_their_features():
    source = sample().with_images(pictures())
    task = source.of_classes(source.draw_classes(6, generator(0, "new")), generator(0, "images"))
    for part in (task.support, task.query, source.batch(torch.arange(4)).query, source.support_of(torch.arange(4))[1:]):
        assert part.images.shape == (*part.features.shape[:3], 1, 2, 2)
        assert part.images[..., 0, 0, 0].equal((16 * part.features[..., 0] + part.features[..., 1]).to(torch.uint8))
    assert source.rows(torch.tensor([3])).images is source.images
    assert sample().batch(torch.arange(4)).support.images is None


def test_copies_have_no_images_to_stand_beside():
    with pytest.raises(InputError, match="tasks.views = 1"):
        TaskSource.sample(
            coordinates(), **(SIZES | {"n_shot": 1, "n_query": 2}), seed=0, split="meta_train", n_images=3
        ).with_images(pictures())


def test_new_tasks_are_of_different_classes_and_no_image_twice():
    source = sample()
    classes = source.draw_classes(200, generator(0, "new"))
    assert classes.shape == (200, 5) and (classes.sort(1).values.diff(dim=1) > 0).all()
    assert classes.unique().equal(torch.arange(C))
    task = source.of_classes(classes, generator(0, "images"))
    both = torch.cat([task.support.features, task.query.features], dim=2)
    assert both[..., 0].equal(classes[..., None].expand(-1, -1, 5).float())
    assert (both[..., 1].sort(2).values.diff(dim=2) > 0).all()


@pytest.mark.parametrize("n_way, expected", [(None, 5), (2, 2), (C, C), (C + 1, C), (256, C)])
def test_new_tasks_are_of_the_tables_size_or_of_one_that_is_asked_for(n_way, expected):
    classes = sample().draw_classes(30, generator(0, "new"), n_way=n_way)
    assert classes.shape == (30, expected) and (classes.sort(1).values.diff(dim=1) > 0).all()
    assert len(classes.unique(dim=0)) > 15


@pytest.mark.parametrize(
    "n_shot, n_query, expected", [(None, None, (2, 3)), (1, None, (1, 3)), (None, 1, (2, 1)), (4, 3, (4, 3))]
)
def test_new_tasks_have_the_tables_numbers_of_images_or_others(n_shot, n_query, expected):
    source = sample()
    task = source.of_classes(
        source.draw_classes(20, generator(0, "new")), generator(0, "images"), n_shot=n_shot, n_query=n_query
    )
    assert (task.support.features.shape[2], task.query.features.shape[2]) == expected
    images = torch.cat([task.support.features, task.query.features], dim=2)[..., 1]
    assert (images.sort(2).values.diff(dim=2) > 0).all()


# --- classes of unequal numbers of images

SHOTS = torch.tensor([[1, 3], [2, 2]])


def unequal():
    """Of task b and class n the first SHOTS[b, n] images are there."""
    mask = torch.arange(3) < SHOTS[..., None]
    features = torch.arange(2.0 * 2 * 3 * F).reshape(2, 2, 3, F)
    return Support(features.where(mask[..., None], 1e9), mask=mask)


def test_the_images_that_are_there():
    support = unequal()
    assert support.n_way == 2
    assert support.present.tolist() == [[[1, 0, 0], [1, 1, 1]], [[1, 1, 0], [1, 1, 0]]]
    assert sample().support_of(torch.arange(4)).present.equal(torch.ones(4, 5, 2))


def test_class_means_are_of_the_images_that_are_there():
    support = unequal()
    expected = torch.stack(
        [torch.stack([support.features[b, n, : SHOTS[b, n]].mean(0) for n in range(2)]) for b in range(2)]
    )
    assert_close(support.class_means, expected)


def test_what_is_not_there_has_no_label():
    inputs, labels = unequal().labelled
    assert labels.tolist() == [[0, ABSENT, ABSENT, 1, 1, 1], [0, 0, ABSENT, 1, 1, ABSENT]]
    assert inputs.equal(unequal().features.flatten(1, 2))
    whole = sample().support_of(torch.arange(4))
    for one, other in zip(whole.labelled, labelled(whole.features)):
        assert one.equal(other)


def test_a_part_of_a_support_keeps_its_mask():
    assert unequal()[1:].mask.equal(unequal().mask[1:])
    assert sample().support_of(torch.arange(5))[1:3].mask is None
