"""The options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

Settings = Annotated[list[str], typer.Option("--setting", help="A setting of bench/conf/params.yaml; may be repeated.")]
Seeds = Annotated[list[int], typer.Option("--seed", help="May be repeated.")]
Base = Annotated[str, typer.Option(help="What variants change: a base of bench/conf/params.yaml.")]
Budget = Annotated[str, typer.Option(help="A budget of bench/conf/params.yaml.")]
Root = Annotated[Path, typer.Option(envvar="LTDI_DATA", help="The folder that holds the data sets.")]
Shots = Annotated[list[int], typer.Option("--n-shot", help="Images of a class; may be repeated.")]
Weights = Annotated[str, typer.Option(help="Of the body: a safetensors file in timm's keys, or hub.")]
Runs = Annotated[Path, typer.Option(help="Where the stages' outputs are kept.")]
RAW = Path("data/raw")
ONE_SEED, LTDI = [0], ["ltdi"]
NONE: list[str] = []
