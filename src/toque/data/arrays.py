"""Images that are in memory already."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from toque import checks
from toque.data import targets
from toque.data.source import Source
from toque.data.targets import Targets, Task


class ArraySource(Source):
    """uint8 images in one array, with their targets.

    The array is not copied: [N, H, W, C] is read as channels_last [N, C, H, W]. Which of the two a
    4-dimensional array is, its channels say: 1 or 3 of them in the last place or in the second; an
    array that could be both is taken as [N, C, H, W].

    Shape:  images [N, H, W], [N, H, W, C] or [N, C, H, W]; labels [N] class numbers, [N, K] of 0
            and 1, [N, D] numbers, or [N, H, W] masks
    Dtype:  images uint8; labels integers or floats, masks uint8 or int64
    Args:   images: tensor or array
            labels: one class number, row or mask an image
            classes: a name for each class, label or number; without it their numbers, as text
            names: what to call each image; without it its number
            task: what the labels mean, where they could mean two things: integers are classes, and
            rows of 0 and 1 are labels, unless it says "regression"
            weights: how much each image counts, [N]
    Raises: ValueError: shapes that disagree, labels outside the classes
            TypeError: images that are not uint8, labels that are not numbers
    Example: >>> ArraySource(torch.zeros(10, 28, 28, dtype=torch.uint8), [0, 1] * 5).read(0).shape
             torch.Size([1, 28, 28])
    """

    in_memory = True

    def __init__(
        self,
        images: torch.Tensor | np.ndarray,
        labels: torch.Tensor | np.ndarray | Sequence[int],
        classes: Sequence[str] | None = None,
        names: Sequence[str] | None = None,
        *,
        task: Task | None = None,
        weights: np.ndarray | None = None,
    ) -> None:
        tensor = images if isinstance(images, torch.Tensor) else torch.from_numpy(images)
        if tensor.dtype != torch.uint8:
            raise checks.invalid_type(
                "ArraySource", "images", "uint8", tensor.dtype, "Give values 0 .. 255."
            )
        self.images = _channels_second(tensor)
        self._masks: torch.Tensor | None = None
        shape = labels.shape if isinstance(labels, torch.Tensor | np.ndarray) else ()
        if len(shape) == 3:
            self._masks, given = _masks_of(labels, self.images, classes)
        else:
            given = targets.of("ArraySource", labels, classes, task)
        self._targets = given
        for argument, one in (("labels", given.values), ("names", names), ("weights", weights)):
            if one is not None and len(one) != len(self.images):
                raise checks.invalid(
                    "ArraySource", argument, f"{len(self.images)}, one for each image", len(one),
                    "Give as many as there are images.",
                )  # fmt: skip
        self._names = names
        self._weights = weights
        self._fingerprint: str | None = None

    @property
    def task(self) -> Task:
        return self._targets.task

    @property
    def classes(self) -> tuple[str, ...]:
        return self._targets.names

    @property
    def labels(self) -> np.ndarray:
        return self._targets.values

    @property
    def weights(self) -> np.ndarray | None:
        return self._weights

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        return str(index) if self._names is None else self._names[index]

    def read(self, index: int) -> torch.Tensor:
        return self.images[index]

    def read_many(self, indices: np.ndarray) -> torch.Tensor:
        """Several images by one gather: [B, C, H, W]."""
        return self.images[torch.from_numpy(indices)]

    def mask(self, index: int) -> torch.Tensor:
        assert self._masks is not None
        return self._masks[index]

    def masks(self, indices: np.ndarray) -> torch.Tensor:
        """Several masks by one gather: [B, H, W]."""
        assert self._masks is not None
        return self._masks[torch.from_numpy(indices)]

    def fingerprint(self) -> str:
        if self._fingerprint is None:
            digest = hashlib.sha256(repr((tuple(self.images.shape), self.classes)).encode())
            digest.update(self.labels.tobytes())
            if self._weights is not None:
                digest.update(self._weights.tobytes())
            arrays = [self.images] if self._masks is None else [self.images, self._masks]
            for array in arrays:
                for block in torch.split(array, 4096):  # a view in another order is copied
                    digest.update(block.contiguous().numpy().data)
            self._fingerprint = digest.hexdigest()
        return self._fingerprint


def _channels_second(images: torch.Tensor) -> torch.Tensor:
    if images.ndim == 3:
        return images[:, None]
    if images.ndim == 4 and images.shape[1] in (1, 3):
        return images
    if images.ndim == 4 and images.shape[3] in (1, 3):
        return images.permute(0, 3, 1, 2)
    raise checks.invalid(
        "ArraySource", "images", "[N, H, W], [N, H, W, C] or [N, C, H, W] with 1 or 3 channels",
        list(images.shape), "Reshape the array, or drop the further channels.",
    )  # fmt: skip


def _masks_of(
    labels: Any, images: torch.Tensor, classes: Sequence[str] | None
) -> tuple[torch.Tensor, Targets]:
    masks = labels if isinstance(labels, torch.Tensor) else torch.from_numpy(labels)
    if masks.dtype not in (torch.uint8, torch.int64):
        masks = masks.long()
    if len(masks) != len(images):
        raise checks.invalid(
            "ArraySource", "labels", f"{len(images)} masks, one for each image", len(masks),
            "Give one mask for each image.",
        )  # fmt: skip
    if classes is None:
        classes = targets.numbered(max(map(targets.largest_class, masks), default=-1))
    for number, mask in enumerate(masks):
        image = images[number] if number == 0 else None  # arrays: all have the size of the first
        targets.check_mask("ArraySource", mask, image, len(classes), str(number))
    return masks, targets.of_masks(len(masks), classes)
