"""Trajectories: counted down to the trained head, from a start that is the task's own."""

from dataclasses import replace
from itertools import cycle, repeat

import pytest
import torch
from torch.testing import assert_close

from ltdi.initialization import INITIALIZATIONS, initialization_of
from ltdi.initialization.closed_form import ClosedForm, prototype_weights, ridge_weights
from ltdi.initialization.from_names import FromNames
from ltdi.learners import LinearHead, TwoLayerHead, learner_of
from ltdi.learners.fitting import train
from ltdi.store import read_tensors, write_tensors
from ltdi.tasks.base import Context
from ltdi.tasks.class_tasks import Classes, ClassTasks, labelled
from ltdi.trajectories.collection import Recorded, Trajectories, collect, recorded_steps
from ltdi.utils.errors import InputError
from ltdi.utils.seeding import generator

C, M, F, N, K, Q = 10, 12, 8, 3, 2, 3
HEAD = TwoLayerHead(F, F + 2)
KINDS = [kind for kind, initialization in INITIALIZATIONS.items() if not issubclass(initialization, FromNames)]
PRECISIONS = ("float32", "bfloat16")
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
    return (centres + 0.7 * torch.randn(C, M, F, generator=stream)).relu()


def classes_of(*views):
    """Views (C, M, F) of the same images."""
    return Classes(torch.cat([view.flatten(0, 1) for view in views]), torch.full((C,), M))


def sample(of, n_tasks=6, n_way=N, split="meta_train"):
    return ClassTasks.sample(of, n_tasks=n_tasks, n_way=n_way, n_shot=K, n_query=Q, seed=0, split=split)


@pytest.fixture
def source():
    return sample(classes_of(features()))


def start_at(kind, learner=HEAD):
    values = {"temperature": 0.5, "ridge": 0.3} if issubclass(INITIALIZATIONS[kind], ClosedForm) else {}
    return INITIALIZATIONS[kind](learner, learner.initial(1, N, generator(0, "shared"))[0], **values)


def run(kind, source, tasks=TASKS, **hparams):
    return collect(start_at(kind), source, tasks, **(KNOBS | hparams))


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
    context = source.context(TASKS)
    expected = {
        "shared": start_at("shared").shared.expand(3, -1),
        "prototype": prototype_weights(HEAD, context.means, 0.5),
        "ridge": ridge_weights(HEAD, context, 0.3, 0.5),
    }
    for kind, w in expected.items():
        assert_close(start_at(kind).draw(context, TASKS, seed=0), w)
        assert_close(start_at(kind).centre(context), w)
    assert not start_at("fresh").centre(context).any()
    assert start_at("fresh").centre(context).shape == (3, HEAD.space.dim(N))


def test_fresh_starts_are_gaussian_and_each_tasks_own(source):
    tasks = torch.arange(6)
    w = start_at("fresh").draw(source.context(tasks), tasks, seed=0)
    assert len(w.unique(dim=0)) == 6
    hidden = HEAD.space.unflatten(w)["hidden.weight"]
    assert hidden.var().item() == pytest.approx(1 / F, rel=0.2)
    assert not w.equal(start_at("fresh").draw(source.context(tasks), tasks, seed=1))


def test_a_fresh_start_does_not_depend_on_the_other_tasks(source):
    initialization, tasks = start_at("fresh"), torch.arange(6)
    w = initialization.draw(source.context(tasks), tasks, seed=0)
    for some in ([4], [2, 5], [5, 4, 3, 2, 1, 0]):
        some = torch.tensor(some)
        assert initialization.draw(source.context(some), some, seed=0).equal(w[some])


@pytest.mark.parametrize("n_way", [2, 7])
def test_a_start_is_there_for_any_number_of_classes(source, n_way):
    tasks = torch.arange(4)
    context = sample(source.of, n_tasks=4, n_way=n_way, split="meta_val").context(tasks)
    expected = {
        "fresh": torch.zeros(4, HEAD.space.dim(n_way)),
        "prototype": prototype_weights(HEAD, context.means, 0.5),
        "ridge": ridge_weights(HEAD, context, 0.3, 0.5),
    }
    for kind, centre in expected.items():
        assert_close(start_at(kind).centre(context), centre)
    drawn = HEAD.space.unflatten(start_at("fresh").draw(context, tasks, seed=0))["output.weight"]
    assert drawn.shape == (4, n_way, HEAD.hidden) and len(drawn.unique()) == drawn.numel()


