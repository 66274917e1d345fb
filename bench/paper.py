"""``python -m bench paper-params``: the variant ``paper`` of params.yaml, as options of ``dvc exp run``."""

from bench.settings import bench_params


def main() -> None:
    print(*(f"-S {key}={_written(value)}" for key, value in bench_params()["variants"]["paper"].items()))


def _written(value: object) -> str:
    """As YAML has it."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
