"""The image files of a folder of class folders: found, checked by name, and looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from toque import checks
from toque.data import folder, strays
from toque.data.folder import FolderSource
from toque.data.scan import BadFile, FileFacts, scan

_TABLES = (".csv", ".tsv", ".parquet")


@dataclass(frozen=True)
class ClassFiles:
    """Images below `root`, whose names begin with their class; one label for each.

    strays: other files in the class folders, which are passed over
    loose:  images beside the class folders
    """

    root: Path
    classes: tuple[str, ...]
    names: list[str]
    labels: list[int]
    strays: tuple[str, ...] = ()
    loose: tuple[str, ...] = ()


def class_files(root: Path) -> ClassFiles:
    """Every image of every class folder in `root`.

    Raises: ValueError: no class folders, one alone, one without images, two that differ only in
            case
    """
    classes = tuple(folder.subfolders(root))
    if not classes:
        found = "an empty folder" if not any(root.iterdir()) else "no folders in it"
        raise checks.invalid(
            "data", str(root), "a folder with one folder of images for each class", found,
            f"Sort the images into folders such as {root / 'cat'} and {root / 'dog'}"
            f"{_or_table(root)}.",
        )  # fmt: skip
    for group in folder.same_but_for_case(classes):
        raise checks.invalid(
            "data", "classes", "different by more than upper and lower case",
            f"{' and '.join(group)} in {root}", "Rename or join these folders.",
        )  # fmt: skip
    names: list[str] = []
    labels: list[int] = []
    others: list[str] = []
    for label, name in enumerate(classes):
        images, passed = images_in(root, name)
        if not images:
            but = f" but other files: {strays.counted(passed)}" if passed else ""
            raise checks.invalid(
                "data", "every class folder", "filled", f"no images in {root / name}{but}",
                "Add images (.jpg, .png and the like), or remove the folder.",
            )  # fmt: skip
        names += images
        labels += [label] * len(images)
        others += passed
    if len(classes) == 1:
        raise _one_class(root, classes[0])
    loose = tuple(name for name in folder.files_in(root) if strays.is_image(name))
    return ClassFiles(root, classes, names, labels, tuple(others), loose)


def images_in(root: Path, name: str) -> tuple[list[str], list[str]]:
    """The images in a folder of `root` and the files that are none, hidden ones among them; with
    the folder's name."""
    images, others = images_below(root / name)
    return [f"{name}/{file}" for file in images], [f"{name}/{file}" for file in others]


def images_below(root: Path) -> tuple[list[str], list[str]]:
    """The images below a folder, and the other files: no images by their names, or hidden. Both
    with "/" and in order; links to folders are followed.

    Raises: ValueError: a link that leads back to a folder above it, a folder that cannot be read
    """
    found = list(folder.all_below(root))
    images, others = strays.parted(
        (file for file, ignored in found if not ignored), lambda file: root / file
    )
    return images, others + [file for file, ignored in found if ignored]


def _or_table(root: Path) -> str:
    """The table that may say which image is of which class, as the other way to go."""
    tables = [name for name in folder.files_in(root) if name.lower().endswith(_TABLES)]
    return f", or name the table that says their classes: {root / tables[0]}" if tables else ""


def _one_class(root: Path, name: str) -> checks.InvalidValue:
    inside = folder.subfolders(root / name)
    fix = (
        f"Name {root / name}, if its folders {checks.first(inside)} are the classes."
        if len(inside) > 1
        else "Add a folder of images for another class, or name the folder above."
    )
    return checks.invalid(
        "data", "the number of classes", "at least 2", f"only {name} in {root}", fix
    )


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
    strays: tuple[str, ...] = ()
    loose: tuple[str, ...] = ()


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
        files.strays,
        files.loose,
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
    passed = [name for one in looked for name in one.strays]
    loose = [name for one in looked for name in one.loose]
    return (*notes, *strays.notes(passed, loose))


def some(names: Sequence[str]) -> str:
    """How many there are, and the first three of them."""
    return f"{len(names)} ({checks.first(names)})"
