"""Where the images of a part lie, and their names: read in place from mapped files.

No object and no array is made for each image, so that a cache of any size opens in the same memory:
the system keeps the pages that are used.

Shape letters: N images.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import overload

import numpy as np

Columns = Mapping[str, np.ndarray]

_STRIDE = 64  # names between two whose place is remembered
_CHUNK_BYTES = 2**20


def mapped(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file, in the memory that the system maps it into."""
    from safetensors import safe_open

    # As tensors: for NumPy safetensors makes copies.
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name).numpy() for name in file.keys()}  # noqa: SIM118


class Index:
    """The indices of the shards of a part, one after the other.

    starts: the number of the first image of each shard, and last N
    """

    def __init__(self, shards: Sequence[Columns]) -> None:
        self._shards = shards
        counts = [len(shard["offset"]) for shard in shards]
        self.starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])
        self._starts: list[int] = self.starts.tolist()  # for one image quicker than NumPy

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __contains__(self, name: str) -> bool:
        return bool(self._shards) and name in self._shards[0]

    def __getitem__(self, name: str) -> np.ndarray:
        """A column of all shards: uint64 [N], a copy where there are several."""
        return np.concatenate([shard[name] for shard in self._shards])

    def shard_of(self, index: int) -> int:
        """The shard that an image is in."""
        return bisect.bisect_right(self._starts, index) - 1

    def shards_of(self, indices: np.ndarray) -> np.ndarray:
        """The shard that each image is in."""
        return np.searchsorted(self.starts, indices, side="right") - 1

    def at(self, index: int, *names: str) -> list[int]:
        """The entries of some columns for an image."""
        shard = self.shard_of(index)
        columns, row = self._shards[shard], index - self._starts[shard]
        return [int(columns[name][row]) for name in names]

    def many(self, indices: np.ndarray, name: str) -> np.ndarray:
        """The entries of a column for several images: uint64 [n]."""
        found = np.empty(len(indices), np.uint64)
        shards = self.shards_of(indices)
        for shard in np.unique(shards):
            here = shards == shard
            found[here] = self._shards[shard][name][indices[here] - self.starts[shard]]
        return found

    def all_alike(self, *names: str) -> bool:
        """Whether all images, of which there are some, have the same entries in these columns."""
        return all(
            bool((shard[name] == self.at(0, name)[0]).all())
            for name in names
            for shard in self._shards
        )


class Names(Sequence[str]):
    """Names that lie one after the other in a mapped array, with a zero byte after each.

    Args: joined: uint8, by `format.names_as_bytes`
    """

    def __init__(self, joined: np.ndarray) -> None:
        self._joined = joined
        self._num_names = 0
        self._last: tuple[int, list[str]] = (-1, [])  # most ask for one after the other
        starts = [np.zeros(1, np.int64)]  # of every 64th name
        for begin in range(0, len(joined), _CHUNK_BYTES):
            ends = np.flatnonzero(joined[begin : begin + _CHUNK_BYTES] == 0)
            before = (_STRIDE - 1 - self._num_names) % _STRIDE  # the name before one that is kept
            starts.append(ends[before::_STRIDE] + begin + 1)
            self._num_names += len(ends)
        self._starts = np.concatenate(starts)

    def __len__(self) -> int:
        return self._num_names

    def __iter__(self) -> Iterator[str]:
        for block in range(-(-len(self) // _STRIDE)):
            yield from self._block(block)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = index + len(self) if index < 0 else index
        if not 0 <= number < len(self):
            raise IndexError(f"name {index} of {len(self)}")
        return self._block(number // _STRIDE)[number % _STRIDE]

    def many(self, indices: np.ndarray) -> list[str]:
        """The names of several images; quick where they are in order."""
        names: list[str] = []
        block, inside = -1, list[str]()
        for index in indices.tolist():
            if index // _STRIDE != block:
                block = index // _STRIDE
                inside = self._block(block)
            names.append(inside[index % _STRIDE])
        return names

    def _block(self, block: int) -> list[str]:
        """Up to 64 names."""
        known, names = self._last
        if known == block:
            return names
        first = int(self._starts[block])
        last = int(self._starts[block + 1]) if block + 1 < len(self._starts) else len(self._joined)
        content = self._joined[first:last].tobytes()
        names = content.decode(errors="surrogateescape").split("\0")[:-1]
        self._last = block, names
        return names
