"""Streams that depend on their names alone."""

import torch

from ltdi.utils.seeding import generator, pick, seed_globally


def draw(*names, n=8):
    return torch.randn(n, generator=generator(*names))


def test_the_same_names_give_the_same_stream():
    assert draw(0, "task", 17).equal(draw(0, "task", 17))


def test_every_part_of_the_name_counts():
    names = [
        (0,),
        (1,),
        (0, "a"),
        (0, "b"),
        (0, "a", "b"),
        (0, "b", "a"),
        (0, "ab"),
        (0, "a", 1),
        (0, "a", 11),
        (0, "a", 1, 1),
        (0, "a1"),
        (1, 0),
        (10,),
    ]
    assert len({tuple(draw(*name).tolist()) for name in names}) == len(names)


def test_the_global_stream_is_seeded_as_torch_does():
    torch.manual_seed(7)
    expected = torch.randn(8)
    seed_globally(7)
    assert torch.randn(8).equal(expected)


def test_a_stream_does_not_feel_the_others():
    alone = draw(0, "a", n=4)
    torch.manual_seed(3)
    first, second = generator(0, "a"), generator(0, "b")
    parts = []
    for _ in range(4):
        parts.append(torch.randn(1, generator=first))
        torch.randn(5, generator=second), torch.randn(2)
    assert torch.cat(parts).equal(alone)


def test_streams_leave_the_global_generator_alone():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    draw(0, "a")
    assert torch.get_rng_state().equal(state)


def test_neighbouring_names_are_uncorrelated():
    draws = torch.stack([draw(seed, "task", task, n=1000) for seed in range(3) for task in range(20)])
    correlation = torch.corrcoef(draws) - torch.eye(60)
    # each is N(0, 1/1000): 1,770 of them stay below 5 deviations
    assert correlation.abs().max() < 5 / 1000**0.5
    assert draws[:, 0].std() > 0.7


def test_seeds_are_the_same_on_every_machine_and_version():
    assert generator(0).initial_seed() == SEEDS[0]
    assert generator(0, "task", 17).initial_seed() == SEEDS[1]


SEEDS = (3582888934675442504, 4628068704014113053)


# --- numbers drawn without repetition


def test_of_equal_counts_it_is_the_order_of_uniform_draws():
    expected = torch.rand(30, 4, 7, generator=generator(0, "pick")).argsort(-1)
    counts = torch.full((30, 4), 7)
    for n in (1, 3, 7):
        assert pick(counts, n, generator(0, "pick")).equal(expected[..., :n])


def test_of_unequal_counts_all_that_are_there_come_before_what_is_not():
    counts = torch.tensor([[1, 5, 3], [8, 2, 8]]).expand(50, 2, 3)
    for n in (1, 2, 5, 8, 12):
        chosen = pick(counts, n, generator(0, "pick"))
        assert chosen.shape == (50, 2, 3, n)
        for count, row in zip(counts.flatten().tolist(), chosen.flatten(0, -2).tolist(), strict=True):
            there = [number for number in row if number >= 0]
            assert len(there) == len(set(there)) == min(count, n)
            assert max(there) < count
            assert row == there + [-1] * (n - len(there))


def test_more_than_there_is_repeats_nothing():
    assert pick(torch.tensor([3, 3]), 5, generator(0, "pick")).sort(-1).values.tolist() == [[-1, -1, 0, 1, 2]] * 2


def test_every_number_of_a_count_comes_equally_often_at_every_place():
    chosen = pick(torch.tensor([3, 5]).expand(6000, 2), 5, generator(0, "pick"))
    for j, count in enumerate((3, 5)):
        for place in range(count):
            times = chosen[:, j, place].bincount(minlength=count)
            assert len(times) == count
            # binomial: below 5 deviations
            assert (times - 6000 / count).abs().max() < 5 * (6000 / count) ** 0.5
