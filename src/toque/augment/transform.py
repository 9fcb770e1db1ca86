"""What a transform is: four kinds, told apart by what they may do to a picture.

A transform is a frozen dataclass. `draw` turns numbers in [0, 1) into a draw, which does not depend
on the size of any image; what it means for an image of some size is worked out when it is applied.

Shape letters: B images, n numbers per image, C channels, H W image height and width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch

from toque.augment.canvas import Canvas, Kind, Padding
from toque.random import Key

Draw = Mapping[str, torch.Tensor]
"""The draw of one transform for B images: named tensors, each [B, ...]."""

Floats = npt.NDArray[np.floating]
Integers = npt.NDArray[np.integer]


class Geometric(ABC):
    """Moves pixels: crop, flip, resize, rotate. Consecutive ones become a single resample."""

    kind: ClassVar[Kind] = "shift"
    is_flip: ClassVar[bool] = False

    @property
    def num_numbers(self) -> int:
        """How many numbers a draw takes for each image."""
        return 0

    @property
    def outside(self) -> Padding | None:
        """What stands outside the image, or None for a transform that never looks there."""
        return None

    def draw(self, numbers: Floats, key: Key) -> Draw:
        """The draw that numbers [B, n] in [0, 1) stand for."""
        return {}

    @abstractmethod
    def place(self, canvas: Canvas, draw: Draw) -> Canvas:
        """The canvas after this transform."""

    def size_after(self, size: tuple[int, int] | None) -> tuple[int, int] | None:
        """Height and width after this transform, or None when they depend on the image."""
        return size

    def describe(self, draw: Draw, image: int, size: tuple[int, int] | None) -> str:
        """What was drawn for an image, in a few words; more is known when its size is."""
        return ""


class Pointwise(ABC):
    """Changes each pixel by its own colour, and at most the image's mean gray."""

    has_matrix: ClassVar[bool] = True

    @property
    def num_numbers(self) -> int:
        """How many numbers a draw takes for each image."""
        return 0

    @property
    def num_operations(self) -> int:
        """How many operations of the colour chain one image can get."""
        return 1

    def draw(self, numbers: Floats, key: Key) -> Draw:
        """The draw that numbers [B, n] in [0, 1) stand for."""
        return {}

    @abstractmethod
    def operations(self, draw: Draw) -> tuple[Integers, Floats]:
        """Codes and factors of the colour chain, both [B, num_operations]."""

    def check_channels(self, channels: int) -> None:  # noqa: B027 (most have nothing to check)
        """Raises ValueError for a number of channels this transform has no meaning for."""

    def describe(self, draw: Draw, image: int, size: tuple[int, int] | None) -> str:
        """What was drawn for an image, in a few words; more is known when its size is."""
        return ""


class Filter(ABC):
    """Needs a pixel's neighbours or the whole image's statistics: a pass of its own."""

    @property
    def moves_pixels(self) -> bool:
        """Whether masks, boxes and keypoints would have to follow it, which they cannot."""
        return False

    @property
    def num_numbers(self) -> int:
        """How many numbers a draw takes for each image."""
        return 0

    def draw(self, numbers: Floats, key: Key) -> Draw:
        """The draw that numbers [B, n] in [0, 1) stand for."""
        return {}

    @abstractmethod
    def filter(self, images: torch.Tensor, draw: Draw) -> torch.Tensor:
        """Images [B, C, H, W] float32 in 0 .. 1 -> the same shape; does not change its input."""

    def check_channels(self, channels: int) -> None:  # noqa: B027 (most have nothing to check)
        """Raises ValueError for a number of channels this transform has no meaning for."""

    def describe(self, draw: Draw, image: int, size: tuple[int, int] | None) -> str:
        """What was drawn for an image, in a few words; more is known when its size is."""
        return ""


class Erasing(ABC):
    """Overwrites one rectangle of the picture."""

    @property
    def num_numbers(self) -> int:
        """How many numbers a draw takes for each image."""
        return 0

    @property
    @abstractmethod
    def fill(self) -> tuple[float, ...] | None:
        """The value of each channel (one for all, or C); None for keyed noise."""

    @abstractmethod
    def draw(self, numbers: Floats, key: Key) -> Draw:
        """The draw that numbers [B, n] in [0, 1) stand for."""

    @abstractmethod
    def rectangles(self, draw: Draw, height: Integers, width: Integers) -> Integers:
        """Top, left, height, width of the rectangle in pictures of those sizes: [B, 4]."""

    def describe(self, draw: Draw, image: int, size: tuple[int, int] | None) -> str:
        """What was drawn for an image, in a few words; more is known when its size is."""
        return ""


Drawing = Geometric | Pointwise | Filter | Erasing
"""Every transform that draws something for each image, or could."""
