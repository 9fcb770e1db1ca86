"""Parity of classes and of labels: how a file's probabilities differ from the model's.

Shape letters: B images of one batch, K classes or labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from toque.deploy.details import MULTILABEL
from toque.deploy.parity.comparing import Arrays, Means, asked, largest
from toque.deploy.parity.tolerance import EXACT, Tolerance


@dataclass(frozen=True)
class Parity:
    """How a file's answers differ from the model's, of classes and of labels.

    images:      validation images compared, besides the hard cases
    hard_cases:  made-up images: tiny, long, black, white, noise, stripes, large
    probability: largest difference of one probability
    logit:       largest difference of one logit, relative to the largest logit of its image
    changed:     images whose most probable class is another one, ties within tolerance left out
    accuracy, accuracy_before: on the validation images, of the file and of the model
    tolerance:   what is accepted
    """

    images: int
    hard_cases: int
    probability: float
    logit: float
    changed: int
    accuracy: float | None
    accuracy_before: float | None
    tolerance: Tolerance = EXACT

    @property
    def problem(self) -> str | None:
        """Why the file must not be kept, or None."""
        changed = f"{self.changed} predictions changed" if self.changed else None
        return self.tolerance.refuses(
            self.probability, changed, "accuracy", self.accuracy, self.accuracy_before
        )

    def __str__(self) -> str:
        text = (
            f"{asked(self.images, self.hard_cases)}: probabilities within {self.probability:.1e}, "
            f"{self.changed} predictions changed"
        )
        if self.accuracy is not None and self.accuracy_before is not None:
            text += f", accuracy {100 * self.accuracy_before:.2f} -> {100 * self.accuracy:.2f} %"
        return text

    @property
    def score(self) -> str:
        """How good the file is, in words."""
        return "accuracy " + (
            "unknown" if self.accuracy is None else f"{100 * self.accuracy:.2f} %"
        )


class ComparedShares:
    """Counts differences of probabilities, batch by batch."""

    def __init__(self, task: str, tolerance: Tolerance) -> None:
        self._task, self._tolerance = task, tolerance
        self._probability, self._logit, self._changed = 0.0, 0.0, 0
        self._right = Means()

    def add(self, ours: Arrays, theirs: Arrays, targets: Arrays | None) -> None:
        """Compare probabilities and logits [B, K]; of validation images also with what is right."""
        (shares, logits), (before, logits_before) = map(list, (ours, theirs))
        self._probability = largest(self._probability, np.abs(shares - before))
        scale = np.abs(logits_before).max(1, keepdims=True)
        apart = np.abs(logits - logits_before) / np.maximum(scale, 1e-6)
        self._logit = largest(self._logit, apart)
        self._changed += int((_lead(self._task, shares, before) > self._tolerance.tie).sum())
        if targets is not None:
            labels = np.stack(list(targets))
            self._right.add(*(_right(self._task, one, labels) for one in (shares, before)))

    def parity(self, images: int, hard_cases: int) -> Parity:
        return Parity(
            images, hard_cases, self._probability, self._logit, self._changed,
            *self._right.both, self._tolerance,
        )  # fmt: skip


def _lead(task: str, ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """By how much the model prefers its own answer to the file's, for each image; 0 where they are
    one. Where the model itself hesitates within the tolerance, either is its answer."""
    if task == MULTILABEL:
        away = np.abs(theirs - 0.5) * ((ours >= 0.5) != (theirs >= 0.5))
        return np.asarray(away.max(1))
    rows = np.arange(len(theirs))
    return np.asarray(theirs.max(1) - theirs[rows, ours.argmax(1)])


def _right(task: str, shares: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Whether each image is answered right; of several labels, the share of them that is: [B]."""
    if task == MULTILABEL:
        return np.asarray(((shares >= 0.5) == (labels > 0)).mean(1))
    return np.asarray(shares.argmax(1) == labels)
