"""Whether the files that a cache was made of are still as they were."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from toque import durable
from toque.data import elsewhere, folder, strays
from toque.data.layouts import CLASS_FILE
from toque.data.packed.format import PackedPart, WatchedFile
from toque.data.packed.images import SourceFile
from toque.data.packed.index import Columns, Index
from toque.data.source import Source


def read_index(path: Path) -> dict[str, np.ndarray]:
    """The columns of a shard's index."""
    from safetensors.numpy import load_file

    return load_file(path)


def root_of(source: Source) -> str | None:
    """The folder below which every image lies under its name, if there is one."""
    if not len(source):
        return None
    first, parts = source.path(0), Path(source.name(0)).parts
    if first is None or first.parts[-len(parts) :] != parts:
        return None
    root = Path(*first.parts[: -len(parts)])
    if any(source.path(index) != root / source.name(index) for index in range(len(source))):
        return None
    return str(root.resolve())


def mask_names(source: Source, root: str | None) -> list[str]:
    """Where the masks lie, below root or as whole paths; nothing where they are no files."""
    paths = [source.mask_path(index) for index in range(len(source))]
    if root is None or any(path is None for path in paths):
        return []
    whole = [path.resolve() for path in paths if path is not None]
    return [str(path.relative_to(root) if path.is_relative_to(root) else path) for path in whole]


def has_class_folders(source: Source) -> bool:
    """Whether each image lies in the folder of its class."""
    labels, classes = source.labels, source.classes
    return labels.dtype == np.int64 and all(
        source.name(index).split("/", 1)[0] == classes[label]
        for index, label in enumerate(labels.tolist())
    )


def changed(index: Columns | Index, paths: Sequence[Path | None], what: str = "file") -> list[bool]:
    """Which images of a shard have another file now, or none; with what="mask_file", which masks.

    A file of the same size and time is the same; of another time, its content is compared.
    """
    sizes, times = index[f"{what}_bytes"].tolist(), index[f"{what}_time_ns"].tolist()
    digests = index[f"{what}_digest"].tolist()
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


def differences(
    part: PackedPart, names: Sequence[str], masks: Sequence[str], index: Columns | Index
) -> list[str]:
    """Files of a part that changed, came or went since, where its folder is still to be found."""
    if part.root is None or not Path(part.root).is_dir():
        return []
    root = Path(part.root)
    differ = changed(index, [root / name for name in names])
    found = [name for name, differs in zip(names, differ, strict=True) if differs]
    if masks:
        differ = changed(index, [root / name for name in masks], "mask_file")
        found += [name for name, differs in zip(masks, differ, strict=True) if differs]
    known = {*names, *part.left_out}
    if part.class_folders:
        above = folder.subfolders(root)
    elif masks and part.whole_folders:
        above = sorted({str(Path(name).parent) for name in names})
    else:
        above = []
    for one in above:
        inside = (f"{one}/{file}" for file in folder.files_below(root / one))
        came = [file for file in inside if file not in known]
        found += strays.parted(came, lambda file: root / file)[0]
    return found


def watched(data: str, source: Source) -> tuple[WatchedFile, ...]:
    """The files besides images and masks that data of this machine is read from: a table, arrays,
    shards, the rows of a saved dataset, the names of the classes."""
    path = Path(data)
    if not data or "://" in data:
        return ()
    if not path.exists():
        files = [Path(name) for name in elsewhere.shard_names(data)]
    elif path.is_file():
        files = [path]
    elif len(source) and source.path(0) is None:
        files = [path / name for name in folder.files_below(path)]
    else:
        files = [path / CLASS_FILE]
    return tuple(_watched(one.resolve()) for one in files if one.is_file())


def _watched(path: Path) -> WatchedFile:
    status = path.stat()
    return WatchedFile(str(path), status.st_size, status.st_mtime_ns, durable.sha256(path))


def watched_differences(files: Sequence[WatchedFile], data: str) -> list[str]:
    """Those that changed or went since, where any is still to be found, and those that came."""
    if not any(Path(file.path).is_file() for file in files):
        return []
    found = [file.path for file in files if _differs(file)]
    root = Path(data)
    if root.is_dir() and len(files) > 1:
        known = {file.path for file in files}
        inside = (str((root / name).resolve()) for name in folder.files_below(root))
        found += [name for name in inside if name not in known]
    return found


def _differs(file: WatchedFile) -> bool:
    path = Path(file.path)
    try:
        now = path.stat()
        if now.st_size != file.num_bytes:
            return True
        return now.st_mtime_ns != file.time_ns and durable.sha256(path) != file.sha256
    except OSError:
        return True


def names_below(root: str | None, paths: Sequence[Path]) -> tuple[str, ...]:
    """The paths that lie below a root, as names."""
    if root is None:
        return ()
    whole = [path.resolve() for path in paths]
    return tuple(path.relative_to(root).as_posix() for path in whole if path.is_relative_to(root))
