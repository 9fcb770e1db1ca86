"""A user's own torch Dataset as a source."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from toque import checks, random
from toque.data import targets
from toque.data.decoding import pixels_of
from toque.data.source import Source, Target
from toque.data.targets import Targets, Task


class DatasetSource(Source):
    """Any map-style Dataset whose items are (image, target).

    The user's code may draw from the global generators, and these are shared by all threads:
    therefore the items are read one after the other (or by worker processes), each after reseeding
    torch, numpy and python's random by a key of its own, and the pixels are the same for any number
    of workers. Generators that the Dataset made for itself are out of reach: make them from
    torch.initial_seed() inside __getitem__.

    A target may be a class number, a row of 0 and 1 for several labels, a number or a row of them,
    or a mask [H, W]; an image may be a uint8 tensor [C, H, W], an
    array [H, W] or [H, W, C], an image of Pillow's, or a float tensor, which is passed on as it is.

    Args:   dataset: has __len__ and __getitem__
            classes: a name for each class, label or number; without it dataset.classes, or else the
            numbers seen
            labels: the target of each item; without it dataset.targets, where there are any and no
            target_transform, or else every item is read once when they are asked for
            task: what the targets mean, where they could mean two things (see ArraySource)
    Raises: TypeError: no __len__ or __getitem__, items that are not (image, target)
            ValueError: when it is read: an image of other channels or another dtype than the first
    Example: >>> DatasetSource(torchvision.datasets.FakeData(size=10))
    """

    serial = True

    def __init__(
        self,
        dataset: Any,
        classes: Sequence[str] | None = None,
        labels: torch.Tensor | np.ndarray | Sequence[int] | None = None,
        *,
        task: Task | None = None,
    ) -> None:
        if isinstance(dataset, torch.utils.data.IterableDataset):
            raise checks.invalid_type(
                "DatasetSource", "dataset", "a map-style Dataset, whose items have numbers",
                f"the IterableDataset {type(dataset).__name__}",
                "A stream cannot be shuffled by a seed or continued where a run was stopped: give "
                "it __len__ and __getitem__, or write its items as tar shards.",
            )  # fmt: skip
        for method in ("__len__", "__getitem__"):
            if not hasattr(dataset, method):
                raise checks.invalid_type(
                    "DatasetSource", "dataset", "a map-style Dataset", type(dataset).__name__,
                    f"Give it the method {method}.",
                )  # fmt: skip
        self.dataset = dataset
        named = classes if classes is not None else _named_classes(dataset)
        self._names = None if named is None else tuple(str(name) for name in named)
        self._asked = task
        self._kind: tuple[int, torch.dtype] | None = None  # of the first image that was read
        self._targets: Targets | None = None
        labels = _listed_targets(dataset) if labels is None and task != "segmentation" else labels
        if labels is not None:
            self._targets = targets.of("DatasetSource", labels, self._names, task)

    @property
    def task(self) -> Task:
        return self._known().task

    @property
    def classes(self) -> tuple[str, ...]:
        return self._known().names

    @property
    def labels(self) -> np.ndarray:
        return self._known().values

    def _known(self) -> Targets:
        if self._targets is None:
            with random.kept_globals():
                self._targets = self._read_targets()
        return self._targets

    def _read_targets(self) -> Targets:
        """Every target, from the items read one by one; of masks only the largest class is kept."""
        rows: list[int | torch.Tensor] = []
        largest = 1
        kinds = set()
        for index in range(len(self)):
            target = self._keyed(index)[1]
            kinds.add(target.ndim if isinstance(target, torch.Tensor) else 0)
            if len(kinds) > 1:
                raise checks.invalid_type(
                    "DatasetSource", "every target", "of one kind", f"another one at {index}",
                    "Return class numbers, rows or masks throughout.",
                )  # fmt: skip
            if isinstance(target, torch.Tensor) and target.ndim == 2:
                largest = max(largest, targets.largest_class(target))
            else:
                rows.append(target)
        if kinds == {2}:
            return targets.of_masks(len(self), self._names or targets.numbered(largest))
        values: np.ndarray = (
            np.stack([np.asarray(row) for row in rows]) if rows else np.empty(0, np.int64)
        )
        column = values.ndim == 2 and values.shape[1] == 1 and self._names is None
        return targets.of(
            "DatasetSource", values[:, 0] if column and self._asked is None else values,
            self._names, self._asked,
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.dataset)

    def name(self, index: int) -> str:
        return str(index)

    def read(self, index: int) -> torch.Tensor:
        """The image with the draws of evaluation; the loader keys them by seed and epoch."""
        with random.kept_globals():
            return self._keyed(index)[0]

    def mask(self, index: int) -> torch.Tensor:
        with random.kept_globals():
            target = self._keyed(index)[1]
        assert isinstance(target, torch.Tensor)
        return target

    def _keyed(self, index: int) -> tuple[torch.Tensor, Target]:
        random.seed_globals(0, "item", 0, index)
        return self.item(index)

    def item(self, index: int) -> tuple[torch.Tensor, Target]:
        try:
            item = self.dataset[index]
        except Exception as error:
            error.add_note(f"toque: item {index} of {type(self.dataset).__name__} was asked for")
            raise
        if not isinstance(item, tuple | list) or len(item) != 2:
            found = f"{type(item).__name__} at {index}"
            raise checks.invalid_type(
                "DatasetSource", "every item", "(image, target)", found,
                "Return the image and its class number, row of numbers or mask from __getitem__.",
            )  # fmt: skip
        image, target = as_image(item[0], index), _as_target(item[1], index)
        self._check_alike(image, index)
        if isinstance(target, torch.Tensor) and target.ndim == 2:
            count = None if self._names is None else len(self._names)
            return image, targets.check_mask("DatasetSource", target, image, count, str(index))
        if self._asked == "regression" and isinstance(target, int):
            return image, torch.tensor([float(target)])
        return image, target

    def _check_alike(self, image: torch.Tensor, index: int) -> None:
        """Raise ValueError for an image of other channels or another dtype than the first one."""
        kind = image.shape[0], image.dtype
        if self._kind is None:
            self._kind = kind
        if kind != self._kind:
            first, this = (f"{dtype} of {channels} channel{'s' if channels != 1 else ''}"
                           for channels, dtype in (self._kind, kind))  # fmt: skip
            raise checks.invalid(
                "DatasetSource", "every image", f"like the first one read, {first}",
                f"{this} at {index}",
                'Convert it in __getitem__, such as a file by Image.open(path).convert("RGB").',
            )  # fmt: skip

    def fingerprint(self) -> str:
        """sha256 over the name of the Dataset's class, its length and classes: its content is not
        read. The module is left out: a script's own classes are in `__main__` while it runs, and
        elsewhere where they are imported to continue or to replay its run."""
        kind = type(self.dataset).__qualname__
        return hashlib.sha256(repr((kind, len(self), self._names)).encode()).hexdigest()


def _named_classes(dataset: Any) -> Sequence[str] | None:
    """The `classes` of a Dataset as torchvision's have them, also below a Subset."""
    while not hasattr(dataset, "classes"):
        if not hasattr(dataset, "dataset"):
            return None
        dataset = dataset.dataset
    return list(dataset.classes)


