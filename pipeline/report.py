"""A finished run as one page, ``python -m pipeline.report`` -> data/report.html.

It is readable on a telephone, and nothing in it is fetched from anywhere.
"""

import base64
import shlex
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ltdi.evaluation.condition_ablation import RIGHT, compare_conditions, describe_conditions
from ltdi.store import read_json, read_tensors, write_text
from ltdi.trajectories.storage import load_initialization, load_trajectories, names
from ltdi.utils.console import say
from pipeline.common.stage import run
from pipeline.compared import MethodRow, advice, bars_of, heads_of, method_file
from pipeline.summary import outcome

TEMPLATES = Path(__file__).parent
AUDITED = 200
"""Meta-test tasks of the audit: seconds, where tasks are of images."""
ON_A_CURVE = 200


def main(data: Path) -> None:
    write_text(data / "report.html", page(data))
    say(f"wrote {data / 'report.html'}: one file, to be opened in any browser")


def page(data: Path) -> str:
    """
    Raises:
        InputError: the folder holds no finished run.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("report.html").render(_values(data))


def _values(data: Path) -> dict[str, Any]:
    """All that the page says."""
    metrics, facts = read_json(data / "results" / "metrics.json"), _facts(data)
    heads, axis = heads_of(data, metrics)
    audited = compare_conditions(data, n_tasks=min(AUDITED, len(heads[0].scores)))
    rows, audit_axis = _audit(audited)
    picture = data / "results" / "trajectory.png"
    return {
        "title": f"{metrics['method']} on {facts['data set']}: {facts['tasks']}",
        "outcome": outcome(metrics),
        "facts": facts.items(),
        "scored_by": metrics["scored_by"],
        "method": metrics["method"],
        "best_baseline": metrics.get("best_baseline"),
        "n_tasks": len(heads[0].scores),
        "heads": heads,
        "axis": axis,
        "ceiling": metrics["ceiling"],
        "advice": advice(data, heads, metrics),
        "audit": rows,
        "audit_axis": audit_axis,
        "audit_told": describe_conditions(audited),
        "n_audited": min(AUDITED, len(heads[0].scores)),
        "picture": f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}",
        "curves": _curves(data / "model" / "curve.tsv"),
        "costs": _costs(data, heads).items(),
        "commands": _commands(data),
    }


# -- what the run is ---------------------------------------------------------------------------------


def _facts(data: Path) -> dict[str, str]:
    initialization, _, scenario = load_initialization(data)
    method = method_file(data, names(data)[0])[1]
    setup = method["setup"]
    told = {
        "scenario": scenario["scenario"],
        "data set": _data_set(data),
        "tasks": f"{setup['n_way']} classes, {setup['n_shot']} known of each",
        "meta-training": f"{setup['n_tasks']} recorded tasks of {setup['n_classes']} classes",
        "weights of": _listed(initialization.learner.facts()),
        "initialization": initialization.kind,
        "method": names(data)[0],
        "baselines": ", ".join(names(data)[1]) or "none",
    }
    for section in ("diffusion", "denoiser", "meta"):
        told[section] = _listed(setup[section])
    return told | ({"of the method": _listed(method["own"])} if method["own"] else {})


def _data_set(data: Path) -> str:
    """Of images its name; texts are the user's own."""
    file = data / "tasks" / "features.safetensors"
    return str(read_tensors(file, kind="features")[1]["data_set"]) if file.is_file() else "labelled texts"


def _listed(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


# -- the audit, pictures, costs, commands --------------------------------------------------------------


def _audit(table: pd.DataFrame) -> tuple[list[dict[str, Any]], tuple[float, float]]:
    """Rows of the audit that have a score, and the ends of their axis in percent."""
    table = table.dropna(subset=["score"])
    bars, axis = bars_of(list(zip(table.score, table.ci95)), near=1.0)
    rows = []
    for row, bar in zip(table.to_dict("records"), bars):
        named = {"name": row["weights"], "right": row["weights"] == RIGHT, "distance": row["distance2"], "bar": bar}
        rows.append(named | {str(column): value for column, value in row.items()})
    return rows, axis


def _curves(file: Path) -> list[dict[str, Any]]:
    """The columns of the curve as points in a square of 100, thinned to what can be seen; none of what learns
    nothing."""
    table = pd.read_csv(file, sep="\t") if file.stat().st_size > 1 else pd.DataFrame()
    curves = []
    for name in ("loss", "val_score"):
        own = table[["step", name]].dropna() if {"step", name} <= set(table) else pd.DataFrame()
        if len(own) < 2:
            continue
        own = own.iloc[:: max(1, len(own) // ON_A_CURVE)]
        steps, values = own.step.to_numpy(), own[name].to_numpy()
        across = 100 * (steps - steps[0]) / (steps[-1] - steps[0])
        up = 95 - 90 * (values - values.min()) / max(values.max() - values.min(), 1e-12)
        points = " ".join(f"{x:.2f},{y:.2f}" for x, y in zip(across, up))
        of = {"loss": "meta-training loss", "val_score": "score on meta-val"}[name]
        ends = {"first": steps[0], "last": steps[-1], "low": values.min(), "high": values.max()}
        curves.append({"name": of, "points": points} | ends)
    return curves


def _costs(data: Path, heads: list[MethodRow]) -> dict[str, str]:
    own, trained = next(head for head in heads if head.own), read_json(data / "model" / "metrics.json")
    trajectories, _ = load_trajectories(data, "meta_train")
    megabytes = sum(file.stat().st_size for file in data.rglob("*") if file.is_file()) / 1e6
    return {
        "recorded": f"{len(trajectories)} trajectories of {trajectories.length} points of {trajectories.dim} numbers",
        "meta-training": f"{trained['seconds']:.0f} s, {trained['parameters']} parameters",
        "a task's weights": f"{own.ms_1:.2f} ms, of 64 tasks at once {own.ms_64:.3f} ms each",
        "on disk": f"{megabytes:.0f} MB, all that the stages wrote",
    }


def _commands(data: Path) -> list[tuple[str, str]]:
    """What a user runs next, by what tasks are made of; ``data`` is named where it is not the default."""
    where = "" if data == Path("data") else f" --data {shlex.quote(str(data))}"
    use = {
        "from_names": (
            "Heads for classes of your own, from their names",
            "ltdi classify --names 'zebra, okapi' photos",
        ),
        "texts": ("An adapter for labelled texts of your own, which peft loads", "ltdi adapt my_task --out adapter"),
    }
    of_images = ("A head for classes of your own, from a folder of images of each", "ltdi classify my_classes photos")
    what, command = use.get(load_initialization(data)[2]["source"], of_images)
    return [
        ("The same run again: what has not changed is kept", "make repro"),
        (what, command + where),
        ("The audit over more tasks", f"ltdi audit {shlex.quote(str(data))} --tasks 1000 --csv audit.csv"),
        ("Another method on the same tasks, and both side by side", "dvc exp run -S method.name=lvdi\nmake compare"),
    ]


if __name__ == "__main__":
    run(lambda params_file, data: main(data))
