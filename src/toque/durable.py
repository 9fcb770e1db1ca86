"""Files that are whole or absent: written aside in the same folder, synced, then renamed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

# Large, because a thread takes the lock of Python from the others twice for each.
_BLOCK_BYTES = 8 << 20


def sync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write(path: Path, content: bytes | str) -> None:
    """Replace a file by new content; a reader, or a kill, meets the old one or the new one whole.

    The temporary lies in the same folder, because a rename is atomic only within a file system.
    Text is written as UTF-8; what a name of a file holds that is no text, as \\udcff.

    Raises: OSError: no space, no permission; the old file is untouched and no temporary is left
    """
    with writing(path) as file:
        if isinstance(content, str):
            content = content.encode(errors="backslashreplace")
        file.write(content)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """A file to write piece by piece that takes the place of `path` when the block ends well.

    Raises: OSError: no space, no permission; the old file is untouched and no temporary is left
    """
    aside = path.with_name(f".writing-{path.name}")
    try:
        with aside.open("wb") as file:
            yield file
        sync(aside)
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sha256(path: Path) -> str:
    """The sha256 of a file in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        block = memoryview(bytearray(min(_BLOCK_BYTES, path.stat().st_size + 1)))
        while num_bytes := file.readinto(block):
            digest.update(block[:num_bytes])
    return digest.hexdigest()


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed writer left aside in a folder."""
    for path in folder.glob(".writing-*"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
