"""Which images a run was begun with, so that a changed data set can be told by its files.

`data.jsonl.gz` in the run folder begins with a line that names its format. Each further line has up
to 4,096 images of a part: their names, and their stamps (what the source knows of an image without
reading it: label and bytes of a file, or the CRC-32 in a packed cache). A million files take about
10 MB; arrays, of which a source knows nothing, take none. It is written piece by piece, and read
only when the fingerprint of the data differs.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from itertools import chain, groupby, islice, zip_longest
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from toque import checks, durable
from toque.data import Splits

FILE = "data.jsonl.gz"
FORMAT = 2  # 1, without a line that says so, had a line for each image

_AT_ONCE = 4096
_MOST_TOLD = 1_000_000  # differences beyond which it is other data, and their number says nothing

Key = tuple[str, str]
"""A part, and the name of an image in it."""
Block = list[Any]
"""[part, names, stamps]: a line of the file."""


class Inventory:
    """The images of a run's splits by name."""

    def __init__(self, splits: Splits) -> None:
        self._parts = (("train", splits.train), ("val", splits.val))

    def write(self, folder: Path) -> None:
        """Write the file into a run folder."""
        with (
            durable.writing(folder / FILE) as whole,
            gzip.GzipFile(fileobj=whole, mode="wb", compresslevel=1, mtime=0) as file,
        ):
            for line in ({"format": FORMAT}, *self._blocks()):
                file.write(json.dumps(line).encode() + b"\n")

    def changes(self, folder: Path) -> str | None:
        """ "2 added (train/cat/9.jpg, val/dog/3.jpg), 1 removed (…)" since the file was written.

        None where that cannot be told: there is no such file, what changed is not in it (pixels in
        an array, bytes of a file that kept its size), or there is little that did not change.
        """
        differences = _Differences()
        try:
            with gzip.open(folder / FILE, "rt", encoding="utf-8") as file:
                for before, now in zip_longest(_read(file), self._blocks()):
                    differences.add(before, now)
                    if differences.num_open > _MOST_TOLD:
                        return None
        except (OSError, EOFError, ValueError, TypeError, LookupError, zlib.error):
            return None
        return differences.told()

    def rewritten(self, folder: Path) -> str:
        """Which files were written after the run began; "" if none, or all (a copy of the data).

        Their names and sizes may be as before, so that the fingerprint is too.
        """
        try:
            began = (folder / FILE).stat().st_mtime_ns
        except OSError:
            return ""
        num_files, later = 0, []
        for key, path in self._files():
            num_files += 1
            if _written(path) > began:
                later.append(key)
        if not later or len(later) == num_files:
            return ""
        return (
            f"{_some(later)} written since this run began: if pixels changed, its bits do too. "
            "Put the files back that it began with."
        )

    def _files(self) -> Iterator[tuple[Key, Path]]:
        for part, source in self._parts:
            for index in range(len(source)) if source.has_paths else ():
                for path in (source.path(index), source.mask_path(index)):
                    if path is not None:
                        yield (part, source.name(index)), path

    def _blocks(self) -> Iterator[Block]:
        for part, source in self._parts:
            if len(source) and not source.stamp(0):
                continue  # numbers for names, and nothing known of the images: nothing to tell
            for start in range(0, len(source), _AT_ONCE):
                indices = np.arange(start, min(start + _AT_ONCE, len(source)))
                yield [part, *source.listed(indices)]


class _Differences:
    """What differs between two lists of images that are in about the same order.

    Held is only what one list has and the other not yet: all of it at the end, and on the way there
    what lies between the places of an image in the two.
    """

    def __init__(self) -> None:
        self._any_before = False
        self._before: dict[Key, str] = {}
        self._now: dict[Key, str] = {}
        self._changed: list[Key] = []

    def add(self, before: Block | None, now: Block | None) -> None:
        """The next images of both lists, where there are any."""
        self._any_before = self._any_before or before is not None
        if before == now:
            return
        for block, mine, others in (
            (before, self._before, self._now),
            (now, self._now, self._before),
        ):
            part, names, stamps = block or ("", [], [])
            for name, stamp in zip(names, stamps, strict=True):
                key = (part, name)
                if key not in others:
                    mine[key] = stamp
                elif others.pop(key) != stamp:
                    self._changed.append(key)

    @property
    def num_open(self) -> int:
        """How many images are held."""
        return len(self._before) + len(self._now) + len(self._changed)

    def told(self) -> str | None:
        """Both lists are at their end: what differs, in words."""
        if not self._any_before:
            return None
        kinds = {"changed": self._changed, "added": [*self._now], "removed": [*self._before]}
        return ", ".join(f"{_some(keys)} {kind}" for kind, keys in kinds.items() if keys) or None


def _read(lines: Iterable[str]) -> Iterator[Block]:
    """The blocks of a file.

    Raises: ValueError: not a file of this format or an older one
    """
    for first in (lines := iter(lines)):
        if not first.startswith("{"):
            yield from _gathered(chain([first], lines))
        elif json.loads(first) == {"format": FORMAT}:
            yield from map(json.loads, lines)
        else:
            raise ValueError("a format of a newer toque")


def _gathered(lines: Iterator[str]) -> Iterator[Block]:
    """The lines of format 1, one for each image, as blocks."""
    for part, entries in groupby(map(json.loads, lines), key=itemgetter(0)):
        while some := [*islice(entries, _AT_ONCE)]:
            yield [part, [name for _, name, _ in some], [stamp for *_, stamp in some]]


def _written(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:  # reading it will say so
        return 0


def _some(keys: list[tuple[str, str]]) -> str:
    """ "5 (train/a.jpg, train/b.jpg, val/c.jpg and 2 more)"."""
    return f"{len(keys)} ({checks.first(map('/'.join, keys))})"
