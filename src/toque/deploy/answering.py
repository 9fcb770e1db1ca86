"""Asking an exported program, whatever runs it.

Shape letters: B images, C channels, H W height and width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from toque.deploy.details import FileDetails
from toque.deploy.outputs import outputs_of
from toque.deploy.predictor import Pixels, Predictor

Answers = Callable[[np.ndarray], Sequence[np.ndarray]]
"""uint8 [B, H, W, C] -> what the program gives, by the names of the task's Outputs."""


def torch_answers(program: Callable[[torch.Tensor], Sequence[torch.Tensor]]) -> Answers:
    """The answers of a program that PyTorch runs."""

    def answers(images: np.ndarray) -> Sequence[np.ndarray]:
        with torch.inference_mode():
            return [found.numpy() for found in program(torch.from_numpy(images))]

    return answers


def predictor_of_file(source: str, details: FileDetails, answers: Answers) -> Predictor:
    """A predictor of a program that takes batches of one size of image."""

    outputs = outputs_of(details)

    def ask(images: Sequence[Pixels]) -> np.ndarray:
        groups: dict[tuple[int, ...], list[int]] = {}
        for number, image in enumerate(images):
            groups.setdefault(image.shape, []).append(number)
        found: dict[int, np.ndarray] = {}
        for numbers in groups.values():
            said = answers(np.stack([images[number] for number in numbers]))[outputs.asked]
            found.update(zip(numbers, said, strict=True))
        return np.stack([found[number] for number in range(len(images))])

    return Predictor(
        source, details.classes, details.in_channels, ask, details.as_dict(),
        size=details.size, outputs=outputs,
    )  # fmt: skip
