"""The classifier with scikit-learn's interface, on the shipped model of characters."""

import csv
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from command import call
from PIL import Image
from torch.testing import assert_close

import ltdi
from ltdi import FewShotClassifier
from ltdi.datasets import DATASETS, glyphs
from ltdi.utils.errors import InputError

WAYS, SHOTS, QUERIES = 5, 3, 6


@pytest.fixture(scope="module")
def characters(tmp_path_factory) -> SimpleNamespace:
    """Characters that no model has learned from: arrays as files show them (M, 28, 28), their labels, and files."""
    of = glyphs.load("", n_classes=60, seed=7)["meta_test"]
    counts = list(of.counts)
    images = DATASETS["glyphs"].as_files(of.images).numpy()[:, 0].reshape(len(counts), counts[0], 28, 28)
    names = np.array(["omega", "beta", "alpha", "gamma", "delta"])
    folder = tmp_path_factory.mktemp("characters")
    for part, first, last in (("support", 0, SHOTS), ("query", SHOTS, SHOTS + QUERIES)):
        for name, of_class in zip(names, images):
            (folder / part / name).mkdir(parents=True)
            for j in range(first, last):
                Image.fromarray(of_class[j]).save(folder / part / name / f"{j}.png")
    return SimpleNamespace(
        X=images[:WAYS, :SHOTS].reshape(-1, 28, 28),
        y=names.repeat(SHOTS),
        new=images[:WAYS, SHOTS : SHOTS + QUERIES].reshape(-1, 28, 28),
        truth=names.repeat(QUERIES),
        support=folder / "support",
        query=folder / "query",
        folder=folder,
    )


@pytest.fixture(scope="module")
def fitted(characters) -> FewShotClassifier:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("LTDI_DEVICE", "cpu")
        return FewShotClassifier().fit(characters.X, characters.y)


def test_it_classifies(characters, fitted):
    assert fitted.classes_.tolist() == ["alpha", "beta", "delta", "gamma", "omega"]
    probabilities = fitted.predict_proba(characters.new)
    assert probabilities.shape == (30, WAYS) and np.allclose(probabilities.sum(1), 1, atol=1e-5)
    assert (fitted.predict(characters.new) == fitted.classes_[probabilities.argmax(1)]).all()
    assert np.allclose(np.exp(fitted.predict_log_proba(characters.new)), probabilities)
    assert fitted.score(characters.new, characters.truth) > 0.9 and fitted.model_.files.name == "characters"
    assert fitted.score(characters.new, characters.truth, sample_weight=np.eye(30)[0]) in (0, 1)


def test_paths_pictures_tensors_and_a_folder_say_the_same(characters, fitted):
    expected = fitted.predict_proba(characters.new)
    paths = [characters.support / name / f"{j % SHOTS}.png" for j, name in enumerate(characters.y)]
    for images in (
        paths,
        np.array(list(map(str, paths))),
        [Image.fromarray(image) for image in characters.X],
        torch.from_numpy(characters.X)[:, None],
        torch.from_numpy(characters.X)[:, None] / 255,
        characters.X[..., None],
    ):
        again = FewShotClassifier().fit(images, characters.y)
        assert_close(again.predict_proba(characters.new), expected, rtol=1e-4, atol=1e-5)
    of_folder = FewShotClassifier().fit_folder(characters.support)
    assert_close(of_folder.predict_proba(characters.new), expected, rtol=1e-4, atol=1e-5)
    assert of_folder.score(characters.query) == fitted.score(characters.new, characters.truth)


