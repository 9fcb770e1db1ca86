"""A user's own torch Dataset as a source."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from toque import checks, random
from toque.data.arrays import label_numbers
from toque.data.decoding import pixels_of
from toque.data.source import Source


class DatasetSource(Source):
    """Any map-style Dataset whose items are (image, label).

    The user's code may draw from the global generators, and these are shared by all threads:
    therefore the items are read one after the other (or by worker processes), each after reseeding
    torch, numpy and python's random by a key of its own, and the pixels are the same for any number
    of workers. Generators that the Dataset made for itself are out of reach: make them from
    torch.initial_seed() inside __getitem__.

    An image may be a uint8 tensor [C, H, W], an array [H, W] or [H, W, C], an image of Pillow's, or
    a float tensor, which is passed on as it is.

    Args:   dataset: has __len__ and __getitem__
            classes: a name for each label; without it dataset.classes, or else the numbers seen
            labels: the label of each item; without it dataset.targets, where there are any and no
            target_transform, or else every item is read once when they are asked for
    Raises: TypeError: no __len__ or __getitem__, items that are not (image, label)
    Example: >>> DatasetSource(torchvision.datasets.FakeData(size=10))
    """

    serial = True

    def __init__(
        self,
        dataset: Any,
        classes: Sequence[str] | None = None,
        labels: torch.Tensor | np.ndarray | Sequence[int] | None = None,
    ) -> None:
        for method in ("__len__", "__getitem__"):
            if not hasattr(dataset, method):
                raise checks.invalid_type(
                    "DatasetSource", "dataset", "a map-style Dataset", type(dataset).__name__,
                    f"Give it the method {method}.",
                )  # fmt: skip
        self.dataset = dataset
        named = classes if classes is not None else _named_classes(dataset)
        self._classes = None if named is None else tuple(str(name) for name in named)
        self._labels: np.ndarray | None = None
        labels = _listed_targets(dataset) if labels is None else labels
        if labels is not None:
            self._labels, self._classes = label_numbers("DatasetSource", labels, self._classes)

    @property
    def classes(self) -> tuple[str, ...]:
        if self._classes is None:
            self._read_labels()
        assert self._classes is not None
        return self._classes

    @property
    def labels(self) -> np.ndarray:
        if self._labels is None:
            self._read_labels()
        assert self._labels is not None
        return self._labels

    def _read_labels(self) -> None:
        with random.kept_globals():
            labels = [self._keyed(index)[1] for index in range(len(self))]
        self._labels, self._classes = label_numbers("DatasetSource", labels, self._classes)

    def __len__(self) -> int:
        return len(self.dataset)

    def name(self, index: int) -> str:
        return str(index)

    def read(self, index: int) -> torch.Tensor:
        """The image with the draws of evaluation; the loader keys them by seed and epoch."""
        with random.kept_globals():
            return self._keyed(index)[0]

    def _keyed(self, index: int) -> tuple[torch.Tensor, int]:
        random.seed_globals(0, "item", 0, index)
        return self.item(index)

    def item(self, index: int) -> tuple[torch.Tensor, int]:
        item = self.dataset[index]
        if not isinstance(item, tuple | list) or len(item) != 2:
            found = f"{type(item).__name__} at {index}"
            raise checks.invalid_type(
                "DatasetSource", "every item", "(image, label)", found,
                "Return the image and its class number from __getitem__.",
            )  # fmt: skip
        return as_image(item[0], index), _as_label(item[1], index)

    def fingerprint(self) -> str:
        """sha256 over the Dataset's type, its length and classes: its content is not read."""
        kind = f"{type(self.dataset).__module__}.{type(self.dataset).__qualname__}"
        return hashlib.sha256(repr((kind, len(self), self._classes)).encode()).hexdigest()


def _named_classes(dataset: Any) -> Sequence[str] | None:
    """The `classes` of a Dataset as torchvision's have them, also below a Subset."""
    while not hasattr(dataset, "classes"):
        if not hasattr(dataset, "dataset"):
            return None
        dataset = dataset.dataset
    return list(dataset.classes)


def _listed_targets(dataset: Any) -> Sequence[int] | None:
    """The `targets` of a Dataset as torchvision's have them, where they are what its items say."""
    targets = getattr(dataset, "targets", None)
    if targets is None or getattr(dataset, "target_transform", None) is not None:
        return None
    listed = np.asarray(targets)
    fits = listed.shape == (len(dataset),) and listed.dtype.kind in "iu"
    return [int(target) for target in listed] if fits else None


def as_image(image: Any, index: int) -> torch.Tensor:
    """A user's image as a tensor [C, H, W]; float tensors are passed on as they are."""
    if isinstance(image, torch.Tensor):
        tensor = image
    else:
        # An image of Pillow's may have a palette, or other things than its pixels say.
        pillow = hasattr(image, "getbands") and hasattr(image, "mode")
        array = pixels_of(image, None, f"item {index}") if pillow else np.asarray(image)
        if array.ndim not in (2, 3) or array.dtype.kind not in "uf":
            raise _not_an_image(f"{type(image).__name__} of {array.dtype} {array.shape}", index)
        if not array.flags.writeable or any(stride < 0 for stride in array.strides):
            array = array.copy()
        tensor = torch.from_numpy(array)
        tensor = tensor if tensor.ndim == 2 else tensor.permute(2, 0, 1)
    if tensor.ndim == 2:
        tensor = tensor[None]
    if tensor.ndim != 3 or not (tensor.dtype == torch.uint8 or tensor.is_floating_point()):
        raise _not_an_image(f"tensor of {tensor.dtype} {list(tensor.shape)}", index)
    return tensor


def _not_an_image(found: str, index: int) -> checks.InvalidType:
    return checks.invalid_type(
        "DatasetSource", "every image",
        "a uint8 or float tensor [C, H, W], a uint8 array [H, W, C] or an image of Pillow's",
        f"{found} at {index}", "Change what __getitem__ returns.",
    )  # fmt: skip


def _as_label(label: Any, index: int) -> int:
    try:
        return operator.index(label.item() if hasattr(label, "item") else label)
    except (TypeError, ValueError, RuntimeError):
        raise checks.invalid_type(
            "DatasetSource", "every label", "one integer", f"{label!r} at {index}",
            "Return the number of the class.",
        ) from None  # fmt: skip