def test_one_draw_for_all_tasks_is_of_one_number_of_classes(source):
    fewer = Context(source.context(TASKS).rows[:, : N - 1])
    with pytest.raises(InputError, match=f"shared is one head .* none of {N - 1}"):
        start_at("shared").centre(fewer)


def test_a_start_comes_back_from_its_state(tmp_path, source, kind):
    initialization = start_at(kind)
    tensors, values = initialization.state()
    write_tensors(tmp_path / "initialization.safetensors", tensors, values, kind="initialization")
    tensors, values = read_tensors(tmp_path / "initialization.safetensors", kind="initialization")
    again = initialization_of(learner_of(values["learner"]), tensors, values)
    context = source.context(TASKS)
    assert again.kind == kind and again.values() == initialization.values()
    assert again.draw(context, TASKS, seed=0).equal(initialization.draw(context, TASKS, seed=0))
    assert again.learner.space.shapes == HEAD.space.shapes


# --- the points


def test_points_count_down_to_the_trained_head(source, kind):
    recorded = run(kind, source)
    context = source.context(TASKS)
    assert recorded.points.shape == (3, 4, HEAD.space.dim(N))
    assert_close(recorded.points[:, -1], start_at(kind).draw(context, TASKS, seed=0))
    assert (recorded.losses.diff(dim=1) > 0).all()
    assert (recorded.scores[:, 0] > 0.6).all()


def test_a_trajectory_is_the_path_of_training_turned_round(source, kind):
    everything = source.fitted_on(TASKS)
    initialization = start_at(kind).draw(source.context(TASKS), TASKS, seed=0)
    for optimizer, sam in (("sgd", 0.0), ("adam", 0.05)):
        recorded = run(kind, source, optimizer=optimizer, lr=0.05, sam=sam)
        path = train(
            HEAD, initialization, repeat(everything), optimizer=optimizer, lr=0.05, record=[0, 10, 20, 30], sam=sam
        )
        assert recorded.points.equal(path.weights.flip(1))
        assert recorded.losses.equal(path.losses.flip(1))


def test_losses_and_accuracies_are_those_of_the_points(source, kind):
    recorded = run(kind, source)
    everything = source.fitted_on(TASKS)

    def right(w):
        return (HEAD.logits(w, everything["inputs"]).argmax(-1) == everything["labels"]).float().mean(-1)

    for i in range(4):
        w = recorded.points[:, i]
        assert_close(recorded.losses[:, i], HEAD.loss(w, everything))
        assert_close(recorded.scores[:, i], right(w))


def test_a_trajectory_does_not_depend_on_the_tasks_collected_with_it(source, kind):
    together = run(kind, source)
    for row, task in enumerate(TASKS):
        alone = run(kind, source, task[None])
        assert_close(alone.points[0], together.points[row], rtol=1e-4, atol=1e-5)


# --- what the heads are fitted on


def test_fitting_on_the_support_sees_nothing_else(source):
    other = features("other")
    classes = source.classes[TASKS][..., None]
    other[classes, source.support[TASKS]] = features()[classes, source.support[TASKS]]
    changed = ClassTasks(classes_of(other), source.classes, source.support, source.query)
    assert not changed.fitted_on(TASKS)["inputs"].equal(source.fitted_on(TASKS)["inputs"])
    assert run("prototype", changed, fit_on="support").points.equal(run("prototype", source, fit_on="support").points)
    assert not run("prototype", changed).points.equal(run("prototype", source).points)


def test_fitting_on_the_class_fits_all_its_images_better(source):
    of_class, of_support = run("shared", source), run("shared", source, fit_on="support")
    everything = source.fitted_on(TASKS)

    def loss(recorded):
        return HEAD.loss(recorded.points[:, 0], everything)

    assert (loss(of_class) < loss(of_support)).all()
    assert (of_support.losses[:, 0] < loss(of_support)).all()


