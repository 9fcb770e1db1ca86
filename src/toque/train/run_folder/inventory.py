"""Which images a run was begun with, so that a changed data set can be told by its files.

`data.jsonl.gz` in the run folder has a line for each image: its part, its name, and its stamp (what
the source knows of it without reading it: label and bytes of a file). A million files take about
10 MB; arrays, of which a source knows nothing, take none. It is read only when the fingerprint of
the data differs.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path

from toque import checks, durable
from toque.data import Splits

FILE = "data.jsonl.gz"


class Inventory:
    """The images of a run's splits by name."""

    def __init__(self, splits: Splits) -> None:
        self._splits = splits

    def write(self, folder: Path) -> None:
        """Write the file into a run folder."""
        memory = io.BytesIO()
        with gzip.GzipFile(fileobj=memory, mode="wb", compresslevel=3, mtime=0) as file:
            for entry in self._entries():
                file.write(json.dumps(entry).encode() + b"\n")
        durable.write(folder / FILE, memory.getvalue())

    def changes(self, folder: Path) -> str | None:
        """ "2 added (train/cat/9.jpg, val/dog/3.jpg), 1 removed (…)" since the file was written.

        None where that cannot be told: there is no such file, or what changed is not in it (pixels
        in an array, bytes of a file that kept its size).
        """
        try:
            with gzip.open(folder / FILE, "rt", encoding="utf-8") as file:
                before = {(part, name): stamp for part, name, stamp in map(json.loads, file)}
        except (OSError, EOFError, ValueError, zlib.error):
            return None
        if not before:
            return None
        now = {(part, name): stamp for part, name, stamp in self._entries()}
        kinds = {
            "changed": [key for key in now if key in before and now[key] != before[key]],
            "added": [key for key in now if key not in before],
            "removed": [key for key in before if key not in now],
        }
        told = [f"{_some(keys)} {kind}" for kind, keys in kinds.items() if keys]
        return ", ".join(told) or None

    def rewritten(self, folder: Path) -> str:
        """Which files were written after the run began; "" if none, or all (a copy of the data).

        Their names and sizes may be as before, so that the fingerprint is too.
        """
        try:
            began = (folder / FILE).stat().st_mtime_ns
        except OSError:
            return ""
        files = list(self._files())
        later = [key for key, path in files if _written(path) > began]
        if not later or len(later) == len(files):
            return ""
        return (
            f"{_some(later)} written since this run began: if pixels changed, its bits do too. "
            "Put the files back that it began with."
        )

    def _files(self) -> Iterator[tuple[tuple[str, str], Path]]:
        for part, source in (("train", self._splits.train), ("val", self._splits.val)):
            for index in range(len(source)):
                for path in (source.path(index), source.mask_path(index)):
                    if path is not None:
                        yield (part, source.name(index)), path

    def _entries(self) -> Iterator[tuple[str, str, str]]:
        for part, source in (("train", self._splits.train), ("val", self._splits.val)):
            if len(source) and not source.stamp(0):
                continue  # numbers for names, and nothing known of the images: nothing to tell
            for index in range(len(source)):
                yield part, source.name(index), source.stamp(index)


def _written(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:  # reading it will say so
        return 0


def _some(keys: list[tuple[str, str]]) -> str:
    """ "5 (train/a.jpg, train/b.jpg, val/c.jpg and 2 more)"."""
    return f"{len(keys)} ({checks.first(map('/'.join, keys))})"
