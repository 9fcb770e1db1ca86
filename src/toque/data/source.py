"""What a source of images is: uint8 images and labels, by index.

Shape letters: N images in the source, B in a batch, C channels, H height, W width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch

from toque.data.encoded import Encoded


class Source(ABC):
    """Images and their labels, by index.

    `read` is called from several threads at once, unless `serial` says that the images must be read
    one after the other in the thread of the one who asked. `in_memory` says that `read_many` is one
    gather from an array; `has_files` that `encoded` gives the file of every image.
    """

    serial: bool = False
    in_memory: bool = False
    has_files: bool = False

    @property
    @abstractmethod
    def classes(self) -> tuple[str, ...]:
        """The name of each label."""

    @property
    @abstractmethod
    def labels(self) -> np.ndarray:
        """The label of each image: int64 [N], positions in `classes`."""

    @abstractmethod
    def __len__(self) -> int:
        """The number of images N."""

    @abstractmethod
    def name(self, index: int) -> str:
        """What a person would call this image: the file's name below the folder, or its number."""

    def stamp(self, index: int) -> str:
        """What tells a changed image of this name without reading it; nothing where unknown."""
        return ""

    @abstractmethod
    def read(self, index: int) -> torch.Tensor:
        """The image: uint8 [C, H, W], with one C for the whole source."""

    def encoded(self, index: int) -> Encoded:
        """The image before it is decoded, from several threads at once; only where `has_files`."""
        raise NotImplementedError(f"{type(self).__name__} has no files")

    @abstractmethod
    def fingerprint(self) -> str:
        """A sha256 that changes when the images, their labels or their classes do."""

    def item(self, index: int) -> tuple[torch.Tensor, int]:
        """The image and its label."""
        return self.read(index), int(self.labels[index])

    def read_many(self, indices: np.ndarray) -> torch.Tensor:
        """Several images of one size: [B, C, H, W]."""
        return torch.stack([self.read(int(index)) for index in indices])
