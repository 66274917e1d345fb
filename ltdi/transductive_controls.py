"""Controls that see what is to be classified, unlabelled, by name: a track of its own, for it is another task."""

from ltdi.methods.bd_cspn import BdCspn
from ltdi.methods.laplacian_shot import LaplacianShot
from ltdi.methods.soft_k_means import SoftKMeans
from ltdi.methods.transductive import TransductiveMethod

TRANSDUCTIVE: dict[str, type[TransductiveMethod]] = {
    "soft_k_means": SoftKMeans,
    "bd_cspn": BdCspn,
    "laplacian_shot": LaplacianShot,
}
