"""The audit of a run: conditions, weights that know nothing of the task, the table; and of others' weights."""

import math
import shutil

import pandas as pd
import pytest
import torch
from command import call, refused
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from worlds import World, draw

import ltdi
from ltdi.evaluation.condition_ablation import CONDITIONS, RIGHT, _around, compare_conditions
from ltdi.evaluation.weight_similarity import compare_weight_files
from ltdi.tasks.batch import ABSENT
from ltdi.trajectories.storage import load_sources, load_trajectories
from ltdi.utils.seeding import generator

TRAINING = ["mean of the training weights", "nearest training weights"]
NOISE = ["noise around the mean", "noise around the nearest training weights"]


@pytest.fixture(scope="module")
def world():
    return World("prototype")


def condition(name, context):
    return CONDITIONS[name](context, generator(0, "audit"))


# --- conditions


def test_another_tasks_condition_is_that_of_the_next(world):
    changed = condition("another task's", world.context)
    assert_close(changed.rows[0], world.context.rows[1])
    assert_close(changed.examples["inputs"][-1], world.context.examples["inputs"][0])


def test_permuted_classes_are_all_there_and_none_in_its_place(world):
    changed = condition("classes permuted", world.context)
    assert_close(changed.means, world.context.means.roll(-1, 1))
    N, K = world.context.rows.shape[1:3]
    assert changed.examples["labels"].tolist() == [torch.arange(N).repeat_interleave(K).tolist()] * len(changed)
    assert_close(changed.examples["inputs"].unflatten(1, (N, K)), changed.rows)


def test_a_head_for_permuted_classes_is_the_head_with_its_slots_permuted(world):
    space = world.head.space
    for method in (world.build("prototype"), world.prepared("ridge")):
        slots = space.tokens(draw(method, world.context))[space.slot_layer]
        moved = space.tokens(draw(method, condition("classes permuted", world.context)))[space.slot_layer]
        assert_close(moved, slots.roll(-1, 1), rtol=1e-3, atol=1e-4)


def test_absent_examples_stay_absent(world):
    labels = world.context.examples["labels"].clone()
    labels[:, 1] = ABSENT
    context = type(world.context)(world.context.rows, examples=dict(world.context.examples) | {"labels": labels})
    assert (condition("classes permuted", context).examples["labels"] == ABSENT).sum() == len(labels)


def test_random_and_none_say_nothing_and_have_the_scale_of_the_right_one(world):
    known = world.val.context(torch.arange(len(world.val)))
    changed = condition("random", known)
    assert_close(changed.rows.flatten(0, 2).mean(0), known.rows.flatten(0, 2).mean(0), rtol=0.5, atol=0.3)
    assert_close(changed.rows.flatten(0, 2).std(0), known.rows.flatten(0, 2).std(0), rtol=0.5, atol=0.1)
    assert abs(torch.corrcoef(torch.stack([changed.rows.flatten(), known.rows.flatten()]))[0, 1]) < 0.9
    assert not condition("none", known).rows.any()
    for name in ("random", "none"):
        examples = condition(name, known).examples
        assert_close(examples["inputs"], condition(name, known).rows.flatten(1, 2))
        assert_close(examples["labels"], known.examples["labels"])


def test_noise_is_as_far_in_each_layer(world):
    space, w, centre = world.head.space, world.points[:, 0], world.points[:, 0].mean(0).expand(len(world.points), -1)
    made = _around(centre, w, space, generator(0, "noise"))
    for layer, away in space.tokens(w - centre).items():
        assert_close(space.tokens(made - centre)[layer].flatten(1).norm(dim=1), away.flatten(1).norm(dim=1))
    assert not torch.allclose(made, w, atol=1e-3)


# --- a run


def test_a_run_of_few_shot(finished, tmp_path):
    ended = call("audit", finished.data, "--csv", tmp_path / "audit.csv")
    assert ended.exit_code == 0, ended.output
    assert "the condition matters" in ended.output
    table = pd.read_csv(tmp_path / "audit.csv").set_index("weights")
    assert list(table.index) == [*CONDITIONS, *TRAINING, *NOISE]
    assert table.loc[RIGHT, ["difference", "difference_ci95", "distance2"]].tolist() == [0, 0, 0]
    for name in list(CONDITIONS)[1:]:
        assert table.difference[name] < -table.difference_ci95[name]
        assert table.distance2[name] > 0
    # every class has lost its place: below what a guess would have
    assert table.score["classes permuted"] < 0.2
    assert_close(table.difference.tolist(), (table.score - table.score[RIGHT]).tolist(), rtol=0, atol=1e-5)
    # as far from the centre as the generated weights are, in another direction: twice the square from these
    assert table.distance2[NOISE[0]] == pytest.approx(2 * table.distance2[TRAINING[0]], rel=0.2)


