"""Images of which the answers contradict what belongs to them, whatever the task.

Shape letters: N, M images, K labels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

STANDS_OUT = 3.5
FEW_WRONG = 0.03
"""Of answers to labels: the share that may be contradicted where they are called firm."""
FEWEST = 50
"""Answers to labels that say how often such answers are wrong."""
_NORMAL = 0.6744897501960817  # the median of |x| for a standard normal x


@dataclass(frozen=True)
class Doubt:
    """An image whose target may be wrong, as people read it.

    index:  the image in its source
    label:  what belongs to it, where it is contradicted: "cat (0.3 %)", "age 34"
    answer: what the model says instead: "dog (99.1 %)", "age 61.2, 7.5 times the usual miss"
    lead:   how firmly; the doubts of one run are ordered by it, the largest first
    kind:   of several labels: "missing" or "superfluous"
    """

    index: int
    label: str
    answer: str
    lead: float
    kind: str = ""


def kinds_of(doubts: Iterable[Doubt]) -> dict[str, int]:
    """How many of them are of each kind; empty where they have none."""
    return dict(sorted(Counter(one.kind for one in doubts if one.kind).items()))


def in_words(kinds: Mapping[str, int]) -> str:
    """ " (labels: 21 missing, 30 superfluous)" to follow a number of images; "" without kinds."""
    said = [f"{number} {kind}" for kind, number in kinds.items()]
    return f" (labels: {', '.join(said)})" if said else ""


@dataclass(frozen=True, eq=False)
class Firmness:
    """From which probability on an answer is firm enough to doubt a label that it contradicts.

    least: of each label [K]; infinite where none is
    asked: how many of the firmest answers were looked at, where none is firm enough; 0 where there
           are fewer than FEWEST
    wrong: the share of them that validation labels contradict
    """

    least: npt.NDArray[np.float64]
    asked: int = 0
    wrong: float = 0.0


def firmness(
    targets: npt.NDArray[np.float32], probabilities: npt.NDArray[np.float32], there: bool
) -> Firmness:
    """When the answer that a label is there, or that it is not, is firm enough, by answers on
    images that the model did not learn from.

    Two conditions: as firm as the mean answer of the images where it is right, label by label; and
    so firm that of all answers as firm, whatever the label, at most FEW_WRONG are contradicted, no
    more than FEW_WRONG of the labels they could contradict. The second bounds the list: a model
    that is often wrong is never firm, and of rare labels not all that it misses are doubted.

    Shape:  targets [M, K] of 0 and 1, probabilities [M, K]
    Source: Northcutt 2021, arXiv:1911.00068, section 3, for the first; the second is ours
    """
    agree = (targets > 0) == there
    firm = probabilities.astype(np.float64) if there else 1 - probabilities.astype(np.float64)
    counts = agree.sum(0)
    usual = np.where(agree, firm, 0).sum(0) / np.maximum(counts, 1)
    said = firm > 0.5
    order = np.argsort(-firm[said], kind="stable")
    sorted_firm, wrong = firm[said][order], np.cumsum(~agree[said][order])
    asked = np.arange(1, len(order) + 1)
    most = FEW_WRONG * np.minimum(asked, (~agree).sum())
    # Answers of one probability are taken together: only the last of them is a place to cut.
    last = np.append(np.diff(sorted_firm) != 0, True)[: len(order)]
    fine = np.flatnonzero((wrong <= most) & (asked >= FEWEST) & last)
    if not len(fine):
        first = FEWEST if len(order) >= FEWEST else 0
        share = float(wrong[first - 1] / first) if first else 0.0
        return Firmness(np.full(targets.shape[1], np.inf), first, share)
    least = np.maximum(usual, sorted_firm[fine[-1]])
    return Firmness(np.where(counts > 0, least, np.inf))


def label_leads(
    targets: npt.NDArray[np.float32],
    probabilities: npt.NDArray[np.float32],
    there: Firmness,
    not_there: Firmness,
) -> npt.NDArray[np.float32]:
    """By how much the answer to each label of each image leads over the label that it contradicts;
    0 where it does not, or is not firm enough.

    Shape: targets [N, K] of 0 and 1, probabilities [N, K] -> [N, K]
    """
    true, said = targets > 0, probabilities > 0.5
    shares = probabilities.astype(np.float64)  # as in `firmness`, whose bounds are met exactly
    of_answer = np.where(said, shares, 1 - shares)
    firm = np.where(said, there.least, not_there.least)
    return np.where((said != true) & (of_answer >= firm), 2 * of_answer - 1, 0).astype(np.float32)


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
