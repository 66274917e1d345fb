"""What is done to features: length, centre and principal components, and a number that nothing is below."""

import json

import pytest
import torch
from torch.testing import assert_close

from ltdi.store import read_tensors, write_tensors
from ltdi.tasks.feature_normalization import NORMALISATIONS, FeatureMap
from ltdi.utils.seeding import generator

R, F = 60, 8


def features(name="features", n_rows=R):
    """Rows (R, F) of unequal lengths and directions, with a mean that is not zero."""
    stream = generator(0, name)
    spread = torch.linspace(0.1, 2.0, F)
    return 0.5 + torch.randn(n_rows, F, generator=stream) * spread


@pytest.fixture(params=NORMALISATIONS)
def normalise(request):
    return request.param


@pytest.fixture(params=[None, 3, F])
def projection(request):
    return request.param


def fit(normalise, projection):
    return FeatureMap.fit(features(), normalise=normalise, projection=projection)


# --- length and centre


def test_features_as_they_are_stay_as_they_are():
    assert fit("none", None)(features("new")).equal(features("new"))


@pytest.mark.parametrize("of", ["unit", "centred"])
def test_all_rows_have_the_length_at_which_a_number_is_about_one(of, projection):
    seen = fit(of, projection)
    for rows in (features(), features("new"), 1e3 * features("new"), features("new").reshape(3, 4, 5, F)):
        out = seen(rows)
        assert out.shape == (*rows.shape[:-1], seen.width)
        assert_close(out.square().mean(-1), torch.ones(rows.shape[:-1]))


def test_unit_length_keeps_the_direction_and_centred_that_from_the_training_mean():
    rows, mean = features("new"), features().mean(0)
    for of, centre in (("unit", 0.0), ("centred", mean)):
        cosine = torch.nn.functional.cosine_similarity(fit(of, None)(rows), rows - centre, dim=-1)
        assert_close(cosine, torch.ones(R))
    assert fit("unit", None)(7 * rows).allclose(fit("unit", None)(rows))


def test_a_row_without_length_stays_finite():
    assert not fit("unit", None)(torch.zeros(2, F)).any()
    assert fit("centred", 3)(features().mean(0)[None]).isfinite().all()


# --- projection


def test_the_components_are_an_orthonormal_basis(normalise):
    for width in (1, 3, F):
        basis = fit(normalise, width).projection
        assert_close(basis.mT @ basis, torch.eye(width), rtol=0, atol=1e-5)


def test_of_full_width_they_keep_inner_products(normalise):
    turned, plain = fit(normalise, F)(features("new")), fit(normalise, None)(features("new"))
    assert_close(turned @ turned.mT, plain @ plain.mT, rtol=1e-4, atol=1e-4)
    assert not turned.allclose(plain, atol=0.1)


def test_they_are_the_directions_that_keep_most_of_the_length(normalise):
    """By the singular values of the rows: the mean square that the first P of them keep, and no more can be kept."""
    rows = fit(normalise, None)(features())
    values = torch.linalg.svdvals(rows).square()
    for width in (1, 3):
        kept = (rows @ fit(normalise, width).projection).square().sum()
        assert_close(kept, values[:width].sum(), rtol=1e-4, atol=1e-4)


def test_fewer_components_are_the_first_of_more(normalise):
    assert_close(fit(normalise, 3).projection, fit(normalise, F).projection[:, :3])


def test_what_lies_in_the_components_is_all_kept():
    basis = torch.linalg.qr(torch.randn(F, 2, generator=generator(0, "basis"))).Q
    rows = torch.randn(R, 2, generator=generator(0, "rows")) @ basis.mT
    seen = FeatureMap.fit(rows, normalise="none", projection=2)
    assert_close(torch.cdist(seen(rows), seen(rows)), torch.cdist(rows, rows), rtol=1e-3, atol=1e-3)


# --- what nothing is below


@pytest.mark.parametrize("of", ["unit", "centred"])
def test_of_unit_length_nothing_at_all_is_below_the_floor(of, projection):
    seen = fit(of, projection)
    extreme = torch.cat([torch.eye(F), -torch.eye(F), 1e4 * features("other", 500)])
    assert seen(extreme).min() >= seen.floor(features()) - 1e-5
    assert seen.floor(features()) == -(seen.width**0.5)


def test_a_row_can_reach_the_floor():
    seen = FeatureMap("unit", torch.zeros(F))
    assert seen(-torch.eye(F)).min().item() == pytest.approx(seen.floor(features()))


def test_of_others_none_of_those_that_it_is_taken_from_is_below(projection):
    seen = fit("none", projection)
    assert seen(features()).min() >= seen.floor(features())
    assert seen.floor(features()) < 0


def test_features_of_a_body_that_ends_in_a_relu_need_none():
    rows = features().relu()
    assert FeatureMap.fit(rows, normalise="none", projection=None).floor(rows) == 0.0
    assert FeatureMap.fit(rows, normalise="none", projection=None).floor(rows + 1) == 0.0


# --- kept and read back


def test_it_comes_back_from_its_state(tmp_path, normalise, projection):
    seen = fit(normalise, projection)
    tensors, values = seen.state()
    write_tensors(tmp_path / "map.safetensors", tensors, json.loads(json.dumps(values)), kind="map")
    again = FeatureMap.from_state(*read_tensors(tmp_path / "map.safetensors", kind="map"))
    assert again.width == seen.width == (projection or F)
    assert again(features("new")).equal(seen(features("new")))
    assert again.floor(features()) == seen.floor(features())


def test_on_another_device_it_is_the_same(normalise, projection):
    seen = fit(normalise, projection)
    assert seen.to("cpu")(features("new")).equal(seen(features("new")))
