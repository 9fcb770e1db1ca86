"""Which class is taken for which: the numbers behind the confusion matrix.

Shape letters: K classes. Rows are the true class, columns the predicted one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LARGEST_TABLE = (
    30  # classes; a larger matrix is drawn as a picture, with its worst pairs as a table
)
_LEVELS = 5


@dataclass(frozen=True)
class ClassScore:
    """How one class fared. NaN where it is 0 / 0: recall of a class without images."""

    name: str
    count: int
    recall: float
    precision: float
    f1: float


@dataclass(frozen=True)
class Confused:
    """`count` images of class `true`, a `share` of all of it, that were taken for `predicted`."""

    true: str
    predicted: str
    count: int
    share: float


@dataclass(frozen=True)
class Cell:
    """A cell of the table: `level` 0 (none) to 5 (all of the row) picks its shade."""

    count: int
    level: int
    right: bool
    says: str


def scores(confusion: np.ndarray, classes: Sequence[str]) -> list[ClassScore]:
    """Recall, precision and F1 of each class.

    Shape: integers [K, K] -> K scores
    """
    right = np.diag(confusion).astype(np.float64)
    true, predicted = confusion.sum(1), confusion.sum(0)
    recall = _share(right, true)
    precision = _share(right, predicted)
    f1 = _share(2 * right, true + predicted)
    return [
        ClassScore(name, int(true[k]), float(recall[k]), float(precision[k]), float(f1[k]))
        for k, name in enumerate(classes)
    ]


def most_confused(confusion: np.ndarray, classes: Sequence[str], most: int) -> list[Confused]:
    """The pairs with the most mistakes, at most `most` of them, the largest first."""
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    totals = confusion.sum(1)
    return [
        Confused(classes[row], classes[column], int(wrong[row, column]),
                 int(wrong[row, column]) / int(totals[row]))
        for row, column in (divmod(int(flat), len(classes)) for flat in order)
        if wrong[row, column]
    ]  # fmt: skip


def cells(confusion: np.ndarray, classes: Sequence[str]) -> list[list[Cell]]:
    """The table, cell by cell. The shade follows the root of a cell's share of its row: linear
    shades would leave the mistakes, which are the point, almost white."""
    rows = []
    for i, true in enumerate(classes):
        total = int(confusion[i].sum())
        row = []
        for j, predicted in enumerate(classes):
            count = int(confusion[i, j])
            level = int(np.ceil(np.sqrt(count / total) * _LEVELS)) if count else 0
            what = "recognised" if i == j else f"taken for {predicted}"
            row.append(Cell(count, level, i == j, f"{true}: {count} of {total} {what}"))
        rows.append(row)
    return rows


def shrink(confusion: np.ndarray, side: int) -> np.ndarray:
    """Shares of each row, averaged over square blocks until the matrix is at most `side` wide.

    The last block is smaller where K is no multiple of the block.

    Shape: integers [K, K] -> float [n, n], n <= side; 0 .. 1
    """
    shares = np.nan_to_num(_share(confusion.astype(np.float64), confusion.sum(1)[:, None]))
    block = -(-len(shares) // side)
    starts = np.arange(0, len(shares), block)
    sums = np.add.reduceat(np.add.reduceat(shares, starts, axis=0), starts, axis=1)
    rows = np.diff(np.append(starts, len(shares)))
    # Averaged over the rows of a block and summed over its columns, a row still adds up to 1.
    return np.asarray(sums / rows[:, None])


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(whole > 0, part / np.maximum(whole, 1), np.nan))
