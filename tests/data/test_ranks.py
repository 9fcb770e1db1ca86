"""Several ranks read one run: the parts of every batch, put together, are the batch alone."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toque import augment
from toque.data import ArraySource, evaluation_batches, train_batches
from toque.data.order import share, stream

PIXELS = np.random.default_rng(0).integers(0, 256, (67, 3, 40, 40), dtype=np.uint8)
SOURCE = ArraySource(PIXELS, np.arange(67) % 5)
PIPELINE = augment.preset("imagenet", 32)


def training(ranks, rank, *, batch_size=12, start=24, stop=200, threads=2):
    return list(
        train_batches(
            SOURCE, PIPELINE, seed=3, batch_size=batch_size, start_images=start, stop_images=stop,
            threads=threads, rank=rank, ranks=ranks,
        )
    )  # fmt: skip


@pytest.mark.parametrize("ranks", [2, 4, 5])
def test_the_parts_of_a_batch_are_the_batch_bit_for_bit(ranks):
    alone = training(1, 0)
    parts = [training(ranks, rank) for rank in range(ranks)]
    assert len(alone) == 15 and all(len(part) == 15 for part in parts)
    for number, whole in enumerate(alone):
        mine = [part[number] for part in parts]
        assert torch.equal(torch.cat([batch.images for batch in mine]), whole.images)
        assert torch.equal(torch.cat([batch.targets for batch in mine]), whole.targets)
        assert np.array_equal(np.concatenate([batch.indices for batch in mine]), whole.indices)
        assert np.array_equal(np.concatenate([batch.epoch for batch in mine]), whole.epoch)
        sizes = [len(batch) for batch in mine]
        assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(("batch_size", "ranks"), [(16, 2), (16, 3), (67, 4), (10, 9)])
def test_evaluation_counts_each_image_once_in_the_batches_of_one_rank(batch_size, ranks):
    def look(rank, ranks):
        return list(
            evaluation_batches(
                SOURCE, None, batch_size=batch_size, threads=1, rank=rank, ranks=ranks
            )
        )

    alone = look(0, 1)
    shared = [batch for rank in range(ranks) for batch in look(rank, ranks)]
    assert [batch.indices.tolist() for batch in shared] == [b.indices.tolist() for b in alone]
    assert sorted(np.concatenate([b.indices for b in shared]).tolist()) == list(range(67))


@settings(max_examples=30)
@given(st.data())
def test_any_part_of_a_share_is_that_part_of_the_whole_share(draw):
    ranks = draw.draw(st.integers(1, 6))
    batch_size = draw.draw(st.integers(ranks, 20))
    rank = draw.draw(st.integers(0, ranks - 1))
    start = draw.draw(st.integers(0, 60))
    length = draw.draw(st.integers(0, 60))

    def order(first, last):
        return stream(1, 23, first, last)

    own, size = share(order, batch_size, rank, ranks)
    whole = stream(1, 23, 0, batch_size * (1 + (start + length) // size))[0]
    first = rank * batch_size // ranks
    mine = whole.reshape(-1, batch_size)[:, first : first + size].reshape(-1)
    assert np.array_equal(own(start, start + length)[0], mine[start : start + length])


def test_mistakes():
    with pytest.raises(
        ValueError, match=r"batch_size must be at least one image for each of the 4"
    ):
        training(4, 0, batch_size=3)
    with pytest.raises(ValueError, match="a whole number of batches"):
        training(2, 0, start=7)
