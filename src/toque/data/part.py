"""Some images of another source."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch

from toque.data.encoded import Encoded
from toque.data.source import Source


class Part(Source):
    """The images of a source at some positions, with all of its classes.

    Args: source: where the images are; indices: which, in this order
    """

    def __init__(self, source: Source, indices: Sequence[int] | np.ndarray) -> None:
        self._source = source
        self._indices = np.asarray(indices, dtype=np.int64)
        self.serial = source.serial
        self.in_memory = source.in_memory
        self.has_files = source.has_files

    @property
    def classes(self) -> tuple[str, ...]:
        return self._source.classes

    @property
    def labels(self) -> np.ndarray:
        return np.asarray(self._source.labels[self._indices])

    def __len__(self) -> int:
        return len(self._indices)

    def name(self, index: int) -> str:
        return self._source.name(int(self._indices[index]))

    def stamp(self, index: int) -> str:
        return self._source.stamp(int(self._indices[index]))

    def read(self, index: int) -> torch.Tensor:
        return self._source.read(int(self._indices[index]))

    def encoded(self, index: int) -> Encoded:
        return self._source.encoded(int(self._indices[index]))

    def item(self, index: int) -> tuple[torch.Tensor, int]:
        return self._source.item(int(self._indices[index]))

    def read_many(self, indices: np.ndarray) -> torch.Tensor:
        return self._source.read_many(self._indices[indices])

    def fingerprint(self) -> str:
        digest = hashlib.sha256(self._source.fingerprint().encode())
        digest.update(self._indices.tobytes())
        return digest.hexdigest()
