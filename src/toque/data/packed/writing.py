"""Shards on their way to the disk: whole and listed, or not there."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import numpy as np

from toque.data.packed.format import ALIGN_BYTES, FINISHED, Shard, StoredFile, stored
from toque.data.packed.images import Record


class _HashedFile:
    """A file that is hashed while it is written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[bytes] = path.open("wb")
        self._digest = hashlib.sha256()
        self.num_bytes = 0

    def write(self, content: bytes) -> int:
        """Append, and fill up to a multiple of 64; where it was put."""
        offset = self.num_bytes
        padded = content + b"\0" * (-len(content) % ALIGN_BYTES)
        self._file.write(padded)
        self._digest.update(padded)
        self.num_bytes += len(padded)
        return offset

    def close(self) -> StoredFile:
        self._file.close()
        return stored(self.path, self.num_bytes, self._digest.hexdigest())

    def discard(self) -> None:
        with contextlib.suppress(OSError):  # what is still to be written may find no space
            self._file.close()
        self.path.unlink(missing_ok=True)


class ShardWriter:
    """Writes one shard; leaving the `with` block without `finish` removes it.

    Args:   folder, name: the shard is folder/name.bin
            masks: whether each image has one
    Raises: OSError: no space, no permission
    """

    def __init__(self, folder: Path, name: str, masks: bool) -> None:
        self._index_path = folder / f"{name}.index"
        self._pixels = _HashedFile(folder / f"{name}.bin")
        self._masks = _HashedFile(folder / f"{name}.masks") if masks else None
        self._rows: list[tuple[int, ...]] = []
        self._finished = False

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._finished:
            self._pixels.discard()
            if self._masks:
                self._masks.discard()
            self._index_path.unlink(missing_ok=True)

    @property
    def num_bytes(self) -> int:
        return self._pixels.num_bytes + (self._masks.num_bytes if self._masks else 0)

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, one: Record) -> None:
        """Append an image."""
        offset = self._pixels.write(one.content)
        mask_offset = self._masks.write(one.mask) if self._masks else 0
        files = (one.file, one.mask_file)
        self._rows.append(
            (offset, len(one.content), one.height, one.width, one.crc, mask_offset,
             len(one.mask), one.mask_crc,
             *(fact for file in files for fact in (file.num_bytes, file.time_ns, file.digest)))
        )  # fmt: skip

    def finish(self) -> Shard:
        """Write the index and wait until all of it is on the disk."""
        from safetensors.numpy import save

        columns = zip(*self._rows, strict=True)
        index = save(
            {
                name: np.array(column, np.uint64)
                for name, column in zip(COLUMNS, columns, strict=True)
            }
        )
        self._index_path.write_bytes(index)
        listed = stored(self._index_path, len(index), hashlib.sha256(index).hexdigest())
        masks = self._masks.close() if self._masks else None
        shard = Shard(len(self._rows), self._pixels.close(), listed, masks)
        self._finished = True
        return shard


COLUMNS = (
    "offset", "num_bytes", "height", "width", "crc", "mask_offset", "mask_bytes", "mask_crc",
    "file_bytes", "file_time_ns", "file_digest",
    "mask_file_bytes", "mask_file_time_ns", "mask_file_digest",
)  # fmt: skip


@dataclass(frozen=True)
class Finished:
    """A shard that is whole: images start .. stop of a part."""

    part: str
    start: int
    stop: int
    shard: Shard

    def __len__(self) -> int:
        return self.stop - self.start

    def overlaps(self, other: Finished) -> bool:
        """Whether an image is in both."""
        return self.start < other.stop and other.start < self.stop


def note_finished(folder: Path, done: Finished) -> None:
    """Append a shard to the list of those that are whole, and wait until it is on the disk."""
    line = json.dumps(asdict(done)) + "\n"
    with (folder / FINISHED).open("ab") as file:
        # A line that a kill or a full disk cut off is overwritten by a fresh one, not continued.
        if file.tell() and not _ends_with_newline(folder / FINISHED):
            file.write(b"\n")
        file.write(line.encode())
        file.flush()
        os.fsync(file.fileno())


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"


def read_finished(folder: Path) -> Iterator[Finished]:
    """The shards that are listed as whole; lines that are not whole themselves are passed over."""
    path = folder / FINISHED
    if not path.is_file():
        return
    for line in path.read_bytes().splitlines():
        try:
            values = json.loads(line)
            shard = values.pop("shard")
            masks = shard["masks"]
            yield Finished(
                **values,
                shard=Shard(
                    shard["num_images"],
                    StoredFile(**shard["pixels"]),
                    StoredFile(**shard["index"]),
                    None if masks is None else StoredFile(**masks),
                ),
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