def test_tables_of_files_and_labels(characters, fitted):
    table, rest = characters.folder / "labels.csv", characters.folder / "rest.txt"
    with table.open("w", newline="") as file:
        rows = [(f"support/{name}/{j}.png", name) for name in sorted(set(characters.y)) for j in range(SHOTS)]
        csv.writer(file).writerows([("file", "label"), *rows])
    rest.write_text("".join(f"query/alpha/{j}.png\n" for j in range(SHOTS, SHOTS + QUERIES)))
    assert FewShotClassifier().fit_folder(table).classes_.tolist() == fitted.classes_.tolist()
    answers = characters.folder / "answers.csv"
    ended = call("classify", table, rest, "--csv", answers, "--model", "characters", "--top", 2)
    assert ended.exit_code == 0, ended.output
    with answers.open() as file:
        found = list(csv.DictReader(file))
    assert len(found) == QUERIES and all(row["image"].endswith(".png") for row in found)
    assert all(float(row["probability 2"]) <= float(row["probability"]) for row in found)
    table.write_text("file,label\nsupport/alpha/0.png,a\nnowhere.png,b\n")
    with pytest.raises(InputError, match="line 3: .*nowhere.png: no such file"):
        FewShotClassifier().fit_folder(table)
    table.write_text("file,kind\nsupport/alpha/0.png,a\n")
    with pytest.raises(InputError, match="no column of labels; name one label"):
        FewShotClassifier().fit_folder(table)


@pytest.mark.parametrize("labels", [[3, -1, 2, 10, 0], [0.5, 2.0, 1.0, 8.0, 4.0], ["b", "a", "e", "d", "c"]])
def test_labels_come_back_as_they_were(labels, characters, tmp_path):
    y = np.array(labels).repeat(SHOTS)
    made = FewShotClassifier().fit(characters.X, y)
    assert made.classes_.tolist() == sorted(labels) and made.classes_.dtype == y.dtype
    made.save(tmp_path / "head.safetensors")
    again = FewShotClassifier.load(tmp_path / "head.safetensors")
    assert again.classes_.dtype.kind == y.dtype.kind and again.classes_.tolist() == sorted(labels)
    assert (again.predict(characters.new) == made.predict(characters.new)).all()
    assert again.model_.files.name == "characters"


def test_further_images_and_classes_are_as_if_they_had_been_there(characters):
    first = np.isin(characters.y, ["omega", "beta", "gamma"])
    first[0] = False
    made = FewShotClassifier()
    made.partial_fit(characters.X[first], characters.y[first])
    made.partial_fit(characters.X[~first], characters.y[~first])
    at_once = FewShotClassifier().fit(characters.X, characters.y)
    assert made.classes_.tolist() == at_once.classes_.tolist()
    assert_close(made.predict_proba(characters.new), at_once.predict_proba(characters.new), rtol=1e-3, atol=1e-4)
    with pytest.raises(InputError, match="label 'eta' is not among classes"):
        made.partial_fit(characters.X[:1], ["eta"], classes=["alpha", "beta"])


def test_the_most_probable_classes(characters, fitted):
    labels, shares = fitted.predict_top_k(characters.new, 3)
    assert labels.shape == shares.shape == (30, 3) and (np.diff(shares) <= 0).all()
    assert (labels[:, 0] == fitted.predict(characters.new)).all()
    with pytest.raises(InputError, match="k = 9: there are 5 classes"):
        fitted.predict_top_k(characters.new, 9)


def test_an_image_whose_classes_are_all_improbable_is_unknown(characters, fitted):
    least = float(fitted.head_.classify(characters.new).probability.median())
    answers = fitted.head_.classify(characters.new, unknown=least)
    assert ((answers["class"] == "unknown") == (answers.probability < least)).all()
    assert (answers["class"] == "unknown").any() and "unknown" not in set(
        fitted.head_.classify(characters.new)["class"]
    )
    with pytest.raises(InputError, match="unknown = 2"):
        fitted.head_.classify(characters.new, unknown=2)


def test_a_head_as_a_torch_module(characters, fitted):
    module = fitted.head_.to_module()
    images = torch.from_numpy(characters.new)[:, None]
    with torch.no_grad():
        logits = module(images)
        assert module(images.float().div(255)).allclose(logits, atol=1e-4)
        assert module(torch.zeros(2, 1, 50, 40, dtype=torch.uint8)).shape == (2, WAYS)
    order = [fitted.head_.classes.index(name) for name in fitted.classes_]
    assert_close(logits.softmax(1)[:, order].numpy(), fitted.predict_proba(characters.new), rtol=1e-4, atol=1e-5)


def test_what_is_shown_of_a_head_is_short(characters, fitted):
    assert repr(fitted.head_) == "Head(5 classes: alpha, beta, delta, gamma, omega; by ltdi, 15 images)"
    assert repr(FewShotClassifier("characters", seed=3)) == "FewShotClassifier(model='characters', seed=3)"
    many = FewShotClassifier().fit(characters.X, np.arange(15)).head_
    assert len(repr(many)) < 100 and "…" in repr(many)


