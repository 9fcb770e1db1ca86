"""Data that is no folder of class folders: which kind it is, and its splits."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from toque import checks
from toque.data import folder, huggingface, layouts, stored, table
from toque.data.asked import Asked, Columns
from toque.data.files import Listed, splits_of
from toque.data.given import PARTS
from toque.data.packed.format import is_cache
from toque.data.places import Folder, Remote, Shards
from toque.data.splits import Splits
from toque.data.targets import Task

_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MOST_SHARDS = 100_000


def open_other(data: str, asked: Asked) -> Splits | None:
    """The splits of a table, arrays, shards, masks, a saved dataset, or anything behind a URL; None
    for what may be a folder of class folders, or is not there.

    Raises: as `open`
    """
    path = Path(data).expanduser()
    url = "://" in data
    if not url and path.is_file() and path.suffix.lower() in stored.SUFFIXES:
        return stored.open_file(path, asked)
    if not url and path.is_dir() and not is_cache(path):
        if huggingface.is_saved(path):
            return huggingface.open_saved(path, asked)
        if stored.has_arrays(path):
            return stored.open_folder(path, asked)
    listed = _listed(data, path, url, asked.columns, asked.task)
    return None if listed is None else splits_of(listed, asked)


def _listed(data: str, path: Path, url: bool, columns: Columns, task: Task | None) -> Listed | None:
    suffix = PurePosixPath(data).suffix.lower()
    if suffix in table.SUFFIXES and (url or not path.is_dir()):
        return table.read_table(data, columns, task)
    if suffix == ".tar":
        return _of_shards(shard_names(data), task)
    if url:
        place = Remote(data)
        names = place.names()
        tars = [name for name in names if name.endswith(".tar")]
        if tars:
            return _of_shards([f"{place.url}/{name}" for name in tars], task)
        found = layouts.beside_masks(place, names) or layouts.class_folders(place, names)
        if found is None:
            raise checks.invalid(
                "data", data, "a URL of images in class folders, of images/ and masks/, or of .tar",
                checks.first(names, 1), "Name the folder above, or a table.",
            )  # fmt: skip
        return found
    if not path.is_dir() or is_cache(path):
        return None
    if _has_masks(path):
        local = Folder(path)
        return layouts.beside_masks(local, local.names())
    tars = [name for name in folder.files_below(path) if name.endswith(".tar")]
    return _of_shards([str(path / name) for name in tars], task) if tars else None


def is_class_folder(data: str) -> bool:
    """Whether `open` takes this for a bundled set or a folder of class folders (or nothing is
    there)."""
    path = Path(data).expanduser()
    if "://" in data or PurePosixPath(data).suffix.lower() in (*table.SUFFIXES, ".tar"):
        return False
    if not path.is_dir():
        return not path.exists()
    other = huggingface.is_saved(path) or stored.has_arrays(path) or _has_masks(path)
    return not other and not any(name.endswith(".tar") for name in folder.files_below(path))


def _has_masks(root: Path) -> bool:
    """Whether images/ and masks/ stand in a folder, or in its train/ and val/; only folders' names
    are read, as there may be millions of files."""
    inside = folder.subfolders(root)
    parts = [name for name in inside if name.lower() in PARTS]
    for names in (inside, *(folder.subfolders(root / part) for part in parts)):
        lower = {name.lower() for name in names}
        if lower & set(layouts.IMAGES) and lower & set(layouts.MASKS):
            return True
    return False


def shard_names(pattern: str) -> list[str]:
    """A tar file, or those that {000..012} in its name counts up.

    Example: >>> shard_names("train-{08..10}.tar")
             ["train-08.tar", "train-09.tar", "train-10.tar"]
    """
    match = _BRACES.search(pattern)
    if match is None:
        return [pattern]
    first, last = int(match[1]), int(match[2])
    if not first <= last < first + _MOST_SHARDS:
        raise checks.invalid(
            "data", "the shards", f"counted up, at most {_MOST_SHARDS:,}", match[0],
            "As in train-{000..012}.tar.",
        )  # fmt: skip
    width = len(match[1])
    return [
        f"{pattern[: match.start()]}{number:0{width}}{pattern[match.end() :]}"
        for number in range(first, last + 1)
    ]


def _of_shards(shards: Sequence[str], task: Task | None) -> Listed:
    place = Shards(sorted(shards))

    def part_of(name: str) -> str:
        words = re.split(r"[^a-z]+", PurePosixPath(place.shard(name)).as_posix().lower())
        inside = name.split("/", 1)[0].lower()
        known = [PARTS[word] for word in [inside, *reversed(words)] if word in PARTS]
        return known[0] if known else ""

    return layouts.samples(place, place.names(), part_of, task)
