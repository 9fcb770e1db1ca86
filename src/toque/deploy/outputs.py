"""What the outputs of a network say, task by task: in the program of a file, and of one image.

Shape letters: B images, K classes or labels, D numbers, H W height and width of the images, h w of
what the network answers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from toque.deploy.answers import Answer, MaskAnswer, NumbersAnswer
from toque.deploy.details import CLASSIFICATION, MULTILABEL, REGRESSION, SEGMENTATION, FileDetails
from toque.deploy.predictions import Predictions
from toque.standardised import Standardised

Raw = npt.NDArray[np.float32]
"""What a predictor asks of a model: [B, K] probabilities, [B, D] numbers or [B, K, h, w] logits."""


class Outputs(nn.Module, ABC):
    """How the outputs of a network are read.

    task:   as in the settings of a run
    names:  of what an exported program gives, in their order
    asked:  which of them a predictor needs
    preset: the augmentation preset that its images go through
    shape:  what the network must give, in words
    """

    task: str
    names: ClassVar[tuple[str, ...]]
    asked: ClassVar[int] = 0
    preset: ClassVar[str] = "none"
    shape: ClassVar[str]

    @abstractmethod
    def forward(self, outputs: torch.Tensor, height: int, width: int) -> tuple[torch.Tensor, ...]:
        """What a program answers on images of H x W pixels, in the order of `names`."""

    @abstractmethod
    def read(self, outputs: torch.Tensor) -> torch.Tensor:
        """What a predictor asks for, whatever the size of the images: float32, batch first."""

    @abstractmethod
    def fit(self, outputs: torch.Tensor) -> bool:
        """Whether outputs have the shape of this task."""

    @abstractmethod
    def answer(
        self, image: str, labels: tuple[str, ...], raw: Raw, size: tuple[int, int]
    ) -> Answer:
        """What the answer of one image says, at that image's height and width."""

    def both_ways(self, raw: Raw, mirrored: Raw) -> Raw:
        """The mean over images and their mirror images."""
        return (raw + mirrored) * np.float32(0.5)


class Shares(Outputs):
    """Probabilities, of classes together or of each label by itself: [B, K].

    thresholds: K probabilities from which a label is there; a half if unset
    """

    names = ("probabilities", "logits")
    shape = "scores [B, K]"

    def __init__(self, task: str = CLASSIFICATION, thresholds: tuple[float, ...] = ()) -> None:
        super().__init__()
        self.task, self.thresholds = task, thresholds

    def forward(self, outputs: torch.Tensor, height: int, width: int) -> tuple[torch.Tensor, ...]:
        return self.read(outputs), outputs

    def read(self, outputs: torch.Tensor) -> torch.Tensor:
        return outputs.sigmoid() if self.task == MULTILABEL else outputs.softmax(1)

    def fit(self, outputs: torch.Tensor) -> bool:
        return outputs.ndim == 2

    def answer(
        self, image: str, labels: tuple[str, ...], raw: Raw, size: tuple[int, int]
    ) -> Answer:
        shares = raw[None]
        return Predictions((image,), labels, shares, self.task == MULTILABEL, self.thresholds)[0]


class Numbers(Standardised, Outputs):
    """Numbers in their own units, of outputs that were trained on standardised ones: [B, D].

    mean, std: of each number in the training set
    """

    task = REGRESSION
    names = ("numbers",)
    preset = "whole"
    shape = "numbers [B, D]"

    def forward(self, outputs: torch.Tensor, height: int, width: int) -> tuple[torch.Tensor, ...]:
        return (self.read(outputs),)

    def read(self, outputs: torch.Tensor) -> torch.Tensor:
        return self.in_units(outputs)

    def fit(self, outputs: torch.Tensor) -> bool:
        numbers = len(self.mean)
        return outputs.shape[1:] == (numbers,) or (outputs.ndim == 1 and numbers == 1)

    def answer(
        self, image: str, labels: tuple[str, ...], raw: Raw, size: tuple[int, int]
    ) -> Answer:
        return NumbersAnswer(image, dict(zip(labels, raw.tolist(), strict=True)))


class Masks(Outputs):
    """The class of each pixel at the size of the image, uint8 [B, H, W], and the logits."""

    task = SEGMENTATION
    names = ("masks", "logits")
    asked = 1  # a mask of logits needs K times the memory of what it is made from, or much more
    preset = "whole"
    shape = "maps of scores [B, K, h, w]"

    def forward(self, outputs: torch.Tensor, height: int, width: int) -> tuple[torch.Tensor, ...]:
        return class_of_each_pixel(outputs, height, width), outputs

    def read(self, outputs: torch.Tensor) -> torch.Tensor:
        return outputs

    def fit(self, outputs: torch.Tensor) -> bool:
        return outputs.ndim == 4

    def answer(
        self, image: str, labels: tuple[str, ...], raw: Raw, size: tuple[int, int]
    ) -> Answer:
        mask = class_of_each_pixel(torch.from_numpy(raw[None]), *size)[0].numpy()
        return MaskAnswer(image, labels, mask)

    def both_ways(self, raw: Raw, mirrored: Raw) -> Raw:
        """The logits of the mean probabilities, those of the mirror image turned back."""
        back = torch.from_numpy(mirrored).flip(3).softmax(1)
        mean = (torch.from_numpy(raw).softmax(1) + back) * 0.5
        return np.asarray(mean.clamp(min=torch.finfo(torch.float32).tiny).log().numpy())


def class_of_each_pixel(logits: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The class of the largest logit, the first of equals, logits enlarged bilinearly.

    One class at a time: the memory it takes is that of a few masks, however many classes there are.

    Shape: logits [B, K, h, w] -> uint8 [B, H, W]
    """

    def enlarged(number: int) -> torch.Tensor:
        part = logits[:, number : number + 1]
        return F.interpolate(part, size=(height, width), mode="bilinear", align_corners=False)[:, 0]

    best = enlarged(0)
    chosen = torch.zeros_like(best, dtype=torch.uint8)
    for number in range(1, logits.shape[1]):
        score = enlarged(number)
        chosen = torch.where(score > best, torch.full_like(chosen, number), chosen)
        best = torch.maximum(best, score)
    return chosen


def outputs_of(details: FileDetails) -> Outputs:
    """How the outputs of a file's network are read."""
    return outputs_for(details.task, details.mean, details.std, details.thresholds)


def outputs_for(
    task: str,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    thresholds: tuple[float, ...] = (),
) -> Outputs:
    """How the outputs of a network of a task are read.

    Args: mean, std: of the numbers of a regression, in the training set
          thresholds: of several labels, the probability from which each is there
    """
    if task == REGRESSION:
        return Numbers(mean, std)
    return Masks() if task == SEGMENTATION else Shares(task, thresholds)
