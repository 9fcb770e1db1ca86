"""A folder of images with one folder for each class."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from toque import checks
from toque.data import targets
from toque.data.decoding import MAX_PIXELS
from toque.data.encoded import Encoded
from toque.data.source import Source

_SYSTEM_FILES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx"})


class FolderSource(Source):
    """Image files below a folder, decoded when they are asked for.

    `toque.data.open` makes it from a folder of class folders; made by hand, it takes any list of
    files. Nothing is read until then.

    Args:    root: the folder
             names: the files, below root, with "/"
             labels: one class number a file
             classes: a name for each number
             sizes: bytes of each file, for the fingerprint; looked up when it is asked for
             channels: 1 or 3, what every image is turned into
             max_pixels: see decode
    Example: >>> FolderSource("photos", ["cat/1.jpg", "dog/1.jpg"], [0, 1], ["cat", "dog"])
    """

    has_files = True

    def __init__(
        self,
        root: Path | str,
        names: Sequence[str],
        labels: np.ndarray | Sequence[int],
        classes: Sequence[str],
        *,
        sizes: Sequence[int] | None = None,
        channels: int = 3,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        if channels not in (1, 3):
            raise checks.invalid(
                "FolderSource", "channels", "1 or 3", channels, "Use 3 for colour."
            )
        self.root = Path(root)
        self.channels = channels
        self._names = tuple(names)
        given = targets.of("FolderSource", labels, classes, "classification")
        self._labels, self._classes = given.values, given.names
        if len(self._labels) != len(self._names):
            raise checks.invalid(
                "FolderSource", "labels", f"of shape [{len(self._names)}]",
                list(self._labels.shape), "Give one label for each file.",
            )  # fmt: skip
        self._sizes = sizes
        self._max_pixels = max_pixels

    @property
    def classes(self) -> tuple[str, ...]:
        return self._classes

    @property
    def labels(self) -> np.ndarray:
        return self._labels

    def __len__(self) -> int:
        return len(self._names)

    def name(self, index: int) -> str:
        return self._names[index]

    def path(self, index: int) -> Path:
        return self.root / self._names[index]

    def read(self, index: int) -> torch.Tensor:
        return self.encoded(index).decode()

    def encoded(self, index: int) -> Encoded:
        return Encoded(self.path(index), channels=self.channels, max_pixels=self._max_pixels)

    def stamp(self, index: int) -> str:
        """Its class and its bytes."""
        return f"{self._classes[self._labels[index]]} {self._file_sizes()[index]}"

    def _file_sizes(self) -> Sequence[int]:
        if self._sizes is None:
            self._sizes = [(self.root / name).stat().st_size for name in self._names]
        return self._sizes

    def fingerprint(self) -> str:
        """sha256 over names, sizes in bytes, labels and classes; the pixels are not read."""
        sizes = self._file_sizes()
        digest = hashlib.sha256(repr((self._classes, self.channels)).encode())
        for name, label, size in zip(self._names, self._labels.tolist(), sizes, strict=True):
            digest.update(f"{name}\0{label}\0{size}\n".encode(errors="surrogateescape"))
        return digest.hexdigest()


def is_ignored(name: str) -> bool:
    """Files that systems leave behind: hidden ones, thumbnails, the __MACOSX of an archive."""
    return name.startswith(".") or name.lower() in _SYSTEM_FILES


def subfolders(folder: Path) -> list[str]:
    """The names of the folders in a folder, in order, without the ignored ones."""
    return sorted(
        entry.name for entry in _entries(folder) if _is_folder(entry) and not is_ignored(entry.name)
    )


def files_in(folder: Path) -> list[str]:
    """The names of the files in a folder itself, in order, without the ignored ones."""
    return sorted(
        entry.name
        for entry in _entries(folder)
        if not _is_folder(entry) and not is_ignored(entry.name)
    )


def files_below(folder: Path) -> Iterator[str]:
    """Every file below a folder, with "/" and in order; links to folders are followed.

    Raises: ValueError: a link that leads back to a folder above it, a folder that cannot be read
    """
    return (name for name, ignored in all_below(folder) if not ignored)


def all_below(folder: Path) -> Iterator[tuple[str, bool]]:
    """Every file as `files_below`, and whether it is ignored; of an ignored folder its name alone,
    which ends in "/".

    Raises: as `files_below`
    """
    yield from _walk(folder, "", (_identity(folder),))


def _walk(
    folder: Path, prefix: str, above: tuple[tuple[int, int], ...]
) -> Iterator[tuple[str, bool]]:
    for entry in sorted(_entries(folder), key=lambda entry: entry.name):
        ignored, is_folder = is_ignored(entry.name), _is_folder(entry)
        if ignored or not is_folder:
            yield f"{prefix}{entry.name}{'/' if is_folder else ''}", ignored
            continue
        inner = Path(entry.path)
        identity = _identity(inner)
        if identity in above:
            raise checks.invalid(
                "data", "folders", "without loops", f"{inner}, a link to a folder above it",
                "Remove the link.",
            )  # fmt: skip
        yield from _walk(inner, f"{prefix}{entry.name}/", (*above, identity))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: left to whoever reads it
        return False


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise checks.invalid(
            "data", "folders", "readable", f"{folder} ({error.strerror or error})",
            "Give yourself the right to read it (chmod u+rx).",
        ) from None  # fmt: skip


def same_but_for_case(names: Sequence[str]) -> list[tuple[str, ...]]:
    """Groups of names that a file system which ignores case would take for one."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[name.casefold()].append(name)
    return [tuple(group) for group in groups.values() if len(group) > 1]
