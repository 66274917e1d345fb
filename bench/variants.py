"""From a row of bench/params.yaml to the params of its stages."""

from pathlib import Path

from bench import BENCH, ROOT
from bench.plan import changes_of, load_yaml, override
from ltdi.errors import InputError


def variant_params(
    setting: str, variant: str, *, base: str, budget: str, seed: int, root: Path, train_on_val: bool = False
) -> dict:
    """The params of a variant of bench/params.yaml, its controls and what is measured beside it among them.

    Raises:
        InputError: bench/params.yaml has no such setting, variant, base or budget.
    """
    defaults, bench = load_yaml(ROOT / "params.yaml"), load_yaml(BENCH / "params.yaml")
    _pick(bench["settings"], setting, "setting")
    chosen = _pick(bench["budgets"], budget, "budget")
    changes = changes_of(bench, setting, chosen) | {"method.controls": chosen.get("controls", bench["controls"])}
    changes |= _pick(bench["bases"], base, "base") | _pick(bench["variants"], variant, "variant")
    # the bodies that are kept have not seen the meta-val classes
    changes |= {"body.weights": None} if train_on_val else {}
    return override(defaults, changes | {"seed": seed, "data.train_on_val": train_on_val, "data.root": str(root)})


def prefix_of(base: str) -> str:
    """What a variant of this base is called by in the long tables."""
    return "" if base == "defaults" else f"{base}_"


def _pick(choices: dict, name: str, kind: str) -> dict:
    if name not in choices:
        raise InputError(f"{kind} {name!r} is not in bench/params.yaml; allowed: {', '.join(choices)}")
    return dict(choices[name] or {})