def test_mistakes_are_one_line(characters, fitted, tmp_path):
    for X, y, said in (
        (characters.X, characters.y[:-1], "15 images and 14 labels"),
        (characters.X, np.zeros(15), "y holds 1 class"),
        (characters.X, None, "requires y"),
        (characters.X, [None] * 15, "y holds|no numbers|type"),
        (characters.X, np.full(15, np.nan), "NaN"),
        (np.zeros((15, 7, 784, 5)), characters.y, "axes|channels|several"),
    ):
        with pytest.raises(InputError, match=said) as raised:
            FewShotClassifier().fit(X, y)
        assert "\n" not in str(raised.value)
    with pytest.raises(AttributeError, match="not fitted yet"):
        FewShotClassifier().predict(characters.new)
    with pytest.raises(InputError, match="Invalid parameter 'steps' .*; allowed: model, method, seed, device"):
        FewShotClassifier().set_params(steps=3)
    with pytest.raises(InputError, match="nowhere: no finished run"):
        FewShotClassifier("nowhere").fit(characters.X, characters.y)
    with pytest.raises(InputError, match="in colour"):
        red = np.zeros((2, 28, 28, 3), np.uint8) + np.array([255, 0, 0], np.uint8)
        FewShotClassifier().fit(red, [0, 1]) if set(ltdi.shipped()) == {"characters"} else pytest.skip("photos")


def test_a_model_that_was_opened_and_a_baseline(characters):
    opened = ltdi.load("characters", method="prototype")
    of_opened = FewShotClassifier(opened).fit(characters.X, characters.y)
    by_name = FewShotClassifier("characters", method="prototype").fit(characters.X, characters.y)
    assert of_opened.head_.method == by_name.head_.method == "prototype"
    assert_close(of_opened.head_.w, by_name.head_.w)


# --- scikit-learn


def test_scikit_learn_takes_it(characters):
    pytest.importorskip("sklearn")
    from sklearn.base import clone, is_classifier
    from sklearn.model_selection import GridSearchCV, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    estimator = FewShotClassifier("characters", seed=2)
    assert is_classifier(estimator) and clone(estimator).get_params() == estimator.get_params()
    X, y = np.concatenate([characters.X, characters.new]), np.concatenate([characters.y, characters.truth])
    assert cross_val_score(estimator, X, y, cv=3).mean() > 0.9
    search = GridSearchCV(estimator, {"method": ["", "prototype"]}, cv=2).fit(X, y)
    assert set(search.best_params_) == {"method"} and len(search.predict(characters.new)) == 30
    mirrored = make_pipeline(FunctionTransformer(lambda images: images[:, ::-1]), estimator).fit(X, y)
    assert mirrored.score(characters.new, characters.truth) > 0.9


@pytest.mark.parametrize(
    "check",
    [
        "check_no_attributes_set_in_init",
        "check_parameters_default_constructible",
        "check_get_params_invariance",
        "check_set_params",
        "check_estimator_cloneable",
        "check_estimator_repr",
        "check_estimator_tags_renamed",
        "check_valid_tag_types",
        "check_do_not_raise_errors_in_init_or_set_params",
        "check_estimators_unfitted",
        "check_mixin_order",
    ],
)
def test_checks_of_estimators_that_apply_to_images(check):
    checks = pytest.importorskip("sklearn.utils.estimator_checks")
    getattr(checks, check)("FewShotClassifier", FewShotClassifier("characters"))


# --- speed


@pytest.mark.slow
def test_a_process_classifies_in_seconds(characters, repository):
    """Imports, opening the model, generating a head and classifying; processor time, for the machine may be busy."""
    code = "import sys, time, ltdi; ltdi.FewShotClassifier().fit_folder(sys.argv[1]).predict(sys.argv[2]);"
    code += "print(time.process_time())"
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(repository), os.environ.get("PYTHONPATH", "")])}
    ended = subprocess.run(
        [sys.executable, "-c", code, characters.support, characters.query], env=env, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    assert float(ended.stdout) < 12
