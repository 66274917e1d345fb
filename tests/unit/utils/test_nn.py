"""Blocks that are special cases of torch's own."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from ltdi.utils.nn import Attention, ResidualBlock1d, TimeEmbedding, TransformerBlock, masked_mean, solved, zero
from ltdi.utils.seeding import generator

WIDTH, HEADS = 12, 3


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def random(*shape):
    return torch.randn(*shape, generator=generator(0, "nn", shape))


def torchs(attention, context_width=WIDTH):
    module = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, kdim=context_width, vdim=context_width)
    k, v = attention.kv.weight.chunk(2)
    if context_width == WIDTH:
        weights = {"in_proj_weight": torch.cat([attention.q.weight, k, v])}
    else:
        weights = {"q_proj_weight": attention.q.weight, "k_proj_weight": k, "v_proj_weight": v}
    biases = {
        "in_proj_bias": torch.cat([attention.q.bias, attention.kv.bias]),
        "out_proj.weight": attention.out.weight,
        "out_proj.bias": attention.out.bias,
    }
    module.load_state_dict(weights | biases)
    return module


@pytest.mark.parametrize("context_width", [WIDTH, 7])
def test_attention_is_torchs(context_width):
    attention = Attention(WIDTH, HEADS, context_width)
    x, context = random(2, 5, WIDTH), random(2, 4, context_width)
    expected, _ = torchs(attention, context_width)(x, context, context)
    assert_close(attention(x, context), expected, rtol=1e-4, atol=1e-5)


def test_attention_does_not_see_the_order_of_its_context():
    attention, order = Attention(WIDTH, HEADS), torch.tensor([2, 0, 3, 1])
    x, context = random(2, 5, WIDTH), random(2, 4, WIDTH)
    assert_close(attention(x, context[:, order]), attention(x, context))


def test_the_transformer_block_is_torchs():
    block = TransformerBlock(WIDTH, HEADS)
    expected = nn.TransformerEncoderLayer(
        WIDTH, HEADS, 4 * WIDTH, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    expected.self_attn = torchs(block.attention)
    expected.norm1, expected.norm2 = block.norm_attention, block.norm_mlp
    expected.linear1, expected.linear2 = block.mlp[0], block.mlp[-1]
    x = random(2, 5, WIDTH)
    assert_close(block(x), expected(x), rtol=1e-4, atol=1e-5)


def test_the_transformer_block_permutes_with_its_tokens():
    block, order = TransformerBlock(WIDTH, HEADS), torch.tensor([4, 2, 0, 3, 1])
    x = random(2, 5, WIDTH)
    assert_close(block(x[:, order]), block(x)[:, order], rtol=1e-4, atol=1e-5)


# --- time


@pytest.mark.parametrize("width", [8, 9])
def test_times_are_told_apart(width):
    embedding = TimeEmbedding(width, 1000)
    y = embedding(torch.arange(1001))
    assert y.shape == (1001, width)
    distances = torch.cdist(y, y) + torch.eye(1001) * 9
    assert distances.min() > 1e-4


def test_a_times_embedding_does_not_depend_on_the_batch():
    embedding = TimeEmbedding(8, 7)
    assert_close(
        embedding(torch.tensor([3, 7])), torch.cat([embedding(torch.tensor([3])), embedding(torch.tensor([7]))])
    )


def test_waves_are_sines_and_cosines_of_slowing_frequency():
    embedding = TimeEmbedding(4, 5)
    embedding.network = nn.Identity()
    t = torch.tensor([0.0, 5.0])
    slow = t / 1000**0.5
    assert_close(embedding(t), torch.stack([t.cos(), slow.cos(), t.sin(), slow.sin()], -1))
    assert embedding(t.long()).equal(embedding(t))


# --- convolutions


@pytest.mark.parametrize("length", [1, 2, 5])
def test_a_residual_block_starts_from_its_skip(length):
    block, wider = ResidualBlock1d(6, 6, 4), ResidualBlock1d(6, 10, 4)
    x, embedding = random(2, 6, length), random(2, 4)
    for each in (block, wider):
        nn.init.zeros_(each.second[-1].weight)
        nn.init.zeros_(each.second[-1].bias)
    assert block(x, embedding).equal(x)
    assert_close(wider(x, embedding), wider.skip.weight[..., 0] @ x + wider.skip.bias[:, None])


def test_a_residual_block_feels_its_embedding():
    block, x = ResidualBlock1d(6, 10, 4), random(2, 6, 5)
    difference = block(x, random(2, 4)) - block(x, random(2, 4) * torch.tensor([[1.0], [0.0]]))
    assert not difference[0].any()
    assert difference[1].abs().max() > 1e-3


def test_zero_makes_nothing_of_anything_and_still_learns():
    layer = zero(nn.Linear(3, 2))
    y = layer(random(4, 3))
    assert not y.any()
    (y + 1).square().sum().backward()
    assert layer.weight.grad.abs().min() > 0


def test_a_masked_mean_is_that_of_the_rows_that_are_there():
    x, there = random(2, 3, 4, 5), random(2, 3, 4) > 0
    there[..., 0] = True
    means = torch.stack([torch.stack([x[b, n, there[b, n]].mean(0) for n in range(3)]) for b in range(2)])
    assert_close(masked_mean(x, there.float()), means)
    assert_close(masked_mean(x, torch.ones(2, 3, 4)), x.mean(2))


def test_what_is_solved_on_several_threads_is_solved():
    """Matrices of as many rows as torch's general solver, on two threads, gets wrong or never ends on."""
    x = torch.randn(4, 160, 300, generator=generator(0, "rows"))
    matrix, y = x @ x.mT + torch.eye(160), torch.randn(4, 160, 3, generator=generator(0, "targets"))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = solved(matrix, y)
    finally:
        torch.set_num_threads(before)
    assert_close(matrix @ found, y, rtol=1e-3, atol=1e-3)
