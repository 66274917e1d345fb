"""The scenario of names, through all stages, and what a user does with its run."""

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from text_encoders import write_encoder
from torch.testing import assert_close
from typer.testing import CliRunner

import ltdi
from ltdi.cli import app
from ltdi.initialization.selection import of_names
from ltdi.scenarios.zero_shot import ZeroShot, known_rows, names_of
from ltdi.store import read_json
from ltdi.trajectories.storage import load_initialization, load_sources, load_trajectories
from ltdi.utils.errors import InputError
from pipeline import collect_trajectories, evaluate, generate_weights, meta_train, prepare_tasks, pretrain_body
from pipeline.report import page

pytestmark = pytest.mark.slow

STAGES = (pretrain_body, prepare_tasks, collect_trajectories, meta_train, generate_weights, evaluate)
BASELINES = ["nearest_name", "softmax_rows", "text_ridge", "eszsl", "conse", "mean_head"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("names")
    return SimpleNamespace(folder=folder, encoder=write_encoder(folder / "encoder"))


@pytest.fixture
def stages(finished, write_params, world, tmp_path, few_glyphs):
    """Runs the stages on glyphs, on a body that is trained already."""

    def run(changes, stages=STAGES):
        common = {
            "scenario.name": "zero_shot",
            "body.weights": str(finished.data / "body" / "body.safetensors"),
            "tasks.names.encoder": str(world.encoder),
            "learner.name": "linear_head",
            "learner.normalise": "auto",
            "trajectories.initialization": "from_names",
            "method.baselines": BASELINES,
        }
        params, data = write_params(tmp_path / "run", common | changes), tmp_path / "run" / "data"
        for stage in stages:
            stage.main(params, data)
        return data

    return run


def call(*arguments):
    return CliRunner().invoke(app, [str(each) for each in arguments])


def test_all_stages_and_the_tool(stages, finished):
    data = stages({})
    metrics = read_json(data / "results" / "metrics.json")
    assert set(metrics["baselines"]) == set(BASELINES) and 0 <= metrics["score"] <= 1
    assert metrics["ceiling"]["score"] > metrics["baselines"]["mean_head"]["score"]

    assert call("example", "--data", finished.data).exit_code == 0
    photos = finished.data / "example" / "query"
    answered = call("classify", "--names", "zebra, okapi, tapir", photos, "--data", data)
    assert answered.exit_code == 0, answered.output
    assert "a head from the names zebra, okapi, tapir, by ltdi" in answered.output
    audited = call("audit", data)
    assert audited.exit_code == 0, audited.output
    assert "classes permuted" in audited.output and "noise around the nearest" in audited.output
    assert "ltdi classify --names" in page(data)

    support = finished.data / "example" / "support"
    known, *_ = classes = sorted(each.name for each in support.iterdir())
    joined = call("classify", "--names", ", ".join([*classes, "okapi"]), photos, "--examples", support, "--data", data)
    assert joined.exit_code == 0, joined.output
    assert "on meta-val names alone have" in joined.output and "and the images" in joined.output
    assert f"of {known}" in joined.output and "0 of okapi" in joined.output
    refused = call("classify", "--names", "zebra, okapi", photos, "--examples", support, "--data", data)
    assert refused.exit_code == 2 and f"class {known!r} is not among the names zebra, okapi" in refused.output

    run = ltdi.load(data, method="conse")
    chances = run.generate_from_names(["zebra", "okapi"]).probabilities(photos)
    assert chances.shape[1] == 2
    assert_close(chances.sum(-1), torch.ones(len(chances)))
    for what, expected in (
        (lambda: run.generate_from_names(["zebra"]), "two or more"),
        (lambda: run.generate_from_names(["zebra", "zebra"]), "all different"),
        (lambda: run.generate(photos), "generates heads from names; give them with --names"),
        (lambda: ltdi.load(finished.data).generate_from_names(["zebra", "okapi"]), "generates heads from images"),
    ):
        with pytest.raises(InputError, match=expected):
            what()


def test_a_head_from_names_is_kept_and_read_again(stages, finished, tmp_path):
    data = stages({"method.name": "icis", "method.baselines": []})
    assert call("example", "--data", finished.data).exit_code == 0
    photos, kept = finished.data / "example" / "query", tmp_path / "head.safetensors"
    first = call("classify", "--names", "zebra, okapi", photos, "--head", kept, "--data", data)
    again = call("classify", kept, photos, "--data", data)
    assert first.exit_code == again.exit_code == 0, first.output + again.output
    assert first.output == again.output


def test_learned_from_a_classifier_and_no_image(stages, world, few_glyphs):
    """Its rows are the ends of the trajectories, and classes that are asked are not among them."""
    keys = [f"row{j}" for j in range(40)]
    rows = torch.rand(40, 16, generator=torch.Generator().manual_seed(0))
    save_file({"classifier.weight": rows}, world.folder / "classifier.safetensors")
    (world.folder / "classes.tsv").write_text("".join(f"{key}\tzebra {key}\n" for key in keys))
    data = stages(
        {
            "tasks.names.learn_from": "classifier",
            "tasks.names.classes": str(world.folder / "classes.tsv"),
            "tasks.names.classifier": str(world.folder / "classifier.safetensors"),
            "trajectories.fit_on": "rows",
            "meta.query_images": 1,
        }
    )
    train = load_sources(data, splits=["meta_train"])["meta_train"]
    assert len(train.of) == 40 and train.of.counts.eq(1).all()
    initialization, _, _ = load_initialization(data)
    trajectories, _ = load_trajectories(data, "meta_train")
    tasks = torch.arange(3)
    assert_close(trajectories.trained(tasks), initialization.ends(train.context(tasks)))


def test_learned_from_a_classifier_and_from_how_heads_of_images_differ_from_it(stages, finished, world):
    """Of all that are not asked rows are known; tasks are of those that have images, and begin at their rows."""
    keys = [f"glyph{j:04d}" for j in range(60)]
    rows = torch.rand(60, 16, generator=torch.Generator().manual_seed(0))
    save_file({"classifier.weight": rows}, world.folder / "all.safetensors")
    (world.folder / "all.tsv").write_text("".join(f"{key}\tglyph {key}\n" for key in keys))
    names = {"learn_from": "both", "classes": world.folder / "all.tsv", "classifier": world.folder / "all.safetensors"}
    data = stages({f"tasks.names.{key}": str(value) for key, value in names.items()}, STAGES[:3])
    train = load_sources(data, splits=["meta_train"])["meta_train"]
    others = sum(len(each.of) for each in load_sources(data, splits=["meta_val", "meta_test"]).values())
    assert len(train.of) == 60 - others and train.of.n_drawn == train.classes.max() + 1
    initialization, _, _ = load_initialization(data)
    context = train.context(torch.arange(3))
    assert_close(initialization.centre(context), initialization.ends(context))
    trajectories, _ = load_trajectories(data, "meta_train")
    assert_close(trajectories.points(torch.arange(3))[:, -1], initialization.centre(context))


# --- mistakes


def test_known_rows_leave_out_what_is_asked(world):
    rows = torch.randn(3, 4)
    save_file({"fc.weight": rows}, world.folder / "three.safetensors")
    (world.folder / "three.tsv").write_text("n1\tzebra\nn2\tokapi\nn3\ttapir\n")
    hparams = {"classes": world.folder / "three.tsv", "classifier": world.folder / "three.safetensors"}
    found, names = known_rows(hparams, {"n3": "something", "x": "Zebra"})
    assert names == {"n2": "okapi"}
    assert_close(found, rows[1:2])
    assert names_of(("n1", "red_dog"), hparams) == {"n1": "zebra", "red_dog": "red dog"}
    save_file({"other": rows}, world.folder / "none.safetensors")
    for changes, expected in (
        ({"classifier": None}, "tasks.names.classifier = null"),
        ({"classifier": world.folder / "none.safetensors"}, "holds no classifier"),
        ({"classifier": world.folder / "three.tsv"}, "no safetensors file"),
    ):
        with pytest.raises(InputError, match=f"^[^\n]*{expected}[^\n]*$"):
            known_rows(hparams | changes, {})


def test_starts_that_need_examples_are_refused():
    with pytest.raises(
        InputError, match="^trajectories.initialization = prototype is made of labelled examples.*allowed: from_names"
    ):
        of_names(None, None, {}, "prototype", seed=0)


def test_a_body_that_is_not_trained_is_refused():
    with pytest.raises(InputError, match="^body.weights = null: heads from names stand on a body"):
        ZeroShot().pretrain({}, {"weights": None}, seed=0, device=torch.device("cpu"))
