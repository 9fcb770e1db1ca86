"""Parity: an exported file's answers against the model's, before the file is called done.

Shape letters: B images of one batch, H W height and width, C channels, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from toque.deploy.answering import Answers
from toque.deploy.details import MULTILABEL
from toque.deploy.outputs import Masks, Numbers, Outputs
from toque.deploy.parity_tasks import ComparedMasks, ComparedNumbers, MasksParity, NumbersParity
from toque.deploy.predictor import Network, Pixels
from toque.deploy.program import noise
from toque.deploy.tolerance import EXACT, HALF, Tolerance, largest

__all__ = ["EXACT", "HALF", "AnyParity", "Parity", "Tolerance", "measure"]


_HARD_SIZES = ((1, 1), (1, 19), (2, 3), (5, 400), (400, 5), (63, 65), (480, 640), (1200, 1600))


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
        most = self.tolerance.probability
        if not self.probability <= most:
            return f"a probability differs by {self.probability:.2g}, more than {most:g}"
        if self.tolerance.accuracy is None:
            return f"{self.changed} predictions changed" if self.changed else None
        lost = (self.accuracy_before or 0.0) - (self.accuracy or 0.0)
        if lost > self.tolerance.accuracy:
            return (
                f"{100 * lost:.2f} points of accuracy lost, more than "
                f"{100 * self.tolerance.accuracy:g}"
            )
        return None

    def __str__(self) -> str:
        text = (
            f"{self.images} validation images and {self.hard_cases} hard cases: probabilities "
            f"within {self.probability:.1e}, {self.changed} predictions changed"
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


AnyParity = Parity | NumbersParity | MasksParity
"""How a file's answers differ from the model's, in the terms of the task."""


def measure(
    network: Network,
    answers: Answers,
    images: Sequence[Pixels],
    targets: Sequence[np.ndarray],
    *,
    channels: int,
    size: tuple[int, int] | None = None,
    tolerance: Tolerance = EXACT,
) -> AnyParity:
    """Ask both about validation images and hard cases, alone and in batches.

    The model is asked the way validation asked it: through its pipeline, not through the exported
    preprocessing.

    Args: images: validation images, uint8 [H, W, C], with what is right in targets: the number of
          a class, [K] 0 or 1 of a multilabel run, [D] numbers, or a mask [H, W]
          size: height and width, of a file that takes no others; the images have it
          tolerance: what is accepted
    """
    comparing = _comparing(network.outputs, tolerance)
    order = _order(images)
    count = 0
    for group in _batches(images):
        right = [targets[order[count + n]] for n in range(len(group))]
        comparing.add(answers(group), network_answers(network, group), right)
        count += len(group)
    hard = hard_cases(channels, size)
    for group in hard:
        comparing.add(answers(group), network_answers(network, group), None)
    return comparing.parity(len(images), sum(map(len, hard)))


def _comparing(
    outputs: Outputs, tolerance: Tolerance
) -> _ComparedShares | ComparedNumbers | ComparedMasks:
    if isinstance(outputs, Numbers):
        return ComparedNumbers(outputs, tolerance)
    if isinstance(outputs, Masks):
        return ComparedMasks(tolerance)
    return _ComparedShares(outputs.task, tolerance)


class _ComparedShares:
    """Counts differences of probabilities, batch by batch."""

    def __init__(self, task: str, tolerance: Tolerance) -> None:
        self._task, self._tolerance = task, tolerance
        self._probability, self._logit, self._changed = 0.0, 0.0, 0
        self._right, self._right_before, self._count = 0.0, 0.0, 0

    def add(
        self,
        ours: Sequence[np.ndarray],
        theirs: Sequence[np.ndarray],
        targets: Sequence[np.ndarray] | None,
    ) -> None:
        """Compare probabilities and logits [B, K]; of validation images also with what is right."""
        (shares, logits), (before, logits_before) = map(list, (ours, theirs))
        self._probability = largest(self._probability, np.abs(shares - before))
        scale = np.abs(logits_before).max(1, keepdims=True)
        apart = np.abs(logits - logits_before) / np.maximum(scale, 1e-6)
        self._logit = largest(self._logit, apart)
        self._changed += int((_lead(self._task, shares, before) > self._tolerance.tie).sum())
        if targets is not None:
            labels = np.stack(list(targets))
            self._right += _share_right(self._task, shares, labels)
            self._right_before += _share_right(self._task, before, labels)
            self._count += len(labels)

    def parity(self, images: int, hard_cases: int) -> Parity:
        count = self._count
        return Parity(
            images, hard_cases, self._probability, self._logit, self._changed,
            self._right / count if count else None, self._right_before / count if count else None,
            self._tolerance,
        )  # fmt: skip


def _lead(task: str, ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """By how much the model prefers its own answer to the file's, for each image; 0 where they are
    one. Where the model itself hesitates within the tolerance, either is its answer."""
    if task == MULTILABEL:
        away = np.abs(theirs - 0.5) * ((ours >= 0.5) != (theirs >= 0.5))
        return np.asarray(away.max(1))
    rows = np.arange(len(theirs))
    return np.asarray(theirs.max(1) - theirs[rows, ours.argmax(1)])


def _share_right(task: str, shares: np.ndarray, labels: np.ndarray) -> float:
    """How many images are answered right; of several labels, the share of them that is."""
    if task == MULTILABEL:
        return float(((shares >= 0.5) == (labels > 0)).mean(1).sum())
    return float((shares.argmax(1) == labels).sum())


def hard_cases(channels: int, size: tuple[int, int] | None = None) -> list[np.ndarray]:
    """Batches of images that break preprocessing where it can break, of many sizes or of one."""
    sizes = _HARD_SIZES if size is None else (size,)
    batches = [noise(1, height, width, channels).numpy() for height, width in sizes]
    batches.append(noise(5, *(size or (37, 53)), channels).numpy())
    height, width = size or (375, 500)
    rows, columns = np.arange(height)[:, None], np.arange(width)[None, :]
    drawn = [
        np.zeros((height, width)), np.full((height, width), 255), 255 * ((rows + columns) % 2),
        255 * (columns % 2) + 0 * rows, 255 * rows / height + 0 * columns,
    ]  # fmt: skip
    batches.append(np.repeat(np.stack(drawn).astype(np.uint8)[..., None], channels, axis=3))
    return batches


def _order(images: Sequence[Pixels]) -> list[int]:
    """The images' numbers in the order in which `_batches` gives them."""
    return sorted(range(len(images)), key=lambda number: images[number].shape)


def _batches(images: Sequence[Pixels]) -> list[np.ndarray]:
    """Batches of one size, of up to 16."""
    batches: list[list[Pixels]] = []
    for number in _order(images):
        image = images[number]
        if batches and len(batches[-1]) < 16 and batches[-1][0].shape == image.shape:
            batches[-1].append(image)
        else:
            batches.append([image])
    return [np.stack(batch) for batch in batches]


def network_answers(network: Network, images: np.ndarray) -> list[np.ndarray]:
    """What a program would give, of a network that is asked the way validation asked it."""
    logits = network.logits(list(torch.from_numpy(images).permute(0, 3, 1, 2)))
    height, width = images.shape[1:3]
    with torch.inference_mode():
        return [found.numpy() for found in network.outputs(logits, height, width)]
