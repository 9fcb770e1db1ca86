"""What an exported file may differ by from the run it comes from."""

from __future__ import annotations

from dataclasses import dataclass


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

    def refuses(
        self,
        probability: float,
        changed: str | None,
        score: str,
        after: float | None,
        before: float | None,
    ) -> str | None:
        """Why a file must not be kept, or None.

        Args: probability: by how much one differs
              changed: what changed, in words; counts where no loss of the score is accepted
              after, before: a score in 0 .. 1, of the file and of the model
        """
        if not probability <= self.probability:
            return f"a probability differs by {probability:.2g}, more than {self.probability:g}"
        if self.accuracy is None:
            return changed
        lost = (before or 0.0) - (after or 0.0)
        if lost <= self.accuracy:
            return None
        return f"{100 * lost:.2f} points of {score} lost, more than {100 * self.accuracy:g}"


# What is measured in float32 is rounding, about 1e-6: this is far above it, and far below what
# changes a decision. float16 keeps 11 bits of each weight: 4e-4 to 4e-3 was measured.
EXACT = Tolerance(1e-3, 1e-3)
HALF = Tolerance(2e-2, 2e-2)
