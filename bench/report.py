"""``python -m bench report``: the readable tables of bench/results/, from measured cells and long tables."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from bench import BASELINE, FEW_SHOT, RESULTS, adapter_table, audits, cells, few_shot, photos
from bench.picture import picture
from bench.rows import add, pooled, read
from bench.settings import bench_params
from bench.text import percent, table
from ltdi.store import write_text
from ltdi.utils.console import say

REPORTED = {"ltdi": "the paper", "lvdi": "the paper", "prototype": "ProtoNet with Conv4, 1,200 classes"}
ABLATION = ("ablation", "cpu")
"""The budgets whose variants stand in ablation.md."""


def main() -> None:
    bench = bench_params()
    measured, components = cells.load(bench), _components(RESULTS / "ablation.md")
    texts = {}
    if measured.rows:
        add("runs.csv", cells.long_rows(measured))
        add("audit.csv", pd.concat(measured.audits))
        texts["few_shot.md"], components = few_shot.markdown(measured), few_shot.components(measured)
        picture(measured, RESULTS / "accuracy_latency.png")
    runs, beside, ways, audited = (read(f"{name}.csv") for name in ("runs", "beside", "ways", "audit"))
    runs = runs[runs.variant != FEW_SHOT]
    if len(runs):
        texts["omniglot.md"] = omniglot(runs, bench)
        of_budgets = runs[runs.budget.isin(ABLATION)]
        texts["ablation.md"] = ablation(of_budgets, beside, bench, components) + sharpness(read("sharpness.csv"))
    if len(ways):
        texts["ways.md"] = other_sizes(ways, bench)
    if len(audited):
        texts["audit.md"] = audits.markdown(audited, bench)
    if len(measured_photos := read("photos.csv")):
        texts["photos.md"] = photos.markdown(measured_photos)
    for name in adapter_table.TABLES:
        if (file := RESULTS / f"{name}.tsv").is_file():
            texts[f"{name}.md"] = adapter_table.markdown(pd.read_csv(file, sep="\t"))
    for name, text in texts.items():
        write_text(RESULTS / name, text)
    say(f"wrote {', '.join(texts)} in {RESULTS}" if texts else "bench: no rows yet; make bench or make ablation")


def _components(file: Path) -> str:
    """The components as last written: without the cells of `make bench` here they cannot be made anew."""
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    return text.partition("## The components\n\n")[2].partition("\n## Every measured variant")[0]


def omniglot(runs: pd.DataFrame, bench: Mapping[str, Any]) -> str:
    """Lt-Di, the baselines and the reported figures, a column a setting: of the budget cpu, and apart of full."""
    names = bench["names"]
    settings = [each for each in bench["settings"] if each.startswith("omniglot-")]
    head = ["head", "training classes", *(each.removeprefix("omniglot-") for each in settings)]
    runs = runs[runs.setting.isin(settings) & runs.variant.isin(["ltdi", "lvdi", BASELINE])]
    cpu, full = (runs[runs.budget == budget] for budget in ("cpu", "full"))
    rows = _of_settings(cpu, settings, bench)
    for name, source in REPORTED.items():
        values = (f"{value:g}" for value in bench["reported"][name][: len(settings)])
        rows.append([f"{names[name]} (reported: {source})", "", *values])
    text = "# Omniglot, accuracy in percent\n\n" + _caption(cpu) + table(head, rows)
    if len(full):
        text += "\n## The full budget\n\n" + _caption(full) + table(head, _of_settings(full, settings, bench))
    return text


def _of_settings(runs: pd.DataFrame, settings: list[str], bench: Mapping[str, Any]) -> list[list[str]]:
    names, rows = bench["names"], []
    shown = [("ltdi", "ltdi"), ("lvdi", "lvdi"), *((each, BASELINE) for each in (*bench["baselines"], "ceiling"))]
    for (classes,), group in _groups(runs, "train_classes"):
        for method, variant in shown:
            own = group[(group.method == method) & (group.variant == variant)]
            rows.append([names[method], str(classes), *(_cell(own[own.setting == each]) for each in settings)])
        own = group[(group.method == "ltdi") & (group.variant == "ltdi")]
        best = (_paired(own[own.setting == each]) for each in settings)
        rows.append(["Lt-Di − best baseline, paired", str(classes), *best])
    return rows


def ablation(runs: pd.DataFrame, beside: pd.DataFrame, bench: Mapping[str, Any], components: str) -> str:
    """Table 1's components, then every variant against the best baseline of its setting and seed and against Lt-Di."""
    own = runs[runs.variant != BASELINE]
    of_noise = own.variant.str.startswith("noise_")
    text = f"# Ablations, accuracy in percent\n\n## The components\n\n{components}\n"
    text += f"## Every measured variant, budgets {' and '.join(ABLATION)}, best first\n\n"
    text += _caption(own[~of_noise]) + _variants(own[~of_noise], beside)
    if of_noise.any():
        base = ", ".join(f"{key} = {value}" for key, value in bench["bases"]["noise"].items())
        changed = f"What is changed here is changed in a chain that has no closed form to begin at: {base}."
        text += f"\n## From noise\n\n{changed}\n\n"
        text += _caption(own[of_noise]) + _variants(own[of_noise], beside)
    return text


