"""Classes of unequal numbers of images: what is there counts, and nothing else."""

import pytest
import torch
from small_classes import C, F, M, by_class, classes_of, coordinates, sample
from torch.testing import assert_close

from ltdi.store import read_table, write_table
from ltdi.tasks.batch import ABSENT
from ltdi.tasks.class_tasks import Classes, ClassTasks, context_of, drawn_images
from ltdi.utils.errors import InputError
from ltdi.utils.seeding import generator

SHOTS = torch.tensor([[1, 3], [2, 2]])


def unequal_context():
    """Of task b and class n the first SHOTS[b, n] images are there."""
    mask = torch.arange(3) < SHOTS[..., None]
    rows = torch.arange(2.0 * 2 * 3 * F).reshape(2, 2, 3, F)
    return context_of(rows.where(mask[..., None], 1e9), mask)


def test_the_images_that_are_there():
    context = unequal_context()
    assert context.n_way == 2
    assert context.present.tolist() == [[[1, 0, 0], [1, 1, 1]], [[1, 1, 0], [1, 1, 0]]]
    assert sample().context(torch.arange(4)).present.equal(torch.ones(4, 5, 2))


def test_class_means_are_of_the_images_that_are_there():
    context = unequal_context()
    expected = torch.stack([torch.stack([context.rows[b, n, : SHOTS[b, n]].mean(0) for n in range(2)]) for b in (0, 1)])
    assert_close(context.means, expected)


def test_what_is_not_there_has_no_label():
    inputs, labels = unequal_context().examples.values()
    assert labels.tolist() == [[0, ABSENT, ABSENT, 1, 1, 1], [0, 0, ABSENT, 1, 1, ABSENT]]
    assert inputs.equal(unequal_context().rows.flatten(1, 2))


def test_a_part_of_a_context_keeps_its_mask():
    assert unequal_context()[1:].mask.equal(unequal_context().mask[1:])
    assert sample().context(torch.arange(5))[1:3].mask is None


COUNTS = torch.tensor([7, 2, 5, 3, 12, 4, 2, 6])


def unequal(views=0):
    """Features that say where they stand: (class, image, view)."""
    each = [
        torch.tensor([[float(c), float(i), float(v)] for i in range(n)])
        for v in range(views + 1)
        for c, n in enumerate(COUNTS.tolist())
    ]
    return Classes(torch.cat(each), COUNTS)


@pytest.mark.parametrize("views", [0, 2])
def test_rows_of_are_where_an_image_of_a_class_stands(views):
    of = unequal(views)
    assert of.n_rows == COUNTS.sum() and of.n_views == views + 1
    number = torch.arange(12 * (views + 1))
    total = COUNTS * (views + 1)
    chosen = torch.where(number < total[:, None], number, -1)[None]
    rows = of.features[of.rows_of(torch.arange(C)[None], chosen)][0]
    for c, n in enumerate(COUNTS.tolist()):
        expected = [[c, i, v] for v in range(views + 1) for i in range(n)]
        assert rows[c, : total[c]].tolist() == expected


def test_the_mean_of_a_class_is_of_its_own_images_without_the_copies():
    expected = torch.stack([torch.arange(C).float(), (COUNTS - 1) / 2, torch.zeros(C)], 1)
    for views in (0, 2):
        assert_close(unequal(views).means(), expected)
    equal = classes_of(coordinates())
    assert_close(equal.means(), coordinates().mean(1))


def in_use(chosen):
    """The numbers that are there, class by class."""
    return [[row[row >= 0].tolist() for row in task] for task in chosen]


def assert_sound(classes, support, query, n_shot, n_query, views=0):
    """Different images that exist, some of each class known and some asked, as many as wished for where it has them."""
    for task, known, asked in zip(classes.tolist(), in_use(support), in_use(query), strict=True):
        for c, s, q in zip(task, known, asked, strict=True):
            total = COUNTS[c].item() * (views + 1)
            assert len({*s, *q}) == len(s) + len(q), "an image twice"
            assert 1 <= len(s) <= n_shot and 1 <= len(q) <= n_query
            assert max(s + q) < total
            assert len(s) + len(q) == min(total, n_shot + n_query), "what there is, is not all used"
            if total >= n_shot + n_query:
                assert len(s) == n_shot


SPLITS = [(1, 1), (1, 6), (2, 3), (5, 1), (5, 7), (11, 1), (1, 11)]


@pytest.mark.parametrize("n_shot, n_query", SPLITS)
@pytest.mark.parametrize("views", [0, 1])
def test_tasks_of_the_table_use_what_there_is(n_shot, n_query, views):
    source = sample(unequal(views), n_tasks=60, n_shot=n_shot, n_query=n_query)
    assert source.support.shape == (60, 5, n_shot) and source.query.shape == (60, 5, n_query)
    assert_sound(source.classes, source.support, source.query, n_shot, n_query, views)


