"""Every method by its name; each file is one paper or one control."""

from ltdi.methods.base import Method
from ltdi.methods.ghn3 import Ghn3
from ltdi.methods.head_sgd import HeadSgd, PrototypeSgd
from ltdi.methods.llo_vae import LloVae
from ltdi.methods.ltdi import LtDi
from ltdi.methods.lvdi import LvDi
from ltdi.methods.mcdi import McDi
from ltdi.methods.mean_head import MeanHead
from ltdi.methods.meta_baseline import MetaBaseline
from ltdi.methods.meta_hypernetwork import MetaHypernetwork
from ltdi.methods.metadiff import MetaDiff
from ltdi.methods.naive_local import NaiveLocal
from ltdi.methods.nearest_head import NearestHead
from ltdi.methods.ocd import Ocd
from ltdi.methods.prototype import Prototype
from ltdi.methods.reptile import Reptile
from ltdi.methods.reptile_head import ReptileHead
from ltdi.methods.ridge import Ridge
from ltdi.methods.weight_flow import WeightFlow

METHODS: dict[str, type[Method]] = {
    "lvdi": LvDi,
    "ltdi": LtDi,
    "mcdi": McDi,
    "naive_local": NaiveLocal,
    "reptile": Reptile,
    "reptile_head": ReptileHead,
    "meta_baseline": MetaBaseline,
    "meta_hypernetwork": MetaHypernetwork,
    "ocd": Ocd,
    "ghn3": Ghn3,
    "metadiff": MetaDiff,
    "llo_vae": LloVae,
    "weight_flow": WeightFlow,
}

CONTROLS: dict[str, type[Method]] = {
    "prototype": Prototype,
    "ridge": Ridge,
    "head_sgd": HeadSgd,
    "prototype_sgd": PrototypeSgd,
    "mean_head": MeanHead,
    "nearest_head": NearestHead,
}
