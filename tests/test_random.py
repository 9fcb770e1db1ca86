"""The draws: known answers, independence of batch and order, and their distribution."""

import itertools
import random as python_random
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from toque import random
from toque.random import Key

# Known-answer vectors published with Random123 (kat_vectors, philox 4x32 with 10 rounds).
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN)
def test_philox_gives_the_published_answers(counter, key, answer):
    words = random.philox(tuple(np.array([word], dtype=np.uint64) for word in counter), key)
    assert tuple(int(word[0]) for word in words) == answer


@given(
    seed=st.integers(-(2**70), 2**70),
    epoch=st.integers(0, 2**32 - 1),
    indices=st.lists(st.integers(0, 2**48), min_size=1, max_size=9),
    n=st.integers(1, 9),
    order=st.randoms(),
)
def test_a_draw_depends_on_its_image_alone(seed, epoch, indices, n, order):
    whole = Key(seed, epoch, indices).bits("crop", n)
    shuffled = list(range(len(indices)))
    order.shuffle(shuffled)
    for position in shuffled:
        alone = Key(seed, epoch, [indices[position]]).bits("crop", n)
        np.testing.assert_array_equal(alone[0], whole[position])


def test_more_numbers_begin_with_the_same_numbers():
    key = Key(1, 2, np.arange(5))
    assert torch.equal(key.uniform("a", 11)[:, :3], key.uniform("a", 3))


@pytest.mark.parametrize(
    "other", [Key(1, 0, [3]), Key(0, 1, [3]), Key(0, 0, [4]), Key(0, 0, [3 + 2**32])]
)
def test_seed_epoch_and_index_each_change_the_draw(other):
    assert not np.array_equal(Key(0, 0, [3]).bits("a", 4), other.bits("a", 4))


def test_a_batch_may_hold_the_end_of_one_epoch_and_the_start_of_the_next():
    both = Key(0, [4, 4, 5], [8, 9, 0]).bits("a", 4)
    np.testing.assert_array_equal(both[:2], Key(0, 4, [8, 9]).bits("a", 4))
    np.testing.assert_array_equal(both[2:], Key(0, 5, [0]).bits("a", 4))
    np.testing.assert_array_equal(both[1:], Key(0, [4, 4, 5], [8, 9, 0])[1:].bits("a", 4))


@given(
    streams=st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 9), max_size=4),
    indices=st.lists(st.integers(0, 2**48), max_size=5),
)
def test_many_streams_at_once_give_what_each_gives_alone(streams, indices):
    key = Key(11, 3, indices)
    together = key.uniforms(streams)
    assert list(together) == list(streams)
    for stream, n in streams.items():
        np.testing.assert_array_equal(together[stream], key.uniform(stream, n).numpy())


def test_no_images_give_no_draws():
    assert Key(0, 0, []).uniform("a", 3).shape == (0, 3)


def test_streams_are_independent():
    key = Key(0, 0, np.arange(20_000))
    a, b = key.uniform("a")[:, 0].numpy(), key.uniform("b")[:, 0].numpy()
    assert abs(np.corrcoef(a, b)[0, 1]) < 4 / np.sqrt(20_000)


def test_uniform_is_uniform_over_images_and_positions():
    numbers = Key(0, 0, np.arange(50_000)).uniform("a", 4)
    assert numbers.min() >= 0 and numbers.max() < 1
    for column in numbers.numpy().T:
        counts, _ = np.histogram(column, bins=50, range=(0, 1))
        chi_square = float(((counts - 1000) ** 2 / 1000).sum())
        assert 20 < chi_square < 95  # 49 degrees of freedom: 0.01 % on either side


def test_normal_has_the_moments_of_a_normal():
    numbers = Key(5, 0, np.arange(50_000)).normal("noise", 3).numpy().ravel()
    n = numbers.size
    assert abs(numbers.mean()) < 4 / np.sqrt(n)
    assert abs(numbers.var() - 1) < 4 * np.sqrt(2 / n)
    assert abs((numbers**4).mean() - 3) < 4 * np.sqrt(96 / n)


