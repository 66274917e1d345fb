"""``python -m bench.bodies``: the frozen bodies of the tables, trained by their own stage -> bench/bodies/<data set>.safetensors.

They are kept in the repository, so that any row can be measured again without the half hour that a body takes. A body
already there is trained anew and replaced: rows on the old one are then rows on another body.
"""

from pathlib import Path
from typing import Annotated

import typer

from bench import BENCH, ROOT, RUNS
from bench.plan import load_yaml, override
from bench.rows import commit, machine
from bench.stages import run_stages
from ltdi.errors import InputError
from ltdi.store import read_json, read_tensors, write_json, write_tensors
from pipeline.progress import say

BODIES = BENCH / "bodies"


def main(
    data: Annotated[list[str], typer.Argument(help="Data sets of bench/params.yaml.")],
    root: Annotated[Path, typer.Option(envvar="LTDI_DATA", help="The folder that holds the data sets.")] = Path(
        "data/raw"
    ),
) -> None:
    bench = load_yaml(BENCH / "params.yaml")
    try:
        for each in data:
            if each not in bench["bodies"]:
                raise InputError(
                    f"data set {each!r} is not in bench/params.yaml; allowed: {', '.join(bench['bodies'])}"
                )
            recipe = bench["data"][each] | bench["bodies"][each]
            params = override(load_yaml(ROOT / "params.yaml"), recipe | {"body.weights": None, "data.root": str(root)})
            made = run_stages(params, RUNS, until="pretrain_body") / "body"
            write_tensors(BODIES / f"{each}.safetensors", *read_tensors(made / "body.safetensors"))
            facts = {
                "recipe": bench["bodies"][each],
                **read_json(made / "metrics.json"),
                "device": machine(),
                "commit": commit(),
            }
            write_json(BODIES / f"{each}.json", facts)
            say(f"wrote {BODIES / f'{each}.safetensors'}")
    except InputError as error:
        say(f"bench: {error}")
        raise SystemExit(2) from error


if __name__ == "__main__":
    typer.run(main)
