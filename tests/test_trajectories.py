"""Trajectories: counted down to the trained head, from a start that is the task's own."""

from dataclasses import replace

import pytest
import torch
from ltdi.closed_form import prototype_head, ridge_head
from ltdi.heads import Head, task_losses
from torch.testing import assert_close

from ltdi import trajectories
from ltdi.adaptation import adapt
from ltdi.errors import InputError
from ltdi.seeding import generator
from ltdi.store import read_tensors, write_tensors
from ltdi.tasks import Support, TaskSource, labelled
from ltdi.trajectories import Start, Trajectories, collect, recorded_steps

C, I, F, N, K, Q = 10, 12, 8, 3, 2, 3
HEAD = Head(F, F + 2)
KINDS = ["fresh", "shared", "prototype", "ridge"]
TASKS = torch.tensor([4, 0, 2])
KNOBS = {
    "fit_on": "class",
    "augment": False,
    "optimizer": "sgd",
    "lr": 0.2,
    "steps": 30,
    "length": 4,
    "sam": 0.0,
    "seed": 0,
}


def features(name="features"):
    stream = generator(0, name)
    centres = 2 * torch.rand(C, 1, F, generator=generator(0, "centres"))
    return (centres + 0.7 * torch.randn(C, I, F, generator=stream)).relu()


@pytest.fixture
def source():
    return TaskSource.sample(features(), n_tasks=6, n_way=N, n_shot=K, n_query=Q, seed=0, split="meta_train")


def start_of(kind):
    return Start(HEAD, kind, HEAD.initial(1, N, generator(0, "shared"))[0], temperature=0.5, ridge=0.3)


def run(kind, source, tasks=TASKS, **knobs):
    return collect(start_of(kind), source, tasks, **(KNOBS | knobs))


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


# --- the recorded steps


def test_recorded_steps_are_even_from_start_to_end():
    assert recorded_steps(30, 4) == [0, 10, 20, 30]
    assert recorded_steps(20, 4) == [0, 7, 13, 20]
    assert recorded_steps(7, 2) == [0, 7]


@pytest.mark.parametrize("length", range(2, 9))
def test_recorded_steps_rise(length):
    for steps in range(length - 1, 30):
        recorded = recorded_steps(steps, length)
        assert len(set(recorded)) == length and recorded == sorted(recorded)
        assert recorded[0] == 0 and recorded[-1] == steps


# --- the starts


def test_each_kind_starts_where_it_says(source):
    support = source.support_of(TASKS)
    expected = {
        "shared": start_of("shared").shared.expand(3, -1),
        "prototype": prototype_head(HEAD, support.class_means, 0.5),
        "ridge": ridge_head(HEAD, support, 0.3, 0.5),
    }
    for kind, w in expected.items():
        assert_close(start_of(kind).draw(support, TASKS, seed=0), w)
        assert_close(start_of(kind).centre(support), w)
    assert not start_of("fresh").centre(support).any()
    assert start_of("fresh").centre(support).shape == (3, HEAD.space.dim(N))


def test_fresh_starts_are_gaussian_and_each_tasks_own(source):
    tasks = torch.arange(6)
    w = start_of("fresh").draw(source.support_of(tasks), tasks, seed=0)
    assert len(w.unique(dim=0)) == 6
    hidden = HEAD.space.unflatten(w)["hidden.weight"]
    assert hidden.var().item() == pytest.approx(1 / F, rel=0.2)
    assert not w.equal(start_of("fresh").draw(source.support_of(tasks), tasks, seed=1))


def test_a_fresh_start_does_not_depend_on_the_other_tasks(source):
    start, tasks = start_of("fresh"), torch.arange(6)
    w = start.draw(source.support_of(tasks), tasks, seed=0)
    for some in ([4], [2, 5], [5, 4, 3, 2, 1, 0]):
        some = torch.tensor(some)
        assert start.draw(source.support_of(some), some, seed=0).equal(w[some])


@pytest.mark.parametrize("n_way", [2, 7])
def test_a_start_is_there_for_any_number_of_classes(source, n_way):
    tasks = torch.arange(4)
    support = TaskSource.sample(
        features(), n_tasks=4, n_way=n_way, n_shot=K, n_query=Q, seed=0, split="meta_val"
    ).support_of(tasks)
    expected = {
        "fresh": torch.zeros(4, HEAD.space.dim(n_way)),
        "prototype": prototype_head(HEAD, support.class_means, 0.5),
        "ridge": ridge_head(HEAD, support, 0.3, 0.5),
    }
    for kind, centre in expected.items():
        assert_close(start_of(kind).centre(support), centre)
    drawn = HEAD.space.unflatten(start_of("fresh").draw(support, tasks, seed=0))["output.weight"]
    assert drawn.shape == (4, n_way, HEAD.hidden) and len(drawn.unique()) == drawn.numel()


def test_one_draw_for_all_tasks_is_of_one_number_of_classes(source):
    fewer = Support(source.support_of(TASKS).features[:, : N - 1])
    with pytest.raises(InputError, match=f"shared is one head .* none of {N - 1}"):
        start_of("shared").centre(fewer)


def test_a_start_comes_back_from_its_state(tmp_path, source, kind):
    start = start_of(kind)
    tensors, values = start.state()
    write_tensors(tmp_path / "start.safetensors", tensors, values)
    again = Start.from_state(*read_tensors(tmp_path / "start.safetensors"))
    support = source.support_of(TASKS)
    assert (again.kind, again.temperature, again.ridge) == (kind, 0.5, 0.3)
    assert again.draw(support, TASKS, seed=0).equal(start.draw(support, TASKS, seed=0))
    assert again.head.space.shapes == HEAD.space.shapes


