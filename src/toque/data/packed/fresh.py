"""Whether the files that a cache was made of are still as they were."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from toque.data import folder
from toque.data.packed.format import PackedPart
from toque.data.packed.images import SourceFile
from toque.data.source import Source

Index = dict[str, np.ndarray]


def read_index(path: Path) -> Index:
    """The columns of a shard's index."""
    from safetensors.numpy import load_file

    return load_file(path)


def root_of(source: Source) -> str | None:
    """The folder below which every image lies under its name, if there is one."""
    if not len(source):
        return None
    first, name = source.path(0), source.name(0)
    if first is None or not str(first).endswith(name):
        return None
    root = Path(str(first)[: -len(name)])
    if any(source.path(index) != root / source.name(index) for index in range(len(source))):
        return None
    return str(root.resolve())


def has_class_folders(source: Source) -> bool:
    """Whether each image lies in the folder of its class."""
    labels, classes = source.labels, source.classes
    return labels.dtype == np.int64 and all(
        source.name(index).split("/", 1)[0] == classes[label]
        for index, label in enumerate(labels.tolist())
    )


def changed(index: Index, paths: Sequence[Path | None]) -> list[bool]:
    """Which images of a shard have another file now, or none.

    A file of the same size and time is the same; of another time, its content is compared.
    """
    sizes, times = index["file_bytes"].tolist(), index["file_time_ns"].tolist()
    digests = index["file_digest"].tolist()
    return [
        _is_changed(path, *then) for path, *then in zip(paths, sizes, times, digests, strict=True)
    ]


def _is_changed(path: Path | None, num_bytes: int, time_ns: int, digest: int) -> bool:
    if path is None:
        return False
    try:
        now = path.stat()
        if now.st_size != num_bytes:
            return True
        return now.st_mtime_ns != time_ns and SourceFile.of(path).digest != digest
    except OSError:
        return True


def differences(part: PackedPart, names: Sequence[str], index: Index) -> list[str]:
    """Files of a part that changed, came or went since, where its folder is still to be found."""
    if part.root is None or not Path(part.root).is_dir():
        return []
    root = Path(part.root)
    differ = changed(index, [root / name for name in names])
    found = [name for name, differs in zip(names, differ, strict=True) if differs]
    if part.class_folders:
        known = {*names, *part.left_out}
        for above in folder.subfolders(root):
            inside = (f"{above}/{file}" for file in folder.files_below(root / above))
            found += [file for file in inside if file not in known]
    return found


def names_below(root: str | None, paths: Sequence[Path]) -> tuple[str, ...]:
    """The paths that lie below a root, as names."""
    if root is None:
        return ()
    whole = [path.resolve() for path in paths]
    return tuple(path.relative_to(root).as_posix() for path in whole if path.is_relative_to(root))
