"""A packed cache as a source: images are views of files mapped into memory.

Shape letters: N images, B in a batch, C channels, H W height and width.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from toque import checks, durable
from toque.data.encoded import Encoded
from toque.data.packed import fresh
from toque.data.packed.format import (
    ALIGN_BYTES,
    Manifest,
    PackedPart,
    StoredFile,
    damaged,
    read_manifest,
)
from toque.data.packed.index import Index, Names, mapped
from toque.data.part import Part
from toque.data.source import Source, strata
from toque.data.splits import Splits, draw_validation
from toque.data.targets import Task

_SMALL_BYTES = (
    32 * 1024
)  # images up to this are gathered by the batch, larger ones are read in place


class PackedSource(Source):
    """The images of one part of a cache, in the memory that the system maps their files into.

    Nothing is decoded or copied before augmentation reads the pixels. The CRC-32 of each image is
    compared when it is read for the first time. `toque.data.open(cache)` makes it.

    Args:   cache: the folder
            manifest: of it
            part: which of its parts
            channels: 1 or 3; three of one are the one, repeated
    Raises: ValueError: a file that is missing, of another size, or damaged (of the large ones only
            the size is looked at here)
    """

    def __init__(self, cache: Path, manifest: Manifest, part: PackedPart, channels: int) -> None:
        self._folder = cache / manifest.folder
        self._manifest = manifest
        self._part = part
        self.channels = channels
        self._repeat = channels if channels != manifest.settings.channels else 1
        facts = self._small(part.facts)
        self.names = Names(facts["names"])
        self._labels = facts["labels"]
        self._weights = facts.get("weights")
        self.masks_lay = Names(facts["mask_names"]) if "mask_names" in facts else ()
        self.index = Index([self._small(shard.index) for shard in part.shards])
        self._memory = [self._mapped(shard.pixels) for shard in part.shards]
        self._masks = [self._mapped(one.masks) for one in part.shards if one.masks is not None]
        if not len(self.names) == len(self._labels) == len(self.index) == part.num_images:
            raise damaged(self._folder / part.facts.name, "numbers of images that disagree")
        self._sure = np.zeros(part.num_images, dtype=bool)
        self.has_files = manifest.settings.encoding == "jpeg"
        self.in_memory = not self.has_files and self._is_small()

    def _small(self, file: StoredFile) -> dict[str, np.ndarray]:
        """The arrays of a file that is compared whole, and then read in place."""
        path = self._folder / file.name
        try:
            if durable.sha256(path) != file.sha256:
                raise damaged(path, "its content is not what was written")
            return mapped(path)
        except OSError as error:
            raise damaged(path, error.strerror or str(error)) from None

    def _mapped(self, file: StoredFile) -> np.ndarray:
        path = self._folder / file.name
        try:
            num_bytes = path.stat().st_size
            if num_bytes != file.num_bytes:
                raise damaged(path, f"{num_bytes} bytes instead of {file.num_bytes}")
            # Private and writable: torch takes no read-only memory, and nothing reaches the file.
            return np.memmap(path, np.uint8, mode="c")
        except OSError as error:
            raise damaged(path, error.strerror or str(error)) from None

    def _is_small(self) -> bool:
        """Whether all images have one size, and a small one."""
        if not len(self):
            return False
        small = self.index.at(0, "num_bytes")[0] <= _SMALL_BYTES
        return small and self.index.all_alike("height", "width")

    @property
    def task(self) -> Task:
        return self._manifest.task

    @property
    def weights(self) -> np.ndarray | None:
        return self._weights

    @property
    def classes(self) -> tuple[str, ...]:
        return self._manifest.classes

    @property
    def labels(self) -> np.ndarray:
        return self._labels

    def __len__(self) -> int:
        return self._part.num_images

    def name(self, index: int) -> str:
        return self.names[index]

    def stamp(self, index: int) -> str:
        return f"{self.index.at(index, 'crc')[0]:08x}"

    def listed(self, indices: np.ndarray) -> tuple[list[str], list[str]]:
        crcs = self.index.many(indices, "crc").astype(">u4").tobytes().hex()
        stamps = [crcs[start : start + 8] for start in range(0, len(crcs), 8)]
        return self.names.many(indices), stamps

    def _content(self, index: int) -> np.ndarray:
        offset, num_bytes = self.index.at(index, "offset", "num_bytes")
        shard = self.index.shard_of(index)
        content: np.ndarray = self._memory[shard][offset : offset + num_bytes]
        if not self._sure[index]:
            if zlib.crc32(content.data) != self.index.at(index, "crc")[0]:
                file = self._part.shards[shard].pixels
                raise damaged(self._folder / file.name, f"at {self.names[index]}")
            self._sure[index] = True
        return content

    def read(self, index: int) -> torch.Tensor:
        """The image: uint8 [C, H, W], a view of the mapped file."""
        if self.has_files:
            return self.encoded(index).decode()
        shape = *self.index.at(index, "height", "width"), -1
        image = torch.from_numpy(self._content(index).reshape(shape)).permute(2, 0, 1)
        return image if self._repeat == 1 else image.expand(self._repeat, -1, -1)

    def mask(self, index: int) -> torch.Tensor:
        """The mask: class numbers, uint8 or int64 [H, W], a view of the mapped file."""
        shard = self.index.shard_of(index)
        offset, num_bytes, crc = self.index.at(index, "mask_offset", "mask_bytes", "mask_crc")
        content: np.ndarray = self._masks[shard][offset : offset + num_bytes]
        if zlib.crc32(content.data) != crc:
            file = self._part.shards[shard].masks
            assert file is not None
            raise damaged(self._folder / file.name, f"at {self.names[index]}")
        size = self.index.at(index, "height", "width")
        whole = content if num_bytes == size[0] * size[1] else content.view(np.int64)
        return torch.from_numpy(whole.reshape(size))

    def read_many(self, indices: np.ndarray) -> torch.Tensor:
        """Several images of one size: [B, C, H, W], by one gather from each shard."""
        if not self.in_memory:
            return super().read_many(indices)
        for index in indices[~self._sure[indices]].tolist():
            self._content(index)
        height, width = self.index.at(0, "height", "width")
        channels = self._manifest.settings.channels
        images = torch.empty(len(indices), height, width, channels, dtype=torch.uint8)
        shards = self.index.shards_of(indices)
        for shard in np.unique(shards):
            here = np.flatnonzero(shards == shard)
            rows = torch.from_numpy(indices[here] - self.index.starts[shard])
            stored = self._rows(int(shard)).view(-1, height, width, channels)
            images[torch.from_numpy(here)] = stored[rows]
        batch = images.permute(0, 3, 1, 2)
        return batch if self._repeat == 1 else batch.expand(-1, self._repeat, -1, -1)

    def _rows(self, shard: int) -> torch.Tensor:
        """The images of a shard where all are alike: [N, bytes], not contiguous."""
        (num_bytes,) = self.index.at(0, "num_bytes")
        step = -(-num_bytes // ALIGN_BYTES) * ALIGN_BYTES
        memory = torch.from_numpy(self._memory[shard])
        return memory.view(-1, step)[:, :num_bytes]

    def encoded(self, index: int) -> Encoded:
        content = self._content(index).tobytes()
        return Encoded(content, channels=self.channels, name=self.names[index])

    def fingerprint(self) -> str:
        files = [self._part.facts, *(file for one in self._part.shards for file in one.files)]
        content = repr((self._manifest.classes, self._repeat, [file.sha256 for file in files]))
        return hashlib.sha256(content.encode()).hexdigest()


def open_labelled_part(cache: Path, channels: int) -> PackedSource:
    """The validation part of a cache, or every image of one that has no such part.

    Raises: ValueError: as open_packed
    """
    sources = _sources(cache, channels)
    return sources["val"] if "val" in sources else sources["all"]


def open_packed(
    cache: Path, *, seed: int, val_fraction: float, channels: int | None = None
) -> Splits:
    """A packed cache as the splits of a run, after a quick look at all of it.

    Looked at: the manifest and the indices with their sha256, the size of every shard, and, where
    the files that the cache was made of are still there, whether they changed. The pixels are
    looked at when they are read, or all at once by `damaged_files`.

    Raises: ValueError: an unfinished, damaged or stale cache; three channels asked to be one
    """
    sources = _sources(cache, channels)
    first = next(iter(sources.values()))
    classes, kept = first.classes, first.channels
    if "all" not in sources:
        return Splits(sources["train"], sources["val"], classes, (), kept)
    whole = sources["all"]
    in_val = draw_validation(whole.names, strata(whole), seed, val_fraction)
    train, val = (Part(whole, np.flatnonzero(chosen)) for chosen in (~in_val, in_val))
    return Splits(train, val, classes, (), kept, whole=whole)


def _sources(cache: Path, channels: int | None) -> dict[str, PackedSource]:
    """The parts of a cache that is finished, whole as far as a quick look tells, and fresh."""
    manifest = read_manifest(cache)
    held = manifest.settings.channels
    if channels not in (None, held, 3):
        raise checks.invalid(
            "data", "channels", str(held), f"{channels} of the packed cache {cache}",
            "Pack again with --channels 1.",
        )  # fmt: skip
    kept = channels or held
    sources = {part.name: PackedSource(cache, manifest, part, kept) for part in manifest.parts}
    check_fresh(cache, manifest, sources)
    return sources


def check_fresh(cache: Path, manifest: Manifest, sources: dict[str, PackedSource]) -> None:
    """Compare a cache with the files it was made of, where these are still to be found.

    Raises: ValueError: files that changed, came or went since
    """
    found = [
        name
        for part in manifest.parts
        for source in [sources[part.name]]
        for name in fresh.differences(part, source.names, source.masks_lay, source.index)
    ]
    found += fresh.watched_differences(manifest.watched, manifest.data)
    if found:
        raise checks.invalid(
            "data", f"the packed cache {cache}", f"of the files that are in {manifest.data}",
            f"{len(found)} that changed since: {checks.first(found)}",
            f"Pack again with the same settings: toque pack {manifest.data} {cache}.",
        )  # fmt: skip


def damaged_files(cache: str | Path) -> Sequence[str]:
    """Compare every byte of a cache with the sha256 that was taken when it was written.

    Returns: the names of the files that are missing or damaged; empty where it is whole
    Raises:  ValueError: no cache, an unfinished one, a manifest that cannot be read
    """
    root = Path(cache).expanduser()
    manifest = read_manifest(root)
    wrong = []
    for file in manifest.files:
        path = root / manifest.folder / file.name
        try:
            whole = path.stat().st_size == file.num_bytes and durable.sha256(path) == file.sha256
        except OSError:
            whole = False
        if not whole:
            wrong.append(f"{manifest.folder}/{file.name}")
    return wrong
