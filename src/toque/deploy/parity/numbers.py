"""Parity of numbers: how those of a file differ from the model's.

Shape letters: B images of one batch, D numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from toque.deploy.outputs import Numbers
from toque.deploy.parity.comparing import Arrays, Means, asked, largest
from toque.deploy.parity.tolerance import EXACT, Tolerance


@dataclass(frozen=True)
class NumbersParity:
    """How a file's numbers differ from the model's.

    images, hard_cases: as of `Parity`
    number:    largest difference of one number, in standard deviations of the training numbers,
               relative to the number where that is larger than one
    changed:   images with a number beyond the tolerance
    mae, mae_before: mean absolute error on the validation images, in their units, of the file and
               of the model
    tolerance: what is accepted; where it is of the score, the error may grow by that share
    """

    images: int
    hard_cases: int
    number: float
    changed: int
    mae: float | None
    mae_before: float | None
    tolerance: Tolerance = EXACT

    @property
    def problem(self) -> str | None:
        """Why the file must not be kept, or None."""
        most = self.tolerance.probability
        if self.tolerance.accuracy is None:
            if self.number <= most:
                return None
            return f"a number differs by {self.number:.2g} standard deviations, more than {most:g}"
        grown = (self.mae or 0.0) / max(self.mae_before or 0.0, 1e-12) - 1
        if not grown <= self.tolerance.accuracy:
            return (
                f"a mean absolute error {100 * grown:.2f} % larger, more than "
                f"{100 * self.tolerance.accuracy:g} %"
            )
        return None

    def __str__(self) -> str:
        text = (
            f"{asked(self.images, self.hard_cases)}: numbers within {self.number:.1e} standard "
            f"deviations, {self.changed} changed"
        )
        if self.mae is not None and self.mae_before is not None:
            text += f", MAE {self.mae_before:.5g} -> {self.mae:.5g}"
        return text

    @property
    def score(self) -> str:
        """How good the file is, in words."""
        return "unknown" if self.mae is None else f"MAE {self.mae:.5g}"


class ComparedNumbers:
    """Counts differences of numbers, batch by batch."""

    def __init__(self, outputs: Numbers, tolerance: Tolerance) -> None:
        self._mean, self._std = (part.numpy() for part in (outputs.mean, outputs.std))
        self._tolerance = tolerance
        self._number, self._changed = 0.0, 0
        self._error = Means()

    def add(self, ours: Arrays, theirs: Arrays, targets: Arrays | None) -> None:
        """Compare numbers [B, D]; of validation images also with what is right."""
        scale = np.maximum(np.abs(theirs[0] - self._mean) / self._std, 1.0) * self._std
        away = np.abs(ours[0] - theirs[0]) / scale
        self._number = largest(self._number, away)
        self._changed += int((~(away <= self._tolerance.probability)).any(1).sum())
        if targets is not None:
            true = np.stack(list(targets))
            self._error.add(*(np.abs(one[0] - true).mean(1) for one in (ours, theirs)))

    def parity(self, images: int, hard_cases: int) -> NumbersParity:
        return NumbersParity(
            images, hard_cases, self._number, self._changed, *self._error.both, self._tolerance
        )
