"""What an exported file may differ by from the run it comes from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Tolerance:
    """What a file may differ by from the run.

    probability: of one class of one image, at most; of a number, in standard deviations
    tie:         classes so near in probability count as one answer
    accuracy:    how much of it, or of the mean IoU, may be lost; None: no prediction may change
    """

    probability: float
    tie: float
    accuracy: float | None = None

    def refuses_probability(self, difference: float) -> str | None:
        """Why a file with a probability that differs by so much must not be kept, or None."""
        if difference <= self.probability:
            return None
        return f"a probability differs by {difference:.2g}, more than {self.probability:g}"

    def refuses_loss(self, score: str, before: float | None, after: float | None) -> str | None:
        """Why a file that loses so much of a score in 0 .. 1 must not be kept, or None."""
        lost, most = (before or 0.0) - (after or 0.0), self.accuracy
        if most is None or lost <= most:
            return None
        return f"{100 * lost:.2f} points of {score} lost, more than {100 * most:g}"


# What is measured in float32 is rounding, about 1e-6: this is far above it, and far below what
# changes a decision. float16 keeps 11 bits of each weight: 4e-4 to 4e-3 was measured.
EXACT = Tolerance(1e-3, 1e-3)
HALF = Tolerance(2e-2, 2e-2)


def largest(before: float, values: np.ndarray) -> float:
    """The largest so far; a value that is not a number counts as infinite."""
    return max(before, float(np.nan_to_num(values, nan=np.inf).max(initial=0.0)))
