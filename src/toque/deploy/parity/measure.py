"""A file's answers against the model's, before the file is called done.

Shape letters: B images of one batch, H W height and width, C channels, K classes or labels, D
numbers, h w of what the network answers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from toque.deploy.answering import Answers
from toque.deploy.outputs import Masks, Numbers, Outputs
from toque.deploy.parity.comparing import Compared
from toque.deploy.parity.hard_cases import hard_cases
from toque.deploy.parity.masks import ComparedMasks, MasksParity
from toque.deploy.parity.numbers import ComparedNumbers, NumbersParity
from toque.deploy.parity.shares import ComparedShares, Parity
from toque.deploy.parity.tolerance import EXACT, Tolerance
from toque.deploy.predictor import Network, Pixels

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


def _comparing(outputs: Outputs, tolerance: Tolerance) -> Compared[AnyParity]:
    if isinstance(outputs, Numbers):
        return ComparedNumbers(outputs, tolerance)
    if isinstance(outputs, Masks):
        return ComparedMasks(tolerance)
    return ComparedShares(outputs.task, tolerance)


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