def with_views(source, *views):
    """The same tasks over features that carry augmented copies."""
    return ClassTasks(classes_of(features(), *views), source.classes, source.support, source.query)


@pytest.mark.parametrize("augment", [False, True])
def test_views_of_the_unchanged_images_change_nothing(source, augment):
    copied = with_views(source, features())
    assert run("ridge", copied, augment=augment).points.equal(run("ridge", source).points)


def test_without_augmentation_the_views_are_not_seen(source):
    assert run("ridge", with_views(source, features("view 1"))).points.equal(run("ridge", source).points)


def test_the_support_has_no_views(source):
    seen = run("ridge", with_views(source, features("view 1")), fit_on="support", augment=True)
    assert seen.points.equal(run("ridge", source, fit_on="support").points)


def test_each_step_sees_the_next_view(source):
    views = [features(), features("view 1"), features("view 2")]
    recorded = run("prototype", with_views(source, *views[1:]), augment=True, steps=5, length=6)
    w = prototype_weights(HEAD, source.context(TASKS).means, 0.5)
    for step in range(6):
        assert_close(recorded.points[:, 5 - step], w, rtol=1e-4, atol=1e-5)
        w = w.requires_grad_()
        losses = HEAD.loss(w, labelled(views[step % 3][source.classes[TASKS]]))
        assert_close(recorded.losses[:, 5 - step], losses.detach(), rtol=1e-4, atol=1e-5)
        w = (w - 0.2 * torch.autograd.grad(losses.sum(), w)[0]).detach()


# --- recorded that diverged


def test_products_in_bfloat16_lead_as_far(source):
    """The heads are others number by number, by what rounding does to Adam's small slopes, and as good."""
    full, rounded = (run("prototype", source, optimizer="adam", lr=0.05, precision=name) for name in PRECISIONS)
    assert rounded.points.dtype == torch.float32
    assert rounded.points[:, -1].equal(full.points[:, -1]) and not rounded.points.equal(full.points)
    assert_close(rounded.losses, full.losses, rtol=0.03, atol=0.01)


def test_in_bfloat16_a_trajectory_is_its_tasks_own_too(source):
    alone, among = (run("prototype", source, tasks, precision="bfloat16") for tasks in (TASKS[:1], TASKS))
    assert alone.points[0].equal(among.points[0])


def test_a_trajectory_with_any_number_that_is_not_finite_is_not():
    points = torch.zeros(4, 3, 5)
    points[1, 0, 4] = torch.nan
    points[2, 2, 0] = torch.inf
    recorded = Recorded(points, torch.zeros(4, 3), torch.zeros(4, 3))
    assert recorded.finite.tolist() == [True, False, False, True]
    assert replace(recorded, points=points[:1]).finite.tolist() == [True]


def test_on_how_many_threads_tasks_are_collected_changes_no_bit(source, monkeypatch):
    tasks = torch.tensor([4, 0, 5, 2, 1])
    monkeypatch.setattr(HEAD, "inputs_together", 2 * N * M)
    alone, threads = run("prototype", source, tasks), torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        together = run("prototype", source, tasks)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)
    for name in ("points", "losses", "scores"):
        assert getattr(together, name).equal(getattr(alone, name))


@pytest.mark.parametrize("fit_on", ["class", "support"])
def test_in_how_many_parts_tasks_are_collected_makes_no_difference(fit_on, kind, source, monkeypatch):
    tasks = torch.tensor([4, 0, 5, 2, 1])
    whole = run(kind, source, tasks, fit_on=fit_on)
    monkeypatch.setattr(HEAD, "inputs_together", 2 * N * M)
    parts = run(kind, source, tasks, fit_on=fit_on)
    for name in ("points", "losses", "scores"):
        assert_close(getattr(parts, name), getattr(whole, name))


# --- classes of unequal numbers of images

COUNTS = torch.tensor([12, 3, 7, 9, 2, 12, 5, 4, 8, 6])


def unequal(*views):
    """The first COUNTS[c] images of each class alone; their copies in the same order."""
    rows = [torch.cat([view[c, :n] for c, n in enumerate(COUNTS.tolist())]) for view in (features(), *views)]
    return sample(Classes(torch.cat(rows), COUNTS))


