"""The table at the end of a run: ``python -m pipeline.summary``."""

from pathlib import Path
from typing import Literal

from rich.table import Table

from ltdi.store import read_json
from ltdi.store.schemas import RESULTS
from ltdi.utils.console import console, say


def show(data: Path) -> None:
    """Accuracy, time and distance of the generated heads and of every baseline, best first."""
    metrics = read_json(data / "results" / "metrics.json", kind=RESULTS)
    table = Table(title="Heads for meta-test tasks")
    columns: tuple[tuple[str, Literal["left", "right"]], ...] = (
        ("head", "left"),
        (metrics["scored_by"], "right"),
        ("± 95 %", "right"),
        ("ms/task", "right"),
        ("at batch 64", "right"),
        ("weight MSE", "right"),
    )
    for column, justify in columns:
        table.add_column(column, justify=justify)
    rows = metrics.get("baselines", {}) | {metrics["method"]: metrics}
    for name, row in sorted(rows.items(), key=lambda item: -item[1]["score"]):
        own = name == metrics["method"]
        times = row["ms_per_task"]
        distance = f"{row['weight_mse']:.2e}" if "weight_mse" in row else ""
        cells = (
            name,
            f"{row['score']:.4f}",
            f"{row['ci95']:.4f}",
            f"{times['batch_1']:.2f}",
            f"{times['batch_64']:.3f}",
            distance,
        )
        table.add_row(*cells, style="bold" if own else None)
    oracle = metrics["ceiling"]
    table.add_section()
    table.add_row("oracle", f"{oracle['score']:.4f}", f"{oracle['ci95']:.4f}", "", "", "")
    console.print(table)
    say(outcome(metrics))
    say("ms/task: from support images to weights, one task at a time, and a task of a batch of 64")
    say(
        "weight MSE: to the head trained on all images of the classes; the oracle is that head, fitted on the queries"
        " too"
    )
    for name, states in metrics["way"].items():
        say(f"weight MSE along it, {name}: " + ", ".join(f"{state} {value:.2e}" for state, value in states.items()))
    say("next: make example; dvc exp run -S method.name=lvdi, then make compare; dvc plots show; make help")


def outcome(metrics: dict) -> str:
    if "paired" not in metrics:
        return f"{metrics['method']}: {metrics['score']:.4f} ± {metrics['ci95']:.4f}"
    paired = metrics["paired"]
    difference = f"{paired['difference']:+.4f} ± {paired['ci95']:.4f}"
    return f"{metrics['method']} − {metrics['best_baseline']}, the best baseline: {difference} (paired over tasks)"


if __name__ == "__main__":
    from pipeline.common.stage import run

    run(lambda params_file, data: show(data))
