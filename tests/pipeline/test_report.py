"""The page of a run: what it says is the run's, nothing in it is fetched, and it fits a telephone."""

import html
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pandas as pd
import pytest
import torch

from ltdi.evaluation.condition_ablation import CONDITIONS
from ltdi.methods.common.trained import SCALE_SHOTS
from ltdi.store import read_json, read_table, read_tensors, write_json, write_table, write_tensors
from ltdi.utils.errors import InputError
from pipeline import report
from pipeline.compared import MARGIN, bars_of

BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)
VOID = {"meta", "img"}


class Page(HTMLParser):
    """Every element with its attributes and those that it lies in, and the text of every table's cells."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.rows, self.inside = [], [], []
        self.feed(text)
        assert not self.inside, "not all elements are closed"

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes), [each for each, _ in self.inside], [a for _, a in self.inside]))
        self.rows += [[]] if tag == "tr" else []
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.inside.append((tag, dict(attributes)))

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes), [each for each, _ in self.inside], [a for _, a in self.inside]))

    def handle_endtag(self, tag):
        assert self.inside.pop()[0] == tag

    def handle_data(self, data):
        if {"td", "th"} & {each for each, _ in self.inside}:
            self.rows[-1][-1] += data.strip().replace("\xa0", " ")

    def row(self, name):
        return next(row for row in self.rows if row and row[0] == name)


@pytest.fixture
def text(finished):
    report.main(finished.data)
    return (finished.data / "report.html").read_text(encoding="utf-8")


def test_nothing_is_fetched_and_nothing_runs(text):
    page = Page(text)
    for tag, attributes, _, _ in page.elements:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base")
        for name, value in attributes.items():
            assert not name.startswith("on"), f"{tag} {name} runs code"
            if name in ("src", "href", "srcset", "action", "poster", "data", "xlink:href"):
                assert value.startswith("data:image/png;base64,"), f"{tag} {name}={value[:60]}"
    styles = "".join(re.findall(r"<style>(.*?)</style>", text, re.S))
    assert "url(" not in styles and "@import" not in styles and "prefers-color-scheme: dark" in styles
    (policy,) = [a["content"] for tag, a, _, _ in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")


def test_what_may_be_wide_scrolls_by_itself(text):
    page = Page(text)
    for tag, attributes, _, outer in page.elements:
        if tag == "table":
            assert any(each.get("class") == "wide" for each in outer)
        if tag in ("img", "svg", "pre", "table"):
            assert "width" not in attributes and "px" not in attributes.get("style", "")
    styles = " ".join(re.findall(r"<style>(.*?)</style>", text, re.S)).split()
    for rule in (".wide { overflow-x: auto; }", "img { max-width: 100%;"):
        assert rule.split() == styles[(at := styles.index(rule.split()[0])) : at + len(rule.split())]
    assert re.search(r"pre \{[^}]*overflow-x: auto", text)
    assert any(a.get("content", "").startswith("width=device-width") for tag, a, _, _ in page.elements if tag == "meta")


def test_its_figures_are_those_of_the_run(finished, text):
    page, metrics = Page(text), read_json(finished.data / "results" / "metrics.json")
    rows = {metrics["method"]: metrics} | metrics["baselines"]
    order = [row[0] for row in page.rows if row and row[0] in rows and len(row) > 2]
    assert order == sorted(rows, key=lambda name: -rows[name]["score"])
    for name, row in rows.items():
        assert f"{100 * row['score']:.2f} ± {100 * row['ci95']:.2f}" in page.row(name)
    paired = metrics["paired"]
    assert f"{100 * paired['difference']:+.2f} ± {100 * paired['ci95']:.2f}" in page.row(metrics["method"])
    assert page.row(metrics["best_baseline"])[3] == ""
    for condition in CONDITIONS:
        assert "±" in page.row(condition)[1]
    assert page.row("ceiling")[1].startswith(f"{100 * metrics['ceiling']['score']:.2f} ±")


def test_names_are_text_and_never_markup(finished, mixed):
    file = finished.data / "tasks" / "features.safetensors"
    tensors, facts = read_tensors(file, kind="features")
    write_tensors(file, tensors, facts | {"data_set": "<b onclick=x()>&amp;"}, kind="features")
    text = report.page(finished.data)
    assert "<b onclick" not in text and html.escape("<b onclick=x()>&amp;") in text


def with_scores(data, changes):
    """The run, with other scores of some heads: a function of those of the table."""
    file = data / "results" / "per_task.parquet"
    table = read_table(file)
    scores = {name: table[table.method == name].sort_values("task").score.to_numpy() for name in table.method.unique()}
    for name, change in changes.items():
        table.loc[table.method == name, "score"] = change(scores)
    write_table(file, table)
    metrics = read_json(data / "results" / "metrics.json")
    for name, own in table.groupby("method"):
        row = metrics if name == metrics["method"] else metrics["baselines"][name]
        row["score"] = float(own.score.mean())
    write_json(data / "results" / "metrics.json", metrics | {"best_baseline": "ridge"})
    return " ".join(re.sub(r"<[^>]+>", " ", html.unescape(report.page(data))).split())


def test_a_baseline_is_recommended_where_the_generator_is_not_ahead(finished):
    metrics = read_json(finished.data / "results" / "metrics.json")
    metrics["ms_per_task"]["batch_1"], metrics["baselines"]["ridge"]["ms_per_task"]["batch_1"] = 9.0, 0.1
    write_json(finished.data / "results" / "metrics.json", metrics)
    told = with_scores(finished.data, {"ridge": lambda scores: scores["ltdi"]})
    assert "not ahead beyond chance of ridge" in told and "of these take ridge" in told
    assert "better in 0% of the tasks, worse in 0%" in told
    told = with_scores(finished.data, {"ltdi": lambda scores: scores["ridge"] + 0.5})
    assert "ltdi has the highest mean, and is ahead of every other by more than chance: take it" in told
    assert "better in 100% of the tasks, worse in 0%" in told


def test_a_strength_of_nothing_is_said(finished, mixed):
    file = finished.data / "model" / "methods" / "ltdi.safetensors"
    tensors, values = read_tensors(file, kind="method")
    for update_scale, expected in (([1.0, 0.5, 0.25], False), ([1.0, 0.5, 0.0], True)):
        write_tensors(file, tensors | {"update_scale": torch.tensor(update_scale)}, values, kind="method")
        told = html.unescape(report.page(finished.data))
        assert f"{update_scale[1]:g} with {SCALE_SHOTS[1]} known of a class" in told
        assert ("take the initialization" in told) == expected


def test_places_on_an_axis_keep_order_and_proportion():
    bars, (low, high) = bars_of([(0.9, 0.01), (0.88, 0.02), (0.2, 0.01)])
    assert bars[2] is None and (low, high) == pytest.approx((86.0, 91.0))
    assert (bars[0].high, bars[1].low) == pytest.approx((100 - MARGIN, MARGIN))
    assert bars[0].value - bars[1].value == pytest.approx((100 - 2 * MARGIN) * 0.02 / 0.05)


def test_a_method_that_learns_nothing_has_no_curve(tmp_path):
    (tmp_path / "curve.tsv").write_text("\n")
    assert report._curves(tmp_path / "curve.tsv") == []
    steps = range(1, 1001)
    pd.DataFrame({"step": steps, "loss": [float(each) for each in steps]}).to_csv(
        tmp_path / "curve.tsv", sep="\t", index=False
    )
    (curve,) = report._curves(tmp_path / "curve.tsv")
    places = [tuple(map(float, pair.split(","))) for pair in curve["points"].split()]
    assert places[0] == (0.0, 95.0) and places[-1][0] == 100.0 and 100 < len(places) < 300


def test_without_a_run_it_is_one_line(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        report.page(tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium")
@pytest.mark.parametrize("width", [400, 1280])
def test_a_browser_shows_it_without_scrolling_sideways_and_asks_nobody(text, width, tmp_path):
    measure = """<script>onload = () => {
      const page = document.querySelector('iframe').contentWindow, root = page.document.documentElement
      const wide = [...page.document.querySelectorAll('.wide')].filter(e => e.scrollWidth > e.clientWidth).length
      const asked = page.performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:')).length
      document.title = [root.clientWidth, root.scrollWidth, wide, asked, page.document.images[0].naturalWidth].join()
    }</script>"""
    frame = f'<iframe style="border:0;width:{width}px;height:900px" srcdoc="{html.escape(text)}"></iframe>'
    (tmp_path / "frame.html").write_text(f"<!doctype html><body>{measure}{frame}", encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    shown = subprocess.run(
        [BROWSER, *options, f"file://{tmp_path / 'frame.html'}"], capture_output=True, text=True, timeout=60
    )
    inner, needed, wide, asked, picture = map(int, re.search(r"<title>([\d,]+)</title>", shown.stdout)[1].split(","))
    assert width - 20 <= inner <= width and needed <= inner, f"{needed} of {inner} pixels"
    assert asked == 0 and picture > 100
    if width == 1280:
        assert wide == 0
