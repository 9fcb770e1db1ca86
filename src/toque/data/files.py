"""Image files of any place with their targets: from a list of names to the splits of a run.

Shape letters: N images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from toque import checks
from toque.data import given
from toque.data.asked import Asked
from toque.data.decoding import MAX_PIXELS, UnreadableImage
from toque.data.encoded import Encoded
from toque.data.listing import some
from toque.data.masks import decode_mask
from toque.data.places import Folder, Place
from toque.data.scan import BadFile, say_bad, scan
from toque.data.source import Source, strata_of
from toque.data.splits import Splits, draw_validation
from toque.data.targets import IGNORE_INDEX, Targets, Task, check_mask, largest_class, numbered

_SAMPLED = 16  # files that are looked at where a look at all would fetch them all


@dataclass(frozen=True, eq=False)
class Listed:
    """Files with what belongs to them, not looked at yet.

    names:      of the images
    targets:    of each; of the task segmentation where `masks` are given
    masks:      the file of each mask
    parts:      "train", "val" or "test" for each; unset where a draw must split them
    weights:    how much each counts, float32 [N]
    foreground: the value 255 of a mask means class 1, as it does in files of 0 and 255
    notes:      what a person should be told
    """

    place: Place
    names: Sequence[str]
    targets: Targets
    masks: Sequence[str] | None = None
    parts: Sequence[str] | None = None
    weights: np.ndarray | None = None
    foreground: bool = False
    notes: tuple[str, ...] = ()

    def chosen(self, rows: np.ndarray) -> Listed:
        """Some of them, in this order."""
        return replace(
            self,
            names=[self.names[row] for row in rows],
            targets=replace(self.targets, values=self.targets.values[rows]),
            masks=None if self.masks is None else [self.masks[row] for row in rows],
            parts=None if self.parts is None else [self.parts[row] for row in rows],
            weights=None if self.weights is None else self.weights[rows],
        )


class FilesSource(Source):
    """Images, and perhaps masks, read from a place when they are asked for."""

    has_files = True

    def __init__(self, listed: Listed, channels: int, max_pixels: int = MAX_PIXELS) -> None:
        self._listed = listed
        self.channels = channels
        self._max_pixels = max_pixels

    @property
    def task(self) -> Task:
        return self._listed.targets.task

    @property
    def classes(self) -> tuple[str, ...]:
        return self._listed.targets.names

    @property
    def labels(self) -> np.ndarray:
        return self._listed.targets.values

    @property
    def weights(self) -> np.ndarray | None:
        return self._listed.weights

    def __len__(self) -> int:
        return len(self._listed.names)

    def name(self, index: int) -> str:
        return self._listed.names[index]

    def path(self, index: int) -> Path | None:
        return self._listed.place.path(self._listed.names[index])

    def mask_path(self, index: int) -> Path | None:
        masks = self._listed.masks
        return None if masks is None else self._listed.place.path(masks[index])

    def stamp(self, index: int) -> str:
        label = self.labels[index].tolist() if self.labels.ndim > 1 else self.labels[index]
        return f"{label} {self._sizes(index)}"

    def _sizes(self, index: int) -> str:
        place, masks = self._listed.place, self._listed.masks
        size = place.size(self._listed.names[index])
        return str(size) if masks is None else f"{size} {place.size(masks[index])}"

    def read(self, index: int) -> torch.Tensor:
        return self.encoded(index).decode()

    def encoded(self, index: int) -> Encoded:
        name = self._listed.names[index]
        return Encoded(
            self._listed.place.read(name), channels=self.channels, max_pixels=self._max_pixels,
            name=f"{self._listed.place.where}/{name}",
        )  # fmt: skip

    def mask(self, index: int) -> torch.Tensor:
        listed = self._listed
        assert listed.masks is not None
        mask = _mask(listed, index, self._max_pixels)
        return check_mask("data", mask, None, len(self.classes), listed.masks[index])

    def fingerprint(self) -> str:
        """sha256 over names, sizes in bytes and targets; the pixels are not read."""
        listed = self._listed
        digest = hashlib.sha256(
            repr((self.task, self.classes, self.channels, listed.foreground)).encode()
        )
        for index, name in enumerate(listed.names):
            digest.update(f"{name}\0{self._sizes(index)}\n".encode(errors="surrogateescape"))
        digest.update(self.labels.tobytes())
        if listed.weights is not None:
            digest.update(listed.weights.tobytes())
        return digest.hexdigest()


def _mask(listed: Listed, index: int, max_pixels: int) -> torch.Tensor:
    assert listed.masks is not None
    name = listed.masks[index]
    mask = decode_mask(listed.place.read(name), f"{listed.place.where}/{name}", max_pixels)
    if listed.foreground:
        mask = (mask == IGNORE_INDEX).to(torch.uint8)
    return mask


def splits_of(listed: Listed, asked: Asked) -> Splits:
    """The training and validation part of listed files, after a look at them.

    Raises: ValueError: files that cannot be used (unless on_bad is "skip"), nothing left on a side
    """
    listed = _without_test(listed)
    listed, bad, gray = _looked(listed, asked.on_bad, asked.max_pixels)
    if bad and asked.on_bad == "raise":
        raise say_bad(bad, len(listed.names) + len(bad))
    channels = asked.channels or (1 if gray else 3)
    if listed.parts is None:
        values = listed.targets.values
        drawn_by = strata_of(listed.targets.task, values)
        in_val = draw_validation(list(listed.names), drawn_by, asked.seed, asked.val_fraction)
        one_each = len(drawn_by) > 1 and len(np.unique(drawn_by)) == len(drawn_by)
        if one_each and listed.targets.task == "classification":
            raise checks.invalid(
                "data", f"the labels in {listed.place.where}", "classes of several images each",
                f"another one for every image: {checks.first(listed.targets.names)}",
                "If they are numbers, set task=regression, which names the one that is none; if "
                "classes, give more images of each.",
            )  # fmt: skip
    else:
        in_val = np.array([part == "val" for part in listed.parts], dtype=bool)
    for side, rows in (("train", ~in_val), ("validate", in_val)):
        if not rows.any():
            raise checks.invalid(
                "data", listed.place.where, f"with images to {side} on", "none",
                "Add images, or mark some for it.",
            )  # fmt: skip
    whole = FilesSource(listed, channels, asked.max_pixels)
    train, val = (
        FilesSource(listed.chosen(np.flatnonzero(rows)), channels, asked.max_pixels)
        for rows in (~in_val, in_val)
    )
    notes = listed.notes
    if bad:
        notes += (f"Files that cannot be used, left out: {some([str(b.path) for b in bad])}.",)
    drawn_from = whole if listed.parts is None else None
    return Splits(train, val, listed.targets.names, tuple(bad), channels, notes, drawn_from)


def _without_test(listed: Listed) -> Listed:
    """Without the images of the part test, where there are others to validate on."""
    if listed.parts is None:
        return listed
    parts, said = given.without_test(listed.parts)
    if said is None:
        return listed
    kept = np.flatnonzero([part != "" for part in parts])
    return replace(listed, parts=parts, notes=(*listed.notes, said)).chosen(kept)


def _looked(listed: Listed, on_bad: str, max_pixels: int) -> tuple[Listed, list[BadFile], bool]:
    """The files that can be used, the others, and whether all images are gray."""
    if isinstance(listed.place, Folder):
        facts = scan(
            listed.place.root, listed.names, thorough=on_bad == "skip", max_pixels=max_pixels
        )
        reasons = [one.reason for one in facts]
        gray = all(one.gray for one in facts if one.reason is None)
    else:
        reasons, gray = _fetched(listed, on_bad, max_pixels)
    if listed.masks is not None:
        listed, reasons = _matched(listed, reasons, max_pixels)
    good = np.array([row for row, reason in enumerate(reasons) if reason is None], dtype=np.int64)
    root = Path(listed.place.where)
    bad = [
        BadFile(root / name, reason)
        for name, reason in zip(listed.names, reasons, strict=True)
        if reason is not None
    ]
    return (listed if not bad else listed.chosen(good)), bad, gray


def _fetched(listed: Listed, on_bad: str, max_pixels: int) -> tuple[list[str | None], bool]:
    """Why files elsewhere are bad: of all with "skip", else of a few spread over them."""
    count = len(listed.names)
    rows = range(count)
    if on_bad != "skip":
        rows = np.unique(np.linspace(0, count - 1, min(count, _SAMPLED)).astype(int)).tolist()

    def look(row: int) -> tuple[str | None, bool]:
        name = listed.names[row]
        try:
            data = listed.place.read(name)
            return None, Encoded(data, max_pixels=max_pixels, name=name).decode().shape[0] == 1
        except UnreadableImage as error:
            return error.reason, True

    reasons: list[str | None] = [None] * count
    gray = True
    with ThreadPoolExecutor(8, "toque-scan") as pool:
        for row, (reason, one_gray) in zip(rows, pool.map(look, rows), strict=True):
            reasons[row] = reason
            gray &= one_gray
    return reasons, gray


def _matched(
    listed: Listed, reasons: list[str | None], max_pixels: int
) -> tuple[Listed, list[str | None]]:
    """Each mask read once: does it fit its image, and which classes are there?"""
    assert listed.masks is not None
    masks = listed.masks
    known = len(listed.targets.names)

    def look(row: int) -> tuple[str | None, int, bool]:
        if reasons[row] is not None:
            return reasons[row], -1, True
        name = listed.names[row]
        try:
            mask = _mask(listed, row, max_pixels)
            image = Encoded(listed.place.read(name), max_pixels=max_pixels, name=name)
        except UnreadableImage as error:
            return error.reason, -1, True
        if image.size != tuple(mask.shape):
            sizes = (
                f"{mask.shape[0]} x {mask.shape[1]}, the image {image.size[0]} x {image.size[1]}"
            )
            return f"its mask {masks[row]} is {sizes} pixels", -1, True
        largest = largest_class(mask)
        if 0 < known <= largest:
            return f"its mask {masks[row]} has the class {largest} of 0 .. {known - 1}", -1, True
        return None, largest, largest == 0 and bool((mask == IGNORE_INDEX).any())

    with ThreadPoolExecutor(8, "toque-scan") as pool:
        found = list(pool.map(look, range(len(masks))))
    largest = max((one for _, one, _ in found), default=-1)
    # Files of 0 and 255 alone: 255 is the foreground in them, not what is to be ignored.
    foreground = largest == 0 and any(both for reason, _, both in found if reason is None)
    names, notes = listed.targets.names, listed.notes
    if foreground:
        notes += ("The masks hold 0 and 255 alone: 255 is taken for class 1.",)
        names = names or ("background", "foreground")
    names = names or numbered(largest)
    if len(names) > IGNORE_INDEX:
        raise checks.invalid(
            "data", "the classes of masks", f"at most {IGNORE_INDEX}", len(names),
            f"{IGNORE_INDEX} marks what is ignored; numbers of single objects are no classes.",
        )  # fmt: skip
    listed = replace(
        listed, foreground=foreground, notes=notes, targets=replace(listed.targets, names=names)
    )
    return listed, [reason for reason, _, _ in found]
