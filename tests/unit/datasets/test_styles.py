"""Looks: photographs as small pictures and as drawings, as further domains."""

import pytest
import torch
from torch.testing import assert_close

from ltdi.datasets.domain_sets import domains
from ltdi.datasets.image_files import Streamed
from ltdi.datasets.styles import LOOKS, SIDE, seen_as
from ltdi.scenarios.domains import _no_domain_twice
from ltdi.utils.errors import InputError
from ltdi.utils.seeding import generator


def stripes(period, low=0.0, high=1.0, size=64):
    """(1, 3, size, size)"""
    row = torch.where(torch.arange(size) % period < period // 2, low, high)
    return row.expand(1, 3, size, size).clone()


def test_a_small_picture_has_lost_what_is_finer_than_its_pixels():
    small = LOOKS["small"]
    assert_close(small(stripes(2)), torch.full((1, 3, 64, 64), 0.5))
    coarse = stripes(32)
    assert (small(coarse) - coarse).abs().mean() < 0.05
    assert small(torch.rand(2, 3, SIDE // 2, SIDE // 2)).shape == (2, 3, SIDE // 2, SIDE // 2)


def test_a_drawing_is_dark_at_the_edges_and_white_elsewhere_whatever_the_contrast():
    drawn = LOOKS["drawn"]
    found = drawn(stripes(32))
    assert found[..., 16].max() < 0.1 and found[..., 8].min() == 1
    assert_close(drawn(stripes(32, 0.4, 0.6)), found, atol=1e-4, rtol=0)
    assert_close(found[:, 0], found[:, 2])
    assert (drawn(torch.full((1, 1, 16, 16), 0.3)) == 1).all()


def test_each_picture_of_a_stream_is_seen_under_its_own_look():
    pictures = [(255 * torch.rand(16, 16, 3, generator=generator(0, i))).byte().numpy() for i in range(3)]
    plain = Streamed(tuple(pictures[:2]), "RGB", 16)
    both = plain.seen_as("drawn") + Streamed((pictures[2],), "RGB", 16)
    assert both[:].equal(torch.stack([seen_as(plain[:1][0], "drawn"), seen_as(plain[1:][0], "drawn"), both[2:][0]]))
    assert both[2:].equal(Streamed((pictures[2],), "RGB", 16)[:])
    turned = both.under(((False, 0), (True, 0)))
    assert turned[3:].equal(both[:].flip(-1))
    assert len({plain.name, plain.seen_as("drawn").name, plain.seen_as("small").name}) == 3
    assert (plain + plain).looks == ()


def test_a_domain_under_a_look_is_a_domain_of_its_own_that_is_kept_out_of_other_splits(tmp_path):
    (drawn,) = domains("glyphs/val:drawn", tmp_path, size=28, most=3)
    (plain,) = domains("glyphs/val", tmp_path, size=28, most=3)
    assert set(drawn.domains) == {"glyphs/val:drawn"} and drawn.names[0] == f"{plain.names[0]}:drawn"
    assert drawn.images[:2].shape == plain.images[:2].shape and not drawn.images[:2].equal(plain.images[:2])
    with pytest.raises(InputError, match="unknown look painted; allowed: small, drawn"):
        domains("glyphs/val:painted", tmp_path, size=28)
    sets = {"meta_train": {"glyphs/val:drawn": drawn}, "meta_test": {"glyphs/val": plain}}
    with pytest.raises(InputError, match="glyphs/val is of meta_train and glyphs/val of meta_test"):
        _no_domain_twice(sets)
