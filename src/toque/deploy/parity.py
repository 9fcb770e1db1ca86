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
from toque.deploy.predictor import Network, Pixels
from toque.deploy.program import noise


@dataclass(frozen=True)
class Tolerance:
    """What a file may differ by from the run.

    probability: of one class of one image, at most
    tie:         classes so near in probability count as one answer
    accuracy:    how much of it may be lost; None: no prediction may change
    """

    probability: float
    tie: float
    accuracy: float | None = None


# What is measured in float32 is rounding, about 1e-6: this is far above it, and far below what
# changes a decision. float16 keeps 11 bits of each weight: 4e-4 to 4e-3 was measured.
EXACT = Tolerance(1e-3, 1e-3)
HALF = Tolerance(2e-2, 2e-2)

_HARD_SIZES = ((1, 1), (1, 19), (2, 3), (5, 400), (400, 5), (63, 65), (480, 640), (1200, 1600))


@dataclass(frozen=True)
class Parity:
    """How a file's answers differ from the model's.

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


def measure(
    network: Network,
    answers: Answers,
    images: Sequence[Pixels],
    targets: Sequence[np.ndarray],
    *,
    channels: int,
    size: tuple[int, int] | None = None,
    tolerance: Tolerance = EXACT,
) -> Parity:
    """Ask both about validation images and hard cases, alone and in batches.

    The model is asked the way validation asked it: through its pipeline, not through the exported
    preprocessing.

    Args: images: validation images, uint8 [H, W, C], with what is right in targets: the number of
          a class, or [K] 0 or 1 of a multilabel run
          size: height and width, of a file that takes no others; the images have it
          tolerance: what is accepted
    """
    hard = hard_cases(channels, size)
    groups = [*_batches(images), *hard]
    found = [answers(group) for group in groups]
    wanted = [network_answers(network, group) for group in groups]
    probability, logit, changed = 0.0, 0.0, 0
    right, right_before, count = 0.0, 0.0, 0
    order = _order(images)
    for group, (ours, ours_logits), (theirs, theirs_logits) in zip(
        groups, found, wanted, strict=True
    ):
        probability = _largest(probability, np.abs(ours - theirs))
        scale = np.abs(theirs_logits).max(1, keepdims=True)
        logit = _largest(logit, np.abs(ours_logits - theirs_logits) / np.maximum(scale, 1e-6))
        changed += int((_lead(network.task, ours, theirs) > tolerance.tie).sum())
        if count < len(images):
            labels = np.stack([targets[order[count + n]] for n in range(len(group))])
            right += _share_right(network.task, ours, labels)
            right_before += _share_right(network.task, theirs, labels)
            count += len(group)
    return Parity(
        images=len(images),
        hard_cases=sum(len(group) for group in hard),
        probability=probability,
        logit=logit,
        changed=changed,
        accuracy=right / count if count else None,
        accuracy_before=right_before / count if count else None,
        tolerance=tolerance,
    )


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


def _largest(before: float, values: np.ndarray) -> float:
    """The largest so far; a value that is not a number counts as infinite."""
    return max(before, float(np.nan_to_num(values, nan=np.inf).max(initial=0.0)))


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


def network_answers(network: Network, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and logits of a network that is asked the way validation asked it."""
    tensors = list(torch.from_numpy(images).permute(0, 3, 1, 2))
    probabilities, logits = network.answers(tensors)
    return probabilities.numpy(), logits.numpy()
