"""A body that was trained elsewhere: taken as it is, or refused."""

import pytest
from torch.testing import assert_close

from ltdi.store import read_json, read_tensors


def test_a_trained_body_is_taken_as_it_is(finished, write_params, run_stage, tmp_path):
    """Whatever the knobs of its training say."""
    file = finished.data / "body" / "body.safetensors"
    params = write_params(tmp_path / "taken", {"body.weights": str(file), "body.steps": 10**6, "seed": 3})
    run_stage("pretrain_body", params, tmp_path / "other")
    (taken, shape), (own, its_shape) = (
        read_tensors(each, kind="body") for each in (tmp_path / "other" / "body" / "body.safetensors", file)
    )
    assert_close(taken, own, rtol=0, atol=0)
    assert shape == its_shape
    assert (tmp_path / "other" / "body" / "curve.tsv").exists()


def test_it_scores_on_meta_val_as_it_did_where_it_was_trained(finished, write_params, run_stage, tmp_path):
    params = write_params(tmp_path / "taken", {"body.weights": str(finished.data / "body" / "body.safetensors")})
    run_stage("pretrain_body", params, tmp_path / "other")
    scores = [read_json(data / "body" / "metrics.json") for data in (finished.data, tmp_path / "other")]
    assert scores[1] == pytest.approx(scores[0], abs=1e-6)
