"""What the comparisons of all tasks share.

Shape letters: B images of one batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

import numpy as np

Arrays = Sequence[np.ndarray]
"""What a program answers on B images, each array [B, ...]; or what is right, an array an image."""

Found = TypeVar("Found", covariant=True)


class Compared(Protocol[Found]):
    """Counts differences, batch by batch."""

    def add(self, ours: Arrays, theirs: Arrays, targets: Arrays | None) -> None:
        """Compare what the file and the model say; of validation images also with what is right."""

    def parity(self, images: int, hard_cases: int) -> Found:
        """What was found on so many images."""


class Means:
    """The mean of a score over images, of the file and of the model before it."""

    def __init__(self) -> None:
        self._sum, self._sum_before, self._count = 0.0, 0.0, 0

    def add(self, scores: np.ndarray, before: np.ndarray) -> None:
        """Count the score of each image: [B], [B]."""
        self._sum += float(scores.sum())
        self._sum_before += float(before.sum())
        self._count += len(scores)

    @property
    def both(self) -> tuple[float | None, float | None]:
        """Of the file, of the model; None where nothing was counted."""
        if not self._count:
            return None, None
        return self._sum / self._count, self._sum_before / self._count


def largest(before: float, values: np.ndarray) -> float:
    """The largest so far; a value that is not a number counts as infinite."""
    return max(before, float(np.nan_to_num(values, nan=np.inf).max(initial=0.0)))


def asked(images: int, hard_cases: int) -> str:
    """The images that were compared, in words."""
    return f"{images} validation images and {hard_cases} hard cases"
