"""Adapters: the start that all training tasks share, and a killed run that goes on."""

import shutil

import pytest
import torch
from conftest import STAGES
from language import write_bert
from test_adapters import ADAPTERS, write_sets
from torch.testing import assert_close

import ltdi.methods.common.trained
import pipeline.collect_trajectories
from ltdi.initialization.adapter_candidates import WINDOWS, Mixture, batches, mixtures
from ltdi.store import read_tensors
from ltdi.tasks.loading import read_text_tasks
from ltdi.tasks.text_examples import Examples
from ltdi.trajectories.storage import load_initialization, load_sources
from ltdi.utils.errors import InputError

pytestmark = pytest.mark.slow

pytest.importorskip("transformers")

FIRST, THIRD, FOURTH = STAGES[:2], STAGES[2], STAGES[3]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, write_params, run_stage):
    """The first two stages, once; ``params`` writes those of later ones."""
    folder = tmp_path_factory.mktemp("adapters")
    write_sets(folder / "sets")
    places = {"texts.body": write_bert(folder / "model"), "texts.root": str(folder / "sets")}
    sets = {"texts.meta_train": ["a", "b"], "texts.meta_val": ["c"], "texts.meta_test": ["d"]}

    def params(target, changes):
        return write_params(target, ADAPTERS | places | sets | {"trajectories.initialization": "joint"} | changes)

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("LTDI_STORE", str(folder / "store"))
        for stage in FIRST:
            run_stage(stage, params(folder, {}), folder / "data")
    return folder / "data", params


def tensors_under(data):
    folders = {"trajectories": "trajectories", "model/methods": "method"}
    return {
        f"{file.name}/{name}": value
        for folder, kind in folders.items()
        for file in sorted((data / folder).glob("*.safetensors"))
        if file.stem != "initialization"
        for name, value in read_tensors(file, kind=kind)[0].items()
    }


def killed_after(monkeypatch, module, name, calls):
    """The function raises as a kill does, instead of its call after so many."""
    whole, done = getattr(module, name), []

    def call(*arguments, **hparams):
        if len(done) == calls:
            raise KeyboardInterrupt
        done.append(None)
        return whole(*arguments, **hparams)

    monkeypatch.setattr(module, name, call)


def test_collection_and_training_go_on_after_a_kill_bit_for_bit(prepared, run_stage, tmp_path, monkeypatch, capsys):
    data, params = prepared
    changes = {"learner.joint.steps": 10, "trajectories.shard_size": 5, "meta.steps": 6, "meta.val_every": 2}
    found = {}
    for name in ("killed", "straight"):
        place, file = tmp_path / name, params(tmp_path / f"{name} params", changes)
        shutil.copytree(data, place)
        monkeypatch.setenv("LTDI_STORE", str(tmp_path / f"{name} store"))
        for stage, module, function in (
            (THIRD, pipeline.collect_trajectories, "collect"),
            (FOURTH, ltdi.methods.common.trained, "meta_step"),
        ):
            if name == "killed":
                with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
                    killed_after(patch, module, function, 3)
                    run_stage(stage, file, place)
            run_stage(stage, file, place)
        found[name] = tensors_under(place)
    said = capsys.readouterr().out
    assert said.count("going on from step 2") == 1
    assert_close(found["killed"], found["straight"], rtol=0, atol=0)


def test_the_joint_start_is_one_adapter_for_all_training_tasks(prepared, run_stage, tmp_path, monkeypatch):
    """It is better than the draw on all of them, and the same for each."""
    data, params = prepared
    monkeypatch.setenv("LTDI_STORE", str(tmp_path / "store"))
    shutil.copytree(data, tmp_path / "data")
    run_stage(THIRD, params(tmp_path, {"learner.joint.steps": 60}), tmp_path / "data")
    initialization, _, _ = load_initialization(tmp_path / "data")
    source = load_sources(tmp_path / "data", splits=["meta_train"])["meta_train"]
    tasks = torch.arange(len(source))
    centre = initialization.shared.expand(len(tasks), -1)
    assert initialization.kind == "joint" and source.pairs is not None
    everything, drawn = source.fitted_on(tasks), torch.zeros_like(centre)
    # of zeros the logits are zero, as those of the draw are
    assert (
        initialization.learner.loss(centre, everything).mean()
        < initialization.learner.loss(drawn, everything).mean() - 0.02
    )


def test_candidates_for_the_joint_start():
    """Labels alone where there are no pairs; each once, as they are asked for."""
    assert mixtures((0, 1), False, ["pairs", 1]) == [Mixture(0.0, (0, 1))]
    some = mixtures((0, 1), True, ["labels", "both", "pairs", 1, "both"])
    assert [(each.share, each.groups) for each in some] == [(0.0, (0, 1)), (0.5, (0, 1)), (1.0, ()), (0.5, (1,))]
    told = [each.told({0: "a", 1: "b"}) for each in some]
    assert told == ["labels of a, b", "pairs and labels of a, b", "pairs", "pairs and labels of b"]
    with pytest.raises(InputError, match=r"learner.joint.of = 2 .* allowed: 0 to 1"):
        mixtures((0, 1), True, ["pairs", 2])
    assert WINDOWS[-1][1] == 1


def test_batches_of_the_joint_start_are_even_and_of_train_parts(prepared, monkeypatch):
    of = read_text_tasks(prepared[0] / "tasks", ["meta_train"])["meta_train"].of
    whole, seen = Examples.batch, []
    monkeypatch.setattr(Examples, "batch", lambda self, rows: seen.append(rows) or whole(self, rows))
    shares = next(batches(of, None, Mixture(0.0, (0, 1)), 32, 0))["shares"]
    next(batches(of, None, Mixture(0.0, (1,)), 32, 0))
    rows, of_one = seen
    kinds = torch.bincount(2 * of.group[rows[0]] + of.label[rows[0]])
    assert rows.shape == (1, 32) and not of.dev[rows].any() and kinds.tolist() == [8, 8, 8, 8]
    assert shares[0].argmax(-1).equal(of.label[rows[0]]) and shares.amax(-1).min() == 1
    assert (of.group[of_one] == 1).all() and of.label[of_one].sum() == 16


def test_a_batch_of_it_may_be_half_pairs(prepared):
    source = read_text_tasks(prepared[0] / "tasks", ["meta_train"])["meta_train"]
    assert len(source.pairs) == ADAPTERS["texts.pairs"] and source.pairs.likeness.abs().max() < 1 + 1e-5
    batch = next(batches(source.of, source.pairs, Mixture(0.5, (0, 1)), 32, 0))
    (alone,) = next(batches(source.of, source.pairs, Mixture(1.0, ()), 32, 0))["shares"]
    assert alone.shape == (32, 2) and alone.amax(-1).max() < 1
    certain = batch["shares"][0].amax(-1) == 1
    assert batch["hidden"].shape[:2] == (1, 32) and certain.tolist() == 16 * [True] + 16 * [False]
