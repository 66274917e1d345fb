"""Kinds of tasks, by name: ``scenario.name`` of params.yaml."""

from ltdi.scenarios.adapters import Adapters
from ltdi.scenarios.base import Scenario
from ltdi.scenarios.domains import Domains
from ltdi.scenarios.few_shot import FewShot

SCENARIOS: dict[str, Scenario] = {"few_shot": FewShot(), "domains": Domains(), "adapters": Adapters()}
