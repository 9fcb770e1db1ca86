"""The keyed split: stable under additions, stratified, never empty on a side."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toque.data.splits import draw_validation

NAMES = st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=40, unique=True)


def labels_of(names, num_classes):
    return np.array([len(name) % num_classes for name in names])


@given(NAMES, st.integers(1, 4), st.integers(), st.floats(0.01, 0.99))
def test_every_class_of_two_images_has_one_on_either_side(names, num_classes, seed, fraction):
    labels = labels_of(names, num_classes)
    in_val = draw_validation(names, labels, seed, fraction)
    for label in np.unique(labels):
        chosen = in_val[labels == label]
        if len(chosen) == 1:
            assert not chosen[0]
        else:
            assert chosen.any() and not chosen.all()


@given(NAMES, st.integers(), st.randoms())
def test_the_order_of_the_files_does_not_matter(names, seed, shuffle):
    order = list(range(len(names)))
    shuffle.shuffle(order)
    labels = labels_of(names, 3)
    whole = draw_validation(names, labels, seed, 0.2)
    mixed = draw_validation([names[i] for i in order], labels[order], seed, 0.2)
    np.testing.assert_array_equal(mixed, whole[order])


def test_adding_files_does_not_move_the_others():
    names = [f"cat/{i}.jpg" for i in range(1000)]
    few = draw_validation(names[:500], np.zeros(500), 0, 0.2)
    many = draw_validation(names, np.zeros(1000), 0, 0.2)
    np.testing.assert_array_equal(many[:500], few)


@pytest.mark.parametrize("fraction", [0.05, 0.2, 0.5])
def test_the_share_is_the_one_asked_for(fraction):
    names = [f"cat/{i}.jpg" for i in range(20_000)]
    share = draw_validation(names, np.zeros(20_000), 7, fraction).mean()
    assert abs(share - fraction) < 4 * np.sqrt(fraction * (1 - fraction) / 20_000)


def test_the_seed_changes_the_split():
    names = [str(i) for i in range(1000)]
    one, other = (draw_validation(names, np.zeros(1000), seed, 0.5) for seed in (0, 1))
    assert 0.4 < (one == other).mean() < 0.6
