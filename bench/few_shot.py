"""The few-shot table (the paper's Table 3), its times, and the components (Table 1), of the measured cells."""

from bench.cells import Cells
from bench.text import percent, table

COMPONENTS = {
    "reptile_head": "",
    "llo_vae": "C1",
    "lvdi": "C1 C2",
    "ltdi": "C1 C2 C3",
    "mcdi": "C1 C2, the successor's targets",
}


def markdown(cells: Cells) -> str:
    """The whole of few_shot.md."""
    return (
        _head(cells)
        + _accuracies(cells)
        + _notes(cells)
        + "\n## What to use\n\n"
        + "".join(f"- {setting}: {_advice(cells, setting)}\n" for setting in cells.settings if _advises(cells, setting))
        + "\n## Time\n\n"
        + _times(cells)
    )


def _head(cells: Cells) -> str:
    budgets = sorted({row.facts["budget"] for row in cells.rows.values()})
    first = next(iter(cells.rows.values()))
    labels = ", ".join(cells.bench["budgets"][name]["label"] for name in budgets)
    tasks = ", ".join(map(str, sorted({len(row.values) for row in cells.rows.values()})))
    command = f"make bench{'' if budgets == ['quick'] else ' BUDGET=' + budgets[0]}"
    return (
        f"# Few-shot classification: every method, every setting ({labels})\n\n"
        "Accuracy in percent on meta-test tasks, ± the 95 % interval over tasks"
        f" ({tasks} tasks, seeds {', '.join(first.facts['seeds'])});"
        " sd is the deviation between seeds where there are several."
        " After the bar stands what the paper (the prototype: Snell et al. 2017) reports, on another body."
        " **Bold**: the best measured method. ▲ / ▼: above / below the best baseline of the setting by more than the"
        " 95 % interval of the paired difference. All rows of a setting but REPTILE and Meta-Baseline, which train a"
        " body of their own on from it, use one frozen Conv4."
        f" Machine: {first.facts['device']}. Command: `{command}`. What is left with a wrong condition: `audit.md`.\n\n"
    )


def _accuracies(cells: Cells) -> str:
    bench, settings = cells.bench, list(cells.bench["settings"])
    best = {setting: _best(cells, setting) for setting in settings}

    def line(method: str) -> list[str]:
        reported = bench["reported"].get(method) or []
        said = ["", *(f" \\| {value:g}" if value is not None else "" for value in reported)]
        said += [""] * (len(settings) - len(said))
        shown = (_accuracy(cells, setting, method, best[setting]) for setting in settings)
        return [bench["names"][method], *(cell + beside for cell, beside in zip(shown, said))]

    rows = [line(method) for method in bench["methods"]]
    rows.append(["*baselines*", *[""] * len(settings)])
    return table(["", *settings], rows + [line(method) for method in bench["baselines"]])


def _best(cells: Cells, setting: str) -> str | None:
    """The best measured method, baselines aside."""
    measured = [method for method in cells.methods(setting) if method in cells.bench["methods"]]
    return max(measured, key=lambda method: cells.rows[setting, method].summary["accuracy"], default=None)


def _accuracy(cells: Cells, setting: str, method: str, best: str | None) -> str:
    if (setting, method) not in cells.rows:
        return "missing"
    row = cells.rows[setting, method]
    mean, _, half = percent(row.summary["accuracy"], row.summary["ci95"]).partition(" ± ")
    cell = f"**{mean}**" if best == method else mean
    cell += f" ± {half}" + ("" if row.spread is None else f" sd {100 * row.spread:.2f}")
    if method in cells.bench["baselines"] or not cells.has_baselines(setting):
        return cell
    paired = cells.compared(setting, method)
    mark = "▲" if paired["paired_diff"] > 0 else "▼"
    return f"{cell} {mark if abs(paired['paired_diff']) > paired['paired_ci95'] else ''}"


def _notes(cells: Cells) -> str:
    lines = [f"- missing: {each}" for each in cells.missing]
    for setting in cells.settings:
        facts = next(iter(cells.rows[setting, cells.methods(setting)[0]].facts["seeds"].values()))
        ceiling = f"{100 * facts['ceiling']['score']:.2f}"
        seen = f"heads that saw the queries too (the ceiling): {ceiling}"
        lines.append(f"- {setting}: {facts['train_classes']} training classes; {seen}")
    return "\n" + "\n".join(lines) + "\n"


def _advises(cells: Cells, setting: str) -> bool:
    return cells.has_baselines(setting) and _best(cells, setting) is not None


def _advice(cells: Cells, setting: str) -> str:
    names = cells.bench["names"]
    compared = {
        method: cells.compared(setting, method) for method in cells.methods(setting) if method in cells.bench["methods"]
    }
    baseline = names[next(iter(compared.values()))["best_baseline"]]
    above = [method for method, paired in compared.items() if paired["paired_diff"] > paired["paired_ci95"]]
    if not above:
        return f"nothing is above the best baseline ({baseline}) by more than chance: take a baseline."
    above.sort(key=lambda method: -compared[method]["paired_diff"])
    differences = (
        percent(compared[method]["paired_diff"], compared[method]["paired_ci95"], sign="+") for method in above
    )
    listed = ", ".join(f"{names[method]} ({difference})" for method, difference in zip(above, differences))
    return f"above the best baseline ({baseline}), paired over tasks: {listed}."


def _times(cells: Cells) -> str:
    text = (
        "Milliseconds a task from support images to usable weights, one task at a time and 64 at once, and for one"
        " query image to its label; medians after warming up, one clock for all. *embed*: the frozen body on the"
        " support images; *generate*: from features to weights, which for methods that adapt is gradient steps; methods"
        " without embed work on the images themselves.\n\n"
    )
    columns = ["embed", "generate", "of it gradient steps", "in all", "in all, 64 at once"]
    columns += ["a query image", "meta-training, s"]
    for setting in cells.settings:
        rows = [_time(cells, setting, method) for method in cells.methods(setting)]
        text += table([setting, *columns], rows) + "\n"
    return text


def _time(cells: Cells, setting: str, method: str) -> list[str]:
    row = cells.rows[setting, method]
    generate = f"{row.ms(1, 'ms_generate'):.2f}"
    return [
        cells.bench["names"][method],
        f"{row.ms(1, 'ms_embed'):.1f}",
        generate,
        generate if row.times.adapts.any() else "",
        f"{row.to_weights(1):.1f}",
        f"{row.to_weights(64):.2f}",
        f"{row.ms(1, 'ms_query'):.1f}",
        f"{row.seconds:.0f}" if method in cells.bench["methods"] else "",
    ]


def components(cells: Cells) -> str:
    """What each component adds."""

    def cell(setting: str, method: str) -> str:
        if (setting, method) not in cells.rows:
            return "missing"
        row, paired = cells.rows[setting, method].summary, cells.compared(setting, method)
        difference = percent(paired["paired_diff"], paired["paired_ci95"], sign="+")
        return f"{percent(row['accuracy'], row['ci95'])} ({difference})"

    rows = [
        [cells.bench["names"][method], parts, *(cell(setting, method) for setting in cells.settings)]
        for method, parts in COMPONENTS.items()
    ]
    return (
        "C1: weights are generated by a model that learned on other tasks. C2: by diffusion. C3: by trajectory"
        " diffusion. In brackets the difference to the best baseline of the setting, paired over tasks.\n\n"
    ) + table(["", "components", *cells.settings], rows)
