"""The figures of the paper as the bench draws them: what they are of, in closed form, and the command."""

import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from ruamel.yaml import YAML
from torch.testing import assert_close
from typer.testing import CliRunner
from worlds import DENOISER, DIFFUSION, META, World

from bench import __main__
from bench.figures import curves, figure
from bench.figures.figure import FIGURES, READINGS, at_equal_time, last
from bench.harness import settings
from ltdi.utils.metrics import weight_mse
from ltdi.utils.seeding import generator

OPTIMISED = {"streamed_tasks": 0, "steps": 10, "outer_lr": 1e-3, "lr_schedule": "constant", "ema": 0.5}
OPTIMISED |= {"val_every": 10, "refit": False}


def rows(case: str, rate: float, ends_at: float, seed: int = 0, setting: str = "a") -> pd.DataFrame:
    """A training whose error falls as exp(−rate · seconds)."""
    seconds = np.linspace(0, ends_at, 6)
    about = {"setting": setting, "form": "paper", "seed": seed, "case": case, "T": 3}
    return pd.DataFrame({"step": range(6), "seconds": seconds, "distance2": np.exp(-rate * seconds)}).assign(**about)


def test_errors_are_compared_at_the_time_at_which_the_first_has_ended():
    table = pd.concat([rows("fast", 1.0, 4.0), rows("slow", 0.5, 7.0), rows("fast", 2.0, 3.0, seed=1)])
    table = pd.concat([table, rows("alone", 1.0, 9.0, setting="b")])
    found = at_equal_time(table).set_index(["setting", "seed", "case"])
    assert found.seconds.to_dict() == {
        ("a", 0, "fast"): 3.0,
        ("a", 0, "slow"): 3.0,
        ("a", 1, "fast"): 3.0,
        ("b", 0, "alone"): 9.0,
    }
    errors = [found.distance2[key] for key in (("a", 0, "fast"), ("a", 0, "slow"), ("a", 1, "fast"))]
    assert errors == pytest.approx([np.exp(-3.0), np.exp(-1.5), np.exp(-6.0)])


def test_the_end_of_a_training_is_its_own_last_step():
    short = rows("short", 1.0, 1.0).iloc[:4]
    assert last(pd.concat([short, rows("long", 1.0, 1.0)])).step.tolist() == [3, 5]


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_of_params_and_known_readings(name, tmp_path):
    look = FIGURES[name]
    assert look["title"].startswith("Figure") and len(look["x"]) == len(look["y"]) == 2
    assert look.get("rows") in (None, *READINGS)
    for changes in (each for of in look["of"] for each in of["cases"].values()):
        assert (
            figure.params_of("figures", tmp_path, "glyphs-5w1s", "paper", 0, changes)["diffusion"]["start_noise"] == 1
        )


@pytest.fixture(scope="module")
def world():
    made = World("prototype")
    trajectories = made.trajectories
    return curves.World(
        made.initialization,
        made.train,
        trajectories,
        made.val,
        trajectories,
        made.val,
        trajectories,
        frozenset({"examples"}),
        {},
    )


