"""pack: a data set as a cache that training reads without decoding.

Whole shards are listed as they are finished and the manifest is written last. So a kill, a full
disk or a lost permission loses the shard in work, and the same command goes on from there.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from toque import checks, durable
from toque.data import progress
from toque.data.asked import Columns
from toque.data.decoding import MAX_PIXELS
from toque.data.packed import fresh
from toque.data.packed.filling import Filling
from toque.data.packed.format import (
    ENCODINGS,
    FINISHED,
    FORMAT,
    LOCK,
    MANIFEST,
    Encoding,
    Manifest,
    Settings,
    is_cache,
    names_as_bytes,
)
from toque.data.source import Source
from toque.data.splits import Splits
from toque.data.targets import Task
from toque.version import VERSION

_SHARD_BYTES = 512 * 2**20


@dataclass(frozen=True)
class Packed:
    """What packing left behind.

    path:       the cache
    num_images: in it
    num_bytes:  of it
    num_kept:   images that were there already
    seconds:    how long it took
    """

    path: Path
    num_images: int
    num_bytes: int
    num_kept: int
    seconds: float


def pack(
    data: str | Path | Splits,
    cache: str | Path,
    *,
    size: int | None = None,
    encoding: Encoding = "raw",
    quality: int = 90,
    channels: int | None = None,
    on_bad: Literal["raise", "skip"] = "raise",
    max_pixels: int = MAX_PIXELS,
    task: Task | None = None,
    columns: Columns = Columns(),  # noqa: B008 - frozen
    threads: int | None = None,
    shard_bytes: int = _SHARD_BYTES,
    show: progress.Show = "auto",
) -> Packed:
    """Decode every image once and keep the pixels in a folder that training maps into memory.

    Labels, class names, file names and a given split are kept; where the validation images are
    drawn by name, they still are when a run begins. With neither `size` nor encoding="jpeg" the
    pixels are those of the files, and training from the cache ends in the bits of training from the
    folder with scaled_decoding off. Killed or out of space, the same call goes on where it stopped;
    called again after the data changed, it packs again the shards that the change touched.

    Args:    data: what `toque.data.open` takes, or its result
             cache: a folder that is empty, not there, or a cache already
             size: short side in pixels that larger images are reduced to
             encoding: "raw" (most quickly read), or "jpeg" (about a tenth of the bytes, decoded
             again at every read)
             quality: of the JPEG, 1 .. 100
             channels, on_bad, max_pixels, task, columns: see `toque.data.open`
             threads: that decode; one per core if unset
             shard_bytes: where a file of the cache ends and the next one begins
             show: progress on stderr: "auto" is a bar in a terminal and lines elsewhere
    Raises:  ValueError: settings out of range, data that cannot be used, a folder with other things
             in it, a second pack at the same time, no space left
    Example: >>> toque.data.pack("photos/", "photos-packed/", size=256).num_images
             3670
    """
    began = time.monotonic()
    _check(size, encoding, quality, shard_bytes, threads)
    target = _target(Path(cache).expanduser())
    splits, where = _opened(data, on_bad, max_pixels, channels, task, columns)
    root = Path(where).expanduser()
    inside = bool(where) and root.is_dir() and target.resolve().is_relative_to(root.resolve())
    if inside and splits.drawn:
        raise checks.invalid(
            "pack", "cache", "outside of the data, where it would be taken for images",
            f"{target} in {root}", f"Name {root.with_name(root.name + '-packed')}.",
        )  # fmt: skip
    settings = Settings(size, encoding, quality if encoding == "jpeg" else 0, splits.channels)
    parts = _parts(splits)
    if threads is None:
        threads = os.cpu_count() or 1
    with _words_for_a_disk(target):
        target.mkdir(parents=True, exist_ok=True)
        with _locked(target):
            folder = target / _identity(settings, parts, splits)
            folder.mkdir(exist_ok=True)
            durable.sync(target)
            writer = Filling(
                folder, settings, threads, shard_bytes, show, whole_folders=Path(where).is_dir()
            )
            manifest = Manifest(
                FORMAT,
                VERSION,
                where,
                folder.name,
                settings,
                splits.train.task,
                splits.classes,
                tuple(writer.part(name, source, splits) for name, source in parts.items()),
                fresh.watched(where, splits.train),
            )
            durable.sync(folder)
            durable.write(target / MANIFEST, manifest.as_json())
            _remove_others(target, folder, manifest)
    return Packed(
        target,
        manifest.num_images,
        sum(file.num_bytes for file in manifest.files),
        writer.num_kept,
        time.monotonic() - began,
    )


def _check(
    size: int | None, encoding: str, quality: int, shard_bytes: int, threads: int | None
) -> None:
    if size is not None and size < 1:
        raise checks.invalid("pack", "size", ">= 1", size, "Give the short side in pixels.")
    if encoding not in ENCODINGS:
        raise checks.invalid(
            "pack", "encoding", " or ".join(ENCODINGS), encoding,
            checks.nearest(encoding, ENCODINGS),
        )  # fmt: skip
    if not 1 <= quality <= 100:
        raise checks.invalid("pack", "quality", "in 1 .. 100", quality, "90 is usual.")
    for argument, value in (("shard_bytes", shard_bytes), ("threads", threads)):
        if value is not None and value < 1:
            raise checks.invalid("pack", argument, ">= 1", value, "Raise it.")


def _target(cache: Path) -> Path:
    """The folder to pack into, if nothing else is in it."""
    if cache.exists() and not cache.is_dir():
        raise checks.invalid("pack", "cache", "a folder", f"the file {cache}", "Name a new folder.")
    if cache.is_dir() and not is_cache(cache):
        for entry in cache.iterdir():
            if not entry.name.startswith("."):
                raise checks.invalid(
                    "pack", "cache", "a folder of its own", f"{cache}, which holds {entry.name}",
                    f"Name a new one, such as {cache.with_name(cache.name + '-packed')}.",
                )  # fmt: skip
    return cache


def _opened(
    data: str | Path | Splits,
    on_bad: Literal["raise", "skip"],
    max_pixels: int,
    channels: int | None,
    task: Task | None,
    columns: Columns,
) -> tuple[Splits, str]:
    if isinstance(data, Splits):
        return data, ""
    from toque.data import opening

    if Path(data).is_dir() and is_cache(Path(data)):
        raise checks.invalid(
            "pack", "data", "images", f"{data}, a packed cache",
            "Give the data that it was made of.",
        )  # fmt: skip
    splits = opening.open(
        data, seed=0, on_bad=on_bad, max_pixels=max_pixels, channels=channels, task=task,
        columns=columns,
    )  # fmt: skip
    known = Path(data).expanduser()
    return splits, str(known.resolve()) if known.exists() else str(data)


def _parts(splits: Splits) -> dict[str, Source]:
    """The sources to pack: train and val as given, or all where val is drawn by name."""
    if splits.whole is not None:
        return {"all": splits.whole}
    return {"train": splits.train, "val": splits.val}


def _identity(settings: Settings, parts: dict[str, Source], splits: Splits) -> str:
    """Names the folder of the shards: other images or settings, another folder.

    Files that changed under their names keep it, and only their shards are packed again.
    """
    digest = hashlib.sha256(repr((FORMAT, asdict(settings), splits.classes)).encode())
    for name, source in parts.items():
        names = names_as_bytes([source.name(index) for index in range(len(source))])
        digest.update(f"{name}\0{len(source)}\0".encode() + names.tobytes())
        digest.update(source.labels.tobytes())
        digest.update(b"" if source.weights is None else source.weights.tobytes())
        if len(source) and source.path(0) is None:
            digest.update(source.fingerprint().encode())
    return digest.hexdigest()[:16]


def _remove_others(target: Path, folder: Path, manifest: Manifest) -> None:
    """Remove shards of earlier settings or data, and what killed calls left in this folder."""
    for other in target.iterdir():
        if other.is_dir() and other != folder and (other / FINISHED).is_file():
            shutil.rmtree(other, ignore_errors=True)
    known = {file.name for file in manifest.files} | {FINISHED}
    for path in folder.iterdir():
        if path.name not in known:
            path.unlink(missing_ok=True)


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    """One pack at a time for a folder; the lock ends with the process."""
    import fcntl

    with (target / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise checks.invalid(
                "pack", "cache", "packed by one process at a time", f"{target}, in use by another",
                "Wait for it to end.",
            ) from None  # fmt: skip
        yield


@contextmanager
def _words_for_a_disk(target: Path) -> Iterator[None]:
    try:
        yield
    except checks.UserMistake:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            found = f"no space left at {target}"
            fix = "Free some, and run the same command again: it goes on where it stopped."
        else:
            found = f"{error.filename or target} ({error.strerror or error})"
            fix = "Mend that, and run the same command again: it goes on where it stopped."
        raise checks.invalid("pack", "cache", "on a disk that can be written", found, fix) from None
