"""Labels that the answers contradict.

Shape letters: N images, K classes.
Source: Northcutt 2021, arXiv:1911.00068, section 3: an image is counted as of class j, whatever its
        label says, when its probability of j is at least the mean that images labelled j have. Here
        j is the predicted class, and the images are ranked by how far the label falls behind.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from toque.train.metrics.answers import Answers


@dataclass(frozen=True)
class Suspect:
    """An image whose label may be wrong: `row` of the answers, and both probabilities."""

    row: int
    label: int
    answer: int
    label_probability: float
    answer_probability: float


def suspects(answers: Answers) -> list[Suspect]:
    """The images whose label the model contradicts as firmly as it supports others of that class.

    Only images that the model did not learn from can be judged so: it has memorised the others,
    with their wrong labels. A suspect may as well be a hard image: look before relabelling.

    Sorted by the lead of the answer over the label, the largest first.
    """
    k = answers.num_classes
    support = np.bincount(answers.targets, answers.target_probabilities, minlength=k)
    counts = np.bincount(answers.targets, minlength=k)
    # A class without labelled images has no mean: nothing may be suspected of belonging there.
    usual = np.where(counts > 0, support / np.maximum(counts, 1), np.inf)
    predicted, sure = answers.predictions, answers.confidences
    return _ranked(answers, np.flatnonzero(~answers.right & (sure >= usual[predicted])))


def unlearnt(answers: Answers) -> list[Suspect]:
    """The images whose label the model contradicts although it was trained on it.

    With 10 % of the labels of Fashion-MNIST changed on purpose (benchmarks/label_noise.py), these
    were 89 to 98 % of the changed ones, half to seven tenths of what is listed; 76 to 82 % of the
    changed ones stood in as many places at the top. A label that was learnt by heart does not show:
    the longer the training, the more of them hide.

    Sorted as `suspects`.
    """
    return _ranked(answers, np.flatnonzero(~answers.right))


def _ranked(answers: Answers, found: npt.NDArray[np.intp]) -> list[Suspect]:
    predicted, sure = answers.predictions, answers.confidences
    lead = sure[found] - answers.target_probabilities[found]
    return [
        Suspect(
            int(row), int(answers.targets[row]), int(predicted[row]),
            float(answers.target_probabilities[row]), float(sure[row]),
        )
        for row in found[np.argsort(-lead, kind="stable")]
    ]  # fmt: skip
