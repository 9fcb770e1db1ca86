"""From what a user names to a training and a validation source."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from toque import checks
from toque.data import bundled, folder
from toque.data.decoding import MAX_PIXELS
from toque.data.folder import FolderSource
from toque.data.scan import BadFile, FileFacts, say_bad, scan
from toque.data.source import Source
from toque.random import Key

_TRAIN = "train"
_VALIDATION = ("val", "valid", "validation", "test")


@dataclass(frozen=True)
class Splits:
    """The data of a run: what to train on, what to validate on, and what was found on the way.

    `bad` are the files left out (on_bad="skip"); `notes` are sentences that a person should see
    once, such as how many files are animated.
    """

    train: Source
    val: Source
    classes: tuple[str, ...]
    bad: tuple[BadFile, ...]
    channels: int
    notes: tuple[str, ...] = ()


def open(  # noqa: A001 - toque.data.open is the name that says it
    data: str | Path,
    *,
    seed: int,
    val_fraction: float = 0.2,
    on_bad: Literal["raise", "skip"] = "raise",
    max_pixels: int = MAX_PIXELS,
    channels: int | None = None,
) -> Splits:
    """Open a data set for training: find its classes and files, look at each file, split it.

    `data` is "fashion" (it ships with toque), a folder with train/CLASS/* and val/CLASS/* (val may
    be called valid, validation or test), or a folder CLASS/*, which is split by a draw keyed by the
    seed and each file's own name, so that adding a file does not move the others. What a file is,
    its content says, not its name; hidden files are passed over.

    Args:    data: a name or a folder
             seed: of the split
             val_fraction: the part of each class to validate on where there is no val folder; every
             class of two or more images has at least one on either side
             on_bad: "raise" looks at every file quickly and stops at what cannot be used; "skip"
             decodes every file once and leaves out, and lists, what cannot be used
             max_pixels: larger images are bad files
             channels: 1 or 3; without it 1 where every file is gray, else 3
    Raises:  FileNotFoundError: no such folder
             ValueError: a folder that is empty or not as above, or files that cannot be used
    Example: >>> splits = toque.data.open("fashion", seed=0)
             >>> len(splits.train), len(splits.val), splits.channels
             (10000, 2000, 1)
    """
    _check_settings(val_fraction, on_bad, max_pixels, channels)
    if isinstance(data, str) and data in bundled.NAMES:
        train, val = bundled.fashion()
        return Splits(train, val, train.classes, (), 1)
    root = _existing_folder(data)
    parts = _given_parts(root)
    if parts is None:
        return _split_by_draw(root, seed, val_fraction, on_bad, max_pixels, channels)
    return _split_as_given(root, parts, on_bad, max_pixels, channels)


def _check_settings(
    val_fraction: float, on_bad: str, max_pixels: int, channels: int | None
) -> None:
    if not 0 < val_fraction < 1:
        raise checks.invalid(
            "data", "val_fraction", "above 0 and below 1", val_fraction, "0.2 is usual."
        )
    if on_bad not in ("raise", "skip"):
        raise checks.invalid(
            "data", "on_bad", "raise or skip", on_bad, checks.nearest(on_bad, ("raise", "skip"))
        )
    if max_pixels < 1:
        raise checks.invalid("data", "max_pixels", ">= 1", max_pixels, f"Usual is {MAX_PIXELS}.")
    if channels not in (None, 1, 3):
        raise checks.invalid("data", "channels", "1 or 3", channels, "Use 3 for colour.")


def _existing_folder(data: str | Path) -> Path:
    root = Path(data).expanduser()
    if root.is_dir():
        return root
    rule = f"a folder of images or one of {', '.join(bundled.NAMES)}"
    if root.exists():
        raise checks.invalid(
            "data", "the data", rule, f"the file {data}",
            f"Give the folder that holds the class folders, perhaps {root.parent.parent}.",
        )  # fmt: skip
    above = next(parent for parent in root.parents if parent.is_dir())
    missing = root.relative_to(above).parts[0]
    known = [str(above / name) for name in folder.subfolders(above)]
    near = checks.nearest(str(above / missing), [*known, *bundled.NAMES])
    raise checks.MissingFile(
        checks.sentence("data", "the data", rule, f"{data}, which does not exist", near)
    )


def _given_parts(root: Path) -> tuple[str, str] | None:
    """The names of the train and val folders, or None where the folders are the classes."""
    lower = {name.lower(): name for name in folder.subfolders(root)}
    val = next((lower[name] for name in _VALIDATION if name in lower), None)
    return (lower[_TRAIN], val) if _TRAIN in lower and val is not None else None


@dataclass(frozen=True)
class _Files:
    """Files below `root`, whose names begin with the part and the class; one label for each."""

    root: Path
    classes: tuple[str, ...]
    names: list[str]
    labels: list[int]


def _class_files(root: Path) -> _Files:
    classes = tuple(folder.subfolders(root))
    if not classes:
        found = "an empty folder" if not any(root.iterdir()) else "no folders in it"
        raise checks.invalid(
            "data", str(root), "a folder with one folder of images for each class", found,
            f"Sort the images into folders such as {root / 'cat'} and {root / 'dog'}.",
        )  # fmt: skip
    for group in folder.same_but_for_case(classes):
        raise checks.invalid(
            "data", "classes", "different by more than upper and lower case",
            f"{' and '.join(group)} in {root}", "Rename or join these folders.",
        )  # fmt: skip
    names: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        files = [f"{name}/{file}" for file in folder.files_below(root / name)]
        if not files:
            raise checks.invalid(
                "data", "every class folder", "filled", f"no images in {root / name}",
                "Add images, or remove the folder.",
            )  # fmt: skip
        names += files
        labels += [label] * len(files)
    if len(classes) == 1:
        raise checks.invalid(
            "data", "the number of classes", "at least 2", f"only {classes[0]} in {root}",
            "Add a folder of images for another class, or name the folder above.",
        )  # fmt: skip
    return _Files(root, classes, names, labels)


def _split_as_given(
    root: Path, parts: tuple[str, str], on_bad: str, max_pixels: int, channels: int | None
) -> Splits:
    train, val = (_class_files(root / part) for part in parts)
    _check_same_classes(val.classes, train.classes, root / parts[1], root / parts[0])
    _check_same_classes(train.classes, val.classes, root / parts[0], root / parts[1])
    looked = [_look(files, on_bad, max_pixels) for files in (train, val)]
    bad = tuple(file for one in looked for file in one.bad)
    if bad and on_bad == "raise":
        raise say_bad(bad, len(train.names) + len(val.names))
    kept = _channels(channels, [*looked[0].facts, *looked[1].facts])
    sources = [_source(one, np.arange(len(one.names)), kept, max_pixels) for one in looked]
    for source, part in zip(sources, parts, strict=True):
        _check_still_filled(source, root / part)
    return Splits(sources[0], sources[1], train.classes, bad, kept, _notes(looked))


def _check_same_classes(
    classes: Sequence[str], others: Sequence[str], here: Path, there: Path
) -> None:
    for name in classes:
        if name not in others:
            raise checks.invalid(
                "data", f"the classes in {here}", f"those in {there}", f"also {name}",
                f"{checks.nearest(name, others)} Add {there / name}, or remove {here / name}.",
            )  # fmt: skip


def _split_by_draw(
    root: Path,
    seed: int,
    val_fraction: float,
    on_bad: str,
    max_pixels: int,
    channels: int | None,
) -> Splits:
    files = _class_files(root)
    looked = _look(files, on_bad, max_pixels)
    if looked.bad and on_bad == "raise":
        raise say_bad(looked.bad, len(files.names))
    kept = _channels(channels, looked.facts)
    whole = _source(looked, np.arange(len(looked.names)), kept, max_pixels)
    _check_still_filled(whole, root)
    in_val = draw_validation(looked.names, whole.labels, seed, val_fraction)
    train, val = (
        _source(looked, np.flatnonzero(chosen), kept, max_pixels) for chosen in (~in_val, in_val)
    )
    alone = [
        name for label, name in enumerate(files.classes) if int((whole.labels == label).sum()) == 1
    ]
    notes = _notes([looked])
    if alone:
        notes += (f"Classes of one image, which is trained on and not validated: {_some(alone)}.",)
    return Splits(train, val, files.classes, looked.bad, kept, notes)


def draw_validation(
    names: Sequence[str], labels: np.ndarray, seed: int, val_fraction: float
) -> np.ndarray:
    """Which images to validate on: a draw for each, keyed by the seed and the image's name.

    Each image is drawn by itself, so that adding one does not move the others; a class of which all
    images fell on one side gives the image that came nearest to the other side.

    Shape: names N, labels [N] -> bool [N]
    """
    hashes = [
        int.from_bytes(
            hashlib.blake2b(name.encode(errors="surrogateescape"), digest_size=8).digest()
        )
        >> 1
        for name in names
    ]
    draws = Key(seed, 0, hashes).uniform("split")[:, 0].numpy()
    in_val = draws < val_fraction
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if len(members) > 1 and not in_val[members].any():
            in_val[members[draws[members].argmin()]] = True
        elif len(members) == 1 or in_val[members].all():
            in_val[members[draws[members].argmax()]] = False
    return np.asarray(in_val)


@dataclass(frozen=True)
class _Looked:
    """Files after the look at them: the good ones with what was seen, and the bad ones."""

    root: Path
    classes: tuple[str, ...]
    names: list[str]
    labels: list[int]
    facts: list[FileFacts]
    bad: tuple[BadFile, ...]
    twins: list[tuple[str, ...]]


def _look(files: _Files, on_bad: str, max_pixels: int) -> _Looked:
    twins = folder.same_but_for_case(files.names)
    if twins and on_bad == "raise":
        raise checks.invalid(
            "data", "file names", "different by more than upper and lower case",
            f"{len(twins)} that are not, first {' and '.join(twins[0])} in {files.root}",
            "Rename them (elsewhere one would overwrite the other), or keep them as they are with "
            "--set on_bad=skip.",
        )  # fmt: skip
    facts = scan(files.root, files.names, thorough=on_bad == "skip", max_pixels=max_pixels)
    good = [number for number, one in enumerate(facts) if one.reason is None]
    bad = tuple(
        BadFile(files.root / name, one.reason)
        for name, one in zip(files.names, facts, strict=True)
        if one.reason is not None
    )
    return _Looked(
        files.root,
        files.classes,
        [files.names[number] for number in good],
        [files.labels[number] for number in good],
        [facts[number] for number in good],
        bad,
        twins,
    )


def _source(looked: _Looked, chosen: np.ndarray, channels: int, max_pixels: int) -> FolderSource:
    return FolderSource(
        looked.root,
        [looked.names[number] for number in chosen],
        np.asarray([looked.labels[number] for number in chosen], dtype=np.int64),
        looked.classes,
        sizes=[looked.facts[number].size_bytes for number in chosen],
        channels=channels,
        max_pixels=max_pixels,
    )


def _channels(wanted: int | None, facts: Sequence[FileFacts]) -> int:
    return wanted or (1 if all(one.gray for one in facts) else 3)


def _check_still_filled(source: Source, root: Path) -> None:
    counts = np.bincount(source.labels, minlength=len(source.classes))
    for name, count in zip(source.classes, counts, strict=True):
        if count == 0:
            raise checks.invalid(
                "data", "every class", "left with an image", f"only bad files in {root / name}",
                "Mend them, or remove the folder.",
            )  # fmt: skip


def _notes(looked: Sequence[_Looked]) -> tuple[str, ...]:
    animated = [
        name
        for one in looked
        for name, facts in zip(one.names, one.facts, strict=True)
        if facts.animated
    ]
    twins = [" and ".join(group) for one in looked for group in one.twins]
    bad = [str(file.path) for one in looked for file in one.bad]
    notes = []
    if animated:
        notes.append(f"Animated files, of which the first frame is used: {_some(animated)}.")
    if twins:
        notes.append(f"File names that differ only in case: {_some(twins)}.")
    if bad:
        notes.append(f"Files that cannot be used, left out: {_some(bad)}.")
    return tuple(notes)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{len(names)} ({', '.join(names[:3])}{more})"
