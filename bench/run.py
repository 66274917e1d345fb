"""``python -m bench.run``: measure rows of bench/params.yaml and add them to bench/results/runs.csv."""

from itertools import product
from pathlib import Path
from typing import Annotated

import torch
import typer

from bench import BENCH
from bench.plan import load_yaml
from bench.rows import BESIDE_COLUMNS, CHOICE_COLUMNS, COLUMNS, add, commit, machine
from bench.stages import run_stages
from bench.variants import prefix_of, variant_params
from ltdi.errors import InputError
from ltdi.metrics import best_and_paired, mean_and_ci95
from ltdi.store import read_json, read_table, read_tensors
from pipeline.progress import say


def main(
    setting: Annotated[list[str], typer.Option(help="A setting of bench/params.yaml; may be repeated.")],
    variant: Annotated[list[str], typer.Option(help="A variant of bench/params.yaml, or all; may be repeated.")] = [
        "ltdi"
    ],
    base: Annotated[str, typer.Option(help="What the variants change: a base of bench/params.yaml.")] = "defaults",
    seed: Annotated[list[int], typer.Option(help="May be repeated.")] = [0],
    train_on_val: Annotated[bool, typer.Option(help="Train on the meta-val classes too (final rows).")] = False,
    budget: Annotated[str, typer.Option(help="A budget of bench/params.yaml.")] = "cpu",
    root: Annotated[Path, typer.Option(envvar="LTDI_DATA", help="The folder that holds the data sets.")] = Path(
        "data/raw"
    ),
    runs: Annotated[Path, typer.Option(help="Where the stages' outputs are kept.")] = Path("runs"),
) -> None:
    bench, prefix = load_yaml(BENCH / "params.yaml"), prefix_of(base)
    chosen = {"base": base, "budget": budget, "root": root, "train_on_val": train_on_val}
    try:
        for each_seed, each_setting, each_variant in product(
            seed, setting, bench["variants"] if variant == ["all"] else variant
        ):
            say(
                f"bench: {each_setting} {prefix}{each_variant} seed {each_seed}{' (meta-val classes train too)' if train_on_val else ''}"
            )
            params = variant_params(each_setting, each_variant, seed=each_seed, **chosen)
            data = run_stages(params, runs)
            # what a variant changes is told from chance only beside Lt-Di on the same tasks
            beside = (
                {}
                if each_variant == "ltdi"
                else {"ltdi": run_stages(variant_params(each_setting, "ltdi", seed=each_seed, **chosen), runs)}
            )
            _write(params, data, beside, each_setting, prefix, each_variant)
    except InputError as error:
        say(f"bench: {error}")
        raise SystemExit(2) from error


def _write(params: dict, data: Path, beside: dict[str, Path], setting: str, prefix: str, variant: str) -> None:
    """A run's rows: what it chose by, on meta-val, and what it reports, on meta-test, beside the controls and beside other runs."""
    metrics, chosen = read_json(data / "results" / "metrics.json"), read_json(data / "model" / "metrics.json")
    common = {
        "setting": setting,
        "train_classes": read_tensors(data / "tasks" / "features.safetensors")[1]["train_classes"],
        "seed": params["seed"],
        "device": machine(),
        "commit": commit(),
    }
    own = common | {
        "method": metrics["method"],
        "variant": prefix + variant,
        "seconds_meta_train": round(chosen["seconds"], 1),
    }
    scores = _scores(data)
    rows = [
        _row(metrics, params)
        | own
        | _compared(scores[metrics["method"]], {name: scores[name] for name in metrics["controls"]})
    ]
    rows += [
        _row(values, params) | common | {"method": name, "variant": "control"}
        for name, values in metrics["controls"].items()
    ]
    differences = {
        name: mean_and_ci95(scores[metrics["method"]] - _scores(folder)[name]) for name, folder in beside.items()
    }
    add(
        "beside.csv",
        BESIDE_COLUMNS,
        [
            own | {"tasks": params["tasks"]["meta_test"], "beside": name, "paired_diff": mean, "paired_ci95": ci95}
            for name, (mean, ci95) in differences.items()
        ],
    )
    rows.append(
        common
        | {"method": "ceiling", "variant": "control", "tasks": params["tasks"]["meta_test"], **metrics["ceiling"]}
    )
    add("runs.csv", COLUMNS, rows)
    choice = own | {"tasks": params["tasks"]["meta_val"], "val_accuracy": chosen["val_accuracy"]}
    choice |= {
        "val_best_control": chosen["best_control"],
        "val_paired_diff": chosen["paired"]["difference"],
        "val_paired_ci95": chosen["paired"]["ci95"],
    }
    add("choices.csv", CHOICE_COLUMNS, [choice])


def _scores(data: Path) -> dict[str, torch.Tensor]:
    """The accuracy of each meta-test task by method."""
    return {
        name: torch.tensor(table.accuracy.to_numpy())
        for name, table in read_table(data / "results" / "per_task.parquet").groupby("method")
    }


def _compared(own: torch.Tensor, controls: dict[str, torch.Tensor]) -> dict:
    best, paired = best_and_paired(own, controls)
    return {"best_control": best, "paired_diff": paired["difference"], "paired_ci95": paired["ci95"]}


def _row(metrics: dict, params: dict) -> dict:
    times = metrics["ms_per_task"]
    return {
        "tasks": params["tasks"]["meta_test"],
        "accuracy": metrics["accuracy"],
        "ci95": metrics["ci95"],
        "ms_batch_1": times["batch_1"],
        "ms_batch_64": times["batch_64"],
    }


if __name__ == "__main__":
    typer.run(main)
