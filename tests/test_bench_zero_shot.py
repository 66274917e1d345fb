"""What the table of heads from names adds to names: matching, unlabelled images."""

from itertools import permutations

import pytest
import torch
import torch.nn.functional as F

from bench.zero_shot_tracks import matched, right, right_matched, with_unlabelled
from ltdi.seeding import generator


@pytest.mark.parametrize("seed", range(4))
def test_matching_is_the_best_of_all_permutations(seed):
    share = torch.rand(6, 6, generator=generator(seed, "matching"), dtype=torch.double)
    best = max(sum(share[i, j] for i, j in enumerate(order)) for order in permutations(range(6)))
    assert matched(share) == pytest.approx(best.item())


def blobs():
    """Unit images (M, Q, F) around unit centres (M, N, F), and their labels."""
    stream = generator(0, "blobs")
    centres = F.normalize(torch.randn(8, 4, 16, generator=stream), dim=-1)
    labels = torch.arange(4).repeat_interleave(20).expand(8, -1)
    noise = 0.15 * torch.randn(8, 80, 16, generator=stream)
    return centres, F.normalize(centres.repeat_interleave(20, 1) + noise, dim=-1), labels


def test_permuted_names_are_matched_and_scored_as_they_are():
    centres, images, labels = blobs()
    turned = centres.roll(1, 1)
    assert right(centres, images, labels).min() > 0.9 and right(turned, images, labels).max() < 0.1
    assert torch.equal(right_matched(turned, images, labels), right(centres, images, labels))


def test_unlabelled_images_mend_a_poor_head_and_an_own_share_of_one_keeps_it():
    centres, images, labels = blobs()
    poor = F.normalize(centres + 0.25 * torch.randn(centres.shape, generator=generator(0, "poor")), dim=-1)
    assert torch.allclose(with_unlabelled(poor, images, 20.0, 1.0), poor, atol=1e-6)
    mended = with_unlabelled(poor, images, 20.0, 0.25)
    assert right(mended, images, labels).mean() > right(poor, images, labels).mean() + 0.03