def own(source, task, *views):
    """The task alone, its classes' images the only ones there are, without a mask; what is known of it as it is."""
    classes = source.classes[task].tolist()
    batches = [
        {
            "inputs": torch.cat([view[c, : COUNTS[c]] for c in classes])[None],
            "labels": torch.arange(N).repeat_interleave(COUNTS[classes])[None],
        }
        for view in (features(), *views)
    ]
    return source.context(torch.tensor([task])), batches


@pytest.mark.parametrize("learner", [HEAD, LinearHead(F)], ids=["two layers", "linear"])
def test_trajectories_on_unequal_classes_are_those_of_each_classs_own_images(kind, learner):
    source = unequal()
    tasks = torch.arange(6)
    initialization = start_at(kind, learner)
    recorded = collect(initialization, source, tasks, **KNOBS)
    assert (source.fitted_on(tasks)["labels"] < 0).any()
    for task in range(6):
        context, (everything,) = own(source, task)
        w = initialization.draw(context, torch.tensor([task]), seed=0)
        path = train(learner, w, repeat(everything), optimizer="sgd", lr=0.2, record=[0, 10, 20, 30])
        assert_close(recorded.points[task], path.weights[0].flip(0), rtol=1e-4, atol=1e-4)
        assert_close(recorded.losses[task], path.losses[0].flip(0), rtol=1e-4, atol=1e-4)
        right = (learner.logits(path.weights[0], everything["inputs"].expand(4, -1, -1)).argmax(-1)).eq(
            everything["labels"]
        )
        assert_close(recorded.scores[task], right.float().mean(-1).flip(0))


def test_views_of_unequal_classes_are_taken_in_turn():
    view = features("view 1")
    source = unequal(view)
    recorded = run("prototype", source, torch.arange(6), augment=True, steps=5, length=6)
    for task in range(6):
        context, batches = own(source, task, view)
        w = start_at("prototype").centre(context)
        path = train(HEAD, w, cycle(batches), optimizer="sgd", lr=0.2, record=range(6))
        assert_close(recorded.points[task], path.weights[0].flip(0), rtol=1e-4, atol=1e-4)


def test_a_task_of_unequal_classes_does_not_depend_on_those_beside_it(kind):
    source, tasks = unequal(), torch.arange(6)
    together = run(kind, source, tasks)
    for task in range(6):
        assert_close(run(kind, source, tasks[task : task + 1]).points[0], together.points[task], rtol=1e-4, atol=1e-4)


# --- trajectories in files


def test_trajectories_in_memory_are_their_points():
    points = torch.randn(5, 3, 7, generator=generator(0, "points"))
    trajectories = Trajectories.of(points)
    assert (len(trajectories), trajectories.length, trajectories.dim) == (5, 3, 7)
    tasks = torch.tensor([4, 0, 4])
    assert trajectories.points(tasks).equal(points[tasks])
    assert trajectories.trained(tasks).equal(points[tasks, 0])


def test_the_parts_of_trajectories_are_one_table(tmp_path):
    """Of three mapped files, two tasks dropped, the rows of one file in another order."""
    points = torch.randn(9, 3, 7, generator=generator(0, "points"))
    rows = [torch.tensor([0, 1, 2, 3]), torch.tensor([6, 5, 4]), torch.tensor([7, 8])]
    parts = []
    for j, of in enumerate(rows):
        write_tensors(tmp_path / f"{j}.safetensors", {"points": points[of]}, kind="trajectories")
        parts.append(read_tensors(tmp_path / f"{j}.safetensors", kind="trajectories")[0]["points"])
    kept = torch.tensor([0, 1, 3, 4, 5, 6, 8])
    places = [(j, of.tolist().index(task)) for task in kept.tolist() for j, of in enumerate(rows) if task in of]
    part, row = torch.tensor(places).unbind(1)
    trajectories = Trajectories(parts, part, row)
    assert len(trajectories) == 7
    for tasks in (torch.arange(7), torch.tensor([6, 0, 3]), torch.tensor([2])):
        assert trajectories.points(tasks).equal(points[kept[tasks]])
        assert trajectories.trained(tasks).equal(points[kept[tasks], 0])
