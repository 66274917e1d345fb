"""Every method by its name; each file is one paper or one control."""

from ltdi.methods.base import Method
from ltdi.methods.head_sgd import HeadSgd, PrototypeSgd
from ltdi.methods.ltdi import LtDi
from ltdi.methods.lvdi import LvDi
from ltdi.methods.mcdi import McDi
from ltdi.methods.mean_head import MeanHead
from ltdi.methods.naive_local import NaiveLocal
from ltdi.methods.nearest_head import NearestHead
from ltdi.methods.prototype import Prototype
from ltdi.methods.ridge import Ridge

METHODS: dict[str, type[Method]] = {"lvdi": LvDi, "ltdi": LtDi, "mcdi": McDi, "naive_local": NaiveLocal}

CONTROLS: dict[str, type[Method]] = {
    "prototype": Prototype,
    "ridge": Ridge,
    "head_sgd": HeadSgd,
    "prototype_sgd": PrototypeSgd,
    "mean_head": MeanHead,
    "nearest_head": NearestHead,
}
