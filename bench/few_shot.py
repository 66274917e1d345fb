"""The few-shot table (the paper's Table 3) and its picture, from the cells that `make bench` measured."""

from dataclasses import dataclass
from itertools import product
from pathlib import Path

import matplotlib
import matplotlib.ticker
import pandas as pd
import torch

from bench import CELLS
from ltdi.metrics import best_and_paired, mean_and_ci95
from ltdi.store import read_json, read_table

matplotlib.use("Agg")
import matplotlib.pyplot as plt


@dataclass(frozen=True, eq=False)
class Row:
    """A method in a setting: the accuracies of all tasks by seed (S, M), the medians of its times, and its facts."""

    setting: str
    method: str
    scores: pd.DataFrame
    times: pd.DataFrame
    facts: dict

    @property
    def values(self) -> torch.Tensor:
        """All tasks of all seeds, one after another."""
        return torch.tensor(self.scores.sort_values(["seed", "task"]).accuracy.to_numpy())

    @property
    def spread(self) -> float | None:
        """The standard deviation between seeds."""
        means = self.scores.groupby("seed").accuracy.mean()
        return float(means.std()) if len(means) > 1 else None

    def ms(self, batch: int, *parts: str) -> float:
        chosen = self.times[self.times.batch == batch]
        return float(sum(chosen[part] for part in parts).median())


def load(bench: dict) -> tuple[dict[tuple[str, str], Row], list[str]]:
    """The measured rows by (setting, method), and why a setting, or a method in it, has none."""
    rows, missing = {}, {}
    for setting, cell in product(bench["settings"], [*bench["methods"], "controls"]):
        folder = CELLS / setting / cell
        if not (folder / "cell.json").exists():
            continue
        facts = read_json(folder / "cell.json")
        if facts["missing"]:
            missing.setdefault(f"{setting}: {facts['missing']}", None)
            continue
        scores, times = read_table(folder / "per_task.parquet"), read_table(folder / "timing.parquet")
        for method in scores.method.unique():
            rows[setting, method] = Row(
                setting, method, scores[scores.method == method], times[times.name == method], facts
            )
    return rows, list(missing)


def paired(
    rows: dict[tuple[str, str], Row], setting: str, method: str, controls: list[str]
) -> tuple[str, dict[str, float]]:
    """The best control of the setting, and the method − it over the same tasks."""
    return best_and_paired(
        rows[setting, method].values, {each: rows[setting, each].values for each in controls if each != method}
    )


def long_rows(rows: dict[tuple[str, str], Row], bench: dict) -> list[dict]:
    """Rows for runs.csv, one a seed."""
    table = []
    for (setting, method), row in rows.items():
        for seed, facts in row.facts["seeds"].items():
            mine = {
                key: Row(*key, each.scores[each.scores.seed == int(seed)], each.times, each.facts)
                for key, each in rows.items()
                if key[0] == setting
            }
            accuracy, ci95 = mean_and_ci95(mine[setting, method].values)
            entry = {
                "setting": setting,
                "method": method,
                "variant": f"few_shot_{row.facts['budget']}",
                "train_classes": facts["train_classes"],
            }
            entry |= {"seed": int(seed), "tasks": len(mine[setting, method].values), "accuracy": accuracy, "ci95": ci95}
            if method not in bench["controls"]:
                best, difference = paired(mine, setting, method, bench["controls"])
                entry |= {
                    "best_control": best,
                    "paired_diff": difference["difference"],
                    "paired_ci95": difference["ci95"],
                }
            if method in bench["methods"]:
                entry["seconds_meta_train"] = round(facts["seconds"], 1)
            entry |= {
                "ms_batch_1": row.ms(1, "ms_embed", "ms_generate"),
                "ms_batch_64": row.ms(64, "ms_embed", "ms_generate"),
            }
            table.append(entry | {"device": row.facts["device"], "commit": row.facts["commit"]})
    return table


