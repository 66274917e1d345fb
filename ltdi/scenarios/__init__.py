"""Kinds of tasks, by name: ``scenario.name`` of params.yaml."""

from ltdi.scenarios.adapters import Adapters
from ltdi.scenarios.base import Scenario
from ltdi.scenarios.domains import Domains
from ltdi.scenarios.few_shot import FewShot
from ltdi.scenarios.zero_shot import ZeroShot

SCENARIOS: dict[str, Scenario] = {
    "few_shot": FewShot(),
    "domains": Domains(),
    "zero_shot": ZeroShot(),
    "adapters": Adapters(),
}