def test_what_is_measured_is_the_chains_end_at_full_strength(world):
    params = {"seed": 0, "method": {"name": "ltdi"}, "methods": {"ltdi": {}}, "meta": META | OPTIMISED}
    params |= {"diffusion": DIFFUSION, "denoiser": DENOISER}
    method = world.build(params)
    method.update_scale.zero_()  # a weaker one does not count
    found = list(curves.trained(method, world, params))
    assert [row["step"] for row in found] == [0, 2, 4, 6, 8, 10]
    assert [row["seconds"] for row in found] == sorted(row["seconds"] for row in found)
    with torch.no_grad():
        context = world.test.context(torch.arange(len(world.test)))
        w = method.propose(context, method.initialization.centre(context), generator=generator(0, "noise"))
    trained = world.recorded.trained(torch.arange(len(world.test)))
    assert found[-1]["distance2"] == pytest.approx(weight_mse(w, trained).mean().item(), rel=1e-5)
    weights = world.trajectories.trained(torch.arange(len(world.trajectories)))
    mean = world.initialization.learner.space.some_slots(weights, world.test.n_way).mean(0)
    expected = (world.recorded.trained(torch.arange(len(world.recorded))) - mean).square().mean()
    assert_close(torch.tensor(found[0]["of_mean"]), expected, rtol=1e-4, atol=0)
    assert {"val_loss_w0", "val_loss_w1"} <= set(found[0])


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, write_params, repository, few_glyphs):
    """A function that draws a figure of tiny runs, and the folder that it is written to."""
    folder = tmp_path_factory.mktemp("figures")
    write_params(folder)
    bench = settings.bench_params()
    overrides = {"meta.steps": 4, "tasks.meta_train": 16, "tasks.meta_val": 8, "tasks.meta_test": 8}
    bench["budgets"] = {"tiny": {"label": "tiny", "seeds": [0, 1], "overrides": overrides}}
    bench["data"]["glyphs"] = {}
    bench["forms"]["paper"] |= {"meta.steps": 4, "tasks.meta_train": 16, "meta.recorded_tasks": 4}
    bench["forms"]["paper"] |= {"meta.streamed_tasks": 16, "learner.hidden": 64}
    shutil.copytree(repository / "bench" / "conf", folder / "conf")
    YAML().dump(bench, folder / "conf" / "params.yaml")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LTDI_STORE", str(folder / "store"))
        patch.setenv("LTDI_DEVICE", "cpu")
        patch.setattr(settings, "ROOT", folder)
        patch.setattr(settings, "CONF", folder / "conf")
        patch.setattr(figure, "FOLDER", folder)

        def call(*arguments: str):
            places = ["--runs", str(folder / "runs"), "--root", str(folder / "none"), "--budget", "tiny"]
            return CliRunner().invoke(__main__.app_of("figure"), [*arguments, *places])

        yield SimpleNamespace(call=call, folder=folder)


@pytest.mark.slow
def test_a_figure_is_a_picture_and_the_table_behind_it(tiny, monkeypatch):
    ended = tiny.call("5-left")
    assert ended.exit_code == 0, ended.output
    table = pd.read_csv(tiny.folder / "5-left.csv")
    assert (tiny.folder / "5-left.png").stat().st_size > 10_000
    assert set(zip(table.form, table.seed)) == {(form, seed) for form in figure.FORMS for seed in (0, 1)}
    for _, own in table.groupby(["form", "seed", "case"]):
        assert own.step.tolist() == [0, 1, 2, 3, 4] and own.seconds.is_monotonic_increasing
    assert (table.distance2 > 0).all() and table.score.between(0, 1).all()

    monkeypatch.setattr(curves, "trained", lambda *arguments: pytest.fail("what was measured is kept"))
    assert tiny.call("5-left").exit_code == 0
    assert tiny.call("4-right", "--seed", "0").exit_code == 0  # the same training, by sub-chain
    by_chain = pd.read_csv(tiny.folder / "4-right.csv")
    assert set(by_chain.sub_chain) == {"ends at w0", "ends at w1", "ends at w2"} and set(by_chain.seed) == {0}
    assert (by_chain[by_chain.step == 0].of_untrained == 1).all() and by_chain.of_untrained.nunique() > 1


@pytest.mark.slow
def test_the_chains_begin_and_end_where_their_rows_say(tiny):
    ended = tiny.call("1", "--seed", "0")
    assert ended.exit_code == 0, ended.output
    table = pd.read_csv(tiny.folder / "1.csv")
    assert (tiny.folder / "1.png").stat().st_size > 10_000
    recorded = table[table.case == "recorded"]
    assert (recorded[recorded.t == 0].distance2 == 0).all() and (recorded[recorded.t > 0].distance2 > 0).all()
    chain = table[(table.case != "recorded") & (table.form == "default")]
    assert chain.groupby("case").t.apply(list).tolist() == [[3, 2, 1, 0]] * 2


@pytest.mark.slow
def test_what_is_not_here_is_said(tiny):
    ended = tiny.call("9")
    assert ended.exit_code == 2 and ended.output.count("\n") == 1
    assert "figure '9' is none of the paper's" in ended.output and "1, 4-left" in ended.output
    assert figure.found(["glyphs-5w1s", "omniglot-5w1s"], tiny.folder / "none") == ["glyphs-5w1s"]