def test_integers_cover_the_range_and_stay_inside():
    numbers = Key(5, 0, np.arange(3000)).integers("pick", -2, 3)
    assert set(numbers.ravel().tolist()) == {-2, -1, 0, 1, 2}


@given(size=st.integers(1, 3000), seed=st.integers(0, 2**64), epoch=st.integers(0, 1000))
def test_permutation_visits_every_image_once(size, seed, epoch):
    images = random.permutation(seed, epoch, size, 0, size)
    assert sorted(images.tolist()) == list(range(size))


@given(size=st.integers(1, 10**12), data=st.data())
def test_permutation_can_begin_anywhere(size, data):
    start = data.draw(st.integers(0, size))
    stop = data.draw(st.integers(start, min(size, start + 20)))
    middle = data.draw(st.integers(start, stop))
    whole = random.permutation(3, 4, size, start, stop)
    parts = [
        random.permutation(3, 4, size, start, middle),
        random.permutation(3, 4, size, middle, stop),
    ]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert ((whole >= 0) & (whole < size)).all()


def test_every_permutation_of_five_is_about_as_likely():
    seen = Counter(tuple(random.permutation(seed, 0, 5, 0, 5).tolist()) for seed in range(12_000))
    assert set(seen) == set(itertools.permutations(range(5)))
    chi_square = sum((count - 100) ** 2 / 100 for count in seen.values())
    assert 70 < chi_square < 185  # 119 degrees of freedom


def test_order_changes_from_epoch_to_epoch_and_neighbours_part():
    first, second = (random.permutation(0, epoch, 10_000, 0, 10_000) for epoch in (0, 1))
    assert (first == second).mean() < 0.001
    assert abs(np.corrcoef(first, np.arange(10_000))[0, 1]) < 0.05
    assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 0.05


def test_seed_torch_is_a_function_of_its_key():
    def draws(*key):
        random.seed_torch(*key)
        return torch.rand(4)

    assert torch.equal(draws(0, "step", 64), draws(0, "step", 64))
    for other in [(1, "step", 64), (0, "init", 64), (0, "step", 128), (2**32, "step", 64)]:
        assert not torch.equal(draws(0, "step", 64), draws(*other))


def global_draws():
    return [*torch.rand(2).tolist(), *np.random.rand(2), python_random.random()]


def test_seed_globals_is_a_function_of_its_key():
    with random.kept_globals():
        random.seed_globals(0, "item", 3, 4)
        first = global_draws()
        random.seed_globals(0, "item", 3, 4)
        assert global_draws() == first
        for other in [(1, "item", 3, 4), (0, "item", 4, 4), (0, "item", 3, 5), (0, "other", 3, 4)]:
            random.seed_globals(*other)
            assert not set(global_draws()) & set(first)


def test_kept_globals_come_back_also_after_a_mistake():
    with random.kept_globals():
        expected = global_draws()
    with pytest.raises(KeyError), random.kept_globals():
        random.seed_globals(5, "item")
        raise KeyError
    with random.kept_globals():
        assert global_draws() == expected


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ((0, 0, [[1]]), ValueError, r"of shape \[B\]; got \[1, 1\]"),
        ((0, 0, [-1]), ValueError, ">= 0; got -1"),
        ((0, -1, [1]), ValueError, "Count epochs from 0"),
        ((0, [1, 2, 3], [1, 2]), ValueError, "one per image"),
        ((0, 0, [0.5]), TypeError, "indices must be integers; got float64"),
    ],
)
def test_key_says_what_is_wrong(arguments, kind, words):
    with pytest.raises(kind, match=words):
        Key(*arguments)


def test_torch_permutation_follows_torchs_seed():
    orders = []
    for seed in (0, 0, 1):
        random.seed_torch(seed, "step")
        orders.append(random.torch_permutation(50, torch.device("cpu")))
    assert torch.equal(orders[0], orders[1]) and not torch.equal(orders[0], orders[2])
    assert torch.equal(orders[0].sort().values, torch.arange(50))
