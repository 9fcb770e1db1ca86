"""A Hugging Face dataset that `save_to_disk` wrote: its images stay as they are stored."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from toque import checks
from toque.data import given
from toque.data.asked import Asked, Columns
from toque.data.decoding import MAX_PIXELS, unreadable
from toque.data.encoded import Encoded
from toque.data.given import PARTS
from toque.data.masks import decode_mask
from toque.data.own import own
from toque.data.source import Source
from toque.data.splits import Splits
from toque.data.targets import Targets, Task, check_mask, largest_class, numbered, of_masks
from toque.data.written import of_values

_LABEL = ("label", "labels", "fine_label", "annotation", "mask", "target")


def is_saved(root: Path) -> bool:
    """Whether `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote this folder."""
    one = (root / "dataset_info.json").is_file() and (root / "state.json").is_file()
    return one or (root / "dataset_dict.json").is_file()


def open_saved(root: Path, asked: Asked) -> Splits:
    """The splits of a saved dataset: its train, and its validation or test, or a draw.

    Args:   asked: its columns `path` and `label` name those that are not called image and label
    Raises: ImportError: the package datasets is not installed
            ValueError: no column of images or labels, an empty or damaged dataset
    """
    try:
        import datasets
    except ImportError:
        raise checks.InvalidValue(
            f"data: reading {root} needs the package datasets, which is not installed. "
            "Install it with: pip install 'toque[sources]'"
        ) from None
    try:
        loaded = datasets.load_from_disk(str(root))
    except Exception as error:  # arrow, JSON and the package each have their own
        raise checks.invalid(
            "data", str(root), "a whole dataset of save_to_disk",
            f"an error ({checks.first_line(error)})", "Save it anew.",
        ) from None  # fmt: skip
    if not isinstance(loaded, dict):
        loaded = {"train": loaded}
    parts = {PARTS.get(name.lower(), name): loaded[name] for name in reversed(list(loaded))}
    if "train" not in parts:
        raise checks.invalid(
            "data", str(root), "with a split called train", ", ".join(loaded), "Name it so."
        )
    train = SavedSource(str(root), parts["train"], asked.columns, asked.task, asked.channels)
    val = None
    validated = "val" if "val" in parts else "test"
    if validated in parts:
        val = SavedSource(
            str(root), parts[validated], asked.columns, train.task, train.channels, train.classes
        )
    splits = own(train, val, seed=asked.seed, val_fraction=asked.val_fraction, task=asked.task)
    said = given.without_test([name for name, part in parts.items() for _ in range(len(part))])[1]
    return splits if said is None else replace(splits, notes=(said,))


class SavedSource(Source):
    """One split of a saved dataset."""

    has_files = True

    def __init__(
        self,
        where: str,
        dataset: Any,
        columns: Columns,
        task: Task | None,
        channels: int | None,
        classes: tuple[str, ...] = (),
    ) -> None:
        import datasets

        self._where = where
        images = [n for n, kind in dataset.features.items() if isinstance(kind, datasets.Image)]
        label = _label_column(where, dataset, columns, images)
        self._mask = label if label in images else None
        image = columns.path or next((name for name in images if name != self._mask), None)
        if image is None or image not in images:
            raise checks.invalid(
                "data", f"the columns of {where}", "with one of images",
                ", ".join(dataset.features), "Say which with --set table.path=NAME.",
            )  # fmt: skip
        self._image = image
        for name in images:
            dataset = dataset.cast_column(name, datasets.Image(decode=False))
        self._dataset = dataset
        if self._mask is not None:
            self._targets = of_masks(len(dataset), classes)
            if not classes:
                masks = map(self.mask, range(len(dataset)))
                largest = max(map(largest_class, masks), default=-1)
                self._targets = of_masks(len(dataset), numbered(largest))
        else:
            self._targets = _targets(where, dataset, label, classes, task)
        self.channels = channels or (
            1 if Encoded(self._bytes(image, 0), name=where).decode().shape[0] == 1 else 3
        )

    @property
    def task(self) -> Task:
        return self._targets.task

    @property
    def classes(self) -> tuple[str, ...]:
        return self._targets.names

    @property
    def labels(self) -> np.ndarray:
        return self._targets.values

    def __len__(self) -> int:
        return len(self._dataset)

    def name(self, index: int) -> str:
        return str(index)

    def read(self, index: int) -> torch.Tensor:
        return self.encoded(index).decode()

    def encoded(self, index: int) -> Encoded:
        return Encoded(
            self._bytes(self._image, index), channels=self.channels, max_pixels=MAX_PIXELS,
            name=f"{self._where} row {index}",
        )  # fmt: skip

    def mask(self, index: int) -> torch.Tensor:
        assert self._mask is not None
        mask = decode_mask(self._bytes(self._mask, index), f"{self._where} row {index}")
        return check_mask("data", mask, None, len(self.classes) or None, f"row {index}")

    def _bytes(self, column: str, index: int) -> bytes:
        stored = self._dataset[int(index)][column]
        if not stored or (stored["bytes"] is None and not stored["path"]):
            raise unreadable(f"{self._where} row {index}", "no image")
        if stored["bytes"] is not None:
            return bytes(stored["bytes"])
        try:
            return Path(stored["path"]).read_bytes()
        except OSError as error:
            raise unreadable(stored["path"], error.strerror or str(error)) from None

    def fingerprint(self) -> str:
        """sha256 over the features, targets, and the stored files with their sizes."""
        files = [Path(one["filename"]) for one in self._dataset.cache_files]
        facts = [(path.name, path.stat().st_size) for path in files]
        told = repr((self.classes, str(self._dataset.features), len(self), facts))
        return hashlib.sha256(told.encode() + self.labels.tobytes()).hexdigest()


def _label_column(where: str, dataset: Any, columns: Columns, images: list[str]) -> str:
    names = list(dataset.features)
    asked = columns.label if isinstance(columns.label, str) else None
    if asked is not None and asked not in names:
        raise checks.invalid(where, "table.label", "a column", asked, checks.nearest(asked, names))
    found = asked or next((name for name in _LABEL if name in names), None)
    if found is None:
        raise checks.invalid(
            "data", f"the columns of {where}", "with one of labels", ", ".join(names),
            f"{checks.nearest('label', names)} Say which with --set table.label=NAME.",
        )  # fmt: skip
    return found


def _targets(
    where: str, dataset: Any, label: str, classes: tuple[str, ...], task: Task | None
) -> Targets:
    kind = dataset.features[label]
    inner = getattr(kind, "feature", kind)
    names = tuple(getattr(inner, "names", None) or classes)
    values = list(dataset[label])
    if inner is not kind and hasattr(inner, "names"):
        table = np.zeros((len(values), len(names)), np.float32)
        for row, several in enumerate(values):
            table[row, list(several)] = 1
        return Targets("multilabel", names, table)
    regression = task == "regression" or "float" in str(getattr(kind, "dtype", ""))
    found = of_values(
        where, values, () if regression else names, "regression" if regression else task
    )
    if found.task == "regression" and found.values.shape[1] == 1:
        return Targets("regression", (label,), found.values)
    return found
