"""The image files of a folder of class folders: found, checked by name, and looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from toque import checks
from toque.data import folder
from toque.data.folder import FolderSource
from toque.data.scan import BadFile, FileFacts, scan


@dataclass(frozen=True)
class ClassFiles:
    """Files below `root`, whose names begin with their class; one label for each."""

    root: Path
    classes: tuple[str, ...]
    names: list[str]
    labels: list[int]


def class_files(root: Path) -> ClassFiles:
    """Every file of every class folder in `root`.

    Raises: ValueError: no class folders, one alone, an empty one, two that differ only in case
    """
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
    return ClassFiles(root, classes, names, labels)


@dataclass(frozen=True)
class LookedFiles:
    """Files after the look at them: the good ones with what was seen, and the bad ones."""

    root: Path
    classes: tuple[str, ...]
    names: list[str]
    labels: list[int]
    facts: list[FileFacts]
    bad: tuple[BadFile, ...]
    twins: list[tuple[str, ...]]


def look(files: ClassFiles, on_bad: str, max_pixels: int) -> LookedFiles:
    """Look at every file, quickly or (on_bad="skip") thoroughly.

    Raises: ValueError: file names that differ only in case, unless on_bad is "skip"
    """
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
    return LookedFiles(
        files.root,
        files.classes,
        [files.names[number] for number in good],
        [files.labels[number] for number in good],
        [facts[number] for number in good],
        bad,
        twins,
    )


def source_of(
    looked: LookedFiles, chosen: np.ndarray, channels: int, max_pixels: int
) -> FolderSource:
    """The chosen ones of the good files as a source."""
    return FolderSource(
        looked.root,
        [looked.names[number] for number in chosen],
        np.asarray([looked.labels[number] for number in chosen], dtype=np.int64),
        looked.classes,
        sizes=[looked.facts[number].size_bytes for number in chosen],
        channels=channels,
        max_pixels=max_pixels,
    )


def notes_on(looked: Sequence[LookedFiles]) -> tuple[str, ...]:
    """What a person should be told once about the files."""
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
        notes.append(f"Animated files, of which the first frame is used: {some(animated)}.")
    if twins:
        notes.append(f"File names that differ only in case: {some(twins)}.")
    if bad:
        notes.append(f"Files that cannot be used, left out: {some(bad)}.")
    return tuple(notes)


def some(names: Sequence[str]) -> str:
    """How many there are, and the first three of them."""
    return f"{len(names)} ({checks.first(names)})"
