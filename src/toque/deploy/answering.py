"""Asking an exported program, whatever runs it.

Shape letters: B images, K classes, C channels, H W height and width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from toque.deploy.details import FileDetails
from toque.deploy.predictor import Pixels, Predictor

Answers = Callable[[np.ndarray], Sequence[np.ndarray]]
"""uint8 [B, H, W, C] -> probabilities and logits, float32 [B, K] each."""


def torch_answers(program: Callable[[torch.Tensor], Sequence[torch.Tensor]]) -> Answers:
    """The answers of a program that PyTorch runs."""

    def answers(images: np.ndarray) -> Sequence[np.ndarray]:
        with torch.inference_mode():
            return [found.numpy() for found in program(torch.from_numpy(images))]

    return answers


def predictor_of_file(source: str, details: FileDetails, answers: Answers) -> Predictor:
    """A predictor of a program that takes batches of one size of image."""

    def ask(images: Sequence[Pixels]) -> np.ndarray:
        groups: dict[tuple[int, ...], list[int]] = {}
        for number, image in enumerate(images):
            groups.setdefault(image.shape, []).append(number)
        shares = np.empty((len(images), len(details.classes)), np.float32)
        for numbers in groups.values():
            shares[numbers] = answers(np.stack([images[number] for number in numbers]))[0]
        return shares

    return Predictor(
        source, details.classes, details.in_channels, ask, details.as_dict(),
        size=details.size, task=details.task,
    )  # fmt: skip
