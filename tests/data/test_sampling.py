"""Sampling: the promised shares, exactly, and any part of the stream by itself."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.standin import Sampler as Pipeline
from toque import random
from toque.data import ArraySource, Sampling, train_batches
from toque.data.order import share, stream
from toque.data.sampling import order_of
from toque.random import Key

COUNTS = (40, 7, 1, 12)  # images of each class, the third but one alone, a fifth class without any


class Weighted(ArraySource):
    """Arrays with a weight for each image."""

    def __init__(self, weights, labels=None):
        num = len(weights)
        images = np.arange(num * 12, dtype=np.int64).reshape(num, 2, 2, 3) % 256
        super().__init__(images.astype(np.uint8), np.zeros(num, int) if labels is None else labels)
        self._given = np.asarray(weights, np.float32)

    @property
    def weights(self):
        return self._given


LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(4), COUNTS))
PIXELS = np.random.default_rng(1).integers(0, 256, (60, 8, 9, 3), dtype=np.uint8)
SOURCE = ArraySource(PIXELS, LABELS, list("abcde"))
WEIGHTS = np.random.default_rng(2).exponential(1, 60) * (np.arange(60) % 5 > 0)

ORDERS = {
    "shuffle": (SOURCE, Sampling()),
    "balanced": (SOURCE, Sampling("balanced")),
    "weighted": (Weighted(WEIGHTS), Sampling("weighted")),
    "repeated": (SOURCE, Sampling(repeats=3)),
    "balanced, repeated": (SOURCE, Sampling("balanced", repeats=2)),
}


@pytest.mark.parametrize("name", ORDERS)
@settings(max_examples=40)
@given(
    start=st.integers(0, 400), length=st.integers(0, 200), seed=st.integers(-5, 5),
    ranks=st.sampled_from([1, 2, 3]),
)  # fmt: skip
def test_any_part_is_that_part_of_the_whole(name, start, length, seed, ranks):
    order = order_of(*ORDERS[name], seed)
    whole = order(0, start + length)
    part = order(start, start + length)
    for one, other in zip(part, whole, strict=True):
        np.testing.assert_array_equal(one, other[start:])
        assert one.dtype == np.int64
    batch = 12  # and no rank sees another stream than one alone
    shares = [share(order, batch, rank, ranks) for rank in range(ranks)]
    parts = [own(0, 3 * size)[0].reshape(3, size) for own, size in shares]
    np.testing.assert_array_equal(np.concatenate(parts, 1).ravel(), order(0, 3 * batch)[0])


@pytest.mark.parametrize("name", ORDERS)
def test_an_image_never_comes_twice_with_the_same_draws(name):
    indices, epochs = order_of(*ORDERS[name], 3)(0, 6000)
    assert len(set(zip(indices.tolist(), epochs.tolist(), strict=True))) == 6000
    assert epochs.min() >= 0


@pytest.mark.parametrize("name", ORDERS)
def test_seeds_differ(name):
    first, second = (order_of(*ORDERS[name], seed)(0, 200)[0] for seed in (0, 1))
    assert not np.array_equal(first, second)


def test_shuffle_is_the_stream():
    for one, other in zip(
        order_of(SOURCE, Sampling(), 5)(7, 300), stream(5, 60, 7, 300), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_balanced_shows_every_class_equally_often_and_every_image_of_it():
    indices, _ = order_of(SOURCE, Sampling("balanced"), 0)(0, 4 * 280)
    rounds = LABELS[indices].reshape(-1, 4)
    assert (np.sort(rounds, axis=1) == np.arange(4)).all()
    assert len({tuple(row) for row in rounds}) > 10  # in another order each time
    for label, count in enumerate(COUNTS):
        own = indices[LABELS[indices] == label][: 280 // count * count].reshape(-1, count)
        assert (np.sort(own, axis=1) == np.flatnonzero(label == LABELS)).all()
        if count > 2:
            assert len({tuple(row) for row in own}) > 1


@given(
    weights=st.lists(st.floats(0, 10, width=32), min_size=1, max_size=40).filter(lambda w: sum(w) > 0.1),
    seed=st.integers(0, 9),
)  # fmt: skip
def test_weighted_gives_each_image_its_share_of_every_epoch(weights, seed):
    source = Weighted(weights)
    num = len(weights)
    share_of = source.weights.astype(np.float64) * num / source.weights.astype(np.float64).sum()
    indices, _ = order_of(source, Sampling("weighted"), seed)(0, 5 * num)
    for epoch in indices.reshape(5, num):
        counts = np.bincount(epoch, minlength=num)
        assert (counts >= np.floor(share_of - 1e-6)).all()
        assert (counts <= np.ceil(share_of + 1e-6)).all()


def test_equal_weights_give_every_image_once():
    indices, _ = order_of(Weighted(np.full(50, 0.3)), Sampling("weighted"), 4)(0, 200)
    assert (np.sort(indices.reshape(4, 50), axis=1) == np.arange(50)).all()


def test_weighted_has_the_mean_of_the_weights():
    source = Weighted(WEIGHTS)
    indices, _ = order_of(source, Sampling("weighted"), 0)(0, 60 * 3000)
    expected = source.weights / source.weights.sum()
    np.testing.assert_allclose(
        np.bincount(indices, minlength=60) / len(indices), expected, atol=4e-4
    )


def by_hand(weights, names, labels, class_weights):
    """The product, image by image, in plain python."""
    if class_weights == "equal":
        totals = {}
        for weight, label in zip(weights, labels, strict=True):
            totals[label] = totals.get(label, 0) + weight
        factor = {label: 1 / total for label, total in totals.items()}
    else:
        factor = {n: class_weights.get(name, 1) for n, name in enumerate(names)}
    return [weight * factor[label] for weight, label in zip(weights, labels, strict=True)]


@pytest.mark.parametrize("class_weights", ["equal", {"1": 4, "3": 0.25}, {"0": 0}])
@pytest.mark.parametrize("own", [True, False])
def test_weights_of_classes_and_of_images_multiply(class_weights, own):
    weights = np.float32(WEIGHTS + 0.1).tolist() if own else [1.0] * 60
    source = Weighted(weights, LABELS) if own else ArraySource(PIXELS, LABELS)
    product = by_hand(weights, source.classes, LABELS.tolist(), class_weights)
    shares = [60 * weight / sum(product) for weight in product]
    sampling = Sampling("weighted", class_weights=class_weights)
    indices, _ = order_of(source, sampling, 7)(0, 60 * 400)
    epochs = np.stack([np.bincount(epoch, minlength=60) for epoch in indices.reshape(400, 60)])
    assert (epochs >= np.floor(np.array(shares) - 1e-6)).all()
    assert (epochs <= np.ceil(np.array(shares) + 1e-6)).all()
    np.testing.assert_allclose(epochs.mean(0), shares, atol=0.09)
    if class_weights == "equal":
        classes = np.stack([np.bincount(LABELS, weights=epoch, minlength=4) for epoch in epochs])
        np.testing.assert_allclose(classes.mean(0), 15, atol=0.2)
    if class_weights == {"0": 0}:
        assert not epochs[:, LABELS == 0].any()


def test_repeats_stand_together_and_an_epoch_stays_n_images():
    indices, epochs = order_of(SOURCE, Sampling(repeats=3), 0)(0, 360)
    groups = indices.reshape(-1, 3)
    assert (groups == groups[:, :1]).all()
    np.testing.assert_array_equal(groups[:, 0], stream(0, 60, 0, 120)[0])
    assert (np.sort(epochs.reshape(-1, 3), axis=1) % 3 == np.arange(3)).all()


@pytest.mark.parametrize("name", ORDERS)
def test_the_loader_follows_the_order(name):
    source, sampling = ORDERS[name]
    pipeline = Pipeline()
    for threads, batch_size in ((0, 7), (2, 16)):
        batches = train_batches(
            source, pipeline, seed=2, batch_size=batch_size, start_images=5, stop_images=90,
            threads=threads, sampling=sampling,
        )  # fmt: skip
        got = [(b.images[i], int(b.indices[i])) for b in batches for i in range(len(b))]
        order = order_of(source, sampling, 2)(5, 5 + len(got))
        for (image, index), wanted, epoch in zip(got, *order, strict=True):
            assert index == wanted
            drawn = pipeline.draw(Key(2, int(epoch), [index]))
            assert torch.equal(image, pipeline.apply([source.read(index)], drawn)[0])


@settings(max_examples=25)
@given(st.data())
def test_placed_is_a_permutation_of_each_group(drawn):
    sizes = drawn.draw(st.lists(st.integers(1, 30), min_size=1, max_size=6))
    groups = np.repeat(np.arange(len(sizes)), sizes)
    positions = np.concatenate([np.arange(size) for size in sizes])
    each = np.repeat(sizes, sizes)
    placed = partial(random.placed, 7, "test")
    images = placed((groups,), each, positions)
    for number, size in enumerate(sizes):
        assert sorted(images[groups == number]) == list(range(size))
    alone = [
        int(placed((groups[n : n + 1],), each[n : n + 1], positions[n : n + 1])[0])
        for n in range(len(each))
    ]
    assert alone == images.tolist()


def test_placed_is_even():
    """Of 4 places each image stands in each equally often, over many groups (chi-square)."""
    groups = np.repeat(np.arange(24_000), 4)
    places = np.tile(np.arange(4), 24_000)
    images = random.placed(0, "test", (groups,), np.full(96_000, 4), places)
    table = np.zeros((4, 4))
    np.add.at(table, (places, images), 1)
    assert ((table - 6000) ** 2 / 6000).sum() < 35  # 9 degrees of freedom: 1 in 10,000
    orders = np.unique(images.reshape(-1, 4), axis=0, return_counts=True)[1]
    assert len(orders) == 24
    assert ((orders - 1000) ** 2 / 1000).sum() < 60  # 23 degrees


@pytest.mark.parametrize(
    ("source", "sampling", "words"),
    [
        (SOURCE, "weighted", r"shuffle or balanced for data without weights; got weighted"),
        (Weighted([0, 0]), "weighted", "weights must be finite, >= 0 and not all 0"),
        (Weighted([1, -1, 1]), "weighted", "weights must be finite"),
        (ArraySource(np.zeros((4, 8, 8, 3), np.uint8), np.eye(4, 3, dtype=np.float32)), "balanced",
         "must be shuffle or weighted for multilabel"),
    ],
)  # fmt: skip
def test_mistakes(source, sampling, words):
    with pytest.raises(ValueError, match=words):
        order_of(source, Sampling(sampling), 0)


def test_mistakes_in_the_weights_of_classes():
    named = Sampling("weighted", class_weights={"cat": 2})
    with pytest.raises(ValueError, match=r"class_weights must be by the names of classes; got cat"):
        order_of(SOURCE, named, 0)
    flags = ArraySource(np.zeros((4, 8, 8, 3), np.uint8), np.eye(4, 3, dtype=np.float32))
    with pytest.raises(ValueError, match=r"class_weights must be left out for multilabel"):
        order_of(flags, named, 0)
    with pytest.raises(ValueError, match=r'left out unless name is "weighted"; got balanced'):
        Sampling("balanced", class_weights="equal")
    with pytest.raises(ValueError, match=r"class_weights.cat must be finite and >= 0; got -1"):
        Sampling("weighted", class_weights={"cat": -1})
    with pytest.raises(ValueError, match=r'must be "equal", or a number for each class; got even'):
        Sampling("weighted", class_weights="even")


def test_unknown_settings():
    with pytest.raises(ValueError, match=r"name must be one of .*Did you mean balanced"):
        Sampling("balance")
    with pytest.raises(ValueError, match="repeats must be >= 1"):
        Sampling(repeats=0)
