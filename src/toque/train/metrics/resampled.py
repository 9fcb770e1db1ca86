"""The scores of labels, numbers and masks as functions of how often each image counts: what the
bootstrap draws from.

Each gives [R, N] counts -> [R, S] scores, in the order in which the task names its metrics; with
counts of 1 they are those metrics.

Shape letters: N images, K classes or labels, D numbers, R resamples, S scores.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from toque.train.metrics.intervals import RESAMPLES, Statistic

_FEWEST = 200
_CELLS = 2 * 10**8  # resamples x images x labels that are gone through: some seconds


def resamples_for(num_cells: int) -> int:
    """As many resamples as take seconds, for so many numbers that each of them goes through."""
    return max(_FEWEST, min(RESAMPLES, _CELLS // max(1, num_cells)))


def of_labels(
    probabilities: npt.NDArray[np.float32], targets: npt.NDArray[np.float32], threshold: float
) -> Statistic:
    """Mean average precision, micro F1, macro F1; labels that no image has do not count.

    Shape: probabilities, targets [N, K]
    """
    said, true = (probabilities > threshold).astype(np.float32), (targets > 0).astype(np.float32)
    ranked = [_ranked(probabilities[:, k], true[:, k]) for k in range(targets.shape[1])]

    def scores(counts: npt.NDArray[np.float32]) -> npt.NDArray[np.floating]:
        precisions = np.stack([_precision(counts, *one) for one in ranked], axis=1)
        both, either = counts @ (said * true), counts @ (said + true)
        with np.errstate(invalid="ignore"):
            each = 2 * both / either
        micro = 2 * both.sum(1) / np.maximum(1, either.sum(1))
        return np.column_stack([_mean(precisions), micro, _mean(each)])

    return scores


_Ranked = tuple[npt.NDArray[np.int64], npt.NDArray[np.float32], npt.NDArray[np.int64]]


def _ranked(scores: npt.NDArray[np.float32], true: npt.NDArray[np.float32]) -> _Ranked:
    order = np.argsort(-scores, kind="stable")
    # Images of one score are found together: only the last of them is a threshold.
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    return order, true[order], ends


def _precision(
    counts: npt.NDArray[np.float32],
    order: npt.NDArray[np.int64],
    true: npt.NDArray[np.float32],
    ends: npt.NDArray[np.int64],
) -> npt.NDArray[np.floating]:
    """Average precision of a label in each resample; not a number where none has it: [R]."""
    drawn = counts[:, order]
    found = np.cumsum(drawn * true, axis=1)[:, ends]
    asked = np.cumsum(drawn, axis=1)[:, ends]
    gained = np.diff(found, axis=1, prepend=0)
    with np.errstate(invalid="ignore"):
        return np.asarray((gained * found / np.maximum(asked, 1)).sum(1) / found[:, -1])


def of_numbers(predictions: npt.NDArray[np.float32], targets: npt.NDArray[np.float32]) -> Statistic:
    """MAE, RMSE and R², each the mean over the D numbers.

    Shape: predictions, targets [N, D]
    """
    true = targets.astype(np.float64)
    error = predictions.astype(np.float64) - true
    apart = true - true.mean(0)  # small numbers: their squares keep their digits
    columns = (np.abs(error), error**2, apart, apart**2)

    def scores(counts: npt.NDArray[np.float32]) -> npt.NDArray[np.floating]:
        total = counts.sum(1, dtype=np.float64)[:, None]
        size, left, first, second = (counts @ one for one in columns)
        spread = second - first**2 / total
        # What rounding leaves of a spread that is none.
        some = spread > 1e-9 * np.maximum(second, 1e-300)
        r2 = np.where(some, 1 - left / np.where(some, spread, 1), (left == 0).astype(float))
        return np.column_stack(
            [(size / total).mean(1), np.sqrt(left / total).mean(1), r2.mean(1)]
        )  # fmt: skip

    return scores


def of_masks(overlaps: npt.NDArray[np.int64]) -> Statistic:
    """Mean IoU over the classes that occur, and the share of pixels that are right.

    Shape: overlaps [N, 3, K]: for each image and class the pixels that have it and were given it,
           those that have it, and those that were given it
    """
    columns = overlaps.astype(np.float64).transpose(1, 0, 2)

    def scores(counts: npt.NDArray[np.float32]) -> npt.NDArray[np.floating]:
        both, true, said = (counts @ one for one in columns)
        with np.errstate(invalid="ignore"):
            ious = both / (true + said - both)
        right = both.sum(1) / np.maximum(1, true.sum(1))
        return np.column_stack([_mean(ious), right])

    return scores


def _mean(values: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """The mean of those in a row that are numbers; 0 where none is: [R, K] -> [R]."""
    known = ~np.isnan(values)
    return np.asarray(np.where(known, values, 0).sum(1) / np.maximum(1, known.sum(1)))
