"""The numbers behind the confusion matrix, against counting by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from toque.train.report import confusion

NAMES = ("cat", "dog", "emu")
MATRIX = np.array([[8, 2, 0], [1, 9, 0], [5, 0, 0]])


def test_scores_are_those_of_the_single_images() -> None:
    images = [(i, j) for i in range(3) for j in range(3) for _ in range(MATRIX[i, j])]
    for k, score in enumerate(confusion.scores(MATRIX, NAMES)):
        of_class = [p for t, p in images if t == k]
        put_there = [t for t, p in images if p == k]
        hits = sum(t == p == k for t, p in images)
        assert score.name == NAMES[k]
        assert score.count == len(of_class)
        assert score.recall == pytest.approx(hits / len(of_class))
        assert score.f1 == pytest.approx(2 * hits / (len(of_class) + len(put_there)))
        if put_there:
            assert score.precision == pytest.approx(hits / len(put_there))
    assert math.isnan(confusion.scores(MATRIX, NAMES)[2].precision)  # nothing was called an emu


def test_a_class_without_images_has_no_recall() -> None:
    score = confusion.scores(np.array([[3, 1], [0, 0]]), ("a", "b"))[1]
    assert math.isnan(score.recall) and score.precision == 0


def test_most_confused_pairs_come_first_and_hits_never() -> None:
    pairs = confusion.most_confused(MATRIX, NAMES, 10)
    assert [(p.true, p.predicted, p.count, p.share) for p in pairs] == [
        ("emu", "cat", 5, 1.0), ("cat", "dog", 2, 0.2), ("dog", "cat", 1, 0.1),
    ]  # fmt: skip
    assert len(confusion.most_confused(MATRIX, NAMES, 2)) == 2
    assert confusion.most_confused(np.diag([4, 4]), ("a", "b"), 5) == []


def test_unsigned_counts_do_not_wrap() -> None:
    pairs = confusion.most_confused(MATRIX.astype(np.uint8), NAMES, 10)
    assert [pair.count for pair in pairs] == [5, 2, 1]


def test_shades_follow_the_share_of_the_row() -> None:
    cells = confusion.cells(np.array([[96, 4, 0], [0, 0, 0], [1, 0, 9999]]), NAMES)
    assert [[cell.level for cell in row] for row in cells] == [[5, 1, 0], [0, 0, 0], [1, 0, 5]]
    assert cells[0][1].says == "cat: 4 of 100 taken for dog"
    assert cells[0][0].says == "cat: 96 of 100 recognised"


@pytest.mark.parametrize("classes", [31, 200, 333, 1000])
def test_a_shrunk_matrix_keeps_the_shares(classes: int) -> None:
    matrix = np.random.RandomState(0).poisson(0.05, (classes, classes)) + np.eye(classes, dtype=int)
    small = confusion.shrink(matrix, 200)
    assert small.shape[0] == small.shape[1] <= 200
    np.testing.assert_allclose(small.sum(1), 1.0)
    if classes <= 200:
        np.testing.assert_allclose(small, matrix / matrix.sum(1, keepdims=True))
