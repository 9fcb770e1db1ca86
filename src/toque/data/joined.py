"""Two sources as one."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch

from toque.data.encoded import Encoded
from toque.data.source import Source
from toque.data.targets import Task


class Joined(Source):
    """The images of one source, then those of another with the same classes."""

    def __init__(self, first: Source, second: Source) -> None:
        assert first.classes == second.classes
        self._sources = first, second
        self._num_first = len(first)
        self.serial = first.serial or second.serial
        self.has_files = first.has_files and second.has_files

    def _at(self, index: int) -> tuple[Source, int]:
        first, second = self._sources
        return (first, index) if index < self._num_first else (second, index - self._num_first)

    @property
    def task(self) -> Task:
        return self._sources[0].task

    @property
    def classes(self) -> tuple[str, ...]:
        return self._sources[0].classes

    @property
    def labels(self) -> np.ndarray:
        return np.concatenate([source.labels for source in self._sources])

    @property
    def weights(self) -> np.ndarray | None:
        both = [source.weights for source in self._sources]
        given = [weights for weights in both if weights is not None]
        return np.concatenate(given) if len(given) == len(both) else None

    def __len__(self) -> int:
        return sum(map(len, self._sources))

    def name(self, index: int) -> str:
        source, at = self._at(index)
        return source.name(at)

    def stamp(self, index: int) -> str:
        source, at = self._at(index)
        return source.stamp(at)

    @property
    def has_paths(self) -> bool:
        return any(source.has_paths for source in self._sources)

    def path(self, index: int) -> Path | None:
        source, at = self._at(index)
        return source.path(at)

    def mask_path(self, index: int) -> Path | None:
        source, at = self._at(index)
        return source.mask_path(at)

    def read(self, index: int) -> torch.Tensor:
        source, at = self._at(index)
        return source.read(at)

    def mask(self, index: int) -> torch.Tensor:
        source, at = self._at(index)
        return source.mask(at)

    def encoded(self, index: int) -> Encoded:
        source, at = self._at(index)
        return source.encoded(at)

    def fingerprint(self) -> str:
        both = "".join(source.fingerprint() for source in self._sources)
        return hashlib.sha256(both.encode()).hexdigest()
