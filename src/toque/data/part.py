"""Some images of another source."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from toque.data.encoded import Encoded
from toque.data.source import Source, Target
from toque.data.targets import Task


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
    def task(self) -> Task:
        return self._source.task

    @property
    def classes(self) -> tuple[str, ...]:
        return self._source.classes

    @property
    def labels(self) -> np.ndarray:
        return np.asarray(self._source.labels[self._indices])

    @property
    def weights(self) -> np.ndarray | None:
        weights = self._source.weights
        return None if weights is None else np.asarray(weights[self._indices])

    def __len__(self) -> int:
        return len(self._indices)

    def name(self, index: int) -> str:
        return self._source.name(int(self._indices[index]))

    def stamp(self, index: int) -> str:
        return self._source.stamp(int(self._indices[index]))

    def listed(self, indices: np.ndarray) -> tuple[list[str], list[str]]:
        return self._source.listed(self._indices[indices])

    @property
    def has_paths(self) -> bool:
        return self._source.has_paths

    def read(self, index: int) -> torch.Tensor:
        return self._source.read(int(self._indices[index]))

    def mask(self, index: int) -> torch.Tensor:
        return self._source.mask(int(self._indices[index]))

    def masks(self, indices: np.ndarray) -> torch.Tensor | Sequence[torch.Tensor]:
        return self._source.masks(self._indices[indices])

    def path(self, index: int) -> Path | None:
        return self._source.path(int(self._indices[index]))

    def mask_path(self, index: int) -> Path | None:
        return self._source.mask_path(int(self._indices[index]))

    def encoded(self, index: int) -> Encoded:
        return self._source.encoded(int(self._indices[index]))

    def item(self, index: int) -> tuple[torch.Tensor, Target]:
        return self._source.item(int(self._indices[index]))

    def read_many(self, indices: np.ndarray) -> torch.Tensor:
        return self._source.read_many(self._indices[indices])

    def fingerprint(self) -> str:
        digest = hashlib.sha256(self._source.fingerprint().encode())
        digest.update(np.ascontiguousarray(self._indices).data)
        return digest.hexdigest()
