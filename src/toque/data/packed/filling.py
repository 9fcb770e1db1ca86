"""The images of a part on their way into shards: what is there is kept, the rest is made.

Images are read, decoded and made smaller by threads; this one writes, in the order of the images.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from toque import durable
from toque.data import progress
from toque.data.packed import fresh
from toque.data.packed.format import PackedPart, Settings, StoredFile, names_as_bytes, stored
from toque.data.packed.images import Record, record
from toque.data.packed.writing import COLUMNS, Finished, ShardWriter, note_finished, read_finished
from toque.data.source import Source
from toque.data.splits import Splits

_AHEAD = 4  # records that each thread may be ahead of the writer


class Filling:
    """Packs the parts into one folder."""

    def __init__(
        self,
        folder: Path,
        settings: Settings,
        threads: int,
        shard_bytes: int,
        show: progress.Show,
        *,
        whole_folders: bool,
    ) -> None:
        self._folder = folder
        self._settings = settings
        self._threads = threads
        self._shard_bytes = shard_bytes
        self._show = show
        self._whole_folders = whole_folders
        self.num_kept = 0

    def part(self, name: str, source: Source, splits: Splits) -> PackedPart:
        """Pack what is not there yet of a part."""
        kept = self._kept(name, source)
        num_kept = sum(len(shard) for shard in kept)
        self.num_kept += num_kept
        missing = list(_gaps(kept, len(source)))
        indices = [index for start, stop in missing for index in range(start, stop)]
        records = self._records(source, indices)
        doing = "packing" if name == "all" else f"packing {name}"
        shown = progress.shown(
            records, doing=doing, total=len(source), done=num_kept, show=self._show
        )
        try:
            for start, stop in missing:
                kept += self._write(name, shown, start, stop, source.task == "segmentation")
            assert next(shown, None) is None
        finally:
            shown.close()
            records.close()
        kept.sort(key=lambda one: one.start)
        names = [source.name(index) for index in range(len(source))]
        root = fresh.root_of(source)
        class_folders = root is not None and fresh.has_class_folders(source)
        left_out = fresh.names_below(root, [file.path for file in splits.bad])
        return PackedPart(
            name, len(source), root, class_folders, left_out,
            self._facts(name, source, names, fresh.mask_names(source, root)),
            tuple(one.shard for one in kept), self._whole_folders,
        )  # fmt: skip

    def _kept(self, part: str, source: Source) -> list[Finished]:
        """The shards of an earlier call that are whole, and whose files are as they were."""
        kept: list[Finished] = []
        for one in read_finished(self._folder):
            if one.part != part or not 0 <= one.start < one.stop <= len(source):
                continue
            kept = [other for other in kept if not one.overlaps(other)]
            kept.append(one)
        return [one for one in kept if self._is_whole(one, source)]

    def _is_whole(self, one: Finished, source: Source) -> bool:
        if one.shard.num_images != len(one):
            return False
        for file in one.shard.files:
            path = self._folder / file.name
            if not path.is_file() or path.stat().st_size != file.num_bytes:
                return False
            if durable.sha256(path) != file.sha256:
                return False
        index = fresh.read_index(self._folder / one.shard.index.name)
        if set(index) != set(COLUMNS):  # written by another version
            return False
        numbers = range(one.start, one.stop)
        paths = [source.path(number) for number in numbers]
        masks = [source.mask_path(number) for number in numbers]
        return not any(fresh.changed(index, paths)) and not any(
            fresh.changed(index, masks, "mask_file")
        )

    def _records(self, source: Source, indices: list[int]) -> Generator[Record]:
        """The records in order, made ahead by threads."""
        if source.serial:
            for index in indices:
                yield record(source, index, self._settings)
            return
        ahead: deque[Future[Record]] = deque()
        with ThreadPoolExecutor(self._threads, "toque-pack") as pool:
            try:
                for index in indices:
                    ahead.append(pool.submit(record, source, index, self._settings))
                    if len(ahead) > _AHEAD * self._threads:
                        yield ahead.popleft().result()
                while ahead:
                    yield ahead.popleft().result()
            finally:
                for job in ahead:
                    job.cancel()

    def _write(
        self, part: str, records: Iterator[Record], start: int, stop: int, masks: bool
    ) -> list[Finished]:
        """Images start .. stop as one or several shards."""
        written = []
        while start < stop:
            with ShardWriter(self._folder, f"{part}-{start:010d}", masks) as shard:
                while start + len(shard) < stop and shard.num_bytes < self._shard_bytes:
                    shard.add(next(records))
                done = Finished(part, start, start + len(shard), shard.finish())
                durable.sync(self._folder)
                note_finished(self._folder, done)
            written.append(done)
            start = done.stop
        return written

    def _facts(self, part: str, source: Source, names: list[str], masks: list[str]) -> StoredFile:
        """What belongs to the images of a part, in one file."""
        from safetensors.numpy import save

        facts = {"names": names_as_bytes(names), "labels": np.ascontiguousarray(source.labels)}
        if masks:
            facts["mask_names"] = names_as_bytes(masks)
        if source.weights is not None:
            facts["weights"] = np.ascontiguousarray(source.weights)
        content = save(facts)
        path = self._folder / f"{part}.facts"
        durable.write(path, content)
        return stored(path, len(content), hashlib.sha256(content).hexdigest())


def _gaps(kept: list[Finished], stop: int) -> Iterator[tuple[int, int]]:
    """What lies between the kept shards, up to stop."""
    position = 0
    for one in sorted(kept, key=lambda one: one.start):
        if position < one.start:
            yield position, one.start
        position = one.stop
    if position < stop:
        yield position, stop
