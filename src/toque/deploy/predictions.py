"""What a model says of images.

Shape letters: N images, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

HALF = 0.5
"""From which a label is there, where no threshold was chosen."""


@dataclass(frozen=True)
class Prediction:
    """What a model says of one image.

    confidence: probability of `label`, 0 to 1; probabilities: of every class, by name
    labels:     of a multilabel model, those at their threshold or above, which may be none; `label`
                is then the most probable one all the same
    """

    image: str
    label: str
    confidence: float
    probabilities: dict[str, float]
    labels: tuple[str, ...] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as `toque predict --json` prints them."""
        plain = asdict(self)
        if self.labels is None:
            del plain["labels"]
        return plain

    def above(self, threshold: float) -> tuple[str, ...]:
        """The labels of that probability or more, the most probable first."""
        ordered = self.top(len(self.probabilities))
        return tuple(name for name, share in ordered if share >= threshold)

    def top(self, num: int) -> list[tuple[str, float]]:
        """The most probable classes, the first one first."""
        return sorted(self.probabilities.items(), key=lambda pair: -pair[1])[:num]


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a model says of N images, in their order.

    images:        a name for each
    labels:        the names of the K classes
    probabilities: float32 [N, K]
    multilabel:    whether each label is there or not by itself; else one class is
    thresholds:    K probabilities from which a label is there; a half if unset
    """

    images: tuple[str, ...]
    labels: tuple[str, ...]
    probabilities: npt.NDArray[np.float32]
    multilabel: bool = False
    thresholds: tuple[float, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> Prediction:
        shares = self.probabilities[number].tolist()
        best = int(np.argmax(shares))
        least = self.thresholds or (HALF,) * len(shares)
        return Prediction(
            image=self.images[number],
            label=self.labels[best],
            confidence=shares[best],
            probabilities=dict(zip(self.labels, shares, strict=True)),
            labels=tuple(
                name
                for name, share, from_here in zip(self.labels, shares, least, strict=True)
                if share >= from_here
            )
            if self.multilabel
            else None,
        )

    def __iter__(self) -> Iterator[Prediction]:
        return (self[number] for number in range(len(self)))
