"""What a finished run or a packed model is: plain values by name."""

from collections.abc import Mapping
from typing import Any

from ltdi.inference.model_files import ModelFiles
from ltdi.methods.common.base import Method
from ltdi.store import read_json
from ltdi.store.schemas import RESULTS


def info_of(files: ModelFiles, method: Method, setup: Mapping[str, Any]) -> dict[str, Any]:
    """Describe a run: one of its methods and that one's ``setup``."""
    told = _common(files, method, setup)
    results = files.folder / "results" / "metrics.json"
    return told | scores_of(read_json(results, kind=RESULTS)) if results.is_file() else told


def packed_info(files: ModelFiles, method: Method) -> dict[str, Any]:
    """Describe a packed model."""
    facts = files.facts
    told = {"model": f"{facts['name']} (format {facts['format']})", "licence": facts["licence"]}
    told |= _common(files, method, facts["tasks"]) | {"backbone": backbone_line(facts["backbone"])}
    trained = (f"{name}: {value}" for name, value in facts["trained_on"].items())
    return told | {"trained on": ", ".join(trained)} | (scores_of(facts["results"]) if facts["results"] else {})


def backbone_line(facts: Mapping[str, Any]) -> str:
    """Describe a backbone and where its weights are."""
    return f"{facts['name']}, from {facts['package']}" if facts.get("package") else str(facts["name"])


def scores_of(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The score on meta-test tasks, and the difference to the best baseline."""
    told = {metrics["scored_by"]: f"{metrics['score']:.4f} ± {metrics['ci95']:.4f} on meta-test tasks"}
    if "paired" in metrics:
        paired = metrics["paired"]
        told[f"over {metrics['best_baseline']}"] = f"{paired['difference']:+.4f} ± {paired['ci95']:.4f}"
    return told


def _common(files: ModelFiles, method: Method, setup: Mapping[str, Any]) -> dict[str, Any]:
    extractor = files.extractor
    return {
        "scenario": files.scenario["scenario"],
        "data set": extractor.data_set,
        "images": f"{extractor.size} × {extractor.size}",
        "learner": method.initialization.learner.facts()["name"],
        "initialization": method.initialization.kind,
        "tasks": f"{setup['n_way']} classes, {setup['n_shot']} images of each",
        "method": files.trained,
        "baselines": ", ".join(files.baselines) or "none",
        "any number of classes": "no" if method.fixed_n_way else "yes",
    }
