"""What is told of a finished run: plain values by name."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ltdi.methods.common.base import Method
from ltdi.store import read_json, read_tensors
from ltdi.store.schemas import FEATURES, RESULTS


def info_of(
    data: Path, scenario: str, method: Method, setup: Mapping[str, Any], names: tuple[str, Sequence[str]]
) -> dict[str, Any]:
    """Of the run in a folder: one of its methods and that one's ``setup``; ``names`` are the trained one and the
    baselines."""
    facts = read_tensors(data / "tasks" / "features.safetensors", kind=FEATURES)[1]
    trained, baselines = names
    told = {
        "scenario": scenario,
        "data set": facts["data_set"],
        "images": f"{facts['size']} × {facts['size']}",
        "learner": method.initialization.learner.facts()["name"],
        "initialization": method.initialization.kind,
        "tasks": f"{setup['n_way']} classes, {setup['n_shot']} images of each",
        "method": trained,
        "baselines": ", ".join(baselines) or "none",
        "any number of classes": "no" if method.fixed_n_way else "yes",
    }
    results = data / "results" / "metrics.json"
    if results.is_file():
        metrics = read_json(results, kind=RESULTS)
        told[metrics["scored_by"]] = f"{metrics['score']:.4f} ± {metrics['ci95']:.4f} on meta-test tasks"
        if "paired" in metrics:
            paired = metrics["paired"]
            told |= {f"over {metrics['best_baseline']}": f"{paired['difference']:+.4f} ± {paired['ci95']:.4f}"}
    return told
