"""The scenario of adapters: tasks made of labelled texts, every method that fits, and all stages on a tiny model."""

import json
import math
import shutil
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from conftest import STAGES
from language import N_WORDS, sentence, write_bert
from torch.testing import assert_close

from bench.adapters.data import Held
from bench.adapters.run import measure
from bench.adapters.without_steps import by_similarity
from bench.harness.report import render
from ltdi.cli import app
from ltdi.datasets.text_files import read_text_set
from ltdi.evaluation.condition_ablation import audit_run
from ltdi.inference.adapter_run import AdapterRun
from ltdi.learners.peft_io import read_adapter
from ltdi.trajectories.storage import load_initialization, load_sources, load_trajectories, read_weights
from ltdi.utils.errors import InputError
from ltdi.utils.seeding import generator
from pipeline.report import page

pytestmark = pytest.mark.slow

pytest.importorskip("transformers")

ADAPTERS = {
    "scenario.name": "adapters",
    "learner.name": "lora",
    "texts.pairs": 40,
    "tasks.n_way": 2,
    "tasks.n_shot": 3,
    "tasks.n_query": 4,
    "tasks.meta_train": 12,
    "tasks.meta_val": 5,
    "tasks.meta_test": 6,
    "tasks.views": 1,
    "trajectories.initialization": "shared",
    "trajectories.steps": 6,
    "trajectories.lr": 5e-3,
    "method.baselines": ["mean_head", "nearest_head"],
    "meta.n_way": 2,
    "meta.query_images": 3,
    "meta.steps": 4,
    "meta.recorded_tasks": 3,
    "evaluate.landscape_points": 5,
}
METHODS = ("lvdi", "ltdi", "mcdi", "weight_flow", "meta_hypernetwork", "ocd", "llo_vae")


