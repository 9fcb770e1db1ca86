"""What a source of images is: uint8 images and what belongs to them, by index.

Shape letters: N images in the source, B in a batch, C channels, H height, W width, K classes or
labels, D numbers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from toque.data.encoded import Encoded
from toque.data.targets import Task

Target = int | torch.Tensor
"""A class number, a float32 row of labels [K] or of numbers [D], or a mask [H, W]."""


class Source(ABC):
    """Images and their targets, by index.

    `read` and `mask` are called from several threads at once, unless `serial` says that the images
    must be read one after the other in the thread of the one who asked. `in_memory` says that
    `read_many` is one gather from an array; `has_files` that `encoded` gives the file of every
    image.
    """

    serial: bool = False
    in_memory: bool = False
    has_files: bool = False

    @property
    def task(self) -> Task:
        """What the targets are."""
        return "classification"

    @property
    @abstractmethod
    def classes(self) -> tuple[str, ...]:
        """The name of each class, of each label, or of each number."""

    @property
    @abstractmethod
    def labels(self) -> np.ndarray:
        """The targets: class numbers int64 [N], rows of 0 and 1 float32 [N, K], numbers float32
        [N, D], or float32 [N, 0] where they are masks."""

    @property
    def weights(self) -> np.ndarray | None:
        """How much each image counts, float32 [N], where the data says so."""
        return None

    @abstractmethod
    def __len__(self) -> int:
        """The number of images N."""

    @abstractmethod
    def name(self, index: int) -> str:
        """What a person would call this image: the file's name below the folder, or its number."""

    def stamp(self, index: int) -> str:
        """What tells a changed image of this name without reading it; nothing where unknown."""
        return ""

    def listed(self, indices: np.ndarray) -> tuple[list[str], list[str]]:
        """The names and the stamps of several images."""
        numbers = indices.tolist()
        return [self.name(index) for index in numbers], [self.stamp(index) for index in numbers]

    @property
    def has_paths(self) -> bool:
        """Whether `path` or `mask_path` of any image may say where it lies."""
        kind = type(self)
        return kind.path is not Source.path or kind.mask_path is not Source.mask_path

    @abstractmethod
    def read(self, index: int) -> torch.Tensor:
        """The image: uint8 [C, H, W], with one C for the whole source."""

    def path(self, index: int) -> Path | None:
        """Where the image lies, if it is a file of this machine."""
        return None

    def mask_path(self, index: int) -> Path | None:
        """Where the mask of an image lies, if it is a file of this machine."""
        return None

    def encoded(self, index: int) -> Encoded:
        """The image before it is decoded, from several threads at once; only where `has_files`."""
        raise NotImplementedError(f"{type(self).__name__} has no files")

    def mask(self, index: int) -> torch.Tensor:
        """The mask of an image: class numbers, uint8 or int64 [H, W], 255 where none counts."""
        raise NotImplementedError(f"{type(self).__name__} has no masks")

    @abstractmethod
    def fingerprint(self) -> str:
        """A sha256 that changes when the images, their targets or their classes do."""

    def target(self, index: int) -> Target:
        """What belongs to an image."""
        if self.task == "segmentation":
            return self.mask(index)
        label = self.labels[index]
        return int(label) if label.ndim == 0 else torch.from_numpy(label)

    def item(self, index: int) -> tuple[torch.Tensor, Target]:
        """The image and its target."""
        return self.read(index), self.target(index)

    def read_many(self, indices: np.ndarray) -> torch.Tensor:
        """Several images of one size: [B, C, H, W]."""
        return torch.stack([self.read(int(index)) for index in indices])

    def masks(self, indices: np.ndarray) -> torch.Tensor | Sequence[torch.Tensor]:
        """Several masks."""
        return [self.mask(int(index)) for index in indices]


def strata(source: Source) -> np.ndarray:
    """What a validation part is drawn by, see `strata_of`."""
    return strata_of(source.task, source.labels)


def strata_of(task: Task, values: np.ndarray) -> np.ndarray:
    """What a validation part is drawn by: the classes; of several labels, the rarest that an image
    has, as those of many images are in both parts anyway; else all images alike.

    Shape: the values of Targets -> int64 [N]
    """
    if task == "classification":
        return values
    if task == "multilabel" and values.size:
        rarity = np.where(values > 0, (values > 0).sum(0), np.inf)
        return np.where((values > 0).any(1), rarity.argmin(1) + 1, 0)
    return np.zeros(len(values), np.int64)
