"""check: everything about a data set that a person wants to know before training on it."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from toque.data import given, opening, progress
from toque.data.checking import words
from toque.data.checking.copies import copies
from toque.data.checking.examine import DEEP_AND_DARK, Seen, examine_file, examine_pixels
from toque.data.checking.findings import Finding, Findings, Item, Part
from toque.data.checking.passed import no_image, passed_over
from toque.data.checking.several import several
from toque.data.decoding import MAX_PIXELS, decode
from toque.data.elsewhere import is_class_folder
from toque.data.listing import class_files
from toque.data.packed.format import is_cache
from toque.data.source import Source
from toque.data.splits import Splits, draw_validation

_UNEVEN = 10  # times as many images of one class as of another are worth a word
_MOST_SIDES = 4  # a longer side this many times the shorter, or more, is worth a word
_CHUNK = 256
_HANDLED = "toque handles them; other tools may not."
_REMARKS = {
    DEEP_AND_DARK: "toque keeps the upper 8, in which they are nearly black: save them as 8 bits, "
    "scaled to the values in use."
}


@dataclass(frozen=True)
class _Image:
    """An image to look at, and how; `labels` are its classes, where it may have several."""

    item: Item
    look: Callable[[], Seen]
    read: Callable[[], torch.Tensor]
    labels: frozenset[str] = frozenset()


@dataclass(frozen=True)
class _Asked:
    """What is to be checked.

    where:  what a person calls it
    labels: the names of all labels, where an image may have several
    passed: what a run would not use, told without a look at it
    """

    images: list[_Image]
    where: str
    labels: tuple[str, ...]
    passed: tuple[Finding, ...]


def check(
    data: str | Path | Splits,
    *,
    seed: int = 0,
    val_fraction: float = 0.2,
    max_pixels: int = MAX_PIXELS,
    threads: int | None = None,
    show: progress.Show = "auto",
) -> Findings:
    """Decode every image once and tell what is wrong with the data, and what is worth knowing.

    Problems are: files that cannot be read whole; images of the validation part that are also in
    the training part, as exact or near copies; copies with different labels; exact copies within a
    part. Worth knowing: near copies within a part, uneven classes, odd sizes, files that other
    tools may show differently (EXIF orientation, 16 bits, CMYK, animation, transparency), what of a
    folder a run passes over, and the mean and deviation of the channels.

    Args:    data: what `toque.data.open` takes, or its result; files of a folder that cannot be
             used are found, not refused
             seed, val_fraction: of the draw, where the folder has no val part
             max_pixels: larger images cannot be used
             threads: that decode; one per core if unset
             show: progress on stderr: "auto" is a bar in a terminal and lines elsewhere
    Raises:  FileNotFoundError: no such data
             ValueError: a folder that is no data set
    Example: >>> findings = toque.data.check("photos/")
             >>> findings.clean, [finding.says for finding in findings.problems]
             (False, ['3 files cannot be read. Mend or remove them.'])
    """
    began = time.monotonic()
    asked = _images(data, seed, val_fraction, max_pixels)
    images, names = asked.images, asked.labels
    labels = [image.labels for image in images]
    seen = _look(images, threads, show)
    items = [image.item for image in images]
    readable = [number for number, one in enumerate(seen) if one.reason is None]
    found = [
        *_unreadable(items, seen),
        *copies(items, seen, readable),
        *(several(items, labels, names) if names else _balance(items)),
        *_odd(items, seen),
        *_shapes(items, seen, readable),
        *asked.passed,
    ]
    found.sort(key=lambda finding: not finding.problem)
    mean, std = _statistics(items, seen, readable)
    readers = {(one.item.part, one.item.index): one.read for one in images}
    return Findings(
        asked.where, tuple(found), tuple(_parts(items, labels, seen)), mean, std,
        time.monotonic() - began,
        lambda item: readers.get((item.part, item.index), partial(no_image, item))(),
    )  # fmt: skip


def _images(data: str | Path | Splits, seed: int, val_fraction: float, max_pixels: int) -> _Asked:
    folder = not isinstance(data, Splits) and Path(data).is_dir() and is_class_folder(str(data))
    if not isinstance(data, Splits) and folder and not is_cache(Path(data)):
        root = opening.existing_folder(data)
        return _files(root, str(data), seed, val_fraction, max_pixels)
    where = "the data" if isinstance(data, Splits) else str(data)
    splits = (
        data
        if isinstance(data, Splits)
        else opening.open(data, seed=seed, val_fraction=val_fraction, max_pixels=max_pixels)
    )
    pairs = (("train", splits.train), ("val", splits.val))
    images = [one for name, source in pairs for one in _of_source(name, source, max_pixels)]
    names = splits.classes if splits.train.task == "multilabel" else ()
    notes = tuple(Finding("parts", False, note) for note in splits.notes)
    return _Asked(images, where, tuple(names), notes)


def _files(root: Path, where: str, seed: int, val_fraction: float, max_pixels: int) -> _Asked:
    """Every image of a folder of class folders, with the part that it is in or would be drawn to;
    and what is passed over."""
    parts = given.parts_of(root)
    folders = {"train": "."} if parts is None else {"train": parts.train, "val": parts.val}
    images: list[_Image] = []
    passed: list[Finding] = []
    for kind, folder in folders.items():
        if folder is None:
            continue
        files = class_files(root / folder)
        in_val = (
            np.full(len(files.names), kind == "val")
            if parts is not None and parts.val is not None
            else draw_validation(files.names, np.array(files.labels), seed, val_fraction)
        )
        passed += passed_over(kind, files)
        for index, (name, label) in enumerate(zip(files.names, files.labels, strict=True)):
            item = Item("val" if in_val[index] else "train", index, name, files.classes[label])
            path = files.root / name
            look = partial(examine_file, path, max_pixels)
            read = partial(decode, path, max_pixels=max_pixels)
            images.append(_Image(item, look, read, frozenset([item.label])))
    notes = () if parts is None else given.notes(root, parts)
    passed += [Finding("parts", False, note) for note in notes]
    return _Asked(images, where, (), tuple(passed))


def _of_source(part: str, source: Source, max_pixels: int) -> Iterator[_Image]:
    labels, classes = source.labels, source.classes
    for index in range(len(source)):
        has: list[str] = []
        if source.task == "classification":
            has = [classes[int(labels[index])]]
        elif source.task == "multilabel":
            has = [classes[number] for number in np.flatnonzero(labels[index]).tolist()]
        label = ", ".join(has) or ("none" if source.task == "multilabel" else "")
        path, name = source.path(index), source.name(index)
        look = (
            partial(examine_pixels, partial(source.read, index), name)
            if path is None
            else partial(examine_file, path, max_pixels)
        )
        item = Item(part, index, name, label)
        yield _Image(item, look, partial(source.read, index), frozenset(has))


def _look(images: list[_Image], threads: int | None, show: progress.Show) -> list[Seen]:
    workers = threads or os.cpu_count() or 1
    with ThreadPoolExecutor(workers, "toque-check") as pool:
        seen: list[Seen] = []
        # By the chunk, so that a million images are not a million waiting jobs.
        chunks = range(0, len(images), _CHUNK)
        looks = (
            one
            for start in chunks
            for one in pool.map(lambda image: image.look(), images[start : start + _CHUNK])
        )
        seen.extend(progress.shown(looks, doing="checking", total=len(images), show=show))
    return seen


def _unreadable(items: list[Item], seen: list[Seen]) -> Iterator[Finding]:
    bad = [(item, one.reason) for item, one in zip(items, seen, strict=True) if one.reason]
    if bad:
        yield Finding(
            "unreadable", True,
            f"{words.files_are(len(bad), 'cannot be used')}. Mend or remove them, or train with "
            "--set on_bad=skip.",
            tuple((item,) for item, _ in bad),
            tuple(str(reason) for _, reason in bad),
        )  # fmt: skip


def _balance(items: list[Item]) -> Iterator[Finding]:
    counts: dict[str, int] = defaultdict(int)
    for item in items:
        if item.part == "train":
            counts[item.label] += 1
    if len(counts) < 2:
        return
    most, least = max(counts, key=counts.__getitem__), min(counts, key=counts.__getitem__)
    if counts[most] >= _UNEVEN * counts[least]:
        yield Finding(
            "imbalance", False,
            f"{most} has {counts[most]} training images and {least} {counts[least]}. Consider "
            "--set sampling.name=balanced, and look at the results of each class.",
        )  # fmt: skip


def _odd(items: list[Item], seen: list[Seen]) -> Iterator[Finding]:
    kinds: dict[str, list[Item]] = defaultdict(list)
    for item, one in zip(items, seen, strict=True):
        for oddity in one.oddities:
            kinds[oddity].append(item)
    colours = {one.gray for one in seen if one.reason is None}
    if len(colours) > 1:
        kinds["gray among coloured ones"] = [
            item for item, one in zip(items, seen, strict=True) if one.reason is None and one.gray
        ]
    for oddity, some in sorted(kinds.items()):
        yield Finding(
            "oddities", False,
            f"{words.files_are(len(some), '')} {oddity}. {_REMARKS.get(oddity, _HANDLED)}",
            tuple((item,) for item in some),
        )  # fmt: skip


def _shapes(items: list[Item], seen: list[Seen], readable: list[int]) -> Iterator[Finding]:
    long = [
        items[number] for number in readable
        if (size := seen[number].size) and max(size) >= _MOST_SIDES * min(size)
    ]  # fmt: skip
    if long:
        yield Finding(
            "sizes", False,
            f"{words.images_are(len(long))} at least {_MOST_SIDES} times as long as wide: a crop "
            "shows little of them.",
            tuple((item,) for item in long),
        )  # fmt: skip


def _parts(items: list[Item], labels: list[frozenset[str]], seen: list[Seen]) -> Iterator[Part]:
    for name in dict.fromkeys(item.part for item in items):
        numbers = [number for number, item in enumerate(items) if item.part == name]
        classes: dict[str, int] = defaultdict(int)
        for number in numbers:
            for name_of_class in labels[number]:
                classes[name_of_class] += 1
        sizes = np.array([size for number in numbers if (size := seen[number].size)] or [(0, 0)])
        low, middle, high = (
            np.percentile(sizes, share, axis=0, method="nearest").astype(int).tolist()
            for share in (0, 50, 100)
        )
        yield Part(
            name, len(numbers), dict(sorted(classes.items())),
            (low[0], middle[0], high[0]), (low[1], middle[1], high[1]),
        )  # fmt: skip


def _statistics(
    items: list[Item], seen: list[Seen], readable: list[int]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel over the training images."""
    training = [seen[number] for number in readable if items[number].part == "train"]
    if not training:
        return (), ()
    channels = 1 if all(one.gray for one in training) else 3
    means, squares = (
        np.stack([np.broadcast_to(value, channels) for one in training
                  if (value := getattr(one, name)) is not None]).mean(0)
        for name in ("mean", "square")
    )  # fmt: skip
    std = np.sqrt(np.maximum(squares - means**2, 0))
    return _rounded(means), _rounded(std)


def _rounded(values: np.ndarray) -> tuple[float, ...]:
    return tuple(round(float(value), 4) for value in values)
