"""The body: one that was trained elsewhere is taken as it is; one that is trained sees all images of its classes."""

import pytest
import torch
from torch.testing import assert_close

from ltdi.bodies.conv4 import Conv4
from ltdi.bodies.pretraining import EpisodicLoss, pretrain
from ltdi.datasets import ImageSet
from ltdi.store import read_json, read_tensors
from ltdi.utils.seeding import generator
from ltdi.utils.trainer import Training


@pytest.mark.slow
def test_a_trained_body_is_taken_as_it_is(finished, write_params, run_stage, tmp_path):
    """Whatever the hyperparameters of its training say."""
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


# --- training

COUNTS = (2, 9, 3, 5, 4)


def patterns(counts):
    """Images of classes that are a random pattern each, with noise."""
    stream = generator(0, "patterns")
    pattern = torch.rand(len(counts), 1, 16, 16, generator=stream).repeat_interleave(torch.tensor(counts), 0)
    images = (pattern + 0.1 * torch.randn(pattern.shape, generator=stream)).clamp(0, 1) * 255
    return ImageSet(images.byte(), tuple(map(str, range(len(counts)))), tuple(counts))


def train(images, steps=12, augment=lambda images, stream: images, images_a_class=4):
    torch.manual_seed(0)
    training = Training(EpisodicLoss(Conv4(1, filters=8)), lr=1e-2, steps=steps, ema=0.9)
    hparams = {"classes_a_batch": 4, "images_a_class": images_a_class, "precision": torch.float32, "seed": 0}
    return training, list(pretrain(training, images, augment=augment, **hparams))


def test_a_body_learns_from_classes_of_unequal_numbers():
    training, rows = train(patterns(COUNTS), steps=40)
    losses = torch.tensor([row["loss"] for row in rows])
    assert [row["step"] for row in rows] == list(range(1, 41)) and losses.isfinite().all()
    assert losses[-10:].mean() < 0.5 * losses[:5].mean()
    assert rows[-1]["accuracy"] > 0.9


def test_a_batch_is_different_classes_and_their_own_images_twice_only_where_there_are_too_few():
    first = torch.tensor(COUNTS).cumsum(0) - torch.tensor(COUNTS)
    # each image says its place
    places = torch.arange(sum(COUNTS), dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 16, 16)
    seen = []

    def watched(images, stream):
        seen.append((255 * images[:, 0, 0, 0]).round().long().unflatten(0, (4, 4)))
        return images + 0.01 * torch.randn(images.shape, generator=stream)

    train(ImageSet(places, tuple("abcde"), COUNTS), augment=watched)
    classes = torch.arange(5).repeat_interleave(torch.tensor(COUNTS))
    for batch in seen:
        of = classes[batch]
        assert (of == of[:, :1]).all() and len(of[:, 0].unique()) == 4
        for c, row in zip(of[:, 0].tolist(), batch - first[of], strict=True):
            times = row.bincount(minlength=COUNTS[c])
            assert len(times) == COUNTS[c] and (times > 0).sum() == min(4, COUNTS[c])
            assert times.max() == -(-4 // COUNTS[c])
    drawn = torch.cat([batch.flatten() for batch in seen])
    assert drawn.unique().equal(torch.arange(sum(COUNTS)))


def test_a_resumed_training_goes_on_with_the_same_batches():
    images = patterns(COUNTS)
    whole, rows = train(images)
    torch.manual_seed(0)
    half = Training(EpisodicLoss(Conv4(1, filters=8)), lr=1e-2, steps=12, ema=0.9)
    hparams = {"classes_a_batch": 4, "images_a_class": 4, "precision": torch.float32, "seed": 0}
    going = pretrain(half, images, augment=lambda images, stream: images, **hparams)
    first = [next(going) for _ in range(5)]
    resumed = Training(EpisodicLoss(Conv4(1, filters=8)), lr=1e-2, steps=12, ema=0.9)
    resumed.load_state_dict({name: value.clone() for name, value in half.state_dict().items()})
    rest = list(pretrain(resumed, images, augment=lambda images, stream: images, **hparams))
    assert first + rest == rows
    assert_close(resumed.state_dict(), whole.state_dict(), rtol=0, atol=0)


def test_the_episodic_loss_is_the_mean_over_every_choice_of_a_support_and_a_query():
    torch.manual_seed(0)
    model = EpisodicLoss(Conv4(1, filters=8)).eval()
    with torch.no_grad():
        model.log_scale.fill_(0.3)
        images = torch.rand(4, 3, 1, 16, 16)
        loss, accuracy = model(images)
        features = model.body(images.flatten(0, 1)).unflatten(0, (4, 3))
    losses, right = [], []
    for support in range(3):
        for query in range(3):
            if support == query:
                continue
            for c in range(4):
                away = (features[c, query] - features[:, support]).square().sum(-1)
                logits = -away * torch.tensor(0.3).exp() / 8**0.5
                losses.append(-logits.log_softmax(0)[c])
                right.append(float(logits.argmax() == c))
    assert_close(loss, torch.stack(losses).mean(), rtol=1e-4, atol=1e-5)
    assert accuracy.item() == pytest.approx(sum(right) / len(right))
