"""Registry of transductive baselines; they are compared separately, because they use the unlabelled query images."""

from ltdi.methods.transductive.base import TransductiveMethod
from ltdi.methods.transductive.bd_cspn import BdCspn
from ltdi.methods.transductive.laplacian_shot import LaplacianShot
from ltdi.methods.transductive.soft_k_means import SoftKMeans

TRANSDUCTIVE: dict[str, type[TransductiveMethod]] = {
    "soft_k_means": SoftKMeans,
    "bd_cspn": BdCspn,
    "laplacian_shot": LaplacianShot,
}
"""Transductive baselines by name."""