def markdown(rows: dict[tuple[str, str], Row], missing: list[str], bench: dict) -> str:
    budgets = sorted({row.facts["budget"] for row in rows.values()})
    any_row = next(iter(rows.values()))
    labels = ", ".join(bench["budgets"][name]["label"] for name in budgets)
    tasks = sorted({len(row.values) for row in rows.values()})
    text = f"# Few-shot classification: every method, every setting ({labels})\n\n"
    text += (
        "Accuracy in percent on meta-test tasks, ± the 95 % interval over tasks"
        f" ({', '.join(map(str, tasks))} tasks, seeds {', '.join(any_row.facts['seeds'])}); sd is the deviation between seeds where there are several. "
        "After the bar stands what the paper (the prototype: Snell et al. 2017) reports, on another body. **Bold**: the best measured method. "
        "▲ / ▼: above / below the best control of the setting by more than the 95 % interval of the paired difference. "
        "All rows of a setting but REPTILE and Meta-Baseline, which train a body of their own on from it, use one frozen Conv4. "
        f"Machine: {any_row.facts['device']}. Command: `make bench{'' if budgets == ['quick'] else ' BUDGET=' + budgets[0]}`.\n\n"
    )
    text += _table(_accuracies(rows, bench))
    text += _notes(rows, missing, bench)
    text += "\n## What to use\n\n" + _advice(rows, bench)
    text += "\n## Time\n\n" + _times(rows, bench)
    return text


def _accuracies(rows: dict[tuple[str, str], Row], bench: dict) -> list[list[str]]:
    settings = list(bench["settings"])
    best = {
        s: max(
            (m for m in bench["methods"] if (s, m) in rows), key=lambda m: rows[s, m].values.mean().item(), default=None
        )
        for s in settings
    }
    table = [["", *settings]]
    for method in (*bench["methods"], None, *bench["controls"]):
        if method is None:
            table.append(["*controls*", *[""] * len(settings)])
            continue
        cells = []
        for j, setting in enumerate(settings):
            reported = bench["reported"].get(method, [])
            said = f" \\| {reported[j - 1]:g}" if j and reported and reported[j - 1] is not None else ""
            cells.append(_accuracy(rows, setting, method, best, bench) + said)
        table.append([bench["names"][method], *cells])
    return table


def _accuracy(rows: dict[tuple[str, str], Row], setting: str, method: str, best: dict, bench: dict) -> str:
    if (setting, method) not in rows:
        return "missing"
    row = rows[setting, method]
    mean, ci95 = mean_and_ci95(row.values)
    cell = f"{100 * mean:.2f}"
    cell = f"**{cell}**" if best[setting] == method else cell
    cell += f" ± {100 * ci95:.2f}" + ("" if row.spread is None else f" sd {100 * row.spread:.2f}")
    if method in bench["controls"] or (setting, bench["controls"][0]) not in rows:
        return cell
    return cell + " " + _mark(paired(rows, setting, method, bench["controls"])[1])


def _mark(paired: dict[str, float]) -> str:
    if abs(paired["difference"]) <= paired["ci95"]:
        return ""
    return "▲" if paired["difference"] > 0 else "▼"


def _notes(rows: dict[tuple[str, str], Row], missing: list[str], bench: dict) -> str:
    lines = [f"- missing: {each}" for each in missing]
    for setting in bench["settings"]:
        measured = [row for (s, _), row in rows.items() if s == setting]
        if measured:
            facts = next(iter(measured[0].facts["seeds"].values()))
            lines.append(
                f"- {setting}: {facts['train_classes']} training classes; heads that saw the queries too (the ceiling): {100 * facts['ceiling']['accuracy']:.2f}"
            )
    return "\n" + "\n".join(lines) + "\n"


def _advice(rows: dict[tuple[str, str], Row], bench: dict) -> str:
    lines = []
    for setting in bench["settings"]:
        measured = {m: rows[setting, m] for m in bench["methods"] if (setting, m) in rows}
        if not measured or (setting, bench["controls"][0]) not in rows:
            continue
        compared = {m: paired(rows, setting, m, bench["controls"]) for m in measured}
        above = [m for m, (_, p) in compared.items() if p["difference"] > p["ci95"]]
        control = next(iter(compared.values()))[0]
        if above:
            above.sort(key=lambda m: -compared[m][1]["difference"])
            named = ", ".join(
                f"{bench['names'][m]} ({100 * compared[m][1]['difference']:+.2f} ± {100 * compared[m][1]['ci95']:.2f})"
                for m in above
            )
            lines.append(
                f"- {setting}: above the best control ({bench['names'][control]}), paired over tasks: {named}."
            )
        else:
            lines.append(
                f"- {setting}: nothing is above the best control ({bench['names'][control]}) by more than chance: take a control."
            )
    return "\n".join(lines) + "\n"


