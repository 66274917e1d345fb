"""A few of each family of ``campaign.py``, always the same: nothing wrong passes silently, and nothing is traced."""

import random
from itertools import islice

import campaign_files
import campaign_heads
import campaign_images
import campaign_params
import campaign_system
import campaign_tables
import pytest
from campaign import ENDS, end_of
from campaign_world import World

pytestmark = pytest.mark.slow


@pytest.fixture
def world(finished, tmp_path, monkeypatch):
    monkeypatch.setenv("LTDI_STORE", str(finished.store))
    return World(tmp_path, [finished.params] * 2, [finished.data] * 2, finished.store)


@pytest.mark.parametrize(
    "family, every",
    [
        (campaign_files, 60),
        (campaign_heads, 20),
        (campaign_images, 12),
        (campaign_params, 9),
        (campaign_system, 30),
        (campaign_tables, 15),
    ],
)
def test_what_is_attacked_says_so_or_is_as_before(family, every, world):
    for told, attempt in islice(family.attempts(world, random.Random(0)), 0, None, every):
        end, said = end_of(attempt)
        assert end in ENDS[:2], f"{told}: {end}: {said}"


def test_the_ends_of_an_attempt_are_told_apart():
    def ended(said):
        raise said

    assert end_of(lambda: None)[0] == "same"
    assert end_of(lambda: ended(ValueError("x")))[0] == end_of(lambda: ended(SystemExit(1)))[0] == "traceback"