def write_sets(folder):
    """Sets whose label says whether a word of the first half is in the text; d's are pairs."""
    for j, name in enumerate("abcd"):
        for part, n in (("train", 80), ("dev", 30)):
            stream = generator(j, name, part)
            labels = torch.randint(0, 2, (n,), generator=stream)
            words = torch.randint(0, N_WORDS // 2, (n, 6), generator=stream) + labels[:, None] * (N_WORDS // 2)
            columns = {"text1": [sentence(row[:3]) for row in words], "label": labels.tolist()}
            columns |= {"text2": [sentence(row[3:]) for row in words]} if name == "d" else {}
            (folder / name).mkdir(parents=True, exist_ok=True)
            pd.DataFrame(columns).to_csv(folder / name / f"{part}.tsv", sep="\t", index=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory, write_params, run_stage):
    """All stages, once; ``again`` runs some with changed params on a copy."""
    folder = tmp_path_factory.mktemp("adapters")
    body = write_bert(folder / "model")
    write_sets(folder / "sets")
    places = {"texts.body": body, "texts.root": str(folder / "sets")}
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("LTDI_STORE", str(folder / "store"))
        params = write_params(folder, ADAPTERS | places)
        for stage in STAGES:
            run_stage(stage, params, folder / "data")

    def again(target, stages, changes):
        shutil.copytree(folder / "data", target / "data")
        params = write_params(target, ADAPTERS | places | changes)
        for stage in stages:
            run_stage(stage, params, target / "data")
        return target / "data"

    return SimpleNamespace(data=folder / "data", again=again)


@pytest.fixture(scope="module")
def sources(run):
    return load_sources(run.data)


def test_tasks_are_of_their_data_sets_and_classes(sources):
    for split, source in sources.items():
        of, N = source.of, 2
        for rows in (source.support, source.query, *source.fitted.unbind(1)):
            assert (rows >= 0).all() and rows.shape[1] == N
            assert (of.label[rows] == torch.arange(N)[:, None]).all()
            assert (of.group[rows] == source.names[:, :1, None]).all()
        assert not of.dev[source.support].any() and not of.dev[source.fitted].any()
        assert bool(of.dev[source.query].all()) == (split != "meta_train")
        known, asked = source.support.flatten(1), source.query.flatten(1)
        assert not any(set(a.tolist()) & set(b.tolist()) for a, b in zip(known, asked))
        views = source.fitted.transpose(0, 1).flatten(2)
        assert not any(set(a.tolist()) & set(b.tolist()) for a, b in zip(*views))


def test_a_sub_task_is_what_is_near_its_anchor(sources):
    of = sources["meta_train"].of
    anchor = int(sources["meta_train"].names[0, 1])
    likeness = of.unit @ of.unit[anchor]
    everything, near = (of.near(int(of.group[anchor]), anchor, share, dev=False) for share in (1.0, 0.5))
    for all_rows, rows in zip(everything, near):
        assert len(rows) == round(len(all_rows) / 2)
        others = [row for row in all_rows.tolist() if row not in rows.tolist()]
        assert likeness[rows].min() >= likeness[others].max()


def test_it_is_a_source_of_tasks(sources):
    source = sources["meta_val"]
    tasks = torch.tensor([3, 1])
    task = source.take(tasks).batch(torch.arange(2))
    assert_close(task.context.rows, source.context(tasks).rows, rtol=0, atol=0)
    assert task.context.rows.shape == (2, 2, 3, 32)
    assert source.description(tasks) != source.description(tasks.flip(0))
    new = source.new(source.draw(5, generator(0, "new")), generator(0, "new"), n_shot=1, n_query=2)
    assert new.context.rows.shape == (5, 2, 1, 32) and new.query["labels"].shape == (5, 4)
    assert not source.fitted_on(tasks)["hidden"].equal(source.fitted_on(tasks, 1)["hidden"])


def test_trajectories_lower_the_loss_from_one_start(run):
    recorded, _ = load_trajectories(run.data, "meta_train")
    initialization, seen, facts = load_initialization(run.data)
    points = recorded.points(torch.arange(len(recorded)))
    assert seen is None and facts["provides"] == ["examples"]
    assert (points[:, -1] == initialization.shared).all()
    source = load_sources(run.data, splits=["meta_train"])["meta_train"]
    everything = source.fitted_on(torch.arange(12))
    losses = [initialization.learner.loss(points[:, i], everything).mean().item() for i in range(4)]
    assert losses == sorted(losses) and losses[0] < math.log(2)


def test_all_stages_end_with_finite_scores(run):
    metrics = json.loads((run.data / "results" / "metrics.json").read_text())
    assert metrics["scored_by"] == "accuracy" and set(metrics["baselines"]) == {"mean_head", "nearest_head"}
    assert 0 <= metrics["score"] <= 1 and 0 <= metrics["ceiling"]["score"] <= 1
    audited = audit_run(run.data).set_index("weights")
    assert len(audited) == 9 and audited.score.between(0, 1).all()
    told = page(run.data)
    assert "ltdi adapt my_task --out adapter --data" in told and "another task&#39;s" in told


@pytest.mark.parametrize("name", METHODS)
def test_every_method_that_fits_generates_adapters(name, run, tmp_path):
    data = run.again(tmp_path, ["meta_train", "generate_weights"], {"method.name": name, "method.baselines": []})
    initialization, _, _ = load_initialization(data)
    (_, made), *_ = read_weights(data / "weights" / name)
    assert made["w"].shape == (6, initialization.learner.space.dim(2)) and made["w"].isfinite().all()


def test_head_sgd_and_gradient_steps_work_on_the_examples(run, tmp_path):
    changes = {"method.baselines": ["head_sgd"], "generate.adapt_steps": 2, "tasks.meta_val": 5}
    data = run.again(tmp_path, ["meta_train", "generate_weights"], changes)
    assert len(read_weights(data / "weights" / "head_sgd")) == 1


def adapted(capsys, *arguments):
    """What ``ltdi adapt`` says."""
    app(["adapt", *map(str, arguments)], standalone_mode=False)
    return " ".join(capsys.readouterr().out.split())


def test_the_command_writes_what_peft_loads(run, tmp_path, capsys, global_state):
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    write_sets(tmp_path)
    before = global_state()
    said = adapted(capsys, tmp_path / "d", "--out", tmp_path / "out", "--data", run.data, "--steps", 0)
    assert global_state() == before
    made = AdapterRun(run.data)
    dev = made.read(tmp_path / "d")["dev"]
    learner, w = read_adapter(tmp_path / "out")
    ours = learner.logits(w[None].to(made.device), dev["hidden"], dev["mask"])[0].cpu()
    model = transformers.AutoModelForSequenceClassification.from_pretrained(made.learner.body, num_labels=2)
    model = peft.PeftModel.from_pretrained(model, str(tmp_path / "out")).eval()
    texts = read_text_set(tmp_path, "d").texts["dev"]
    with torch.no_grad():
        tokens = made.learner.encoder.tokens(texts, made.length)
        theirs = model(**{name: value.cpu() for name, value in tokens.items()}).logits
    assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    right = (theirs.argmax(-1) == dev["labels"][0].cpu()).float().mean().item()
    n = int(made.read(tmp_path / "d")["train"]["labels"].sum())
    assert f"train: 80 rows: {80 - n} 0, {n} 1; of text1 and text2" in said and "dev: 30 rows: " in said
    assert learner.classes == ("0", "1")
    assert "by ltdi, from 3 examples of each class" in said and said.endswith(f"accuracy on dev {right:.4f}")


def test_steps_lower_the_loss_on_train(run, tmp_path, capsys):
    write_sets(tmp_path)
    (tmp_path / "a" / "dev.tsv").unlink()
    said = adapted(capsys, tmp_path / "a", "--out", tmp_path / "out", "--steps", 20, "--data", run.data)
    assert said.endswith("from 3 examples of each class and 20 gradient steps")
    made = AdapterRun(run.data)
    train = made.read(tmp_path / "a")["train"]
    _, w = read_adapter(tmp_path / "out")
    assert (made.learner.loss(w[None].to(made.device), train) < made.learner.loss(made.generate(train), train)).all()


def test_what_is_generated_knows_how_frequent_classes_are(run, tmp_path):
    """By Bayes, the logarithm of the odds more than from as many of each."""
    write_sets(tmp_path)
    made = AdapterRun(run.data)
    train = made.read(tmp_path / "d")["train"]
    n = [int((train["labels"] == label).sum()) for label in (0, 1)]
    even = made.method.generate(made.context(train), generator=generator(0, "noise"))
    logits = [made.learner.logits(w, train["hidden"], train["mask"])[0] for w in (even, made.generate(train))]
    before, after = (each[:, 1] - each[:, 0] for each in logits)
    assert n[0] != n[1]
    assert_close(after, before + math.log(n[1] / n[0]), rtol=1e-4, atol=1e-4)


def test_the_baseline_of_likeness_tells_what_is_the_same_from_what_is_not(run):
    made, texts = (
        AdapterRun(run.data),
        [(f"w{j} w{j + 1}", f"w{j} w{j + 1}" if j % 3 else f"w{59 - j}") for j in range(24)],
    )
    labels = torch.tensor([int(first == second) for first, second in texts])
    read = made.read_texts(texts, labels)
    held = Held("d", {"train": (texts, labels), "dev": (texts, labels)}, read, read, {})
    assert by_similarity(made, held, seed=0) == {"likeness": 1.0, "likeness_counted": 1.0}
    single = Held("a", {"train": ([("w1",)], labels[:1]), "dev": ([], labels[:0])}, read, read, {})
    assert by_similarity(made, single, seed=0) == {}


def test_the_bench_compares_them_on_data_sets_held_out(run, tmp_path):
    columns = {"MRPC": ["#1 String", "#2 String", "Quality"], "QNLI": ["question", "sentence", "label"]}
    columns |= {"QQP": ["question1", "question2", "is_duplicate"]}
    for name, (first, second, label) in columns.items():
        (tmp_path / name).mkdir()
        for part, n in (("train", 40), ("dev", 21)):
            labels = [j % 2 for j in range(n)]
            words = ["entailment" if each else "not_entailment" for each in labels]
            texts = {first: [f"w{j}" for j in range(n)], second: [f"w{30 * each}" for each in labels]}
            table = pd.DataFrame(texts | {label: words if name == "QNLI" else labels})
            table.to_csv(tmp_path / name / f"{part}.tsv", sep="\t", index=False)
    made = AdapterRun(run.data)
    hparams = {"train": 20, "dev": 20, "lora_steps": [2, 4], "inputs_a_step": 8, "chosen_on": ["QQP"]}
    rows = pd.DataFrame(measure(((seed, made) for seed in (0, 1)), tmp_path, hparams))
    rows = rows.assign(method="ltdi", start_steps=600, start_inputs=32)
    chosen_on, rows = rows[rows.data_set == "QQP"], rows[rows.data_set != "QQP"]
    assert set(chosen_on.what) == set(rows[(rows.steps == 0) & (rows.what != "qqp")].what)
    assert rows.accuracy.between(0, 1).all() and (rows.n == 20).all()
    same = rows[(rows.what == "full") & (rows.data_set == "MRPC")]
    assert same.steps.tolist() == [2, 4] and same.seconds.is_monotonic_increasing
    assert (rows[rows.what == "majority"].accuracy == 0.5).all()
    counts = rows.groupby("what").size()
    assert {name: counts[name] for name in ("generated", "then", "lora")} == {"generated": 4, "then": 8, "lora": 4}
    written = render("adapters", rows=rows)
    free = [line for line in written.split("steps on the few")[0].splitlines() if line.startswith("| ") and "±" in line]
    accuracies = [float(line.split("|")[3].split("±")[0]) for line in free]
    assert len(free) == 18 and accuracies == sorted(accuracies, reverse=True) and "**ltdi**" in written


@pytest.mark.parametrize(
    "stage, changes, expected",
    [
        ("prepare_tasks", {"tasks.n_way": 5}, "tasks.n_way = 5: adapters are made for two classes"),
        ("prepare_tasks", {"texts.layers": 9}, "texts.layers = 9 is more than the 3 of the body"),
        ("prepare_tasks", {"tasks.n_shot": 50}, "tasks.n_shot .* is more than the .* examples of a class"),
        ("prepare_tasks", {"texts.meta_val": ["z"]}, "no z/train.tsv, .csv or .parquet"),
        ("collect_trajectories", {"learner.name": "linear_head"}, "none of the scenario adapters; allowed: lora"),
        (
            "collect_trajectories",
            {"trajectories.initialization": "ridge"},
            "initialization = ridge is none of an adapter",
        ),
        ("collect_trajectories", {"learner.modules": ["conv"]}, "learner.modules = conv is not in a layer"),
        ("meta_train", {"meta.refit": True}, "meta.refit = true is for classes that images are given of"),
        ("meta_train", {"method.name": "reptile"}, "needs .*, and Lora on these tasks has none"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_mistakes_are_one_line(stage, changes, expected, run, tmp_path):
    with pytest.raises(InputError, match=f"^[^\n]*{expected}[^\n]*$"):
        run.again(tmp_path, [stage], changes)
