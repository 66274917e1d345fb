"""The support encoder: it starts as the body says, learns where class means lie, and draws what its step draws."""

from itertools import islice

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from worlds import F, clusters

from ltdi.encoder import Encoder, EncoderLoss, pretrain_encoder
from ltdi.metrics import nearest_mean_accuracy
from ltdi.tasks import TaskSource
from ltdi.training import Training
from pipeline.encoder import load_encoder
from pipeline.files import load_start

KNOBS = {"n_shot": 1, "classes_a_batch": 200, "query_images": 3, "seed": 0}


def model(dropout: float = 0.0) -> EncoderLoss:
    torch.manual_seed(0)
    return EncoderLoss(Encoder(F, width=64, depth=2, dropout=dropout))


def stirred(loss: EncoderLoss) -> EncoderLoss:
    with torch.no_grad():
        for parameter in loss.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    return loss


def test_untrained_it_says_what_the_body_says():
    features = clusters(4, "start")
    assert torch.equal(model().encoder(features), features)


def test_the_loss_by_hand():
    """Supports pass the encoder before their mean is taken, queries do not pass it."""
    loss = stirred(model())
    supports, queries = clusters(3, "supports")[:, :2], clusters(3, "queries")[:, :4]
    means = torch.stack([torch.stack([loss.encoder(image) for image in row]).mean(0) for row in supports])
    expected, right = [], 0
    for label, row in enumerate(queries):
        for query in row:
            logits = -loss.log_scale.exp() / F**0.5 * (means - query).square().sum(-1)
            expected.append(nn.functional.cross_entropy(logits, torch.tensor(label)))
            right += int(logits.argmax() == label)
    value, share = loss(supports, queries)
    assert_close(value, torch.stack(expected).mean())
    assert share.item() == pytest.approx(right / 12)


def test_it_learns_which_directions_say_nothing_of_the_class():
    """Half of the features are noise of each image's own: means that leave it out are nearer to the classes'."""

    def noisy(name: str) -> torch.Tensor:
        features = clusters(300, name)
        features[..., F // 2 :] = 2 * torch.rand(300, 10, F // 2, generator=torch.Generator().manual_seed(len(name)))
        return features

    loss = model()
    training = Training(loss, lr=1e-2, steps=80, ema=0.9)
    rows = list(pretrain_encoder(training, noisy("train"), **KNOBS))
    assert [row["step"] for row in rows] == list(range(1, 81))
    assert sum(row["loss"] for row in rows[-5:]) < 0.9 * sum(row["loss"] for row in rows[:5])
    source = TaskSource.sample(noisy("others"), n_tasks=200, n_way=5, n_shot=1, n_query=5, seed=0, split="meta_val")
    task = source.with_encoded(loss.encoder.eval()(source.features).detach()).batch(torch.arange(200))
    plain, encoded = (nearest_mean_accuracy(each, task.query.features).mean() for each in (task.support.features, task.support.encoded))
    assert encoded > plain + 0.02


def test_training_resumes_bit_for_bit():
    def begin():
        loss = model(dropout=0.5)
        return Training(loss, lr=1e-2, steps=6, ema=0.9)

    features, straight = clusters(30, "resume"), begin()
    rows = list(pretrain_encoder(straight, features, **KNOBS))
    half = begin()
    first = list(islice(pretrain_encoder(half, features, **KNOBS), 3))
    resumed = begin()
    resumed.load_state_dict(half.state_dict())
    torch.rand(7)
    assert first + list(pretrain_encoder(resumed, features, **KNOBS)) == rows
    assert_close(resumed.state_dict(), straight.state_dict(), rtol=0, atol=0)


def test_the_stages_run_without_an_encoder(finished, write_params, run_stage, tmp_path):
    params = write_params(tmp_path / "none", {"encoder.name": "none"})
    for stage in ("pretrain_encoder", "collect_trajectories", "meta_train", "generate_weights", "evaluate"):
        run_stage(stage, params, finished.data)
    assert load_encoder(finished.data) is None
    assert load_start(finished.data, torch.device("cpu")).blend == 0


def test_tasks_of_other_ways_find_the_encoder_that_is_there(finished, write_params, run_stage, tmp_path, capsys):
    def encoder_of(**changes) -> bytes:
        params = write_params(tmp_path / "other", {f"tasks.{name}": value for name, value in changes.items()})
        for stage in ("prepare_tasks", "pretrain_encoder"):
            run_stage(stage, params, finished.data)
        return (finished.data / "encoder" / "encoder.safetensors").read_bytes()

    first = encoder_of(n_way=5)
    assert "going on" not in capsys.readouterr().out
    assert encoder_of(n_way=3) == first
    assert "going on from step 20 of 20" in capsys.readouterr().out
    assert encoder_of(n_shot=2) != first
    assert "going on" not in capsys.readouterr().out
