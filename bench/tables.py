"""``python -m bench.tables``: the readable tables of bench/results/, from the cells of `make bench` and from runs.csv."""

from pathlib import Path

import pandas as pd
from ruamel.yaml import YAML

from bench import BENCH, RESULTS, few_shot
from bench.rows import COLUMNS, add
from ltdi.store import write_text
from pipeline.progress import say


def main() -> None:
    bench = YAML(typ="safe").load(BENCH / "params.yaml")
    cells, missing = few_shot.load(bench)
    components = _components(RESULTS / "ablation.md")
    if cells:
        add("runs.csv", COLUMNS, few_shot.long_rows(cells, bench))
        write_text(RESULTS / "few_shot.md", few_shot.markdown(cells, missing, bench))
        few_shot.picture(cells, bench, RESULTS / "accuracy_latency.png")
        components = few_shot.ablation(cells, bench)
        say(f"wrote {RESULTS / 'few_shot.md'} and accuracy_latency.png")
    runs = pd.read_csv(RESULTS / "runs.csv")
    runs = runs[~runs.variant.str.startswith("few_shot")]
    write_text(RESULTS / "omniglot.md", _bar(runs[runs.variant.isin(["ltdi", "lvdi", "control"])], bench))
    sharpness = RESULTS / "sharpness.csv"
    flatness = _sharpness(pd.read_csv(sharpness)) if sharpness.exists() else ""
    write_text(
        RESULTS / "ablation.md", _ablation(runs, pd.read_csv(RESULTS / "beside.csv"), bench, components) + flatness
    )
    say(f"wrote {RESULTS / 'omniglot.md'} and ablation.md")
    ways = RESULTS / "ways.csv"
    if ways.exists():
        write_text(RESULTS / "ways.md", _ways(pd.read_csv(ways), bench))
        say(f"wrote {RESULTS / 'ways.md'}")


def _components(file: Path) -> str:
    """The components as last written: without the cells of `make bench` here they cannot be made anew."""
    _, _, rest = file.read_text(encoding="utf-8").partition("## The components\n\n") if file.exists() else ("", "", "")
    return rest.partition("\n## Every measured variant")[0]


def _bar(runs: pd.DataFrame, bench: dict) -> str:
    """The main table: Lt-Di, the controls and the reported figures, a column a setting."""
    runs = runs[runs.setting.str.startswith("omniglot-")]
    settings = [each for each in bench["settings"] if each.startswith("omniglot-")]
    rows = []
    for classes, group in sorted(runs.groupby("train_classes")):
        for method, variant in (
            ("ltdi", "ltdi"),
            ("lvdi", "lvdi"),
            *((each, "control") for each in bench["controls"]),
            ("ceiling", "control"),
        ):
            cells = [
                _cell(group[(group.setting == s) & (group.method == method) & (group.variant == variant)])
                for s in settings
            ]
            rows.append([f"{bench['names'][method]}", str(classes), *cells])
        best = [
            _paired(group[(group.setting == s) & (group.method == "ltdi") & (group.variant == "ltdi")])
            for s in settings
        ]
        rows.append(["Lt-Di − best control, paired", str(classes), *best])
    sources = {"ltdi": "the paper", "lvdi": "the paper", "prototype": "ProtoNet with Conv4, 1,200 classes"}
    for name, source in sources.items():
        rows.append(
            [
                f"{bench['names'][name]} (reported: {source})",
                "",
                *(f"{value:g}" for value in bench["reported"][name][:4]),
            ]
        )
    head = "# Omniglot, accuracy in percent\n\n" + _caption(runs)
    return head + _markdown(["head", "training classes", *(each.removeprefix("omniglot-") for each in settings)], rows)


def _ablation(runs: pd.DataFrame, beside: pd.DataFrame, bench: dict, components: str) -> str:
    """Table 1's components, then every measured variant against the best control of its own setting and seed, and against Lt-Di."""
    own = runs[~runs.variant.str.endswith("control")]
    of_noise = own.variant.str.startswith("noise_")
    text = f"# Ablations, accuracy in percent\n\n## The components\n\n{components}\n## Every measured variant, best first within a setting\n\n"
    text += _caption(own[~of_noise]) + _variants(own[~of_noise], beside)
    if of_noise.any():
        base = ", ".join(f"{key} = {value}" for key, value in bench["bases"]["noise"].items())
        text += f"\n## From noise\n\nWhat is changed here is changed in a chain that has no closed form to begin at: {base}.\n\n"
        text += _caption(own[of_noise]) + _variants(own[of_noise], beside)
    return text