@pytest.mark.parametrize("n_shot, n_query", [*SPLITS, (20, 3), (3, 20)])
def test_what_is_known_and_asked_of_new_tasks_says_itself_where_it_stands(n_shot, n_query):
    source = sample(unequal())
    names = source.draw(60, generator(0, "new"))
    task = source.new(names, generator(0, "images"), n_shot=n_shot, n_query=n_query)
    context, query = task.context, task.query
    there = query["labels"].unflatten(1, (5, -1)) >= 0
    support = torch.where(context.present > 0, context.rows[..., 1], -1).long()
    asked = torch.where(there, by_class(query)[..., 1], -1).long()
    assert support.shape == (60, 5, n_shot) and asked.shape == (60, 5, n_query)
    assert_sound(names, support, asked, n_shot, n_query)
    # the rows that are there are of the class, the first ones of each slot, and labelled by it
    for rows, mask, labels in (
        (context.rows, context.present > 0, context.examples["labels"]),
        (by_class(query), there, query["labels"]),
    ):
        assert rows[..., 0][mask].equal(names[..., None].expand_as(mask)[mask].float())
        assert not (mask[..., 1:] & ~mask[..., :-1]).any()
        expected = torch.where(mask, torch.arange(5)[:, None], ABSENT)
        assert labels.equal(expected.flatten(1))
    assert context.examples["inputs"].equal(context.rows.flatten(1, 2))


def test_of_a_class_of_too_few_a_fair_share_is_asked():
    support, query = drawn_images(torch.tensor([2, 6, 12, 100]), 4, 8, generator(0, "images"))
    assert (support >= 0).sum(-1).tolist() == [1, 2, 4, 4]
    assert (query >= 0).sum(-1).tolist() == [1, 4, 8, 8]


def test_every_image_of_a_class_is_known_as_often_as_every_other():
    support, _ = drawn_images(torch.tensor([[3, 12]]).expand(6000, -1), 2, 4, generator(0, "images"))
    for row, n in ((support[:, 0], 3), (support[:, 1], 12)):
        counts = row[row >= 0].bincount(minlength=n)
        assert len(counts) == n
        # binomial: below 5 deviations
        assert (counts - counts.float().mean()).abs().max() < 5 * counts.float().mean().sqrt()


@pytest.mark.parametrize("views", [0, 1])
def test_weights_are_fitted_on_every_image_of_a_class_once(views):
    source = sample(unequal(views), n_tasks=20)
    tasks = torch.arange(20)
    for view in range(views + 1):
        batch = source.fitted_on(tasks, view=view)
        there = batch["labels"] >= 0
        for b, task in enumerate(source.classes.tolist()):
            expected = [[c, i, view] for c in task for i in range(COUNTS[c])]
            assert batch["inputs"][b, there[b]].tolist() == expected
            labels = [n for n, c in enumerate(task) for _ in range(COUNTS[c])]
            assert batch["labels"][b, there[b]].tolist() == labels
    assert batch["labels"][~there].eq(ABSENT).all() and not there.all()


@pytest.mark.parametrize("views", [0, 1])
def test_equal_numbers_give_what_a_dense_tensor_gives(views):
    """The same draws as index into features (C, V·M, F)."""
    dense = torch.randn(C, M * (views + 1), F, generator=generator(0, "dense"))
    source, tasks = sample(classes_of(dense)), torch.arange(40)
    at = source.classes[..., None]
    task = source.batch(tasks)
    assert task.context.mask is None
    assert task.context.rows.equal(dense[at, source.support])
    assert by_class(task.query).equal(dense[at, source.query])
    names, stream = source.draw(9, generator(0, "new")), generator(0, "images")
    new = source.new(names, generator(0, "images"), n_shot=3, n_query=2)
    chosen = torch.rand(9, 5, dense.shape[1], generator=stream).argsort(-1)
    assert new.context.rows.equal(dense[names[..., None], chosen[..., :3]])
    assert by_class(new.query).equal(dense[names[..., None], chosen[..., 3:5]])
    for batch in (task.query, new.query, source.fitted_on(tasks)):
        assert (batch["labels"] >= 0).all()


def test_a_table_brings_unequal_tasks_back(tmp_path):
    source = sample(unequal(), n_shot=5, n_query=7)
    assert (source.support == -1).any() and (source.query == -1).any()
    write_table(tmp_path / "tasks.parquet", source.to_table())
    again = ClassTasks.from_table(source.of, read_table(tmp_path / "tasks.parquet"))
    for name in ("classes", "support", "query"):
        assert getattr(again, name).equal(getattr(source, name))
    one, other = (each.batch(torch.arange(40)) for each in (source, again))
    assert one.context.mask.equal(other.context.mask) and one.query["labels"].equal(other.query["labels"])
    assert one.context.rows.equal(other.context.rows) and one.query["inputs"].equal(other.query["inputs"])


def test_the_first_unequal_tasks_stay_when_more_are_asked_for():
    few, many = (sample(unequal(), n_tasks=n, n_shot=5, n_query=7) for n in (10, 1500))
    for name in ("classes", "support", "query"):
        assert getattr(few, name).equal(getattr(many, name)[:10])


def test_more_than_the_largest_class_has_is_refused():
    assert len(sample(unequal(), n_shot=5, n_query=7)) == 40
    with pytest.raises(InputError, match="5 \\+ 8 is more than the 12 images"):
        sample(unequal(), n_shot=5, n_query=8)


def test_images_of_unequal_classes_stand_beside_their_features():
    of = unequal()
    images = (16 * of.features[:, 0] + of.features[:, 1]).to(torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2)
    task = sample(of, n_shot=5, n_query=7).with_images(images).batch(torch.arange(40))
    for batch in (task.context.examples, task.query):
        there = batch["labels"] >= 0
        expected = (16 * batch["inputs"][..., 0] + batch["inputs"][..., 1]).to(torch.uint8)
        assert batch["images"][..., 0, 0, 0][there].equal(expected[there])