def _variants(runs: pd.DataFrame, beside: pd.DataFrame) -> str:
    keys, rows = ("setting", "train_classes", "budget", "method", "variant"), []
    for (setting, classes, budget, method, variant), group in _groups(runs, *keys):
        of_setting = (beside.setting == setting) & (beside.train_classes == classes) & (beside.budget == budget)
        pairs = beside[of_setting & (beside.variant == variant) & (beside.beside == "ltdi")]
        over_ltdi = "" if pairs.empty else _difference(pairs) + _spread(pairs.paired_diff)
        row = [setting, str(classes), budget, variant.removeprefix("noise_"), method, _cell(group), _paired(group)]
        row += [over_ltdi, f"{group.ms_batch_1.mean():.1f}", f"{group.seconds_meta_train.mean():.0f}"]
        rows.append((setting, classes, budget, -group.paired_diff.mean(), row))
    head = ["setting", "training classes", "budget", "variant", "method", "accuracy"]
    head += ["− best baseline, paired", "− Lt-Di, paired", "ms, batch 1", "meta-training, s"]
    return table(head, [row for *_, row in sorted(rows)])


def sharpness(rows: pd.DataFrame) -> str:
    """λ_max of the trained heads' loss, a line a variant; nothing where it was not measured."""
    if rows.empty:
        return ""
    lines = []
    for (setting, budget, variant), group in _groups(rows, "setting", "budget", "variant"):
        difference = f"{group.paired_diff.mean():+.4f} ± {pooled(group.paired_ci95):.4f}"
        compared = "" if variant.endswith("ltdi") else difference
        value = f"{group.lambda_max.mean():.4f} ± {pooled(group.ci95):.4f}"
        lines.append([setting, budget, variant, value, compared, str(len(group)), str(group.tasks.sum())])
    text = (
        "\n## How sharp the trained heads' minima are\n\n"
        "The largest eigenvalue of the Hessian of the loss on all images of a meta-test task's classes, at the recorded"
        " head w_0; ± is the 95 % interval over tasks. Rows: `sharpness.csv`.\n\n"
    )
    return text + table(["setting", "budget", "variant", "λ_max", "− Lt-Di's heads, paired", "seeds", "tasks"], lines)


def other_sizes(rows: pd.DataFrame, bench: Mapping[str, Any]) -> str:
    """Heads for other numbers of classes and images than a run was trained on, a line each."""
    methods, lines = list(dict.fromkeys(["ltdi", *rows.method])), []
    for (setting, budget, n_way, n_shot), group in _groups(rows, "setting", "budget", "n_way", "n_shot"):
        scores = (_cell(group[group.method == each]) for each in methods)
        lines.append([setting, budget, str(n_way), str(n_shot), *scores, _paired(group[group.method == "ltdi"])])
    head = ["trained on", "budget", "classes", "images of each", *(bench["names"][each] for each in methods)]
    return (
        "# One run's heads for other tasks, accuracy in percent\n\n"
        "Generated without further training by a run of the setting, whose classes and images a class differ. "
        + _caption(rows, "ways.csv")
        + table([*head, "Lt-Di − best baseline, paired"], lines)
    )


def _groups(rows: pd.DataFrame, *columns: str) -> Iterator[tuple[Any, pd.DataFrame]]:
    """The rows that agree in some columns, with what these hold."""
    yield from rows.groupby(list(columns))


def _cell(group: pd.DataFrame) -> str:
    if group.empty:
        return "missing"
    over = f" over {len(group)} seeds" if len(group) > 1 else ""
    return percent(group.accuracy.mean(), pooled(group.ci95)) + _spread(group.accuracy) + over


def _paired(group: pd.DataFrame) -> str:
    if group.empty:
        return "missing"
    return f"{_difference(group)} ({'/'.join(sorted(set(group.best_baseline)))})"


def _difference(group: pd.DataFrame) -> str:
    return percent(group.paired_diff.mean(), pooled(group.paired_ci95), sign="+", digits=3)


def _spread(values: pd.Series) -> str:
    """The deviation between seeds."""
    return f", sd {100 * values.std():.2f}" if len(values) > 1 else ""


def _caption(rows: pd.DataFrame, source: str = "runs.csv") -> str:
    tasks, seeds = (", ".join(map(str, sorted(set(rows[column])))) for column in ("tasks", "seed"))
    machines = ", ".join(sorted(set(rows.device)))
    return (
        f"Meta-test tasks a seed: {tasks}; seeds {seeds}; machine: {machines}. ± is the 95 % interval over tasks,"
        f" pooled over seeds; sd the deviation between seeds where there are several. Rows: `{source}`.\n\n"
    )
