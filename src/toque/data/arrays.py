"""Images that are in memory already."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch

from toque import checks
from toque.data.source import Source


class ArraySource(Source):
    """uint8 images in one array, with their labels.

    The array is not copied: [N, H, W, C] is read as channels_last [N, C, H, W]. Which of the two a
    4-dimensional array is, its channels say: 1 or 3 of them in the last place or in the second; an
    array that could be both is taken as [N, C, H, W].

    Shape:  images [N, H, W], [N, H, W, C] or [N, C, H, W]; labels [N]
    Dtype:  images uint8; labels any integers
    Args:   images: tensor or array
            labels: one class number an image
            classes: a name for each number; without it the numbers themselves, as text
            names: what to call each image; without it its number
    Raises: ValueError: shapes that disagree, labels outside the classes
            TypeError: images that are not uint8, labels that are not integers
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
    ) -> None:
        tensor = images if isinstance(images, torch.Tensor) else torch.from_numpy(images)
        if tensor.dtype != torch.uint8:
            raise checks.invalid_type(
                "ArraySource", "images", "uint8", tensor.dtype, "Give values 0 .. 255."
            )
        self.images = _channels_second(tensor)
        self._labels, self._classes = label_numbers("ArraySource", labels, classes)
        if len(self._labels) != len(self.images):
            raise checks.invalid(
                "ArraySource", "labels", f"of shape [{len(self.images)}]",
                list(self._labels.shape), "Give one label for each image.",
            )  # fmt: skip
        if names is not None and len(names) != len(self.images):
            raise checks.invalid(
                "ArraySource", "names", f"{len(self.images)} names", len(names),
                "Give one name for each image.",
            )  # fmt: skip
        self._names = names
        self._fingerprint: str | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        return self._classes

    @property
    def labels(self) -> np.ndarray:
        return self._labels

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        return str(index) if self._names is None else self._names[index]

    def read(self, index: int) -> torch.Tensor:
        return self.images[index]

    def read_many(self, indices: np.ndarray) -> torch.Tensor:
        """Several images by one gather: [B, C, H, W]."""
        return self.images[torch.from_numpy(indices)]

    def fingerprint(self) -> str:
        if self._fingerprint is None:
            digest = hashlib.sha256(repr((tuple(self.images.shape), self.classes)).encode())
            digest.update(self._labels.tobytes())
            for block in torch.split(
                self.images, 4096
            ):  # a view in another order is copied by blocks
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


def label_numbers(
    where: str,
    labels: torch.Tensor | np.ndarray | Sequence[int],
    classes: Sequence[str] | None,
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels as int64 [N] and the class names they point to."""
    numbers = labels.cpu().numpy() if isinstance(labels, torch.Tensor) else np.asarray(labels)
    if numbers.ndim != 1:
        raise checks.invalid(
            where, "labels", "of shape [N]", list(numbers.shape), "Give one label for each image."
        )
    if numbers.size and numbers.dtype.kind not in "iu":
        raise checks.invalid_type(
            where, "labels", "integers", numbers.dtype, "Number the classes from 0."
        )
    numbers = numbers.astype(np.int64)
    largest = int(numbers.max()) if numbers.size else -1
    names = tuple(str(label) for label in range(largest + 1)) if classes is None else tuple(classes)
    if numbers.size and (int(numbers.min()) < 0 or largest >= len(names)):
        wrong = int(numbers.min()) if int(numbers.min()) < 0 else largest
        raise checks.invalid(
            where, "labels", f"in 0 .. {len(names) - 1}", wrong, "Name every class in `classes`."
        )
    return numbers, names
