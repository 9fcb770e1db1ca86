"""A look at every file before the run begins: what cannot be used is named and counted."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from toque import checks
from toque.data import decoding, jpeg

_WHOLE_BYTES = 256 * 1024  # up to here one read is as quick as two
_HEAD_BYTES = 64 * 1024
_TAIL_BYTES = 4 * 1024
_FILES_A_JOB = 64
_PNG_START, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"


@dataclass(frozen=True)
class BadFile:
    """A file that cannot be used, and why."""

    path: Path
    reason: str


@dataclass(frozen=True, slots=True)  # there may be millions
class FileFacts:
    """What a look at one file told: bytes, whether gray, whether animated; why it is bad, if so."""

    size_bytes: int
    gray: bool
    animated: bool
    reason: str | None


def scan(
    root: Path,
    names: Sequence[str],
    *,
    thorough: bool = False,
    max_pixels: int = decoding.MAX_PIXELS,
    threads: int | None = None,
) -> list[FileFacts]:
    """Look at every file, in threads.

    The quick look reads the header, the size and the end of a file and decodes it only where these
    leave a doubt; it finds what is empty, cut off, too large or no image. The thorough look decodes
    every file, and finds damage inside as well.

    Args: root, names: the files, below root
          thorough: decode every file
          max_pixels: larger images are bad
          threads: without it two for each core, at least eight: slow disks answer in parallel
    """
    workers = threads or max(8, 2 * (os.cpu_count() or 1))
    parts = [names[start : start + _FILES_A_JOB] for start in range(0, len(names), _FILES_A_JOB)]

    def look(part: Sequence[str]) -> list[FileFacts]:
        return [look_at(root / name, thorough=thorough, max_pixels=max_pixels) for name in part]

    with ThreadPoolExecutor(min(workers, max(1, len(parts))), "toque-scan") as pool:
        return [facts for part in pool.map(look, parts) for facts in part]


def look_at(path: Path, *, thorough: bool, max_pixels: int) -> FileFacts:
    """Look at one file; never raises for what is wrong with it."""
    size_bytes = 0
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            return FileFacts(0, False, False, "a folder")
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for its writer
            return FileFacts(0, False, False, "not a file but a pipe, socket or device")
        size_bytes = status.st_size
        with path.open("rb", buffering=0) as file:
            if thorough or size_bytes <= _WHOLE_BYTES:
                head = tail = file.read()
            else:
                head = file.read(_HEAD_BYTES)
                file.seek(-_TAIL_BYTES, os.SEEK_END)
                tail = file.read()
        if not head:
            return FileFacts(0, False, False, "empty, 0 bytes")
        gray, animated, sure = _header(path, head, tail, max_pixels)
        if thorough or not sure:
            whole = head if len(head) == size_bytes else path
            decoding.decode(whole, max_pixels=max_pixels)
    except decoding.UnreadableImage as error:
        return FileFacts(size_bytes, False, False, error.reason)
    except checks.MissingFile:
        return FileFacts(size_bytes, False, False, "gone while it was looked at")
    except OSError as error:
        return FileFacts(size_bytes, False, False, f"cannot be read: {error.strerror or error}")
    return FileFacts(size_bytes, gray, animated, None)


def _header(path: Path, head: bytes, tail: bytes, max_pixels: int) -> tuple[bool, bool, bool]:
    """Whether gray, whether animated, and whether header and end suffice to trust the file."""
    if head.startswith(jpeg.START):
        header = jpeg.read_header(head)
        if header is not None and header.components in (1, 3):
            decoding.check_size(header.height, header.width, max_pixels, str(path))
            return header.components == 1, False, jpeg.ends_well(tail)
    with decoding.opened(head if head is tail else path, max_pixels, str(path)) as image:
        sure = image.format not in ("JPEG", "PNG") or tail.endswith(_PNG_END)
        sure = sure and not decoding.has_no_range(image)
        animated = image.format != "MPO" and bool(getattr(image, "is_animated", False))
        return decoding.is_gray(image), animated, sure


def say_bad(bad: Sequence[BadFile], num_files: int) -> decoding.UnreadableImage:
    """The one error for all bad files: how many, the first three, and the fix."""
    first = "; ".join(f"{file.path} ({file.reason})" for file in bad[:3])
    more = f"; and {len(bad) - 3} more" if len(bad) > 3 else ""
    return decoding.UnreadableImage(
        checks.sentence(
            "data", "every file", "a whole image",
            f"{len(bad)} of {num_files} that cannot be used: {first}{more}",
            "Mend or remove them, or leave them out with --set on_bad=skip.",
        )
    )  # fmt: skip
