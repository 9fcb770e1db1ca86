"""The endless stream: every image once an epoch, from any place on."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toque.data.order import stream


@given(st.integers(1, 50), st.integers(0, 200), st.integers(0, 200), st.integers())
def test_any_part_is_that_part_of_the_whole(num_images, start, length, seed):
    indices, epochs = stream(seed, num_images, 0, start + length)
    part = stream(seed, num_images, start, start + length)
    np.testing.assert_array_equal(part[0], indices[start:])
    np.testing.assert_array_equal(part[1], epochs[start:])
    assert indices.dtype == epochs.dtype == np.int64


def test_every_epoch_visits_every_image_in_another_order():
    indices, epochs = stream(0, 30, 0, 90)
    for epoch in range(3):
        assert sorted(indices[epochs == epoch]) == list(range(30))
    assert epochs.tolist() == [0] * 30 + [1] * 30 + [2] * 30
    assert not np.array_equal(indices[:30], indices[30:60])


def test_mistakes():
    with pytest.raises(ValueError, match="num_images must be >= 1; got 0"):
        stream(0, 0, 0, 1)
    with pytest.raises(ValueError, match="0 <= start <= stop"):
        stream(0, 5, 4, 3)