def _listed_targets(dataset: Any) -> np.ndarray | None:
    """The `targets` of a Dataset as torchvision's have them, where they are what its items say."""
    listed = getattr(dataset, "targets", None)
    if listed is None or getattr(dataset, "target_transform", None) is not None:
        return None
    try:
        array = np.asarray(listed)
    except ValueError:  # rows of different lengths
        return None
    fits = array.ndim in (1, 2) and len(array) == len(dataset) and array.dtype.kind in "iuf"
    return array if fits else None


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


def _as_target(target: Any, index: int) -> Target:
    """A user's target: a class number, float32 [K], or a mask uint8 or int64 [H, W]."""
    if not isinstance(target, torch.Tensor):
        try:
            return operator.index(target)
        except TypeError:
            pass
    try:
        array = target if isinstance(target, torch.Tensor) else torch.from_numpy(_array(target))
    except (TypeError, ValueError):
        raise _not_a_target(target, index) from None
    if array.ndim == 3 and array.shape[0] == 1:
        array = array[0]
    whole = not array.is_floating_point() and not array.is_complex()
    if array.ndim == 0 or (whole and array.numel() == 1 and array.ndim == 1):
        return int(array) if whole else array.float()[None]
    if array.ndim == 1 and not array.is_complex():
        return array.float()
    if array.ndim == 2 and whole:
        return array if array.dtype == torch.uint8 else array.long()
    raise _not_a_target(target, index)


def _array(target: Any) -> np.ndarray:
    array = np.array(target)
    if array.dtype.kind not in "iufb":
        raise TypeError(array.dtype)
    return array


def _not_a_target(target: Any, index: int) -> checks.InvalidType:
    shape = f" {list(target.shape)}" if hasattr(target, "shape") and len(target.shape) else ""
    found = f"{type(target).__name__}{shape}" if shape else repr(target)
    return checks.invalid_type(
        "DatasetSource", "every target", "a class number, a row of numbers or a mask [H, W]",
        f"{found} at {index}", "Change what __getitem__ returns.",
    )  # fmt: skip