def test_the_nearest_training_weights_are_nearest(finished):
    table = compare_conditions(finished.data, n_tasks=30).set_index("weights")
    run = ltdi.load(finished.data)
    test = load_sources(finished.data, splits=["meta_test"], device=run.device)["meta_test"]
    trained = load_trajectories(finished.data, "meta_train")[0]
    everything = trained.trained(torch.arange(len(trained)))
    with torch.no_grad():
        w = run.method.generate(test.context(torch.arange(30)), generator=run.noise(0)).cpu()
    square = (w[:, None] - everything).square().mean(-1)
    assert table.distance2[TRAINING[1]] == pytest.approx(square.min(1).values.mean().item(), rel=1e-4)
    mean = (w - everything.mean(0)).square().mean(-1).mean().item()
    assert table.distance2[TRAINING[0]] == pytest.approx(mean, rel=1e-4)


def test_more_tasks_than_there_are_is_said(finished):
    ended = call("audit", finished.data, "--method", "ridge", "--tasks", 31)
    assert "--tasks = 31: there are 30 meta-test tasks, and all are taken" in " ".join(ended.output.split())


def test_a_method_that_ignores_its_condition_is_found_out(finished):
    ended = call("audit", finished.data, "--method", "mean_head")
    assert ended.exit_code == 0
    told = " ".join(ended.output.split())
    assert "not ahead beyond chance of: another task's, classes permuted, random, none" in told


@pytest.mark.parametrize("method", ["ridge", "head_sgd", "nearest_head"])
def test_baselines_are_audited(method, finished):
    table = compare_conditions(finished.data, method=method, n_tasks=20).set_index("weights")
    assert table.score[RIGHT] > table.score["another task's"]


def test_bad_input_is_one_line(finished, tmp_path):
    refused(call("audit", tmp_path / "nothing"), "nothing", "neither a finished run")
    refused(call("audit", finished.data, "--method", "lvdi"), "--method lvdi", "allowed: ltdi")
    refused(call("audit", finished.data, "--tasks", 1), "--tasks 1")
    shutil.rmtree(finished.data / "model" / "methods")
    refused(call("audit", finished.data), "no finished run")


# --- a folder of others' weights


def test_distances_and_copies_of_others_weights(networks):
    table = compare_weight_files(networks).set_index("file")
    w = torch.stack([torch.cat([t.flatten() for t in load_file(networks / name).values()]) for name in table.index])
    w = w.double()
    rms = math.sqrt(w.shape[1])
    assert_close(torch.tensor(table.to_mean.tolist(), dtype=torch.float64), (w - w.mean(0)).norm(dim=1) / rms)
    away = torch.cdist(w, w).fill_diagonal_(torch.inf) / rms
    assert_close(torch.tensor(table.nearest.tolist(), dtype=torch.float64), away.min(1).values, rtol=1e-6, atol=1e-6)
    assert table.copies.tolist() == [0] * 7 + [1, 1]
    assert table.which["net7/model.safetensors"] == "net8/model.safetensors"


def test_the_command_says_that_it_is_of_weights_alone(networks):
    shutil.rmtree(networks / "net8")
    ended = call("audit", networks)
    assert ended.exit_code == 0, ended.output
    told = " ".join(ended.output.split())
    assert "8 files" in told and "0 have an exact copy" in told and "weights alone" in told
    ratio = float(told.split("the nearest other is ")[1].split()[0])
    assert ratio == pytest.approx(math.sqrt(2 * 8 / 7), abs=0.1)  # of independent ones, around their own mean


def test_others_that_cannot_be_compared_are_one_line(networks):
    broken = networks / "net3" / "model.safetensors"
    save_file({"a.weight": torch.zeros(40, 51), "a.bias": torch.zeros(40)}, broken)
    refused(call("audit", networks), "net3", "a.weight", "(40, 51)", "(40, 50)")
    save_file({"a.weight": torch.full((40, 50), torch.nan), "a.bias": torch.zeros(40)}, broken)
    refused(call("audit", networks), "net3", "a.weight", "not finite")
    broken.write_bytes(b"no weights")
    refused(call("audit", networks), "net3", "not a whole safetensors file")
    for j in range(1, 9):
        shutil.rmtree(networks / f"net{j}")
    refused(call("audit", networks), "1 are here")
