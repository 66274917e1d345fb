"""``python -m bench.run``: measure rows of bench/params.yaml and add them to bench/results/runs.csv."""

import platform
import subprocess
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import typer
from ruamel.yaml import YAML

from bench.cell import override, run_cell
from ltdi.errors import InputError
from ltdi.store import read_json, read_tensors, write_text
from pipeline.progress import say
from pipeline.stage import device

BENCH = Path(__file__).parent
COLUMNS = (
    "setting,method,variant,train_classes,seed,tasks,accuracy,ci95,best_control,paired_diff,paired_ci95,"
    "ms_batch_1,ms_batch_64,seconds_meta_train,device,commit"
).split(",")
CHOICE_COLUMNS = "setting,method,variant,train_classes,seed,tasks,val_accuracy,val_best_control,val_paired_diff,val_paired_ci95,seconds_meta_train,device,commit".split(",")
KEY = ["setting", "method", "variant", "train_classes", "seed"]


def main(
    setting: Annotated[list[str], typer.Option(help="A setting of bench/params.yaml; may be repeated.")],
    variant: Annotated[list[str], typer.Option(help="A variant of bench/params.yaml; may be repeated.")] = ["ltdi"],
    seed: Annotated[list[int], typer.Option(help="May be repeated.")] = [0],
    train_on_val: Annotated[bool, typer.Option(help="Train on the meta-val classes too (final rows).")] = False,
    budget: Annotated[str, typer.Option(help="A budget of bench/params.yaml.")] = "cpu",
    root: Annotated[Path, typer.Option(envvar="LTDI_DATA", help="The folder that holds the data sets.")] = Path("data/raw"),
    runs: Annotated[Path, typer.Option(help="Where the stages' outputs are kept.")] = Path("runs"),
) -> None:
    yaml = YAML(typ="safe")
    defaults, bench = yaml.load(Path("params.yaml")), yaml.load(BENCH / "params.yaml")
    try:
        for each_seed in seed:
            for each_setting in setting:
                for each_variant in variant:
                    changes = _pick(bench["settings"], each_setting, "setting") | _pick(bench["budgets"], budget, "budget")
                    changes |= _pick(bench["variants"], each_variant, "variant")
                    changes |= bench["train_on_val"] if train_on_val else {}
                    changes |= {"seed": each_seed, "data.train_on_val": train_on_val, "data.root": str(root)}
                    _measure(override(defaults, changes), each_setting, each_variant, runs)
    except InputError as error:
        say(f"bench: {error}")
        raise SystemExit(2) from error


def _pick(choices: dict, name: str, kind: str) -> dict:
    if name not in choices:
        raise InputError(f"{kind} {name!r} is not in bench/params.yaml; allowed: {', '.join(choices)}")
    return dict(choices[name] or {})


def _measure(params: dict, setting: str, variant: str, runs: Path) -> None:
    """Run one cell and write its rows: what it chose by, on meta-val, and what it reports, on meta-test."""
    say(f"bench: {setting} {variant} seed {params['seed']}{' (meta-val classes train too)' if params['data']['train_on_val'] else ''}")
    data = run_cell(params, runs)
    metrics, chosen = read_json(data / "results" / "metrics.json"), read_json(data / "model" / "metrics.json")
    common = {
        "setting": setting,
        "train_classes": read_tensors(data / "tasks" / "features.safetensors")[1]["train_classes"],
        "seed": params["seed"],
        "device": _device(),
        "commit": subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip(),
    }
    own = common | {"method": metrics["method"], "variant": variant, "seconds_meta_train": round(chosen["seconds"], 1)}
    rows = [_row(metrics, params) | own | {"best_control": metrics["best_control"], "paired_diff": metrics["paired"]["difference"], "paired_ci95": metrics["paired"]["ci95"]}]
    rows += [_row(control, params) | common | {"method": name, "variant": "control"} for name, control in metrics["controls"].items()]
    rows.append(common | {"method": "ceiling", "variant": "control", "tasks": params["tasks"]["meta_test"], **metrics["ceiling"]})
    _add(BENCH / "results" / "runs.csv", COLUMNS, rows)
    choice = own | {"tasks": params["tasks"]["meta_val"], "val_accuracy": chosen["val_accuracy"]}
    choice |= {"val_best_control": chosen["best_control"], "val_paired_diff": chosen["paired"]["difference"], "val_paired_ci95": chosen["paired"]["ci95"]}
    _add(BENCH / "results" / "choices.csv", CHOICE_COLUMNS, [choice])


def _row(metrics: dict, params: dict) -> dict:
    times = metrics["ms_per_task"]
    return {
        "tasks": params["tasks"]["meta_test"],
        "accuracy": metrics["accuracy"],
        "ci95": metrics["ci95"],
        "ms_batch_1": times["batch_1"],
        "ms_batch_64": times["batch_64"],
    }


def _add(file: Path, columns: list[str], rows: list[dict]) -> None:
    """Put rows into a long table, in the place of older rows of the same cells."""
    new = pd.DataFrame(rows)
    if file.exists():
        old = pd.read_csv(file, dtype={"commit": str})
        new = pd.concat([old, new]).drop_duplicates(KEY, keep="last")
    write_text(file, new.reindex(columns=columns).sort_values(KEY).to_csv(index=False, float_format="%.6g", lineterminator="\n"))


def _device() -> str:
    if device().type == "cuda":
        return torch.cuda.get_device_name()
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0] if names else model
    return f"{model}, {torch.get_num_threads()} threads"


if __name__ == "__main__":
    typer.run(main)
