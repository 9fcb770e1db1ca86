"""What belongs to an image: a class, a yes or no for each label, numbers, or a mask.

Shape letters: N images, K classes or labels, D numbers, H W height and width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from toque import checks

Task = Literal["classification", "multilabel", "regression", "segmentation"]
TASKS: tuple[Task, ...] = ("classification", "multilabel", "regression", "segmentation")

IGNORE_INDEX = 255
"""The class number of pixels of a mask that count nothing."""


@dataclass(frozen=True, eq=False)
class Targets:
    """The targets of N images, and the task that they make.

    names:  of the classes, labels or numbers, in the order of the outputs of a model
    values: int64 [N] class numbers, float32 [N, K] of 0 and 1, float32 [N, D] numbers, or
            float32 [N, 0] where the targets are masks, which a source gives one by one
    """

    task: Task
    names: tuple[str, ...]
    values: np.ndarray


def of(
    where: str, values: Any, names: Sequence[str] | None = None, task: Task | None = None
) -> Targets:
    """Targets from what a caller gives: integers [N] are classes, rows of 0 and 1 labels, and
    other numbers numbers, unless `task` says otherwise.

    Shape:  values [N], [N, K] or [N, D]
    Args:   where: what to call the caller in an error
            names: of the classes, labels or numbers; their positions, as text, if unset
    Raises: ValueError: another rank, a class outside the names, labels that are not 0 or 1, a value
            that is not finite, another number of names
            TypeError: values that are no numbers
    """
    array = values.cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
    if array.size and array.dtype.kind not in "iufb":
        raise checks.invalid_type(
            where, "labels", "integers or numbers", array.dtype, "Number the classes from 0."
        )
    if array.ndim not in (1, 2):
        raise checks.invalid(
            where, "labels", "of shape [N], or [N, K] for several of each image",
            list(array.shape), "Give one label, or one row, for each image.",
        )  # fmt: skip
    found = task or _kind(array)
    if found == "segmentation":
        raise checks.invalid(
            where, "task", "one of labels or numbers", found, "Give masks for segmentation."
        )
    if found == "classification":
        return Targets(found, *_classes(where, array, names))
    rows = array.astype(np.float32).reshape(len(array), -1)
    if not np.isfinite(rows).all():
        wrong = int(np.flatnonzero(~np.isfinite(rows).all(1))[0])
        raise checks.invalid(
            where, "labels", "finite", f"{rows[wrong].tolist()} at {wrong}", "Leave that image out."
        )
    if found == "multilabel":
        other = np.flatnonzero(((rows != 0) & (rows != 1)).any(1))
        if other.size:
            raise checks.invalid(
                where, "labels", "0 or 1 for multilabel",
                f"{rows[other[0]].tolist()} at {other[0]}",
                "Give a 1 for each label an image has, or take task=regression.",
            )  # fmt: skip
    width = rows.shape[1]
    given = tuple(map(str, range(width))) if names is None else tuple(names)
    if len(given) != width:
        raise checks.invalid(
            where, "classes", f"{width} names, one for each column of labels", len(given),
            "Name every column.",
        )  # fmt: skip
    return Targets(found, given, rows)


def of_masks(count: int, names: Sequence[str] = ()) -> Targets:
    """Targets that a source gives one by one, as masks; without names the classes are not known."""
    return Targets("segmentation", tuple(names), np.empty((count, 0), np.float32))


def numbered(largest: int) -> tuple[str, ...]:
    """Names of the classes of masks without any: their numbers, at least two."""
    return tuple(map(str, range(max(largest + 1, 2))))


def _kind(array: np.ndarray) -> Task:
    if array.ndim == 1:
        return "regression" if array.dtype.kind == "f" and array.size else "classification"
    if array.shape[1] == 1 and array.dtype.kind in "iu":  # a column of class numbers, most likely
        return "classification"
    return "multilabel" if bool(np.isin(array, (0, 1)).all()) else "regression"


def _classes(
    where: str, array: np.ndarray, names: Sequence[str] | None
) -> tuple[tuple[str, ...], np.ndarray]:
    if array.ndim != 1:
        raise checks.invalid(
            where, "labels", "of shape [N]", list(array.shape), "Give one label for each image."
        )
    if array.size and array.dtype.kind not in "iu":
        raise checks.invalid_type(
            where, "labels", "integers", array.dtype, "Number the classes from 0."
        )
    numbers = array.astype(np.int64)
    largest = int(numbers.max()) if numbers.size else -1
    given = tuple(map(str, range(largest + 1))) if names is None else tuple(names)
    if numbers.size and (int(numbers.min()) < 0 or largest >= len(given)):
        if int(numbers.min()) < 0:
            at = int(numbers.argmin())
            raise checks.invalid(
                where, "labels", "class numbers from 0", f"{numbers[at]} at {at}",
                "Leave that image out, or number the classes from 0.",
            )  # fmt: skip
        raise checks.invalid(
            where, "labels", f"in 0 .. {len(given) - 1}", largest, "Name every class in `classes`."
        )
    return given, numbers


def check_mask(
    where: str,
    mask: torch.Tensor,
    image: torch.Tensor | None,
    num_classes: int | None,
    name: str,
) -> torch.Tensor:
    """A mask that fits its image: class numbers, or IGNORE_INDEX.

    Shape:  mask [H, W], image [C, H, W]
    Dtype:  mask uint8 or int64
    Raises: ValueError: another size than the image's, a class number outside
            TypeError: another rank or dtype
    """
    if mask.ndim != 2 or mask.dtype not in (torch.uint8, torch.int64):
        raise checks.invalid_type(
            where, "every mask", "uint8 or int64 [H, W]",
            f"{mask.dtype} {list(mask.shape)} at {name}", "Give one class number for each pixel.",
        )  # fmt: skip
    if image is not None and image.shape[-2:] != mask.shape:
        sizes = [" x ".join(map(str, one.shape[-2:])) for one in (image, mask)]
        raise checks.invalid(
            where, "every mask", f"of the size of its image, {sizes[0]}", f"{sizes[1]} at {name}",
            "Save it at the size of the image, enlarged without smoothing.",
        )  # fmt: skip
    if num_classes is not None and mask.numel():
        largest = largest_class(mask)
        lowest = int(mask.min()) if mask.dtype == torch.int64 else 0
        if largest >= num_classes or lowest < 0:
            wrong = largest if largest >= num_classes else lowest
            raise checks.invalid(
                where, "every value of a mask",
                f"a class in 0 .. {num_classes - 1}, or {IGNORE_INDEX} to ignore",
                f"{wrong} at {name}", "Mend the mask, or name every class.",
            )  # fmt: skip
    return mask


def largest_class(mask: torch.Tensor) -> int:
    """The largest class number in a mask, -1 where every pixel is ignored."""
    kept = mask[mask != IGNORE_INDEX]
    return int(kept.max()) if kept.numel() else -1


def stacked(targets: Sequence[int | torch.Tensor]) -> torch.Tensor | list[torch.Tensor]:
    """The targets of a batch: one tensor, or the masks as they are, which may differ in size."""
    tensors = [target for target in targets if isinstance(target, torch.Tensor)]
    if len(tensors) < len(targets):
        return torch.tensor(targets, dtype=torch.int64)
    return tensors if tensors and tensors[0].ndim == 2 else torch.stack(tensors)
