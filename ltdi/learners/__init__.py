"""What weights are generated of, by name."""

from typing import Any

from ltdi.learners.base import Learner
from ltdi.learners.linear_head import LinearHead
from ltdi.learners.lora import Lora
from ltdi.learners.two_layer_head import TwoLayerHead

LEARNERS: dict[str, type[Learner]] = {"two_layer_head": TwoLayerHead, "linear_head": LinearHead, "lora": Lora}


def learner_of(facts: dict[str, Any]) -> Learner:
    """The learner whose ``facts`` these are."""
    return LEARNERS[facts["name"]](**{key: value for key, value in facts.items() if key != "name"})