def _times(rows: dict[tuple[str, str], Row], bench: dict) -> str:
    text = (
        "Milliseconds a task from support images to usable weights, one task at a time and 64 at once, and for one query image to its label; "
        "medians after warming up, one clock for all. *embed*: the frozen body on the support images; *generate*: from features to weights, "
        "which for methods that adapt is gradient steps; methods without embed work on the images themselves.\n\n"
    )
    for setting in bench["settings"]:
        table = [
            [
                setting,
                "embed",
                "generate",
                "of it gradient steps",
                "in all",
                "in all, 64 at once",
                "a query image",
                "meta-training, s",
            ]
        ]
        for method in (*bench["methods"], *bench["controls"]):
            if (setting, method) not in rows:
                continue
            row = rows[setting, method]
            steps = row.times.adapts.any()
            seconds = sum(each["seconds"] for each in row.facts["seeds"].values()) / len(row.facts["seeds"])
            table.append(
                [
                    bench["names"][method],
                    f"{row.ms(1, 'ms_embed'):.1f}",
                    f"{row.ms(1, 'ms_generate'):.2f}",
                    f"{row.ms(1, 'ms_generate'):.2f}" if steps else "",
                    f"{row.ms(1, 'ms_embed', 'ms_generate'):.1f}",
                    f"{row.ms(64, 'ms_embed', 'ms_generate'):.2f}",
                    f"{row.ms(1, 'ms_query'):.1f}",
                    f"{seconds:.0f}" if method in bench["methods"] else "",
                ]
            )
        if len(table) > 1:
            text += _table(table) + "\n"
    return text


def ablation(rows: dict[tuple[str, str], Row], bench: dict) -> str:
    """The paper's Table 1: what each component adds, from the same cells."""
    components = {
        "reptile_head": "",
        "llo_vae": "C1",
        "lvdi": "C1 C2",
        "ltdi": "C1 C2 C3",
        "mcdi": "C1 C2, the successor's targets",
    }
    settings = [s for s in bench["settings"] if any(key[0] == s for key in rows)]
    table = [["", "components", *settings]]
    for method, parts in components.items():
        cells = []
        for setting in settings:
            if (setting, method) not in rows:
                cells.append("missing")
                continue
            mean, ci95 = mean_and_ci95(rows[setting, method].values)
            _, difference = paired(rows, setting, method, bench["controls"])
            cells.append(
                f"{100 * mean:.2f} ± {100 * ci95:.2f} ({100 * difference['difference']:+.2f} ± {100 * difference['ci95']:.2f})"
            )
        table.append([bench["names"][method], parts, *cells])
    return (
        "C1: weights are generated by a model that learned on other tasks. C2: by diffusion. C3: by trajectory diffusion. "
        "In brackets the difference to the best control of the setting, paired over tasks.\n\n"
    ) + _table(table)


def _table(rows: list[list[str]]) -> str:
    head, *body = rows
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *body]) + "\n"


def picture(rows: dict[tuple[str, str], Row], bench: dict, path: Path) -> None:
    """Accuracy, as the paired difference to the best control, against the time from support images to weights; a panel a setting."""
    settings = [s for s in bench["settings"] if any(key[0] == s for key in rows)]
    methods = [m for m in (*bench["methods"], *bench["controls"]) if m not in ("mean_head", "nearest_head")]
    columns = min(3, len(settings) + 1)
    lines = -(-(len(settings) + 1) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(4.6 * columns, 3.8 * lines), squeeze=False)
    shown = {}
    for axis, setting in zip(axes.flat, settings):
        for j, method in enumerate(methods):
            if (setting, method) not in rows:
                continue
            _, difference = paired(rows, setting, method, bench["controls"])
            style = {"color": plt.get_cmap("tab20")(j % 20), "marker": "s" if method in bench["controls"] else "o"}
            place = rows[setting, method].ms(1, "ms_embed", "ms_generate"), 100 * difference["difference"]
            shown[method] = axis.errorbar(*place, 100 * difference["ci95"], markersize=5, linewidth=0.9, **style)
        axis.axhline(0, color="0.7", linewidth=0.8, zorder=0)
        axis.set(
            xscale="log", title=setting, xlabel="ms a task, images to weights", ylabel="accuracy − best control, points"
        )
        axis.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
    for axis in axes.flat[len(settings) :]:
        axis.axis("off")
    known = [method for method in methods if method in shown]
    axes.flat[len(settings)].legend(
        [shown[method] for method in known],
        [bench["names"][method] for method in known],
        loc="center",
        fontsize=8,
        ncol=2,
    )
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)
