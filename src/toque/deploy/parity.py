"""Parity: an exported file's answers against the model's, before the file is called done.

Shape letters: B images of one batch, H W height and width, C channels, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from toque.deploy.answering import Answers
from toque.deploy.predictor import Network, Pixels
from toque.deploy.program import noise
from toque.random import Key

# Largest difference of a probability. What is measured is rounding, about 1e-6: this is far above
# it, and far below what changes a decision.
TOLERANCE = 1e-3

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
    """

    images: int
    hard_cases: int
    probability: float
    logit: float
    changed: int
    accuracy: float | None
    accuracy_before: float | None

    @property
    def problem(self) -> str | None:
        """Why the file must not be kept, or None."""
        if not self.probability <= TOLERANCE:
            return f"a probability differs by {self.probability:.2g}, more than {TOLERANCE:g}"
        if self.changed:
            return f"{self.changed} predictions changed"
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
    targets: Sequence[int],
    *,
    channels: int,
) -> Parity:
    """Ask both about validation images and hard cases, alone and in batches.

    The model is asked the way validation asked it: through its pipeline, not through the exported
    preprocessing.

    Args: images: validation images, uint8 [H, W, C], with their classes in targets
    """
    hard = hard_cases(channels)
    groups = [*_batches(images), *hard]
    found = [answers(group) for group in groups]
    wanted = [network_answers(network, group) for group in groups]
    probability, logit, changed = 0.0, 0.0, 0
    right, right_before, count = 0, 0, 0
    order = _order(images)
    for group, (ours, ours_logits), (theirs, theirs_logits) in zip(
        groups, found, wanted, strict=True
    ):
        probability = _largest(probability, np.abs(ours - theirs))
        scale = np.abs(theirs_logits).max(1, keepdims=True)
        logit = _largest(logit, np.abs(ours_logits - theirs_logits) / np.maximum(scale, 1e-6))
        best = theirs.argmax(1)
        rows = np.arange(len(theirs))
        # Where the model itself hesitates within the tolerance, either class is its answer.
        lead = theirs[rows, best] - theirs[rows, ours.argmax(1)]
        changed += int((lead > TOLERANCE).sum())
        if count < len(images):
            labels = np.array([targets[order[count + n]] for n in range(len(group))])
            right += int((ours.argmax(1) == labels).sum())
            right_before += int((best == labels).sum())
            count += len(group)
    return Parity(
        images=len(images),
        hard_cases=sum(len(group) for group in hard),
        probability=probability,
        logit=logit,
        changed=changed,
        accuracy=right / count if count else None,
        accuracy_before=right_before / count if count else None,
    )


def hard_cases(channels: int) -> list[np.ndarray]:
    """Batches of images that break preprocessing where it can break."""
    batches = [noise(1, height, width, channels).numpy() for height, width in _HARD_SIZES]
    batches.append(noise(5, 37, 53, channels).numpy())
    height, width = 375, 500
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
    tensors = torch.from_numpy(images).permute(0, 3, 1, 2)
    with torch.inference_mode():
        pixels = network.pipeline(tensors, key=Key(0, 0, np.arange(len(images))))
        logits = network.module(pixels.to(network.device)).float().cpu()
    return logits.softmax(1).numpy(), logits.numpy()
