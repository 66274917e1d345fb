"""Which hyperparameter is likely at fault where numbers became infinite: the one that is furthest above what is
usual."""

from collections.abc import Mapping
from typing import Any

USUAL = {
    "body.lr": 2e-3,
    "body.weight_decay": 1e-4,
    "trajectories.lr": 1e-2,
    "trajectories.sam": 0.05,
    "meta.outer_lr": 1.5e-3,
    "meta.inner_lr": 0.05,
    "meta.weight_loss": 1.0,
    "meta.query_loss": 1.0,
    "diffusion.chain_noise": 1.0,
    "diffusion.start_noise": 1.0,
    "generate.adapt_lr": 1e-3,
}
"""About what params.yaml has: where numbers are finite."""


def suspect(*sections: tuple[str, Mapping[str, Any]]) -> str:
    """Of the hyperparameters of some sections, each with its name, the one to lower, as a message says it: ``key =
    value``."""
    values = {f"{name}.{key}": value for name, hparams in sections for key, value in hparams.items()}
    first = max((key for key in USUAL if key in values), key=lambda key: values[key] / USUAL[key])
    return f"{first} = {values[first]}"
