"""Images of which the answers contradict what belongs to them, whatever the task.

Shape letters: N, M images, K labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

STANDS_OUT = 3.5
_NORMAL = 0.6744897501960817  # the median of |x| for a standard normal x


@dataclass(frozen=True)
class Doubt:
    """An image whose target may be wrong, as people read it.

    index:  the image in its source
    label:  what belongs to it, where it is contradicted: "cat (0.3 %)", "age 34"
    answer: what the model says instead: "dog (99.1 %)", "age 61.2, 7.5 times the usual miss"
    lead:   how firmly; the doubts of one run are ordered by it, the largest first
    """

    index: int
    label: str
    answer: str
    lead: float


def label_leads(
    targets: npt.NDArray[np.float32],
    probabilities: npt.NDArray[np.float32],
    usual: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]],
) -> npt.NDArray[np.float32]:
    """By how much the answer to each label of each image leads over the label that it contradicts;
    0 where it does not, or less firmly than it supports others.

    Each label is a task of two classes, judged as in `toque.train.metrics.suspects`: an answer is
    firm when its probability is at least the mean that images of that class have. Which images say
    so is the caller's choice: those that the model was trained on would flatter it.

    Shape: targets [N, K] of 0 and 1, probabilities [N, K], usual the same of M images -> [N, K]
    """
    true, said = targets > 0, probabilities > 0.5
    of_answer = np.where(said, probabilities, 1 - probabilities)
    firm = np.where(said, *(_support(*usual, answer) for answer in (True, False)))
    return np.where((said != true) & (of_answer >= firm), 2 * of_answer - 1, 0).astype(np.float32)


def _support(
    targets: npt.NDArray[np.float32], probabilities: npt.NDArray[np.float32], answer: bool
) -> npt.NDArray[np.float64]:
    """The mean probability of an answer to each label among the images where it is right; infinite
    where there are none: [K]."""
    right = (targets > 0) == answer
    counts = right.sum(0)
    total = np.where(right, probabilities if answer else 1 - probabilities, 0).sum(0)
    return np.where(counts > 0, total / np.maximum(counts, 1), np.inf)


def outlyingness(
    values: npt.NDArray[np.floating], usual: npt.NDArray[np.floating]
) -> npt.NDArray[np.float64]:
    """How far above the usual ones values lie, in robust standard deviations: what is beyond
    STANDS_OUT stands out. 0 for all where half of the usual ones are equal: nothing is known then.

    Shape:  values [N], usual [M]; those of `usual` that are not numbers are left out -> [N]
    Source: Iglewicz & Hoaglin 1993, How to Detect and Handle Outliers, section 3: modified z-score
    """
    known = usual[~np.isnan(usual)].astype(np.float64)
    if not known.size:
        return np.zeros(len(values))
    middle = np.median(known)
    deviation = np.median(np.abs(known - middle))
    if deviation == 0:
        return np.zeros(len(values))
    return np.asarray(np.nan_to_num(_NORMAL * (values - middle) / deviation, nan=0.0))
