"""Settings of bench/conf/params.yaml, resolved to the params of the stages."""

from collections.abc import Mapping
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from bench import CONF, ROOT
from ltdi.utils.errors import InputError


@cache
def load_yaml(file: Path) -> dict[str, Any]:
    """A YAML file, read once; to be copied by who changes it."""
    return YAML(typ="safe").load(file)


def conf(name: str) -> dict[str, Any]:
    """A copy of bench/conf/<name>.yaml."""
    return deepcopy(load_yaml(CONF / f"{name}.yaml"))


def bench_params() -> dict[str, Any]:
    return conf("params")


def defaults() -> dict[str, Any]:
    """params.yaml."""
    return load_yaml(ROOT / "params.yaml")


def pick(bench: Mapping[str, Any], section: str, name: str) -> dict[str, Any]:
    """A copy of an entry of a section of bench/conf/params.yaml.

    Raises:
        InputError: there is none of that name.
    """
    if name not in bench[section]:
        allowed = ", ".join(bench[section])
        raise InputError(f"{section.removesuffix('s')} {name!r} is not in bench/conf/params.yaml; allowed: {allowed}")
    return dict(bench[section][name] or {})


def changes_of(bench: Mapping[str, Any], setting: str, budget: Mapping[str, Any]) -> dict[str, Any]:
    """Return the changes of a setting and a budget to params.yaml, by dotted key."""
    values = pick(bench, "settings", setting)
    data = values.pop("data")
    return bench["data"][data] | values | budget["overrides"] | budget.get("data", {}).get(data, {})


def cell_params(bench: Mapping[str, Any], setting: str, method: str, budget: Mapping[str, Any]) -> dict[str, Any]:
    """The params of a cell; ``budget`` is one of bench/conf/params.yaml, the method "baselines" all baselines."""
    changes = changes_of(bench, setting, budget)
    if method == "baselines":
        first, *others = bench["baselines"]
        return override(defaults(), changes | {"method.name": first, "method.baselines": others})
    own = pick(bench, "methods", method) | budget["methods"].get(method, {})
    return override(defaults(), changes | {"method.name": method, "method.baselines": []} | own)


def variant_params(
    setting: str, variant: str, *, base: str, budget: str, seed: int, root: Path, train_on_val: bool = False
) -> dict[str, Any]:
    """The params of a variant of bench/conf/params.yaml, its baselines among them."""
    bench = bench_params()
    chosen = pick(bench, "budgets", budget)
    changes = changes_of(bench, setting, chosen) | {"method.baselines": chosen.get("baselines", bench["baselines"])}
    changes |= pick(bench, "bases", base) | pick(bench, "variants", variant)
    # the bodies that are kept have not seen the meta-val classes
    changes |= {"body.weights": None} if train_on_val else {}
    return override(defaults(), changes | {"seed": seed, "data.train_on_val": train_on_val, "data.root": str(root)})


def prefix_of(base: str) -> str:
    """The prefix of this base's variants in the long tables."""
    return "" if base == "defaults" else f"{base}_"


def override(params: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of ``params`` with dotted keys set, e.g. ``{"tasks.n_way": 20}``.

    Raises:
        InputError: a key that ``params`` does not have.
    """
    changed = deepcopy(dict(params))
    for key, value in changes.items():
        *sections, last = key.split(".")
        place: Any = changed
        for section in sections:
            place = place.get(section) if isinstance(place, dict) else None
        if not isinstance(place, dict) or last not in place:
            raise InputError(f"bench: {key} = {value!r} is not a key of params.yaml; correct the name")
        place[last] = value
    return changed
