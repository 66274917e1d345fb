"""All params before the first stage: ``python -m pipeline.check``.

DVC looks for a method's file and for the keys that stages declare before a stage runs, and says of a name that is none
that there is no such file.
"""

from pathlib import Path

from pipeline.common import params


def main(params_file: Path, data: Path) -> None:
    params.load(params_file)


if __name__ == "__main__":
    from pipeline.common.stage import run

    run(main)
