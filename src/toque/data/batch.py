"""What the loader gives, and what it asks of an augmentation pipeline.

Shape letters: B images in the batch, C channels, h x w pixels, K labels, D numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from toque import checks
from toque.random import Key


@dataclass(frozen=True, eq=False, slots=True)
class Batch:
    """One batch.

    Shape: images [B, C, h, w]; targets [B], [B, K], [B, D] or [B, h, w]; indices [B], epoch [B]
    Dtype: images as the pipeline gives them; targets int64 classes, float32 labels or numbers, or
           masks uint8 or int64 of classes, 255 where none counts; the rest int64
    """

    images: torch.Tensor
    targets: torch.Tensor
    indices: np.ndarray
    epoch: np.ndarray

    @classmethod
    def of(cls, images: torch.Tensor, targets: torch.Tensor) -> Batch:
        """A batch of another loader; its images are numbered as they stand in it, in epoch 0.

        Raises: TypeError: images that are no tensor [B, ...]
        """
        if not isinstance(images, torch.Tensor) or not images.ndim:
            raise checks.invalid_type(
                "Batch.of", "images", "a tensor [B, ...]", type(images).__name__,
                "Give the images and the targets of the loader's pair.",
            )  # fmt: skip
        return cls(images, targets, np.arange(len(images)), np.zeros(len(images), dtype=np.int64))

    def __len__(self) -> int:
        return len(self.indices)


class Pipeline(Protocol):
    """What the loader needs of toque.augment.Compose; anything with these will do, and the last is
    asked for by masks alone.

    `draw` gives parameters for the images of a key, of which `parameters[i:j]` are those of images
    i to j; `apply` is pure and is called from several threads at once.
    """

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of the output, or None where they depend on the input."""

    def draw(self, key: Key) -> Any:
        """The parameters for every image of the key."""

    def apply(
        self,
        images: torch.Tensor | Sequence[torch.Tensor],
        parameters: Any,
        out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The batch [B, C, h, w], written into `out` if given."""

    def apply_to_masks(
        self, masks: torch.Tensor | Sequence[torch.Tensor], parameters: Any
    ) -> torch.Tensor:
        """The masks [B, h, w], moved as their images are; 255 where the result shows no image."""


@runtime_checkable
class Reducing(Pipeline, Protocol):
    """A pipeline that works from images which a decoder has made smaller, as Compose does."""

    def decoding_scale(self, parameters: Any, sizes: Sequence[tuple[int, int]]) -> np.ndarray:
        """By how much each image [B] of these sizes (height, width) may be reduced: at least 1."""

    def decoding_box(self, parameters: Any, sizes: Sequence[tuple[int, int]]) -> np.ndarray:
        """Top, left, bottom, right [B, 4] of what is read of each image, in pixels of these
        sizes."""

    def apply(
        self,
        images: torch.Tensor | Sequence[torch.Tensor],
        parameters: Any,
        out: torch.Tensor | None = None,
        sizes: Sequence[tuple[int, int]] | None = None,
    ) -> torch.Tensor:
        """As Pipeline.apply; `sizes` are those before the reduction."""


def applied(
    pipeline: Pipeline,
    images: torch.Tensor | Sequence[torch.Tensor],
    parameters: Any,
    sizes: Sequence[tuple[int, int]] | None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """The batch that a pipeline makes of images, which a decoder reduced if there are `sizes`."""
    if sizes is not None and isinstance(pipeline, Reducing):
        return pipeline.apply(images, parameters, out=out, sizes=sizes)
    return pipeline.apply(images, parameters, out=out)
