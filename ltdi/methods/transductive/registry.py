"""Baselines that see what is to be classified, unlabelled, by name: a track of its own, for it is another task."""

from ltdi.methods.transductive.base import TransductiveMethod
from ltdi.methods.transductive.bd_cspn import BdCspn
from ltdi.methods.transductive.laplacian_shot import LaplacianShot
from ltdi.methods.transductive.soft_k_means import SoftKMeans

TRANSDUCTIVE: dict[str, type[TransductiveMethod]] = {
    "soft_k_means": SoftKMeans,
    "bd_cspn": BdCspn,
    "laplacian_shot": LaplacianShot,
}