# --- the points


def test_points_count_down_to_the_trained_head(source, kind):
    trajectories = run(kind, source)
    support = source.support_of(TASKS)
    assert trajectories.points.shape == (3, 4, HEAD.space.dim(N))
    assert_close(trajectories.points[:, -1], start_of(kind).draw(support, TASKS, seed=0))
    assert (trajectories.losses.diff(dim=1) > 0).all()
    assert (trajectories.accuracies[:, 0] > 0.6).all()


def test_a_trajectory_is_the_path_of_training_turned_round(source, kind):
    inputs, labels = labelled(source.all_images(TASKS))
    start = start_of(kind).draw(source.support_of(TASKS), TASKS, seed=0)

    def forever():
        while True:
            yield inputs, labels

    for optimizer, sam in (("sgd", 0.0), ("adam", 0.05)):
        trajectories = run(kind, source, optimizer=optimizer, lr=0.05, sam=sam)
        path = adapt(HEAD, start, forever(), optimizer=optimizer, lr=0.05, record=[0, 10, 20, 30], sam=sam)
        assert trajectories.points.equal(path.weights.flip(1))
        assert trajectories.losses.equal(path.losses.flip(1))


def test_losses_and_accuracies_are_those_of_the_points(source, kind):
    trajectories = run(kind, source)
    inputs, labels = labelled(source.all_images(TASKS))
    for i in range(4):
        w = trajectories.points[:, i]
        assert_close(trajectories.losses[:, i], task_losses(HEAD, w, inputs, labels))
        assert_close(trajectories.accuracies[:, i], (HEAD(w, inputs).argmax(-1) == labels).float().mean(-1))


def test_a_trajectory_does_not_depend_on_the_tasks_collected_with_it(source, kind):
    together = run(kind, source)
    for row, task in enumerate(TASKS):
        alone = run(kind, source, task[None])
        assert_close(alone.points[0], together.points[row], rtol=1e-4, atol=1e-5)


# --- what the heads are fitted on


def test_fitting_on_the_support_sees_nothing_else(source):
    other = features("other")
    changed = TaskSource(other, source.classes, source.support, source.query)
    classes = source.classes[TASKS][..., None]
    other[classes, source.support[TASKS]] = source.features[classes, source.support[TASKS]]
    assert not changed.all_images(TASKS).equal(source.all_images(TASKS))
    assert run("prototype", changed, fit_on="support").points.equal(run("prototype", source, fit_on="support").points)
    assert not run("prototype", changed).points.equal(run("prototype", source).points)


def test_fitting_on_the_class_fits_all_its_images_better(source):
    of_class, of_support = run("shared", source), run("shared", source, fit_on="support")
    inputs, labels = labelled(source.all_images(TASKS))

    def loss(trajectories):
        return task_losses(HEAD, trajectories.points[:, 0], inputs, labels)

    assert (loss(of_class) < loss(of_support)).all()
    assert (of_support.losses[:, 0] < loss(of_support)).all()


def with_views(source, *views):
    """The same tasks over features that carry augmented copies."""
    return TaskSource(
        torch.cat([source.features, *views], dim=1), source.classes, source.support, source.query, n_images=I
    )


@pytest.mark.parametrize("augment", [False, True])
def test_views_of_the_unchanged_images_change_nothing(source, augment):
    copied = with_views(source, source.features)
    assert run("ridge", copied, augment=augment).points.equal(run("ridge", source).points)


def test_without_augmentation_the_views_are_not_seen(source):
    assert run("ridge", with_views(source, features("view 1"))).points.equal(run("ridge", source).points)


def test_the_support_has_no_views(source):
    seen = run("ridge", with_views(source, features("view 1")), fit_on="support", augment=True)
    assert seen.points.equal(run("ridge", source, fit_on="support").points)


def test_each_step_sees_the_next_view(source):
    views = [source.features, features("view 1"), features("view 2")]
    trajectories = run("prototype", with_views(source, *views[1:]), augment=True, steps=5, length=6)
    w = prototype_head(HEAD, source.support_of(TASKS).class_means, 0.5)
    for step in range(6):
        assert_close(trajectories.points[:, 5 - step], w, rtol=1e-4, atol=1e-5)
        w = w.requires_grad_()
        losses = task_losses(HEAD, w, *labelled(views[step % 3][source.classes[TASKS]]))
        assert_close(trajectories.losses[:, 5 - step], losses.detach(), rtol=1e-4, atol=1e-5)
        w = (w - 0.2 * torch.autograd.grad(losses.sum(), w)[0]).detach()


# --- trajectories that diverged


def test_a_trajectory_with_any_number_that_is_not_finite_is_not():
    points = torch.zeros(4, 3, 5)
    points[1, 0, 4] = torch.nan
    points[2, 2, 0] = torch.inf
    trajectories = Trajectories(points, torch.zeros(4, 3), torch.zeros(4, 3))
    assert trajectories.finite.tolist() == [True, False, False, True]
    assert replace(trajectories, points=points[:1]).finite.tolist() == [True]


@pytest.mark.parametrize("fit_on", ["class", "support"])
def test_in_how_many_parts_tasks_are_collected_makes_no_difference(fit_on, kind, source, monkeypatch):
    tasks = torch.tensor([4, 0, 5, 2, 1])
    whole = run(kind, source, tasks, fit_on=fit_on)
    monkeypatch.setattr(trajectories, "IMAGES_TOGETHER", 2 * N * I)
    parts = run(kind, source, tasks, fit_on=fit_on)
    for name in ("points", "losses", "accuracies"):
        assert_close(getattr(parts, name), getattr(whole, name))