def _variants(runs: pd.DataFrame, beside: pd.DataFrame) -> str:
    rows = []
    for (setting, classes, method, variant), group in runs.groupby(["setting", "train_classes", "method", "variant"]):
        pairs = beside[
            (beside.setting == setting)
            & (beside.train_classes == classes)
            & (beside.variant == variant)
            & (beside.beside == "ltdi")
        ]
        differences = [_paired(group), "" if pairs.empty else _difference(pairs) + _spread(pairs.paired_diff)]
        rows.append(
            [
                setting,
                str(classes),
                variant.removeprefix("noise_"),
                method,
                _cell(group),
                *differences,
                f"{group.ms_batch_1.mean():.1f}",
                f"{group.seconds_meta_train.mean():.0f}",
            ]
        )
    rows.sort(key=lambda row: (row[0], row[1], -float(row[5].split()[0])))
    return _markdown(
        [
            "setting",
            "training classes",
            "variant",
            "method",
            "accuracy",
            "− best control, paired",
            "− Lt-Di, paired",
            "ms, batch 1",
            "meta-training, s",
        ],
        rows,
    )


def _sharpness(rows: pd.DataFrame) -> str:
    """λ_max of the trained heads' loss, a line a variant."""
    lines = []
    for (setting, variant), group in rows.groupby(["setting", "variant"]):
        compared = (
            "" if variant.endswith("ltdi") else f"{group.paired_diff.mean():+.4f} ± {_pooled(group.paired_ci95):.4f}"
        )
        lines.append(
            [
                setting,
                variant,
                f"{group.lambda_max.mean():.4f} ± {_pooled(group.ci95):.4f}",
                compared,
                str(len(group)),
                str(group.tasks.sum()),
            ]
        )
    text = "\n## How sharp the trained heads' minima are\n\nThe largest eigenvalue of the Hessian of the loss on all images of a meta-test task's classes, at the recorded head w_0; ± is the 95 % interval over tasks. Rows: `sharpness.csv`.\n\n"
    return text + _markdown(["setting", "variant", "λ_max", "− Lt-Di's heads, paired", "seeds", "tasks"], lines)


def _ways(rows: pd.DataFrame, bench: dict) -> str:
    """Heads for other numbers of classes and images than a run was trained on, a line each."""
    methods, lines = list(dict.fromkeys(["ltdi", *rows.method])), []
    for (setting, n_way, n_shot), group in rows.groupby(["setting", "n_way", "n_shot"]):
        own = group[group.method == "ltdi"]
        lines.append(
            [setting, str(n_way), str(n_shot), *(_cell(group[group.method == each]) for each in methods), _paired(own)]
        )
    text = "# One run's heads for other tasks, accuracy in percent\n\nGenerated without further training by a run of the setting, whose classes and images a class differ. "
    text += _caption(rows).replace("runs.csv", "ways.csv")
    return text + _markdown(
        [
            "trained on",
            "classes",
            "images of each",
            *(bench["names"][each] for each in methods),
            "Lt-Di − best control, paired",
        ],
        lines,
    )


def _cell(group: pd.DataFrame) -> str:
    if group.empty:
        return "missing"
    interval = _pooled(group.ci95)
    over = f" over {len(group)} seeds" if len(group) > 1 else ""
    return f"{100 * group.accuracy.mean():.2f} ± {100 * interval:.2f}{_spread(group.accuracy)}{over}"


def _paired(group: pd.DataFrame) -> str:
    if group.empty:
        return "missing"
    return f"{_difference(group)} ({'/'.join(sorted(set(group.best_control)))})"


def _difference(group: pd.DataFrame) -> str:
    return f"{100 * group.paired_diff.mean():+.3f} ± {100 * _pooled(group.paired_ci95):.3f}"


def _spread(values: pd.Series) -> str:
    """The deviation between seeds."""
    return f", sd {100 * values.std():.2f}" if len(values) > 1 else ""


def _pooled(ci95: pd.Series) -> float:
    """The interval of a mean over seeds whose tasks are drawn apart."""
    return float((ci95**2).sum() ** 0.5 / len(ci95))


def _caption(runs: pd.DataFrame) -> str:
    seeds, tasks = sorted(set(runs.seed)), sorted(set(runs.tasks))
    return (
        f"Meta-test tasks a seed: {', '.join(map(str, tasks))}; seeds {', '.join(map(str, seeds))}; machine: {', '.join(sorted(set(runs.device)))}. "
        "± is the 95 % interval over tasks, pooled over seeds; sd the deviation between seeds where there are several. Rows: `runs.csv`.\n\n"
    )


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


if __name__ == "__main__":
    main()
