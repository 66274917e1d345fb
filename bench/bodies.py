"""``python -m bench bodies``: the frozen bodies of the tables, trained by their own stage -> bench/bodies/.

They are kept in the repository, so that any row can be measured again without the half hour that a body takes. A body
already there is trained anew and replaced: rows on the old one are then rows on another body.
"""

from typing import Annotated

import typer

from bench import BENCH
from bench.machine import origin
from bench.options import RAW, Root
from bench.settings import bench_params, defaults, override, pick
from bench.stages import run_stages
from ltdi.store import read_json, read_tensors, write_json, write_tensors
from ltdi.utils.console import say

BODIES = BENCH / "bodies"


def main(data: Annotated[list[str], typer.Argument(help="Data sets of bench/params.yaml.")], root: Root = RAW) -> None:
    bench = bench_params()
    for name in data:
        shared, own, file = pick(bench, "data", name), bench["bodies"][name], BODIES / f"{name}.safetensors"
        recipe = shared | own | {"body.weights": None, "data.root": str(root)}
        made = run_stages(override(defaults(), recipe), until="pretrain_body") / "body"
        write_tensors(file, *read_tensors(made / "body.safetensors", kind="body"), kind="body")
        write_json(file.with_suffix(".json"), {"recipe": own, **read_json(made / "metrics.json"), **origin()})
        say(f"wrote {file}")
