"""Tasks of classes: which images they have, and that a table brings them back."""

import pytest
import torch
from torch.testing import assert_close

from ltdi.classes import Classes, ClassTasks, context_of, drawn_images, labelled
from ltdi.errors import InputError
from ltdi.features import FeatureMap
from ltdi.learner import ABSENT
from ltdi.seeding import generator
from ltdi.store import read_table, write_table
from ltdi.tasks import Context

C, M, F = 8, 7, 3
SIZES = {"n_tasks": 40, "n_way": 5, "n_shot": 2, "n_query": 3}


def coordinates():
    """Features that say where they stand: (class, image, 100·class + image)."""
    grid = torch.stack(torch.meshgrid(torch.arange(C), torch.arange(M), indexing="ij"), -1)
    return torch.cat([grid, 100 * grid[..., :1] + grid[..., 1:]], -1).float()


def classes_of(features, n_rows=M):
    """Of dense features (C, V·n_rows, F), an image's copies behind all images of its class."""
    views = features.unflatten(1, (-1, n_rows)).transpose(0, 1)
    return Classes(views.flatten(0, 2), torch.full((len(features),), n_rows))


def sample(of=None, **sizes):
    of = classes_of(coordinates()) if of is None else of
    return ClassTasks.sample(of, **({"seed": 0, "split": "meta_train"} | SIZES | sizes))


def by_class(batch, n_way=5):
    """The inputs of a batch (B, N, M, F)."""
    return batch["inputs"].unflatten(1, (n_way, -1))


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


# --- contexts of unequal numbers of rows

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


# --- classes of unequal numbers of images

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
