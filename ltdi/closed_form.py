"""Heads with a closed form, written exactly as the two layers of ``Head``.

Both rest on features >= 0 (every body ends in ReLU): a first layer that is the identity passes them
unchanged through the head's own ReLU, so that the second layer is a linear classifier.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ltdi.errors import InputError
from ltdi.heads import Head
from ltdi.nn import masked_mean
from ltdi.tasks import Query, Support, labelled

PENALTIES = tuple(10.0**e for e in range(-3, 4))
TEMPERATURES = tuple(2.0 ** (e / 2) for e in range(-20, 17))


def prototype_head(head: Head, means: Tensor, temperature: float) -> Tensor:
    """The nearest-mean classifier of class means p (B, N, F) as weights (B, D): logits -τ‖f - p_n‖², less the τ‖f‖²
    that all classes share."""
    return linear_head(head, 2 * temperature * means, -temperature * means.square().sum(-1))


def ridge_head(head: Head, support: Support, penalty: float, temperature: float) -> Tensor:
    """Ridge regression of ±1 labels on the centred support features as weights (B, D) (Bertinetto et al. 2019), logits times τ.

    Solved in the space of the N·K support images, which are fewer than features.
    """
    N, K = support.features.shape[1:3]
    x, there = support.features.flatten(1, 2), support.present.flatten(1)
    centre = masked_mean(x, there)[:, None]
    y = 2 * torch.eye(N, dtype=x.dtype, device=x.device).repeat_interleave(K, 0).expand(len(x), -1, -1) - 1
    offset = masked_mean(y, there)[:, None]
    # an image that is not there is a row of zeros, which moves nothing
    x, y = (x - centre) * there[..., None], (y - offset) * there[..., None]
    alpha = torch.linalg.solve(x @ x.mT + penalty * torch.eye(N * K, dtype=x.dtype, device=x.device), y)
    weight = alpha.mT @ x
    bias = offset.squeeze(1) - (weight @ centre.mT).squeeze(-1)
    return linear_head(head, temperature * weight, temperature * bias)


def linear_head(head: Head, weight: Tensor, bias: Tensor) -> Tensor:
    """A linear classifier, weight (B, N, F) and bias (B, N), as weights (B, D); spare hidden units stay zero."""
    B, N, n_features = weight.shape
    if head.hidden < n_features:
        raise InputError(
            f"trajectories.hidden = {head.hidden} is less than the body's {n_features} features; a closed form needs at least as many"
        )
    zeros = weight.new_zeros
    return head.space.flatten(
        {
            "hidden.weight": torch.eye(head.hidden, n_features, dtype=weight.dtype, device=weight.device).expand(
                B, -1, -1
            ),
            "hidden.bias": zeros(B, head.hidden),
            "output.weight": torch.cat([weight, zeros(B, N, head.hidden - n_features)], dim=-1),
            "output.bias": bias,
        }
    )


def calibrated_temperature(head: Head, w: Tensor, query: Query) -> tuple[float, float]:
    """The τ of ``TEMPERATURES`` at which heads give the least mean cross-entropy on ``query``, and that. Their logits are
    linear in τ; w (B, D) are the heads at τ = 1."""
    features, labels = labelled(query.features)
    logits, labels = head(w, features).flatten(0, 1), labels.flatten()
    losses = [F.cross_entropy(temperature * logits, labels).item() for temperature in TEMPERATURES]
    return TEMPERATURES[losses.index(min(losses))], min(losses)
