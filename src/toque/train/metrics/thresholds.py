"""From which probability on a label is said to be there, chosen on validation images.

Shape letters: N images, K labels.
Source: Lipton 2014, arXiv:1402.1892: the threshold of the best F1 is half of that F1 where the
        probabilities are true, so for rare or hard labels it lies far below a half
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from toque import random

THRESHOLD = 0.5
"""Where nothing better is known."""


@dataclass(frozen=True, eq=False)
class Thresholds:
    """A threshold of each label, and what it is worth.

    values: [K], THRESHOLD where no other was better
    said:   [N, K] bool: what the thresholds say of the images they were chosen on, those of one
            half by a threshold chosen on the other: said by their own they would flatter themselves
    """

    values: npt.NDArray[np.float64]
    said: npt.NDArray[np.bool_]


def thresholds(
    probabilities: npt.NDArray[np.float32], targets: npt.NDArray[np.float32]
) -> Thresholds:
    """The threshold of the best F1 of each label.

    One that was chosen on one half of the images must beat THRESHOLD on the other half, and the
    reverse, both counted together; else the label keeps THRESHOLD. A label that fewer than two
    images have keeps it, too.

    Shape: probabilities, targets [N, K]; the same rows in the same order have the same halves
    """
    n, k = probabilities.shape
    true = targets > 0
    order = random.permutation(0, 0, n, 0, n)
    halves = (order[: n // 2], order[n // 2 :])
    usual = probabilities > THRESHOLD
    values, said = np.full(k, THRESHOLD), usual.copy()
    for label in range(k):
        share, there = probabilities[:, label], true[:, label]
        if there.sum() < 2:
            continue
        tried = np.empty(n, bool)
        for chosen, asked in (halves, halves[::-1]):
            tried[asked] = share[asked] > _best(share[chosen], there[chosen])
        if f1(tried, there) > f1(usual[:, label], there):
            values[label], said[:, label] = _best(share, there), tried
    return Thresholds(values, said)


def f1(said: npt.NDArray[np.bool_], true: npt.NDArray[np.bool_]) -> float:
    """Of one label; 0 where it is neither said nor there. Shape: [N], [N]"""
    either = int(said.sum()) + int(true.sum())
    return 2 * int((said & true).sum()) / either if either else 0.0


def _best(share: npt.NDArray[np.float32], true: npt.NDArray[np.bool_]) -> float:
    """The threshold of the best F1, half way between two probabilities; THRESHOLD where no image
    has the label."""
    if not true.any():
        return THRESHOLD
    order = np.argsort(-share, kind="stable")
    # Images of one probability are said together: only the last of them is a place to cut.
    ends = np.append(np.flatnonzero(np.diff(share[order])), len(share) - 1)
    found = np.cumsum(true[order])[ends]
    at = int(np.argmax(2 * found / (ends + 1 + true.sum())))
    above = float(share[order[ends[at]]])
    below = float(share[order[ends[at] + 1]]) if at + 1 < len(ends) else 0.0
    return (above + below) / 2
