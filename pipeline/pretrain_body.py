"""Stage 1: what is frozen, the body, trained on the meta-training classes alone -> data/body/."""

from pathlib import Path

import pandas as pd

from ltdi.bodies.registry import write_body
from ltdi.scenarios import SCENARIOS
from ltdi.scenarios.base import Pretraining
from ltdi.store import write_json, write_tsv
from ltdi.store.code_digest import name_of
from ltdi.utils.console import say
from ltdi.utils.devices import deterministic, device
from ltdi.utils.trainer import Training
from pipeline.common import params as parameters
from pipeline.common.checkpoints import resumable
from pipeline.common.stage import run


def main(params_file: Path, data: Path) -> None:
    params = parameters.load(params_file, "seed", "scenario", "data", "texts", "body")
    deterministic(training=True)
    scenario = SCENARIOS[params.scenario.name]
    data_section = getattr(params, scenario.data).model_dump()
    work = scenario.pretrain(data_section, params.body.model_dump(), seed=params.seed, device=device())
    if work.model is None or work.rows is None:
        return _write(data, work, pd.DataFrame())
    training = Training(work.model, **work.optimizer)
    key = name_of("body", *work.inputs, code=work.code)
    lr = f"body.lr = {params.body.lr}"
    curve, _ = resumable(training, work.rows(training), key, every=500, name="pretrain_body", lr=lr)
    work.model.load_state_dict(training.average)
    _write(data, work, curve)


def _write(data: Path, work: Pretraining, curve: pd.DataFrame) -> None:
    scores = work.scores()
    if scores:
        say(", ".join(f"{name} {value:.4f}" for name, value in scores.items()))
    write_body(data / "body" / "body.safetensors", work.frozen, work.facts)
    write_tsv(data / "body" / "curve.tsv", curve)
    write_json(data / "body" / "metrics.json", scores)


if __name__ == "__main__":
    run(main, writes="body")
